"""What a call costs the host: `python -m bench.host_cost [--calls N] [NAME ...]`.

Time from a public function to the launcher, for calls whose plan and launches are prepared: once
with a launcher that only counts, and once with the launcher of CuPy over a CuPy whose memory and
kernels do nothing, which adds our way through it. CuPy's own work, allocation and the driver's
launch, needs a device and is not in these figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from math import prod
from statistics import median, quantiles
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

import gpuconv
from gpuconv import backends, filters, kernels
from gpuconv.backends.cuda import CudaBackend
from gpuconv.backends.cuda.cupy_launcher import CupyLauncher

IMAGES, MAPS = (2, 64, 96), (2, 8, 64, 96)
ROW, DENSE = np.array([1.0, 2, 3, 2, 1]), np.eye(15)

FILTERS: dict[str, Callable[[Any], Any]] = {
    "filter2d": lambda x: filters.filter2d(x, kernels.edge),
    "filter2d 15x15": lambda x: filters.filter2d(x, DENSE),
    "separable_filter2d": lambda x: filters.separable_filter2d(x, ROW, ROW),
    "gaussian_blur": lambda x: filters.gaussian_blur(x, 2.0),
    "box_blur": lambda x: filters.box_blur(x, 5),
    "sobel": lambda x: filters.sobel(x),
    "laplacian": lambda x: filters.laplacian(x),
    "sharpen": lambda x: filters.sharpen(x),
    "unsharp_mask": lambda x: filters.unsharp_mask(x),
    "median_blur": lambda x: filters.median_blur(x, 5),
    "rank_filter": lambda x: filters.rank_filter(x, 3, (3, 5)),
    "dilate": lambda x: filters.dilate(x, 5),
    "morph_open": lambda x: filters.morph_open(x, 5),
    "morph_gradient": lambda x: filters.morph_gradient(x, 5),
}
MAP_CALLS: dict[str, Callable[[Any], Any]] = {
    "max_pool2d": lambda x: gpuconv.max_pool2d(x, 2),
    "max_pool2d 3x3": lambda x: gpuconv.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x: gpuconv.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: gpuconv.adaptive_avg_pool2d(x, 7),
    "global_avg_pool": lambda x: gpuconv.global_avg_pool(x),
    "conv2d": lambda x: gpuconv.conv2d(x, x),
}
CALLS = {name: (IMAGES, "uint8", call) for name, call in FILTERS.items()} | {
    name: (MAPS, "float16", call) for name, call in MAP_CALLS.items()
}
"""(shape, dtype, call) by name."""


class DeviceArray:
    """An array that says it lives on a device: its memory is never touched."""

    __module__ = "cupy"

    def __init__(self, host: np.ndarray[Any, Any]) -> None:
        self._host = host
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.ndim, self.size, self.nbytes = host.ndim, host.size, host.nbytes
        self.data = SimpleNamespace(ptr=host.ctypes.data, device_id=0)
        self.device = SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "stream": 1}

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self._host[key])

    def reshape(self, *shape: Any) -> DeviceArray:
        return DeviceArray(self._host.reshape(*shape))


class Memory:
    """Arrays by shape and dtype, each allocated once: allocation costs next to nothing."""

    def __init__(self) -> None:
        self._known: dict[Any, DeviceArray] = {}

    def empty(self, shape: Any, dtype: Any) -> DeviceArray:
        key = shape, dtype
        found = self._known.get(key)
        if found is None:
            memory = np.empty(prod(shape) * np.dtype(dtype).itemsize + 256, np.uint8)
            start = -memory.ctypes.data % 256
            host = memory[start : len(memory) - 256 + start].view(dtype).reshape(shape)
            found = self._known[key] = DeviceArray(host)
        return found

    def upload(self, array: np.ndarray[Any, Any], order: str = "C") -> DeviceArray:
        return DeviceArray(np.array(array, order="C"))


class Counter(Memory):
    """A launcher that notes when it was asked for a launch."""

    first = 0
    tensor_cores = True

    def owns(self, array: Any) -> bool:
        return type(array) is DeviceArray

    def adopt(self, argument: str, array: Any) -> Any:
        return array

    def scope(self, array: Any) -> Any:
        return NOTHING

    def device(self, array: Any) -> int:
        return 0

    constant = Memory.upload

    def ready(self, launch: Any, plan: Any) -> Any:
        return launch

    def launch(self, *_: Any) -> None:
        self.first = self.first or perf_counter_ns()


NOTHING = nullcontext()


class Kernel:
    """A compiled kernel that notes when it was launched."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.kernel = self

    def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
        self.counter.first = self.counter.first or perf_counter_ns()


def idle_cupy(counter: Counter) -> Any:
    """What CupyLauncher uses of CuPy, where nothing is allocated, compiled or launched."""
    runtime = SimpleNamespace(getDevice=lambda: 0, CUDARuntimeError=RuntimeError)
    module = SimpleNamespace(get_function=lambda name: Kernel(counter))
    return SimpleNamespace(
        ndarray=DeviceArray,
        empty=counter.empty,
        asarray=counter.upload,
        RawModule=lambda **_: module,
        cuda=SimpleNamespace(
            runtime=runtime,
            Device=lambda: SimpleNamespace(id=0, compute_capability="90"),
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            function=SimpleNamespace(CNumpyArray=lambda array: array, CIntptr=int),
        ),
    )


@contextmanager
def imported(cupy: Any) -> Iterator[None]:
    """`import cupy` gives this one inside a with block."""
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    try:
        yield
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before


def through_counter() -> tuple[CudaBackend, Counter]:
    """A backend whose launcher only counts."""
    counter = Counter()
    return CudaBackend(counter), counter


def through_cupy() -> tuple[CudaBackend, Counter]:
    """A backend with CuPy's launcher, over a CuPy that does nothing."""
    counter = Counter()
    with imported(idle_cupy(counter)):
        return CudaBackend(CupyLauncher()), counter


def costs(backend: CudaBackend, counter: Counter, name: str, calls: int) -> list[float]:
    """Microseconds from the public function to its first launch, for each of so many calls."""
    shape, dtype, call = CALLS[name]
    x = counter.empty(shape, np.dtype(dtype))
    taken = []
    with patch.object(backends, "_cuda", backend):
        for _ in range(20 + calls):
            counter.first = 0
            start = perf_counter_ns()
            call(x)
            taken.append((counter.first - start) / 1e3)
    return taken[20:]


def main(arguments: list[str] | None = None) -> int:
    """Print a line a function: median and 90th percentile for each launcher."""
    parser = argparse.ArgumentParser("python -m bench.host_cost", description=__doc__)
    parser.add_argument("names", nargs="*", help="calls to time; default all")
    parser.add_argument("--calls", type=int, default=2000)
    told = parser.parse_args(arguments)
    print(f"{'µs from public call':24} {'to the launcher':>17} {'to CuPy kernel call':>21}")
    print(f"{'':24} {'median':>8} {'p90':>8} {'median':>12} {'p90':>8}")
    for name in told.names or CALLS:
        row = []
        for backend, counter in (through_counter(), through_cupy()):
            taken = costs(backend, counter, name, told.calls)
            row += [median(taken), quantiles(taken, n=10)[-1]]
        print(f"{name:24} {row[0]:8.1f} {row[1]:8.1f} {row[2]:12.1f} {row[3]:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
