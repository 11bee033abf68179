"""Code addresses to lines of CUDA source, through the debug information."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.emulator.build import SHIM_FOLDER
from tests.emulator.runtime import library_of

HIDDEN = ("ptx.cuh", "prelude.cuh")
"""Wrappers: what matters is who called them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source; `inner` is the header's line where the code came from one."""

    file: str
    line: int
    inner: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}"
        return f"{text} ({self.inner})" if self.inner else text


UNKNOWN = Line("unknown place", 0)


_known: dict[tuple[str, int], Line] = {}
"""The line of each address of a library, its own address subtracted, that was ever asked for."""


def lines(codes: Iterable[int]) -> dict[int, Line]:
    """The line of each code address that follows a call."""
    result = {}
    for code in set(codes):
        found = library_of(code) if code else None
        result[code] = (found[0], code - found[1] - 1) if found else None
    wanted: dict[str, list[int]] = defaultdict(list)
    for key in set(result.values()) - {None} - set(_known):
        wanted[key[0]].append(key[1])
    for path, offsets in wanted.items():
        _known.update({(path, o): line for o, line in _look_up(path, offsets).items()})
    return {code: _known.get(key, UNKNOWN) for code, key in result.items()}


def _look_up(path: str, offsets: Sequence[int]) -> dict[int, Line]:
    """Ask the debug information of a library about several addresses at once."""
    command = ["addr2line", "-a", "-i", "-e", path, *map(hex, offsets)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return dict.fromkeys(offsets, UNKNOWN)
    parts = re.split(r"^0x([0-9a-f]+)$", answer, flags=re.MULTILINE)[1:]
    return {int(parts[i], 16): _line(parts[i + 1]) for i in range(0, len(parts), 2)}


def _line(frames: str) -> Line:
    """Of an address's frames, innermost first, the kernel's: without the emulator's own."""
    own = []
    for file, line in re.findall(r"^(.+):(\d+)", frames, re.MULTILINE):
        place = Path(file)
        if place.name not in HIDDEN and place.parent != SHIM_FOLDER:
            own.append((place.name, int(line)))
    if not own:
        return UNKNOWN
    kernel = next((frame for frame in own if frame[0].endswith(".cu")), own[0])
    inner = "" if own[0] == kernel else "{}:{}".format(*own[0])
    return Line(*kernel, inner)
