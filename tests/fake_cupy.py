"""What gpuconv uses of CuPy, on the CPU: memory is NumPy's, kernels run on the emulator.

It lets the CuPy launcher run where there is no device. It is no proof of CuPy: `-m gpu` is.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.emulator import EmulatorLauncher
from tests.emulator.launcher import EmulatedKernel

DEVICE_BYTES = 1 << 26
"""What the fake device has room for."""


class MemoryPointer:
    """A place in an array's memory."""

    def __init__(self, host: np.ndarray, ptr: int) -> None:
        self.host, self.ptr = host, ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.host, self.ptr + offset)

    def elements(self) -> np.ndarray:
        """What lies from here on."""
        owner = self.host
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        memory = owner.reshape(-1).view(self.host.dtype)
        place = self.ptr - memory.ctypes.data
        assert place % memory.itemsize == 0
        return memory[place // memory.itemsize :]


class ndarray:
    """An array on the device: it can be viewed, never read by NumPy."""

    __module__ = "cupy"

    def __init__(self, host: np.ndarray) -> None:
        self._host = host
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.ndim, self.size, self.nbytes = host.ndim, host.size, host.nbytes
        self.data = MemoryPointer(host, host.ctypes.data)
        self.device = Device(0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "stream": 1}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> ndarray:
        assert function is np.concatenate, f"no {function.__name__} is expected of CuPy"
        arrays, *rest = args
        assert all(isinstance(array, ndarray) for array in arrays)
        return ndarray(np.concatenate([array._host for array in arrays], *rest, **kwargs))

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self._host[key])

    def reshape(self, *shape: Any) -> ndarray:
        view = self._host.reshape(*shape)
        assert view.size == 0 or np.shares_memory(view, self._host), "a copy on the device"
        return ndarray(view)

    def view(self, dtype: Any) -> ndarray:
        return ndarray(self._host.view(dtype))

    def swapaxes(self, first: int, second: int) -> ndarray:
        return ndarray(self._host.swapaxes(first, second))

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return self._host.copy()
        assert out.flags.c_contiguous
        out[...] = self._host
        return out

    def set(self, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        self._host[...] = array


class OutOfMemoryError(MemoryError):
    pass


class CompileException(Exception):
    pass


class CUDADriverError(RuntimeError):
    pass


def empty(shape: Any, dtype: Any) -> ndarray:
    host = np.empty(shape, dtype)
    if host.nbytes > DEVICE_BYTES:
        raise OutOfMemoryError(f"Out of memory allocating {host.nbytes} bytes")
    return ndarray(host)


def asarray(array: Any, order: str = "K") -> ndarray:
    if isinstance(array, ndarray):
        return array
    result = empty(array.shape, array.dtype)
    result._host[...] = array
    return result


def from_dlpack(array: Any) -> ndarray:
    return array


class Device:
    """The current device, or that of a number; a context as CuPy's."""

    compute_capability = "90"

    def __init__(self, number: int | None = None) -> None:
        self.id = number or 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class Stream:
    """A stream of a thread's own; a context as CuPy's."""

    null = nullcontext()
    made = 0

    def __init__(self, non_blocking: bool = False) -> None:
        type(self).made += 1

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class RawModule:
    """Kernels of a source, compiled when they are asked for."""

    emulator: EmulatorLauncher | None = None
    failure: Exception | None = None
    made = 0

    def __init__(self, code: str, options: tuple[str, ...], name_expressions: Any) -> None:
        assert isinstance(options, tuple)
        self.file = code.partition('"')[2].partition('"')[0]
        self.names = name_expressions
        type(self).made += 1
        type(self).emulator = type(self).emulator or EmulatorLauncher()

    def get_function(self, name: str) -> Any:
        assert name in self.names
        if self.failure is not None:
            raise self.failure
        kernel = self.emulator.kernel(self.file, name)

        return RawKernel(kernel)


class RawKernel:
    """A kernel of a module; `kernel` is what is launched on the current device."""

    def __init__(self, emulated: EmulatedKernel) -> None:
        self.emulated = emulated
        self.kernel = self.launch
        self.max_dynamic_shared_size_bytes = 48 << 10

    def launch(self, grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        host = [a._host if isinstance(a, ndarray) else a for a in args]
        host = [a.elements() if isinstance(a, MemoryPointer) else a for a in host]
        assert all(isinstance(a, (np.ndarray, np.generic)) for a in host)
        self.emulated(grid, block, host, shared_mem)


cuda = SimpleNamespace(
    Device=Device,
    Stream=Stream,
    alloc_pinned_memory=bytearray,
    ExternalStream=lambda pointer, device: nullcontext(),
    get_current_stream=lambda: SimpleNamespace(ptr=0, synchronize=lambda: None),
    compiler=SimpleNamespace(CompileException=CompileException),
    function=SimpleNamespace(CNumpyArray=lambda array: array),
    driver=SimpleNamespace(CUDADriverError=CUDADriverError),
    memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    nvrtc=SimpleNamespace(NVRTCError=CUDADriverError),
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDADriverError,
        getDevice=lambda: 0,
        memGetInfo=lambda: (1 << 20, DEVICE_BYTES),
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: {"name": b"a fake device"},
    ),
)


def is_available() -> bool:
    return True
