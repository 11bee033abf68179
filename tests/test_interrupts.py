"""Runs of the command line that are killed or interrupted, and resumed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv.image_io import read_image
from gpuconv.journal import NAME as JOURNAL
from tests.image_files import photo, save
from tests.processes import Running, contents, here, leftovers, report_of, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and files")

STEPS = ["--op", "gaussian_blur:sigma=2", "--op", "median_blur:size=3"]
ENDINGS = ("png", "jpg", "tif", "npy", "webp")
HINT = "gpuconv: interrupted; --resume goes on from here\n"
QUICKLY = 20
"""Seconds; an interrupted process takes one, on a machine that has nothing else to do."""


# Killed


def folder_of_mixed_formats(folder: Path, count: int, height: int, width: int) -> None:
    for i, ending in enumerate(ENDINGS):
        first = save(folder / f"{i:02}.{ending}", photo(height, width, seed=i))
        for j in range(i + len(ENDINGS), count, len(ENDINGS)):
            shutil.copyfile(first, folder / f"{j:02}.{ending}")


def killed(arguments: list[object], out: Path, after_s: float, *, files: int = 0) -> None:
    """A run that gets SIGKILL some time after it began, and so many files are there."""
    process = Running(*arguments)
    before = (out / JOURNAL).stat().st_ino if (out / JOURNAL).exists() else 0
    process.wait(lambda: (out / JOURNAL).exists() and (out / JOURNAL).stat().st_ino != before)
    time.sleep(after_s)
    process.wait(lambda: len(contents(out)) >= files)
    process.process.kill()
    process.end()


def duration_s(arguments: list[object], out: Path) -> float:
    """How long an undisturbed run writes."""
    start = time.monotonic()
    assert here(*arguments) == 0
    assert out.exists()
    return time.monotonic() - start


def check_whole(out: Path, expected: dict[str, bytes]) -> set[str]:
    """Names of the files that are there: each must be what the undisturbed run wrote."""
    found = {n: b for n, b in contents(out).items() if ".gpuconv-" not in n}
    assert {name: found[name] == expected[name] for name in found} == dict.fromkeys(found, True)
    return set(found)


def check_resumes(
    arguments: list[object], out: Path, expected: dict[str, bytes], report: Path
) -> None:
    """`--resume` does what is missing and nothing else, and leaves nothing else behind."""
    whole = check_whole(out, expected)
    assert here(*arguments, "--resume", "--report", report) == 0
    counts, status = report_of(report)
    assert {n for n, s in status.items() if s == "skipped"} == whole
    assert {n for n, s in status.items() if s == "done"} == set(expected) - whole
    assert counts["total"] == len(expected)
    assert contents(out) == expected
    assert leftovers(out) == []


@pytest.mark.parametrize(
    ("kills", "images", "size"),
    [(3, 20, (240, 320)), pytest.param(20, 40, (480, 640), marks=pytest.mark.slow)],
)
def test_filter_killed_leaves_whole_files_and_resume_finishes(
    tmp_path: Path, kills: int, images: int, size: tuple[int, int]
) -> None:
    folder_of_mixed_formats(tmp_path / "in", images, *size)
    out, report = tmp_path / "good", tmp_path / "report.json"
    seconds = duration_s(["filter", tmp_path / "in", "-o", out, "--jobs", 3, *STEPS], out)
    expected = contents(out)
    assert len(expected) == images
    for name in expected:
        read_image(out / name)
    moments, some = random.Random(1), 0
    for i in range(kills):
        out = tmp_path / f"out{i}"
        line = ["filter", tmp_path / "in", "-o", out, "--jobs", 3, *STEPS]
        killed(line, out, moments.uniform(0, seconds) if i else 0, files=0 if i else 3)
        some += 0 < len(check_whole(out, expected)) < images
        check_resumes(line, out, expected, report)
    assert some >= kills // 3  # or the moments were no good


def test_filter_killed_while_it_resumes(tmp_path: Path) -> None:
    folder_of_mixed_formats(tmp_path / "in", 10, 240, 320)
    good, out = tmp_path / "good", tmp_path / "out"
    seconds = duration_s(["filter", tmp_path / "in", "-o", good, *STEPS], good)
    line: list[object] = ["filter", tmp_path / "in", "-o", out, *STEPS]
    killed(line, out, seconds / 3)
    killed([*line, "--resume"], out, seconds / 3)
    check_resumes(line, out, contents(good), tmp_path / "report.json")


@pytest.mark.parametrize("kills", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_filter_killed_within_a_large_image(tmp_path: Path, kills: int) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", photo(900, 1100), bigtiff=True, tile=(128, 128))
    tiles = ["--tile", 64, "--op", "median_blur:size=5"]
    good = tmp_path / "good"
    seconds = duration_s(["filter", tmp_path / "a.tif", "-o", good, *tiles], good)
    moments = random.Random(2)
    for i in range(kills):
        out = tmp_path / f"out{i}"
        line = ["filter", tmp_path / "a.tif", "-o", out, *tiles]
        killed(line, out, moments.uniform(seconds / 4, seconds * 3 / 4))
        check_resumes(line, out, contents(good), tmp_path / "report.json")


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_filter_killed_while_it_overwrites(tmp_path: Path, kills: int) -> None:
    folder_of_mixed_formats(tmp_path / "in", 12, 240, 320)
    good, old = tmp_path / "good", tmp_path / "old"
    seconds = duration_s(["filter", tmp_path / "in", "-o", good, *STEPS], good)
    expected = contents(good)
    assert here("filter", tmp_path / "in", "-o", old, "--op", "sobel") == 0
    before = contents(old)
    moments = random.Random(3)
    for i in range(kills):
        out = shutil.copytree(old, tmp_path / f"out{i}")
        line: list[object] = ["filter", tmp_path / "in", "-o", out, *STEPS]
        killed([*line, "--overwrite"], out, moments.uniform(seconds / 4, seconds * 3 / 4))
        found = contents(out)
        new = {name for name, data in found.items() if expected.get(name) == data}
        for name in set(expected) - new:
            assert found[name] == before[name]
        report = tmp_path / "report.json"
        assert here(*line, "--resume", "--report", report) == 0
        assert {n for n, s in report_of(report)[1].items() if s == "skipped"} == new
        assert contents(out) == expected
        assert leftovers(out) == []


# Interrupted


def interrupted(
    process: Running, ready: Callable[[], object], number: int, *, twice: bool = False
) -> tuple[int, str]:
    """Exit status and stderr of a process that gets signals once it is `ready`."""
    process.wait(ready)
    process.process.send_signal(number)
    if twice:
        time.sleep(0.1)
        process.process.send_signal(number)
    ended = process.end(QUICKLY)
    return ended.status, ended.err


@pytest.mark.parametrize(
    ("number", "twice"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGHUP, False)]
)
def test_filter_interrupted_within_a_large_image(
    tmp_path: Path, number: signal.Signals, twice: bool
) -> None:
    save(tmp_path / "in" / "a.png", photo(40, 50))
    pixels = np.tile(photo(600, 800), (4, 4, 1))
    kind = "b.png" if number == signal.SIGINT else "b.tif"  # whole, or by parts
    save(tmp_path / "in" / kind, pixels)
    out, report = tmp_path / "out", tmp_path / "report.json"
    line = ["filter", tmp_path / "in", "-o", out, "--op", "median_blur:size=61"]  # takes minutes
    process = Running(*line, "--tile", 300, "--report", report)
    told = interrupted(process, (out / "a.png").exists, number, twice=twice)
    assert told == (130, HINT)
    assert set(contents(out)) == {"a.png"}
    counts, _ = report_of(report)
    assert counts == {"total": 2, "done": 1, "failed": 0, "skipped": 0, "interrupted": 1}
    assert leftovers(tmp_path) == []


def test_filter_interrupted_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    code = (
        "import signal, sys, gpuconv.cli as cli\n"
        "def plan(*a, **k): signal.raise_signal(signal.SIGTERM)\n"
        "cli.plan_tasks = plan\n"
        "sys.exit(cli.main())"
    )
    line = [sys.executable, "-c", code, "filter", "in", "-o", "out", "--op", "sobel"]
    found = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (130, "gpuconv: interrupted\n")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_filter_interrupted_leaves_no_workers(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("distributed", reason="needs Dask")
    psutil = pytest.importorskip("psutil")
    for i in range(8):
        save(tmp_path / "in" / f"{i}.png", photo(40 if i < 2 else 1500, 2000))
    out = tmp_path / "out"
    line = ["filter", tmp_path / "in", "-o", out, "--op", "median_blur:size=21"]
    process = Running(*line, "--workers", 2)
    found: list[Any] = []

    def begun() -> bool:
        found[:] = psutil.Process(process.process.pid).children(recursive=True)
        return (out / "0.png").exists()

    assert interrupted(process, begun, number, twice=True) == (130, HINT)
    assert len(found) >= 2
    _, alive = psutil.wait_procs(found, timeout=10)
    assert alive == []
    assert leftovers(out) == []
    assert set(contents(out)) <= {f"{i}.png" for i in range(8)}


@pytest.mark.slow
def test_filter_loses_nothing_with_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs Dask")
    psutil = pytest.importorskip("psutil")
    for i in range(40):
        save(tmp_path / "in" / f"{i:02}.png", photo(500, 700, i))
    blur = ["--op", "gaussian_blur:sigma=3", "--op", "median_blur:size=5"]
    assert run("filter", tmp_path / "in", "-o", tmp_path / "whole", *blur).status == 0
    out, report = tmp_path / "out", tmp_path / "report.json"
    line = ["filter", tmp_path / "in", "-o", out, *blur, "--workers", 2, "--report", report]
    process = Running(*line)
    process.wait(lambda: len(contents(out)) > 5)
    workers = [
        child
        for child in psutil.Process(process.process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    ended = process.end()
    assert (ended.status, ended.err) == (0, "")
    counts, _ = report_of(report)
    assert counts["done"] == counts["total"] == 40
    assert contents(out) == contents(tmp_path / "whole")
    assert leftovers(out) == []
