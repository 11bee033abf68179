"""A pytest plugin, `-p bench.pytest_lines`: a JSON line for each test, as soon as it ends.

Tests that would begin after `--until` are left out and told so. A worker of pytest-xdist whose
device is lost ends, and another takes its place.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bench import machine

LEFT_OUT = "left out: the time is over"
MOST_CHARACTERS = 2000
LOST = 77


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", type=Path, help="append a JSON line for each test")
    parser.addoption("--collected", type=Path, help="write the names of all tests to a file")
    parser.addoption("--until", type=float, help="begin no test after this time")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Lines(config), "lines of results")


class _Lines:
    def __init__(self, config: pytest.Config) -> None:
        self.in_worker = hasattr(config, "workerinput")
        self.path: Path | None = config.getoption("--lines")
        self.collected: Path | None = config.getoption("--collected")
        self.until: float | None = config.getoption("--until")
        self.failed = False
        self.written: set[tuple[str, str]] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:  # with pytest-xdist the workers collect
            self._note([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._note(ids)

    def _note(self, names: list[str]) -> None:
        if self.collected is not None and not self.in_worker:
            self.collected.write_text(json.dumps(names))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.until is not None and time.time() > self.until:
            pytest.skip(LEFT_OUT)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", 0.0, str(report.longrepr))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        if report.when != "call" and report.passed:
            return
        reason = _reason(report)
        left_out = report.skipped and LEFT_OUT in reason
        outcome = "left out" if left_out else report.outcome
        self._write(report.nodeid, outcome, report.duration, reason)

    def _write(self, test: str, outcome: str, seconds: float, reason: str) -> None:
        """Append a line. What every worker of pytest-xdist meets anew is told once."""
        if self.in_worker or self.path is None or (test, outcome) in self.written:
            return
        self.written.add((test, outcome))
        line = {
            "test": test,
            "outcome": outcome,
            "seconds": round(seconds, 3),
            "reason": reason[-MOST_CHARACTERS:],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_runtest_logfinish(self) -> None:
        if self.in_worker and self.failed and not machine.device_works("cuda"):
            os._exit(LOST)
        self.failed = False


def _reason(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext
