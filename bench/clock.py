"""Time of a stretch of work, on the CPU by the clock and on CUDA by events, and the yardstick.

The yardstick is a copy: it reads and writes every byte once, which is the least that a filter does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

COPY_BYTES = 128 << 20
"""One buffer of the CPU's copy: more than any last-level cache share."""

COPY_BYTES_CUDA = 1 << 30


def cpu_seconds(work: Callable[[], None]) -> float:
    """Wall time of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cuda_seconds(work: Callable[[], None]) -> float:
    """Device time between an event before `work` and one after it, on the default stream.

    Every CUDA peer here enqueues on that stream, so CuPy's events time them all.
    """
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.runtime.deviceSynchronize()
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, stop)) / 1e3


SECONDS = {"cpu": cpu_seconds, "cuda": cuda_seconds}


class Copy:
    """The copy bandwidth of a device, in bytes read plus bytes written a second."""

    def __init__(self, device: str, size: int | None = None) -> None:
        self.seconds = SECONDS[device]
        xp: Any = np
        if device == "cuda":
            import cupy

            xp = cupy
        self._xp = xp
        size = size or (COPY_BYTES_CUDA if device == "cuda" else COPY_BYTES)
        self._source = xp.ones(size, "uint8")
        self._target = xp.zeros(size, "uint8")
        self.sample()

    def sample(self) -> float:
        """One measurement."""
        elapsed = self.seconds(lambda: self._xp.copyto(self._target, self._source))
        return 2 * self._source.nbytes / elapsed
