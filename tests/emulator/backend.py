"""The CUDA backend on the emulator: the same launches, run on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from gpuconv.arrays import to_numpy
from gpuconv.backends.cuda import CudaBackend
from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.launch import Launch, Place, Variant
from gpuconv.backends.cuda.pieces import PIECE_BYTES
from gpuconv.dtypes import DType
from gpuconv.plan import Plan
from tests.emulator.launcher import EmulatedKernel, EmulatorLauncher


class EmulatorBackend(CudaBackend):
    """`gpuconv.use_backend(EmulatorBackend())`: CUDA's kernels, NumPy's arrays.

    NumPy arrays stand for arrays on the device, unless `piece_bytes` is given: then they stand
    for arrays on the host, which pass through the device in pieces. Other arguments are those of
    EmulatorLauncher (checked=, counted=, order=, seed=, poison=).
    """

    def __init__(self, *, piece_bytes: int | None = None, **settings: Any) -> None:
        self.emulator = EmulatorLauncher(**settings)
        launcher = _Launcher(self.emulator, host_arrays=piece_bytes is not None)
        super().__init__(launcher, piece_bytes or PIECE_BYTES)
        self._emulated = launcher

    @property
    def launches(self) -> Counter[str]:
        """Launches by the kernel's name, since the backend was made."""
        return self.emulator.launches

    @property
    def kernels(self) -> dict[Variant, EmulatedKernel]:
        """The kernels that ran, with the counts of their last launches."""
        return self._emulated.kernels


class _Device(np.ndarray):
    """An array that was uploaded or allocated by the emulated device."""


class _Lane:
    """The way of a thread's images to the emulated device and back."""

    def __init__(self, launcher: _Launcher) -> None:
        self.upload = launcher.upload

    def download(self, array: np.ndarray) -> np.ndarray:
        assert isinstance(array, _Device)
        return np.array(array)


class _Launcher:
    """The emulator as `gpuconv.backends.cuda.launch.Launcher` wants it."""

    def __init__(self, emulator: EmulatorLauncher, host_arrays: bool) -> None:
        self.emulator = emulator
        self.host_arrays = host_arrays
        self.kernels: dict[Variant, EmulatedKernel] = {}

    def owns(self, array: Any) -> bool:
        return isinstance(array, _Device) or not self.host_arrays

    def adopt(self, argument: str, array: Any) -> np.ndarray:
        return to_numpy(argument, array)

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def empty(self, shape: Sequence[int], dtype: DType) -> np.ndarray:
        # A result's memory holds what was there before: here something that shows.
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        array = np.full(size, 0xA5, np.uint8).view(dtype).reshape(shape)
        return array.view(_Device) if self.host_arrays else array

    def upload(self, array: np.ndarray) -> np.ndarray:
        return np.array(array, order="C").view(_Device)

    def constant(self, array: np.ndarray) -> np.ndarray:
        return self.upload(array)

    def download(self, array: np.ndarray, target: np.ndarray) -> None:
        target[...] = array

    @contextmanager
    def lane(self, device: int | None) -> Iterator[_Lane]:
        yield _Lane(self)

    def device(self, array: np.ndarray) -> int:
        return 0

    @property
    def tensor_cores(self) -> bool:
        return True

    def ready(self, launch: Launch, plan: Plan) -> Launch:
        variant = launch.variant
        if variant not in self.kernels:
            assert variant in set(variants()), f"{variant} is not in the list of variants"
            self.kernels[variant] = self.emulator.kernel(variant.file, variant.name)
        return launch

    def launch(self, ready: Launch, arrays: Sequence[np.ndarray], plan: Plan) -> None:
        kernel = self.kernels[ready.variant]
        arguments = [_put(argument, arrays) for argument in ready.arguments]
        kernel(ready.grid, ready.block, arguments, ready.shared_bytes)


def _put(argument: Any, arrays: Sequence[np.ndarray]) -> Any:
    """A place's view of its array, with the memory that it is a view of as its base."""
    if not isinstance(argument, Place):
        return argument
    array = arrays[argument.array]
    laid = argument.shape, argument.strides
    if (array.shape, array.strides) == laid and not argument.offset:
        return array
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not owner.flags.c_contiguous and not owner.flags.f_contiguous:
        return _At(array, argument).array()
    memory = owner.reshape(-1, order="A").view(np.uint8)
    offset = array.ctypes.data - memory.ctypes.data + argument.offset
    view = np.ndarray(argument.shape, argument.dtype, memory, offset, argument.strides)
    view.flags.writeable = array.flags.writeable
    return view


class _At:
    """A place in an array whose memory no array holds whole."""

    def __init__(self, array: np.ndarray, place: Place) -> None:
        self.base, self.dtype = array, place.dtype
        self.__array_interface__ = {
            "shape": place.shape,
            "strides": place.strides,
            "typestr": f"|V{place.dtype.itemsize}",
            "data": (array.ctypes.data + place.offset, not array.flags.writeable),
            "version": 3,
        }

    def array(self) -> np.ndarray:
        return np.asarray(self).view(self.dtype)
