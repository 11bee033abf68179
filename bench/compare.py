"""What changed between two results files: `python -m bench.compare OLD.jsonl NEW.jsonl`.

A case is faster or slower where the ranges p10-p90 of its times do not overlap; else unchanged.

Exit status: 0; 1 if a case is slower by more than the tolerance, or is right no more; 2 if the
files have nothing in common.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results import OURS, Line, latest, read
from bench.table import as_text, short


@dataclass(frozen=True, slots=True)
class Change:
    """One case, before and after."""

    old: Line
    new: Line

    @property
    def broken(self) -> bool:
        """It was right and is not."""
        return self.old.status == "ok" and self.new.status != "ok"

    @property
    def ratio(self) -> float | None:
        """New time over old time."""
        if self.old.times_ms is None or self.new.times_ms is None:
            return None
        return self.new.times_ms["median"] / self.old.times_ms["median"]

    @property
    def verdict(self) -> str:
        """In one word."""
        before, after = self.old.times_ms, self.new.times_ms
        if after is None:
            return self.new.status
        if before is None:
            return "fixed"
        if after["p10"] > before["p90"]:
            return "slower"
        if after["p90"] < before["p10"]:
            return "faster"
        return "unchanged"

    def regressed(self, tolerance: float) -> bool:
        """Whether somebody should look at it."""
        slower = self.verdict == "slower" and self.ratio is not None and self.ratio > 1 + tolerance
        return self.broken or slower


def compare(old: Sequence[Line], new: Sequence[Line]) -> list[Change]:
    """gpuconv's cases that both files hold for the same backend, device and number of threads."""
    before = {_key(line): line for line in latest(old) if line.implementation == OURS}
    after = [line for line in latest(new) if line.implementation == OURS]
    return [Change(before[_key(line)], line) for line in after if _key(line) in before]


def _key(line: Line) -> tuple[str, str, str, int]:
    return line.name, line.backend, line.device, line.threads


def _milliseconds(line: Line) -> str:
    return short(line.times_ms["median"]) if line.times_ms else line.status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m bench.compare", description=__doc__)
    parser.add_argument("old", type=Path, help="JSON lines of before")
    parser.add_argument("new", type=Path, help="JSON lines of after")
    parser.add_argument(
        "--tolerance", type=float, default=0.1, help="slower by more is a failure (default: 0.1)"
    )
    options = parser.parse_args(argv)
    try:
        changes = compare(read(options.old), read(options.new))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not changes:
        parser.error("the files must share a case on one device and number of threads, got none")
    header = ["case", "threads", "old ms", "new ms", "new/old", ""]
    body = [
        [
            change.new.name,
            str(change.new.threads),
            _milliseconds(change.old),
            _milliseconds(change.new),
            "" if change.ratio is None else f"{change.ratio:.2f}",
            change.verdict,
        ]
        for change in sorted(changes, key=lambda c: -(c.ratio or float("inf")))
    ]
    print(as_text([header, *body]))
    regressions = [c for c in changes if c.regressed(options.tolerance)]
    verdicts = [change.verdict for change in changes]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    print(f"\n{counts}; {len(regressions)} beyond the tolerance of {options.tolerance:.0%}")
    return int(bool(regressions))


if __name__ == "__main__":
    sys.exit(main())
