"""`gpuconv` in processes of their own, disturbed and watched, or in this one; what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuconv import cli

HANG_S = 120
"""Nothing here takes nearly so long, unless it hangs."""


@dataclass(frozen=True)
class Ended:
    """A process that is no more. `peak_bytes` is the most memory it held (0 where unknown)."""

    status: int
    out: str
    err: str
    peak_bytes: int


class Running:
    """A process whose output is collected and whose memory is watched."""

    def __init__(self, *arguments: object, **options: Any) -> None:
        line = [sys.executable, "-m", "gpuconv", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(line, **(pipes | options))
        self.peak_bytes = 0
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            while self.process.returncode is None:
                text = Path(f"/proc/{self.process.pid}/status").read_text()
                kib = int(text.partition("VmHWM:")[2].split()[0])
                self.peak_bytes = max(self.peak_bytes, kib << 10)
                time.sleep(0.01)

    def wait(self, ready: Callable[[], object], seconds: float = HANG_S) -> None:
        """Until something is so, or the process has ended."""
        end = time.monotonic() + seconds
        while not ready() and self.process.poll() is None:
            assert time.monotonic() < end, "it never came"
            time.sleep(0.002)

    def end(self, seconds: float = HANG_S) -> Ended:
        """Wait for its end."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"it hangs: {out[-500:]} {err[-2000:]}") from None
        self._watcher.join()
        return Ended(self.process.returncode, out or "", err or "", self.peak_bytes)


def run(*arguments: object, **options: Any) -> Ended:
    """`gpuconv ...` until its end."""
    return Running(*arguments, **options).end()


def here(*arguments: object) -> int:
    """`gpuconv ...` in this process."""
    return cli.main([str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but journals: relative name → bytes."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            if name != ".gpuconv-run.jsonl":
                path = Path(root) / name
                with contextlib.suppress(FileNotFoundError):  # a process may be at work there
                    found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders below a folder."""
    return [
        os.path.join(root, name)
        for root, folders, names in os.walk(folder)
        for name in folders + names
        if name.startswith(".gpuconv-") and name.endswith(".tmp")
    ]


def report_of(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """The counts, and the status of each input by its name."""
    told = json.loads(path.read_text())
    return told["counts"], {Path(f["input"]).name: f["status"] for f in told["files"]}


def reasons_of(path: Path) -> dict[str, str]:
    """Why inputs failed, by their names."""
    files = json.loads(path.read_text())["files"]
    return {Path(f["input"]).name: f["reason"] for f in files if f["status"] == "failed"}
