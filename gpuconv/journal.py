"""Which pipeline made which output: what `--resume` may trust.

One JSON object a line in `.gpuconv-run.jsonl` in the output folder: every output that a run plans,
and what lay under its name before. Files get their final names when they are whole, so whatever
lies there later and is another file was made by that run. The last line about an output counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpuconv.image_io import replacing

NAME = ".gpuconv-run.jsonl"


Identity = tuple[int, int, int]
"""Inode, time of change and size of a file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """The pipeline that was to write an output, and the file that lay there before."""

    pipeline: str
    before: Identity | None


class Journal:
    """The record in one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME
        self._entries: dict[str, _Entry] = {}
        self._load()

    def made_by(self, output: Path) -> str | None:
        """Fingerprint of the pipeline that wrote, or was to write, `output`; None if unknown."""
        entry = self._entries.get(self._key(output))
        return None if entry is None else entry.pipeline

    def is_whole(self, output: Path) -> bool:
        """Whether the run on record wrote the file that is `output` now."""
        entry, now = self._entries.get(self._key(output)), _identity(output)
        return entry is not None and now is not None and now != entry.before

    def begin(self, outputs: Iterable[Path], fingerprint: str) -> None:
        """Record what a run is about to write. Makes the folder; rewrites the file compactly."""
        for output in outputs:
            self._entries[self._key(output)] = _Entry(fingerprint, _identity(output))
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            for key, entry in self._entries.items():
                told = {"output": key, "pipeline": entry.pipeline, "before": entry.before}
                file.write((json.dumps(told) + "\n").encode())

    def _key(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _load(self) -> None:
        try:
            lines = self.path.read_bytes().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        for line in lines:
            try:
                told = json.loads(line)
                before = told["before"]
                entry = _Entry(
                    str(told["pipeline"]), None if before is None else _as_identity(before)
                )
                self._entries[str(told["output"])] = entry
            except (ValueError, KeyError, TypeError):
                continue  # no line of ours


def _as_identity(told: Iterable[int]) -> Identity:
    inode, changed, size = map(int, told)
    return inode, changed, size


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
