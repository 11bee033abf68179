"""What a launch is: one kernel, its geometry and its arguments; and who carries launches out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuconv.dtypes import FLOATS, INTEGERS, DType
from gpuconv.plan import Plan

DeviceArray = Any
"""An array in a device's memory: CuPy's, or NumPy's on the emulator."""

ANY = "Any"
"""The element type of kernels that learn it when they are launched."""

CUDA_TYPES = {name: name for name in INTEGERS} | {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
}
"""What the CUDA source calls a dtype."""

KINDS = {
    name: number
    for number, name in enumerate(
        ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", *FLOATS)
    )
}
"""The number of a dtype told at run time. Twin of `Kind` in kernels_cu/common/access.cuh."""

DTYPES = tuple(CUDA_TYPES.values())
"""Every element type, as the CUDA source calls it."""

SHARED_BYTES = 48 * 1024
"""Shared memory that a block may have without asking for more."""

WIDE_BYTES = 16
"""What one thread reads at once where it may."""

ALIGNMENT = 32
"""Families may look at the remainders of addresses by its divisors, and at nothing else of them."""

MOST_BLOCKS = 2**31 - 1
"""Blocks of one launch; kernels whose jobs are more take them in turn."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel that can be compiled: a template of a file with its arguments filled in."""

    file: str
    kernel: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The kernel as C++ writes it."""
        return f"{self.kernel}<{', '.join(self.arguments)}>"

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with all that it needs to run."""

    variant: Variant
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[Any, ...]
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """An argument of a launch that is prepared: a view of one of the call's arrays.

    array : number of the array.
    offset : bytes from its first element to the view's.
    """

    array: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType


class Launcher(Protocol):
    """A device: its memory, and the means to run kernels on it."""

    def owns(self, array: Any) -> bool:
        """Whether an array lies in its memory."""

    def adopt(self, argument: str, array: Any) -> DeviceArray:
        """An array of any library that lies in its memory, without a copy."""

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        """Where work on `array` belongs: its device, and its library's current stream."""

    def device(self, array: DeviceArray) -> int:
        """The number of the device that an array of its own lives on."""

    @property
    def tensor_cores(self) -> bool:
        """Whether the current device has those of sm_80 and later."""

    def empty(self, shape: Sequence[int], dtype: DType) -> DeviceArray:
        """Memory that is freed when the array is dropped and the launches before that are done."""

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """A contiguous copy of a host array."""

    def constant(self, array: npt.NDArray[Any]) -> DeviceArray:
        """The same, kept for the next time that the same numbers are asked for."""

    def download(self, array: DeviceArray, target: npt.NDArray[Any]) -> None:
        """Copy into a host array of any strides; waits for the launches before."""

    def lane(self, device: int | None) -> AbstractContextManager[Any]:
        """A stream of the current thread's own, with `upload` and `download` (see `Lane`)."""

    def ready(self, launch: Launch, plan: Plan) -> Any:
        """A launch, whose arguments may be places, as `launch` takes it: made once for many."""

    def launch(self, ready: Any, arrays: Sequence[DeviceArray], plan: Plan) -> None:
        """Run a kernel over `arrays` after the launches before it.

        Errors tell kernel, plan and remedy.
        """


Family = Callable[[Any, Sequence[DeviceArray], Sequence[DeviceArray], Launcher], Iterator[Launch]]
"""(plan, inputs, outputs, launcher) → the launches that fill the outputs, in their order."""


def cuda_type(dtype: DType) -> str:
    """What the CUDA source calls `dtype`."""
    return CUDA_TYPES[dtype.name]


def kind(dtype: DType) -> int:
    """The number that tells a kernel of `dtype` at run time."""
    return KINDS[dtype.name]


def stored_types(compute: DType, *stored: DType) -> tuple[str, ...]:
    """Template arguments for arrays of `stored` dtypes in a kernel that computes in `compute`.

    They are all typed, or, where one of them must be converted, all `Any`: two kernels a dtype.
    """
    if all(dtype == compute for dtype in stored):
        return (cuda_type(compute),) * len(stored)
    return (ANY,) * len(stored)


def both_kinds(compute: str, stored: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All that `stored_types` may answer for so many arrays: for lists of variants."""
    return (compute,) * stored, (ANY,) * stored


def tile_pitch(columns: int, dtype: DType) -> int:
    """Elements from one row of a tile in shared memory to the next.

    Room for `columns`, for an earlier start at a multiple of 16 bytes, and for whole packs.
    """
    pack = WIDE_BYTES // dtype.itemsize
    return -(-(columns + pack - 1) // pack) * pack


def number(value: float, dtype: DType) -> tuple[int, float]:
    """A number of any dtype as the CUDA source's `Number`: integers by their bits."""
    if dtype.name in INTEGERS:
        bits = int(value) & (2**64 - 1)
        return (bits - 2**64 if bits >= 2**63 else bits), 0.0
    return 0, float(value)


def blocks(jobs: int) -> tuple[int, int, int]:
    """The grid for so many jobs of a block each."""
    return (min(max(jobs, 1), MOST_BLOCKS), 1, 1)


def struct(name: str, *fields: tuple[str, Any]) -> np.dtype[np.void]:
    """The NumPy twin of a C++ struct: same fields, same order, same alignment."""
    dtype: np.dtype[np.void] = np.dtype(list(fields), align=True, metadata={"struct": name})
    return dtype


def element_strides(array: DeviceArray) -> tuple[int, ...]:
    """Strides in elements; 0 along axes of size 1, where any number would do."""
    return tuple(
        stride // array.dtype.itemsize if size > 1 else 0
        for size, stride in zip(array.shape, array.strides, strict=True)
    )


def address(array: DeviceArray) -> int:
    """Where an array begins in its device's memory."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    return int(array.data.ptr)
