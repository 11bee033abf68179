"""Arrays on a CUDA device, by CuPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.peers.common import Library


def no_device() -> str | None:
    """Why CuPy can't be used, or None."""
    try:
        import cupy
    except ImportError as error:
        return f"cupy can't be imported ({error})"
    return None if cupy.is_available() else "CuPy finds no CUDA device"


class OnCuda(Library):
    """A library whose arrays are CuPy's."""

    device = "cuda"

    def missing(self) -> str | None:
        return super().missing() or no_device()

    def load(self, array: Any) -> Any:
        import cupy

        return cupy.asarray(array)

    def empty(self, spec: Any) -> Any:
        import cupy

        return cupy.zeros(spec.shape, spec.dtype)

    def fetch(self, result: Any) -> Any:
        import cupy

        return cupy.asnumpy(result)

    def extra_bytes(self, work: Callable[[], Any]) -> int | None:
        """What CuPy's pool had to take from the device."""
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.total_bytes()
        work()
        return int(pool.total_bytes() - before)
