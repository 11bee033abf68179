"""How much memory there is, how much may be used, and who holds it."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_UNITS |= {f"{prefix}i": 1024**power for power, prefix in enumerate("kmgt", 1)}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?i?)b?\s*", re.IGNORECASE)

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's numbers, of malloc.h."""

_UNKNOWN = 4 << 30
"""What a machine is taken to have that does not tell."""


def machine_bytes() -> int:
    """Memory of this machine, or of the container that this process lives in."""
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        most = _UNKNOWN
    for place in _CGROUPS:
        try:
            most = min(most, int(Path(place).read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return most


def default_limit() -> int:
    """What is used unless told: a quarter of the machine's memory."""
    return machine_bytes() // 4


def parse_bytes(text: str) -> int:
    """`"512MiB"`, `"4GiB"`, `"2.5 GB"`, `"100000"` → bytes.

    Raises
    ------
    ValueError : the text is no amount of memory, or none.
    """
    found = _AMOUNT.fullmatch(text)
    unit = found[2].lower() if found else "?"
    if found is None or unit not in _UNITS or float(found[1]) == 0:
        raise ValueError(f"must be an amount of memory such as 512MiB or 4GiB, got {text}")
    return int(float(found[1]) * _UNITS[unit])


def format_bytes(count: int) -> str:
    """`"3.4 GiB"`, for a person to read."""
    names = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(0, count.bit_length() - 1) // 10, len(names) - 1)
    amount = count / 1024**power
    return (
        f"{amount:.0f} {names[power]}"
        if amount >= 100 or not power
        else (f"{amount:.1f} {names[power]}")
    )


def tame_allocator() -> None:
    """Let the C library give large arrays back at once, and keep small ones for the next image.

    As it comes, glibc raises both limits by itself: arrays of one image then lie scattered over the
    heaps of many threads, which grow and shrink with each. For a process of our own only.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    set_option(_MMAP_THRESHOLD, 4 << 20)
    set_option(_TRIM_THRESHOLD, 64 << 20)


class Budget:
    """Memory that several threads share: each takes what it will need, and waits until it is there.

    Who asks for more than there is in all gets everything, alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Wait for `count` bytes and keep them inside the block."""
        taken = self.take(count)
        try:
            yield
        finally:
            self.give(taken)

    def take(self, count: int) -> int:
        """Wait for `count` bytes; what was taken must be given back."""
        count = min(count, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        return count

    def give(self, count: int) -> None:
        """Give back what was taken, or a part of it."""
        with self._changed:
            self._free += count
            self._changed.notify_all()
