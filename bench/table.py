"""Results for a reader: `python -m bench.table FILE.jsonl [--markdown] [--cases GLOB ...]`.

One row a case. A peer's column is its time over gpuconv's: above 1, gpuconv is faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bench.results import OURS, Line, latest, read

LEGEND = """\
ms: median of a call. GB/s: compulsory traffic (input and output once). of copy: its share of a
copy's bandwidth in the same rounds. extra: MiB that one call holds beyond input and output.
A peer's column is its time over gpuconv's (above 1: gpuconv is faster); -: it can't do the case."""


def rows(lines: Sequence[Line]) -> list[list[str]]:
    """The header and a row a case. Peers that can do none of them have no column."""
    able = {line.implementation for line in lines if line.status != "unsupported"} - {OURS}
    peers = [name for name in dict.fromkeys(x.implementation for x in lines) if name in able]
    table = [["case", "ms", "GB/s", "of copy", "GFLOP/s", "extra", *peers]]
    for name in dict.fromkeys(line.name for line in lines):
        case = {line.implementation: line for line in lines if line.name == name}
        table.append([name, *_ours(case.get(OURS)), *(_peer(case.get(peer)) for peer in peers)])
    return table


def told(lines: Sequence[Line]) -> str:
    """One case on one line, for while a run goes on."""
    ours, *peers = lines
    time = f"{short(ours.times_ms['median'])} ms" if ours.times_ms else ours.status.upper()
    others = [f"{x.implementation} {_peer(x)}" for x in peers if x.status != "unsupported"]
    return "  ".join([ours.name, time, *others])


def _ours(line: Line | None) -> list[str]:
    if line is None or line.times_ms is None:
        return ["-" if line is None else line.status.upper(), *[""] * 4]
    return [
        short(line.times_ms["median"]),
        short(line.gb_per_s),
        "" if line.copy_share is None else f"{line.copy_share:.0%}",
        short(line.gflop_per_s),
        "" if line.peak_extra_bytes is None else f"{line.peak_extra_bytes / 2**20:.1f}",
    ]


def _peer(line: Line | None) -> str:
    if line is None or line.status == "unsupported":
        return "-"
    return line.status if line.ratio is None else f"{short(line.ratio)}x"


def origin(line: Line) -> str:
    """Where, how and on which commit a line was measured."""
    commit = f"commit {(line.commit or 'unknown')[:10]}" + " with changes" * bool(line.dirty)
    return f"{line.device}, {counted(line.threads)}, gpuconv on {line.backend}, {commit}"


def counted(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread{'s' * (threads > 1)}"


def short(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return ""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{digits}f}"


def as_text(table: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * sum(w + 2 for w in widths), *lines[1:]])


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table for the README."""
    header, *body = table
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body))


def troubles(lines: Iterable[Line]) -> list[str]:
    """What was wrong or failed, one line each."""
    return [
        f"{line.name}: {line.implementation} {line.status}: {line.reason}"
        for line in lines
        if line.status in ("wrong", "failed")
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the latest results of each device and number of threads in a file."""
    parser = argparse.ArgumentParser("python -m bench.table", description=__doc__)
    parser.add_argument("file", type=Path, help="a file of JSON lines")
    parser.add_argument("--markdown", action="store_true", help="as a Markdown table")
    parser.add_argument("--threads", type=int, metavar="N", help="of one number of threads alone")
    parser.add_argument(
        "--cases", nargs="+", default=["*"], metavar="GLOB", help="for example 'median*/u8/*'"
    )
    options = parser.parse_args(argv)
    lines = [
        line
        for line in latest(read(options.file))
        if options.threads in (None, line.threads)
        and any(fnmatchcase(line.name, pattern) for pattern in options.cases)
    ]
    for device, threads in dict.fromkeys((line.device, line.threads) for line in lines):
        chosen = [line for line in lines if (line.device, line.threads) == (device, threads)]
        render = as_markdown if options.markdown else as_text
        print(f"{device}, {counted(threads)}\n\n{render(rows(chosen))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
