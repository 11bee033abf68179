"""A round on a GPU in parts: `python -m bench.round --part K --out FOLDER`.

All parts fit into half an hour with a device, and each into a command of ten minutes. A part stops
by itself when its time is over; results are written line by line, and what was left out, crashed or
could not be done is told in a line, too. The files in the folder:

    correctness.jsonl    1  a line a test: `pytest -m gpu --require-gpu`, then the comparison of
                            device and emulator
    sanitizer.jsonl      2  a line a call and tool: compute-sanitizer's memcheck and racecheck
    filters.jsonl        3  lines of bench.results: every filter over eight images
    sizes.jsonl          4  the filters of the goals over one image, 64 and a huge one
    pools.jsonl          5
    convolutions.jsonl   6
    peers.jsonl          7
    round.jsonl             of every part: where and when it began and how it ended

`--rehearse` goes the same ways on a machine without a GPU: NumPy, tiny sizes, emulator tests.

Exit status: 0 all that was tried is right, 1 something is wrong or failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine, results, run, sets, supervise, table
from bench.peers import OURS, PEERS, find

PATIENCE_S = 90.0
"""How long a case may take."""

BESIDE_PEERS = run.Settings(rounds=7, budget_s=0.5, sample_s=0.02)
"""Peers may be slow: each takes at most some three times its budget."""

ALONE = run.Settings(rounds=9, budget_s=0.5, sample_s=0.01)
"""A sample of a filter at the speed of memory is a hundred calls."""

REHEARSED = run.Settings(rounds=3, budget_s=0.02, sample_s=0.0)
REHEARSED_CALLS = 40

WORKERS = 8
"""Processes that share the device in part 1; compiling keeps them busy."""

SANITIZER = "compute-sanitizer"
SANITIZER_FOLDERS = ("/usr/local/cuda/bin", "/opt/cuda/bin")
TOOLS = {
    "memcheck": ("--leak-check", "no"),
    "racecheck": ("--racecheck-report", "all"),
}
FINDING = "========="
"""Begins every line that a tool prints."""

MOST_LINES = 30
"""Of what is printed about one call."""


@dataclass(frozen=True, slots=True)
class Round:
    """One part of a round: where it writes, and the clock's time when it begins no more."""

    part: str
    folder: Path
    until: float
    rehearse: bool
    names: Sequence[str] = ()

    @property
    def path(self) -> Path:
        """The part's results."""
        return self.folder / f"{self.part}.jsonl"

    @property
    def backend(self) -> str:
        """What computes."""
        return "numpy" if self.rehearse else "cuda"

    def write(self, path: Path, **line: Any) -> None:
        """Append a line to a file."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def tell(self, event: str, **facts: Any) -> None:
        """Append a line to round.jsonl, and say it."""
        self.write(self.folder / "round.jsonl", part=self.part, event=event, **facts)
        told = ", ".join(f"{key} {value}" for key, value in facts.items())
        print(f"{self.part}: {event}: {told}"[:2000], flush=True)


# ---------------------------------------------------------------- 1 correctness

ENGINE = "the engine's tests on the device"
COMPARISON = "device and emulator, streams, graphs, memory"
STEPS = {
    ENGINE: (
        0.65,
        ["tests", "--ignore=tests/test_gpu.py", "-m", "gpu and not slow", "--require-gpu"],
    ),
    COMPARISON: (1.0, ["tests/test_gpu.py", "-m", "gpu", "--require-gpu"]),
}
"""Arguments of pytest, and the share of the part's time after which a step begins no more."""

REHEARSED_STEPS = {
    ENGINE: (0.65, ["tests/test_unpool.py", "-m", "emulator"]),
    COMPARISON: (1.0, ["tests/test_gpu.py", "-m", "gpu"]),
}


