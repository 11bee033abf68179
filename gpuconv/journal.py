"""Which pipeline made which output: what `--resume` may trust.

One JSON object a line in `.gpuconv-run.jsonl` in the output folder, appended as the run goes:
first every output that is planned, then every output that is whole. The last line about an
output counts. A killed run loses at most the knowledge of its last output, which is then redone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gpuconv.image_io import replacing

NAME = ".gpuconv-run.jsonl"


class Journal:
    """The record in one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / NAME
        self._entries: dict[str, tuple[str, bool]] = {}
        self._load()

    def made_by(self, output: Path) -> str | None:
        """Fingerprint of the pipeline that wrote, or was to write, `output`; None if unknown."""
        entry = self._entries.get(self._key(output))
        return None if entry is None else entry[0]

    def is_whole(self, output: Path) -> bool:
        """Whether `output` was recorded as finished."""
        entry = self._entries.get(self._key(output))
        return entry is not None and entry[1]

    def begin(self, outputs: Iterable[Path], fingerprint: str) -> None:
        """Record what a run is about to write. Makes the folder; rewrites the file compactly."""
        self._entries.update((self._key(output), (fingerprint, False)) for output in outputs)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            for key, (made_by, whole) in self._entries.items():
                file.write(_line(key, made_by, whole))

    def finish(self, output: Path) -> None:
        """Record that `output` is whole."""
        key = self._key(output)
        made_by = self._entries[key][0]
        self._entries[key] = (made_by, True)
        with self.path.open("ab") as file:
            file.write(_line(key, made_by, True))

    def _key(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _load(self) -> None:
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
                key, made_by = str(entry["output"]), str(entry["pipeline"])
                self._entries[key] = (made_by, bool(entry["whole"]))
            except (ValueError, KeyError, TypeError):
                continue  # the line that a killed run was writing


def _line(key: str, made_by: str, whole: bool) -> bytes:
    entry = {"output": key, "pipeline": made_by, "whole": whole}
    return (json.dumps(entry) + "\n").encode()
