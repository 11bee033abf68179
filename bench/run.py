"""The runner: `python -m bench.run --quick`.

Every result is checked before it is timed; one that is wrong is reported and not timed. gpuconv and
its peers then take turns, round by round in one process, over buffers that rotate so that big
arrays are not found in the cache (small ones are, and may beat the copy). In the same rounds a copy
is timed: the yardstick.

Exit status: 0 all of gpuconv's results are right, 1 one is wrong or failed, 2 bad usage.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

import gpuconv
from bench import machine, results, table
from bench.cases import Arrays, Case
from bench.clock import Copy
from bench.peers import OURS, PEERS, Library, UnsupportedError, find
from bench.results import Line
from bench.sets import select
from bench.truth import complaint
from gpuconv.backends.numpy.threads import blas_kernels

ROTATE_BYTES = 128 << 20
"""Traffic of one turn through all buffers of a case: well beyond a last-level cache."""

MOST_BUFFERS = 8

SETTLE_S = 0.002
"""Rest before a sample, for another library's threads to fall asleep."""

FEWEST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure: `rounds` samples of at least `sample_s` each.

    An implementation that has spent `budget_s` stops after FEWEST_ROUNDS, and after three times
    that, which only a slow peer does, at once.
    """

    rounds: int
    budget_s: float
    sample_s: float


QUICK = Settings(rounds=5, budget_s=0.3, sample_s=0.005)
FULL = Settings(rounds=9, budget_s=2.0, sample_s=0.02)


@dataclass(slots=True)
class Entry:
    """One implementation in one case: what became of it, and its samples in seconds a call."""

    library: Library
    status: str = "ok"
    reason: str = ""
    note: str = ""
    once: Callable[[], Any] = lambda: None
    """Calls it on the next buffers."""
    repeats: int = 1
    extra_bytes: int | None = None
    samples: list[float] = field(default_factory=list)

    def sample(self) -> None:
        """Time `repeats` calls."""

        def work() -> None:
            for _ in range(self.repeats):
                self.once()

        self.samples.append(self.library.seconds(work) / self.repeats)

    def fail(self, error: Exception) -> None:
        """Note why it has no times."""
        self.status, self.reason = "failed", _told(error)
        self.samples.clear()

    def wants_more(self, settings: Settings) -> bool:
        """Whether it takes part in another round."""
        if self.status != "ok":
            return False
        spent = sum(self.samples) * self.repeats
        few = len(self.samples) < FEWEST_ROUNDS
        return spent < settings.budget_s * (3 if few else 1)


def measure(
    case: Case, ours: Library, peers: Sequence[Library], copy: Copy, settings: Settings
) -> tuple[Any, list[Entry], list[float]]:
    """The plan of a case, its entries (gpuconv's first) and the copy's bytes a second by round.

    Peers are left out where gpuconv's own result is wrong: there is nothing to compare.
    """
    try:
        arrays = case.make(np.random.default_rng(zlib.crc32(case.name.encode())))
        plan = case.plan(arrays)
    except Exception as error:
        return None, [Entry(ours, "failed", _told(error))], []
    sets = min(MOST_BUFFERS, math.ceil(ROTATE_BYTES / plan.min_bytes))
    inputs = [arrays, *(tuple(a.copy() for a in arrays) for _ in range(sets - 1))]
    entries = [_prepare(ours, case, plan, inputs, settings)]
    if entries[0].status == "ok":
        entries += [_prepare(peer, case, plan, inputs, settings) for peer in peers]
    able = [entry for entry in entries if entry.status == "ok"]
    try:
        return plan, entries, _rounds(able, copy, settings)
    except Exception as error:  # not even the copy can be timed: the device is lost
        for entry in able:
            entry.fail(error)
        return plan, entries, []


def _prepare(
    library: Library, case: Case, plan: Any, inputs: Sequence[Arrays], settings: Settings
) -> Entry:
    """Call it, check the result, measure its memory and how many calls make a sample."""
    entry = Entry(library)
    spec = plan.outputs[0]
    try:
        call = library.call(case, plan, inputs[0])
        entry.note = call.note
        buffers = cycle(
            [
                (tuple(map(library.load, arrays)), library.empty(spec) if call.fills_out else None)
                for arrays in inputs
            ]
        )

        def once() -> Any:
            arrays, out = next(buffers)
            return call.run(*arrays, out=out)

        entry.once = once
        result = call.ours(once())
        peer = library.name != results.OURS
        wrong = complaint(
            *(case, plan, inputs[0], result),
            peer=peer,
            border=call.same_border,
            fetch=library.fetch,
        )
        if wrong is not None:
            entry.status, entry.reason = "wrong", wrong
            return entry
        del result
        extra = library.extra_bytes(once)
        if extra is not None:
            own = 0 if call.fills_out else math.prod(spec.shape) * spec.dtype.itemsize
            entry.extra_bytes = max(0, extra - own)
        entry.repeats = max(1, math.ceil(settings.sample_s / max(library.seconds(once), 1e-7)))
    except UnsupportedError as error:
        entry.status, entry.reason = "unsupported", str(error)
    except Exception as error:  # a peer that can't do a case must not end the run
        entry.fail(error)
    return entry


def _told(error: Exception) -> str:
    """An exception on one line."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def _rounds(entries: Sequence[Entry], copy: Copy, settings: Settings) -> list[float]:
    """Take turns, each round starting with another, the copy among them."""
    copies: list[float] = []
    for number in range(settings.rounds if entries else 0):
        time.sleep(SETTLE_S)
        copies.append(copy.sample())
        start = number % len(entries)
        for entry in (*entries[start:], *entries[:start]):
            if entry.wants_more(settings):
                time.sleep(SETTLE_S)
                try:
                    entry.sample()
                except Exception as error:
                    entry.fail(error)
    return copies


def lines_of(
    case: Case,
    plan: Any,
    entries: Sequence[Entry],
    copies: Sequence[float],
    backend: str,
    facts: dict[str, Any],
) -> list[Line]:
    """The lines of a measured case. `facts` is what all lines of a run share."""
    reference = entries[0].samples
    copy = float(np.median(copies)) if copies else None
    lines = []
    for entry in entries:
        library = entry.library
        times = rate = None
        if entry.samples:
            low, median, high = (float(t) for t in np.percentile(entry.samples, (10, 50, 90)))
            times = {"median": median * 1e3, "p10": low * 1e3, "p90": high * 1e3}
            rate = 1 / median
        pairs = zip(entry.samples, reference, strict=False)
        ratio = float(np.median([own / our for own, our in pairs])) if entry.samples else None
        lines.append(
            Line(
                name=case.name,
                shape=list(case.shape),
                dtype=case.dtype.name,
                implementation=library.name,
                backend=backend if library.name == results.OURS else library.device,
                status=entry.status,
                reason=entry.reason,
                note=entry.note,
                min_bytes=plan.min_bytes if plan else None,
                flops=plan.flops if plan else None,
                rounds=len(entry.samples),
                repeats=entry.repeats,
                times_ms=times,
                gb_per_s=rate and plan.min_bytes * rate / 1e9,
                gflop_per_s=rate and plan.flops * rate / 1e9,
                copy_gb_per_s=copy and copy / 1e9,
                copy_share=rate and copy and plan.min_bytes * rate / copy,
                peak_extra_bytes=entry.extra_bytes,
                ratio=ratio,
                **facts,
            )
        )
    return lines


def each(
    cases: Sequence[Case],
    backend: str,
    peers: Sequence[Library],
    settings: Settings,
    threads: int,
    output: Path | None = None,
) -> Iterator[list[Line]]:
    """Measure cases one by one, when asked for the next; its lines are appended to `output`."""
    ours = OURS[backend]()
    for library in (ours, *peers):
        library.start(threads)
    machine.settle_allocator()
    copy = Copy(ours.device)
    facts = {
        "threads": threads,
        "load": machine.load(),
        **machine.device(backend),
        "versions": {
            "python": sys.version.split()[0],
            "numpy": np.__version__,
            "blas": blas_kernels(),
            **{library.name: library.version() for library in (ours, *peers)},
        },
        **machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for number, case in enumerate(cases, start=1):
        measured = measure(case, ours, peers, copy, settings)
        found = lines_of(case, *measured, backend, facts)
        if output is not None:
            results.append(results.destination(output, facts["device"]), found)
        print(f"[{number}/{len(cases)}] {table.told(found)}", file=sys.stderr, flush=True)
        yield found


def run(*arguments: Any) -> list[Line]:
    """The lines of all cases; arguments as those of `each`."""
    return [line for lines in each(*arguments) for line in lines]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m bench.run",
        description="Check and time gpuconv beside other libraries.",
        epilog="Results that are committed live in bench/results/: --output bench/results/",
    )
    parser.add_argument("--quick", action="store_true", help="small images, under a minute")
    parser.add_argument("--backend", choices=("auto", "numpy", "cuda"), default="auto")
    parser.add_argument(
        "--peers",
        default="all",
        metavar="NAMES",
        help=f"comma-separated: {','.join(PEERS)}; none; or all (the default): those of the "
        "backend's device that are installed",
    )
    parser.add_argument("--cases", default="*", metavar="GLOB", help="for example 'median*/u8/*'")
    parser.add_argument(
        "--rounds", type=_positive, metavar="N", help="samples of each (default: 9)"
    )
    parser.add_argument(
        "--threads",
        type=_counts,
        metavar="N[,N]",
        help="for every library (default: all CPUs); 1,2 measures on one, then on two",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="append JSON lines; a folder: to DEVICE.jsonl"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _counts(text: str) -> list[int]:
    return list(dict.fromkeys(_positive(part) for part in text.split(",")))


def _peer_names(text: str, device: str, command: argparse.ArgumentParser) -> list[str]:
    beside = [name for name, peer in PEERS.items() if peer.device == device]
    names = {"all": beside, "none": []}.get(text, [name.strip() for name in text.split(",")])
    for name in names:
        if name not in PEERS:
            command.error(
                f"--peers must name some of {', '.join(PEERS)}, all or none, got {name!r}"
            )
    return names


def _with_threads(threads: int, argv: Sequence[str]) -> None:
    """Start anew with room for as many BLAS and OpenMP threads: read once, when they are loaded."""
    wanted = dict.fromkeys(machine.THREAD_VARIABLES, str(threads))
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        command = [sys.executable, "-m", "bench.run", *argv]
        os.execve(sys.executable, command, os.environ | wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    argv = sys.argv[1:] if argv is None else argv
    command = parser()
    options = command.parse_args(argv)
    auto = gpuconv.info()["auto"]["backend"]
    backend = auto if options.backend == "auto" else options.backend
    names = _peer_names(options.peers, OURS[backend].device, command)
    tag = "quick" if options.quick else {"numpy": "cpu", "cuda": "gpu"}[backend]
    cases = select(tag, options.cases)
    if not cases:
        command.error(f"--cases must match a case of the set {tag!r}, got {options.cases!r}")
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    reason = OURS[backend]().missing()
    if reason is not None:
        command.error(f"--backend {backend} can't be used: {reason}")
    if options.threads:
        _with_threads(max(options.threads), argv)
    counts = options.threads or [machine.cpu_count()]
    settings = QUICK if options.quick else FULL
    if options.rounds:
        settings = Settings(options.rounds, settings.budget_s, settings.sample_s)
    busy = machine.load() or 0.0
    if busy > 0.5:
        print(f"the machine is busy (load {busy}): times will scatter", file=sys.stderr)
    peers, missing = find(names, counts[0])
    for name, why in missing.items():
        print(f"{name} skipped: {why}", file=sys.stderr)
    right = True
    for threads in counts:
        lines = run(cases, backend, peers, settings, threads, options.output)
        print(_header(lines), table.as_text(table.rows(lines)), sep="\n\n")
        print(*table.troubles(lines), "", sep="\n")
        right &= all(x.status == "ok" for x in lines if x.implementation == results.OURS)
    print(table.LEGEND)
    return int(not right)


def _header(lines: Sequence[Line]) -> str:
    """Where, how and on which commit a run was made."""
    copies = [x.copy_gb_per_s for x in lines if x.copy_gb_per_s is not None]
    copy = f"copy {np.median(copies):.1f} GB/s" if copies else "no copy"
    return f"{table.origin(lines[0])}, {copy}"


if __name__ == "__main__":
    sys.exit(main())