def correctness(task: Round) -> bool:
    """Run pytest, which writes the lines itself."""
    start, good = time.time(), True
    collected = Path(tempfile.mkdtemp()) / "collected.json"
    for step, (share, arguments) in (REHEARSED_STEPS if task.rehearse else STEPS).items():
        until = start + share * (task.until - start)
        workers = min(WORKERS, machine.cpu_count())
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "bench.pytest_lines"),
            *("--lines", str(task.path), "--collected", str(collected), "--until", str(until)),
            *("-W", "default", "--disable-warnings", "--tb=short", "-p", "no:cacheprovider"),
            "--continue-on-collection-errors",
            *(("-n", str(workers), "--dist", "worksteal") if find_spec("xdist") else ()),
            *arguments,
        ]
        before = len(_lines(task.path))
        status, last = _limited(command, until + 3 * supervise.GRACE_S)
        lines = _lines(task.path)[before:]
        ended = {line["test"] for line in lines if line["outcome"] != "left out"}
        names = json.loads(collected.read_text()) if collected.exists() else []
        collected.unlink(missing_ok=True)
        left = [name for name in names if name not in ended]
        counts = Counter(line["outcome"] for line in lines)
        task.tell("step", name=step, status=status, outcomes=dict(counts), last=last)
        if left:
            task.tell("left out", step=step, count=len(left), tests=left)
        good &= status == 0
    collected.parent.rmdir()
    failed = [line["test"] for line in _lines(task.path) if line["outcome"] == "failed"]
    print("\n".join(["failed tests:", *failed[:50]]) if failed else "no test failed")
    return good


def _limited(command: Sequence[str], until: float) -> tuple[int | str, str]:
    """The exit status of a command, or "killed" where it outlasts the time; its last line."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=machine.ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        status: int | str
        try:
            status = process.wait(max(1.0, until - time.time()))
        except subprocess.TimeoutExpired:
            supervise.kill(process)
            status = "killed"
        output.seek(0)
        printed = output.read().strip().splitlines()
    print("\n".join(printed[-60:]), flush=True)
    return status, printed[-1] if printed else ""


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file, which need not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---------------------------------------------------------------- 2 sanitizer


def sanitizer(task: Round) -> bool:
    """Run small calls under each tool."""
    tool = _find_sanitizer()
    if tool is None and not task.rehearse:
        task.tell("skipped", reason=f"{SANITIZER} is not on this machine")
        return True
    start, good = time.time(), True
    for number, (check, arguments) in enumerate(TOOLS.items(), start=1):
        until = start + number / len(TOOLS) * (task.until - start)
        options = ("--tool", check, *arguments, "--target-processes", "application-only")
        prefix = (tool, *options) if tool is not None and not task.rehearse else ()
        child = (sys.executable, "-m", "bench.sanitized", task.backend, str(until))
        counts: Counter[str] = Counter()
        done = partial(_judge, task, check, counts)
        left = supervise.supervise(task.names, (*prefix, *child), until, PATIENCE_S, done)
        task.tell("step", name=check, outcomes=dict(counts), left_out=left)
        good &= set(counts) <= {"ok"}
    return good


def _judge(
    task: Round, check: str, counts: Counter[str], name: str, how: str, printed: list[str]
) -> None:
    """Write the line of a call from what the tool and the call printed meanwhile."""
    status = how
    if how == "ended":
        printed = [line for line in printed if line.startswith((FINDING, supervise.RAISED))]
        status = "failed" if printed else "ok"
    counts[status] += 1
    reason = "\n".join(printed[:MOST_LINES])
    task.write(task.path, tool=check, call=name, status=status, reason=reason)


def _find_sanitizer() -> str | None:
    folders = (os.environ.get("PATH", os.defpath), *SANITIZER_FOLDERS)
    return shutil.which(SANITIZER, path=os.pathsep.join(folders))


# ---------------------------------------------------------------- 3 to 7 speed


def speed(task: Round) -> bool:
    """Measure the part's cases in processes that may be lost."""
    child = (
        *(sys.executable, "-m", "bench.round", "--part", str(_number(task.part)), "--child"),
        *("--out", str(task.folder), "--until", str(task.until)),
        *(("--rehearse",) if task.rehearse else ()),
    )
    good = True

    def done(name: str, how: str, printed: list[str]) -> None:
        nonlocal good
        if how != "ended":
            good = False
            task.tell(how, case=name or "before the first case", printed=printed[-MOST_LINES:])

    left = supervise.supervise(task.names, child, task.until, PATIENCE_S, done)
    if left:
        task.tell("left out", cases=left)
    lines = results.read(task.path) if task.path.exists() else []
    if lines:
        print(table.as_text(table.rows(lines)), *table.troubles(lines), sep="\n")
    task.tell("step", name=task.part, outcomes=dict(Counter(x.status for x in lines)))
    return good and all(x.status == "ok" for x in lines if x.implementation == results.OURS)


