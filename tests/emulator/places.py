"""Code addresses to lines of CUDA source, through the debug information."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
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


def lines(codes: Iterable[int]) -> dict[int, Line]:
    """The line of each code address that follows a call."""
    of_library: dict[tuple[str, int], list[int]] = defaultdict(list)
    result = {}
    for code in set(codes):
        result[code] = UNKNOWN
        found = library_of(code) if code else None
        if found:
            of_library[found].append(code)
    for (path, base), members in of_library.items():
        for code in members:
            result[code] = _line(path, code - base - 1)
    return result


@cache
def _line(path: str, offset: int) -> Line:
    """One address of one library: its frames, innermost first, without the emulator's own."""
    command = ["addr2line", "-i", "-e", path, hex(offset)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    frames = []
    for file, line in re.findall(r"^(.+):(\d+)", answer, re.MULTILINE):
        place = Path(file)
        if place.name not in HIDDEN and place.parent != SHIM_FOLDER:
            frames.append((place.name, int(line)))
    if not frames:
        return UNKNOWN
    kernel = next((frame for frame in frames if frame[0].endswith(".cu")), frames[0])
    inner = "" if frames[0] == kernel else "{}:{}".format(*frames[0])
    return Line(*kernel, inner)
