"""gpuconv itself, called like every other library."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gpuconv
from bench import machine
from bench.cases import Arrays, Case
from bench.peers.common import Call, Library
from bench.peers.cuda import OnCuda


class GpuConv(Library):
    """gpuconv on the NumPy backend."""

    name = "gpuconv"
    packages = ("gpuconv",)
    modules = ("gpuconv",)
    backend = "numpy"

    def version(self) -> str:
        return gpuconv.__version__

    def start(self, threads: int) -> None:
        gpuconv.set_num_threads(threads)

    def extra_bytes(self, work: Callable[[], Any]) -> int | None:
        """In new threads, so that the scratch that threads keep between calls counts too."""
        gpuconv.set_num_threads(gpuconv.get_num_threads())  # the old pool's threads end
        for thread in threading.enumerate():
            if thread.name.startswith("gpuconv_"):
                thread.join()
        machine.unsettle_allocator()
        try:
            with ThreadPoolExecutor(1) as fresh:
                return fresh.submit(super().extra_bytes, work).result()
        finally:
            machine.settle_allocator()

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        return Call(lambda *inputs, out: case.run(*inputs, out=out, backend=self.backend))


class GpuConvCuda(OnCuda, GpuConv):
    """gpuconv on the CUDA backend, on arrays of the device."""

    backend = "cuda"

    def missing(self) -> str | None:
        (cuda,) = (b for b in gpuconv.info()["backends"] if b["name"] == "cuda")
        return None if cuda["available"] else f"{cuda['reason']}; {cuda['remedy']}"
