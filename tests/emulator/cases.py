"""Where the emulator's own test kernels are, and which of their lines are marked."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"

MARK = re.compile(r"// <- (\w+)(, other)?$")


@cache
def marked_lines(file: str) -> dict[tuple[str, bool], int]:
    """(name, whether it is the other line of a conflict) → line number, by the marks."""
    result = {}
    for number, line in enumerate((KERNELS / file).read_text().splitlines(), start=1):
        mark = MARK.search(line)
        if mark:
            result[mark[1], bool(mark[2])] = number
    return result
