"""Results as JSON lines: one a case and implementation, everything needed to judge it later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine

FOLDER = machine.ROOT / "bench" / "results"

OURS = "gpuconv"


@dataclass(frozen=True, slots=True)
class Line:
    """One implementation's result in one case.

    status: "ok"; "wrong" (its result is, so it was not timed); "failed" (it raised); "unsupported".
    `reason` tells why it is not "ok". `ratio` is its time over gpuconv's in the same rounds: above
    1, gpuconv is faster. `copy_share` is bytes a second over those of a copy in the same rounds;
    bytes are compulsory traffic. `peak_extra_bytes` is beyond input and output. `load` is the
    machine's before the run: above about 0.5 others were at work, and times are worth less. A field
    added later needs a default: old files stay readable.
    """

    name: str
    shape: list[int]
    dtype: str
    implementation: str
    backend: str
    status: str
    reason: str
    note: str
    min_bytes: int | None
    flops: int | None
    rounds: int
    repeats: int
    times_ms: dict[str, float] | None
    gb_per_s: float | None
    gflop_per_s: float | None
    copy_gb_per_s: float | None
    copy_share: float | None
    peak_extra_bytes: int | None
    ratio: float | None
    threads: int
    device: str
    driver: str | None
    versions: dict[str, str]
    commit: str | None
    dirty: bool | None
    date: str
    load: float | None = None


def destination(path: Path, device: str) -> Path:
    """The file to append to: `path`, or the device's own where that names a folder (no suffix)."""
    return path if path.suffix else path / f"{machine.slug(device)}.jsonl"


def append(path: Path, lines: Iterable[Line]) -> None:
    """Add lines to a file, which need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)


def read(path: Path) -> list[Line]:
    """Every line of a file; a ValueError tells where one can't be read."""
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values: dict[str, Any] = json.loads(text)
            lines.append(Line(**values))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number} is no line of results: {error}") from error
    return lines


def latest(lines: Iterable[Line]) -> list[Line]:
    """The last line of every case, implementation, device and number of threads."""
    found: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        found[line.name, line.implementation, line.backend, line.device, line.threads] = line
    return list(found.values())