def measure(task: Round) -> int:
    """In the process of `speed`: measure the cases that it is told."""
    wanted = set(supervise.jobs())
    scale = sets.TINY if task.rehearse else sets.FULL
    chosen = [c for c in sets.gpu_group(task.part, scale) if c.name in wanted]
    reason = OURS[task.backend]().missing()
    if reason is not None:
        print(f"gpuconv can't be used here: {reason}")
        return 1
    names = [] if task.part != "peers" else _peers(task)
    peers, missing = find(names, machine.cpu_count())
    for name, why in missing.items():
        task.tell("missing", peer=name, reason=why)
    settings = REHEARSED if task.rehearse else BESIDE_PEERS if peers else ALONE
    found = run.each(chosen, task.backend, peers, settings, machine.cpu_count(), task.path)
    for case in chosen:
        if time.time() > task.until:
            return 0
        supervise.announce(supervise.BEGIN, case.name)
        lines = next(found)
        print(table.told(lines), flush=True)
        works = machine.device_works(task.backend)
        supervise.announce(supervise.END, case.name)
        if not works:
            return 1
    return 0


def _peers(task: Round) -> list[str]:
    """Those of the device, and OpenCV."""
    return [
        name
        for name, peer in PEERS.items()
        if peer.device == ("cpu" if task.rehearse else "cuda") or name == "opencv"
    ]


# ---------------------------------------------------------------- the command line

PARTS: dict[str, Callable[[Round], bool]] = {
    "correctness": correctness,
    "sanitizer": sanitizer,
    "filters": speed,
    "sizes": speed,
    "pools": speed,
    "convolutions": speed,
    "peers": speed,
}

SECONDS = {
    "correctness": 420,
    "sanitizer": 150,
    "filters": 200,
    "sizes": 170,
    "pools": 120,
    "convolutions": 120,
    "peers": 320,
}
"""After which a part begins nothing more. Together 25 minutes: the rest of the half hour starts
the machine and moves files."""


def _number(part: str) -> int:
    return list(PARTS).index(part) + 1


def names_of(part: str, rehearse: bool) -> list[str]:
    """What a part does."""
    if part == "correctness":
        steps = REHEARSED_STEPS if rehearse else STEPS
        return [f"{name}: pytest {' '.join(more)}" for name, (_, more) in steps.items()]
    if part == "sanitizer":
        # Late: the calls draw their arrays when they are imported.
        from bench.sanitized import calls

        return list(calls(REHEARSED_CALLS if rehearse else None))
    return [case.name for case in sets.gpu_group(part, sets.TINY if rehearse else sets.FULL)]


def listed(rehearse: bool) -> Iterator[str]:
    """The parts and their cases."""
    for part in PARTS:
        yield f"{_number(part)} {part}, {SECONDS[part]} s"
        yield from (f"  {name}" for name in names_of(part, rehearse))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m bench.round", description="A round on a GPU.")
    parser.add_argument("--part", type=int, choices=range(1, len(PARTS) + 1))
    parser.add_argument("--cases", default="*", metavar="GLOB", help="of parts 2 to 7")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results (default: $OUT)")
    parser.add_argument("--seconds", type=float, help="after which nothing more is begun")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, at a tiny size")
    parser.add_argument("--list", action="store_true", help="print the parts and their cases")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    command = parser()
    options = command.parse_args(argv)
    if options.list:
        print("\n".join(listed(options.rehearse)))
        return 0
    folder = options.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else None)
    if options.part is None or folder is None:
        command.error("--part and --out (or $OUT) must be given")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    part = list(PARTS)[options.part - 1]
    seconds = SECONDS[part] if options.seconds is None else options.seconds
    until = options.until or start + seconds
    names = [n for n in names_of(part, options.rehearse) if fnmatchcase(n, options.cases)]
    if not names:
        command.error(f"--cases must match a case of part {options.part}, got {options.cases!r}")
    task = Round(part, folder.resolve(), until, options.rehearse, names)
    if options.child:
        return measure(task)
    task.tell("began", **_facts(task))
    try:
        good = PARTS[part](task)
    except Exception:
        good = False
        task.tell("failed", reason=traceback.format_exc())
    task.tell("ended", seconds=round(time.time() - start, 1), good=good)
    return int(not good)


def _facts(task: Round) -> dict[str, Any]:
    """Where and when."""
    try:
        device = machine.device(task.backend)
    except Exception as error:
        device = {"device": f"{type(error).__name__}: {error}"}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rehearse": task.rehearse,
        **device,
        **machine.commit(),
    }


if __name__ == "__main__":
    sys.exit(main())
