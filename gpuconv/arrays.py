"""All knowledge of array libraries: what an argument is, how it becomes NumPy, how it goes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds

from gpuconv.dtypes import FLOAT32, DType, check_dtype

Array = Any
"""A NumPy or CuPy array, or any array that speaks DLPack (PyTorch, JAX, ...)."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a plan needs to know of an array."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


def describe(argument: str, array: Array) -> Spec:
    """Shape and dtype of an array argument, or a TypeError that names it.

    A PyTorch bfloat16 tensor on the host is described as float32: NumPy computes it there and the
    result is rounded once on the way back.
    """
    kind: Any = type(array)
    if kind is np.ndarray or _home(kind) == "cupy":
        return Spec(array.shape, check_dtype(argument, array.dtype))
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{argument} must not be a masked array, got {type(array).__name__}")
    if isinstance(array, (np.ndarray, np.generic)):
        return Spec(array.shape, check_dtype(argument, array.dtype))
    if isinstance(array, (bool, int, float, complex, str, bytes)) or array is None:
        raise TypeError(f"{argument} must be an array, got {type(array).__name__}")
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        if str(getattr(array, "layout", "torch.strided")).startswith("torch.sparse"):
            raise TypeError(f"{argument} must be a dense array, got {array.layout}")
        name = str(array.dtype).rpartition(".")[2]
        if name == "bfloat16" and library(array) == "torch":
            dtype = _bfloat16(argument) if on_device(array) else FLOAT32
            return Spec(tuple(array.shape), dtype)
        try:
            dtype = np.dtype(array.dtype if isinstance(array.dtype, np.dtype) else name)
        except TypeError as error:
            raise TypeError(
                f"{argument} must be of an integer or float dtype, got {array.dtype}"
            ) from error
        return Spec(tuple(int(n) for n in array.shape), check_dtype(argument, dtype))
    if isinstance(array, (list, tuple)):
        return describe(argument, sequence_to_numpy(argument, array))
    raise TypeError(f"{argument} must be an array, got {type(array).__name__}")


def spec_key(array: Array) -> Any:
    """What decides what `describe` answers, told sooner; None where only `describe` can tell."""
    kind: Any = type(array)
    home = _home(kind)
    if kind is np.ndarray or home == "cupy":
        return array.shape, array.dtype
    if home == "torch":
        return array.shape, array.dtype, array.is_cuda
    if home == "other" and isinstance(getattr(array, "dtype", None), np.dtype):
        shape = getattr(array, "shape", None)
        return (shape, array.dtype) if type(shape) is tuple else None
    return None


def _bfloat16(argument: str) -> DType:
    """NumPy's name for bfloat16, which `ml_dtypes` brings."""
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise TypeError(
            f"{argument} must be of a dtype that NumPy knows, got bfloat16 (pip install ml_dtypes)"
        ) from error
    dtype: DType = np.dtype(bfloat16)
    return dtype


def sequence_to_numpy(argument: str, values: Any) -> npt.NDArray[Any]:
    """Nested Python sequences of numbers → a NumPy array."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{argument} must be a rectangular array, got {values!r:.80}") from error


def library(array: Array) -> str:
    """Top-level package of the array's type: "numpy", "cupy", "torch", "jaxlib", ..."""
    kind: Any = type(array)
    return _library(kind)


@cache
def _library(kind: Any) -> str:
    return str(kind.__module__.partition(".")[0])


@cache
def _home(kind: Any) -> str:
    """Where arrays of a type live: "host", "cupy" (a device), or "torch" and "other" (either)."""
    if issubclass(kind, (np.ndarray, np.generic, list, tuple)):
        return "host"
    name = _library(kind)
    if name == "cupy" and hasattr(kind, "__cuda_array_interface__"):
        return "cupy"
    return "torch" if name == "torch" and hasattr(kind, "is_cuda") else "other"


def on_device(array: Array) -> bool:
    """Whether the array lives in the memory of a CUDA device."""
    kind: Any = type(array)
    home = _home(kind)
    if home == "host" or home == "cupy":
        return home == "cupy"
    if home == "torch":
        return bool(array.is_cuda)
    if hasattr(array, "__cuda_array_interface__"):
        return True
    device = getattr(array, "__dlpack_device__", None)
    return bool(device and int(device()[0]) in (2, 13))  # kDLCUDA, kDLCUDAManaged


def to_numpy(argument: str, array: Array) -> npt.NDArray[Any]:
    """A host array as a NumPy view, in native byte order (non-native and bfloat16 are copied)."""
    if isinstance(array, (list, tuple)):
        array = sequence_to_numpy(argument, array)
    if isinstance(array, (np.ndarray, np.generic)):
        view = np.asarray(array)
        return view if view.dtype.isnative else view.astype(view.dtype.newbyteorder("="))
    array = resolved(argument, without_gradient(argument, array))
    if library(array) == "torch" and str(array.dtype) == "torch.bfloat16":
        array = array.float()
    try:
        speaks = hasattr(array, "__dlpack__") and str(array.dtype) != "bfloat16"
        view = np.from_dlpack(array) if speaks else np.asarray(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:  # sparse, without memory, …
        told = f"{argument} must be an array that NumPy can read, got {type(array).__name__}"
        raise TypeError(f"{told} ({error})") from error
    if view.dtype == object:
        raise TypeError(f"{argument} must be an array of numbers, got {type(array).__name__}")
    return view


def without_gradient(argument: str, array: Array) -> Array:
    """The array without its wish for a gradient, which under `torch.no_grad()` nobody records.

    Elsewhere it is a TypeError: the result would lose its place in the graph of gradients.
    """
    if not getattr(array, "requires_grad", False):
        return array
    if library(array) == "torch":
        import torch

        if not torch.is_grad_enabled():
            return array.detach()
    raise TypeError(
        f"{argument} must not require a gradient, got one that does (use detach() or no_grad())"
    )


def resolved(argument: str, array: Array) -> Array:
    """A PyTorch tensor whose memory holds its elements, not their negatives as `x.conj().imag` has.

    Other libraries' views of such memory know nothing of the sign.
    """
    if not (hasattr(array, "is_neg") and array.is_neg()):
        return array
    if argument == "out":
        raise TypeError("out must be an array, got a negative view of one (use resolve_neg())")
    return array.resolve_neg()


def as_described(array: Array) -> Array:
    """A PyTorch bfloat16 tensor of the host as the float32 that `describe` tells.

    What is asked for in a dtype of its own must not be rounded to bfloat16 on the way back.
    """
    if library(array) == "torch" and "bfloat16" in str(array.dtype) and not on_device(array):
        return array.float()
    return array


def to_host(array: Array) -> Array:
    """An array on a device as one on the host: waits for the device. Others as they are."""
    if not on_device(array):
        return array
    for name in ("get", "cpu", "copy_to_host"):  # CuPy, PyTorch, Numba
        if hasattr(array, name):
            return getattr(array, name)()
    return np.asarray(array)


def shares_memory(first: Array, second: Array) -> bool:
    """Whether two arrays on the host, or two on a device, have an element in common."""
    if on_device(first) != on_device(second):
        return False
    if not isinstance(first, np.ndarray) and _lie_apart(first, second):
        return False
    try:
        places = _by_address(first), _by_address(second)
        return np.shares_memory(*places, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def overlap(outputs: Sequence[Array], inputs: Sequence[Array]) -> bool:
    """Whether any of some outputs has an element in common with any of some inputs."""
    if not inputs:
        return False
    bounds = np.array([byte_bounds(_by_address(array)) for array in inputs])
    order = np.argsort(bounds[:, 0])
    starts, stops = bounds[order, 0], np.maximum.accumulate(bounds[order, 1])
    for output in outputs:
        start, stop = byte_bounds(_by_address(output))
        near = order[np.searchsorted(stops, start, "right") : np.searchsorted(starts, stop)]
        if any(shares_memory(output, inputs[place]) for place in near):
            return True
    return False


def _lie_apart(first: Array, second: Array) -> bool:
    """Whether two arrays of CuPy's are far enough from each other to be told apart at once."""
    kinds: Any = type(first), type(second)
    if any(_home(kind) != "cupy" for kind in kinds):
        return False
    (low, high), (begin, end) = _bounds(first), _bounds(second)
    return high <= begin or end <= low


def _bounds(array: Array) -> tuple[int, int]:
    """The first byte of an array of CuPy's, and the one behind its last."""
    low = high = array.data.ptr
    for size, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + array.dtype.itemsize


class _Addresses:
    """Where the elements of a device's array lie, told as NumPy can read it; never followed."""

    def __init__(self, array: Array) -> None:
        told = array.__cuda_array_interface__
        self.__array_interface__ = {**told, "typestr": f"|V{array.dtype.itemsize}", "version": 3}


def _by_address(array: Array) -> npt.NDArray[Any]:
    """The very memory of an array, whatever it holds: never a copy, where there is a view."""
    if isinstance(array, np.ndarray):
        return array
    if on_device(array):
        return np.asarray(_Addresses(array))
    if library(array) == "torch":
        import torch

        array = array.detach()
        array = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
    return to_numpy("array", array)


def as_output(array: Array) -> npt.NDArray[Any]:
    """An array to be written to, as a NumPy view of the very same memory.

    A PyTorch bfloat16 tensor, which NumPy cannot view, gets a float32 array that `finish_output`
    writes back.
    """
    if isinstance(array, np.ndarray):
        return array
    if not hasattr(array, "__dlpack__"):
        raise TypeError(f"out must be an array, got {type(array).__name__}")
    return to_numpy("out", array)


def output_view(array: Array) -> Array:
    """An array to be written to, as what its home writes to: a device's as it is."""
    return array if on_device(array) else as_output(array)


def finish_output(array: Array, written: npt.NDArray[Any]) -> None:
    """Bring to `array` what was written to `as_output(array)`, where that was no view."""
    if library(array) == "torch" and str(array.dtype) == "torch.bfloat16":
        array.copy_(like(array, written))


def like(template: Array, result: Any) -> Array:
    """`result` (NumPy's or CuPy's) as an array of the template's library, sharing its memory."""
    if type(result) is type(template):
        return result
    name = library(template)
    if isinstance(template, (np.ndarray, np.generic, list, tuple)) or name == library(result):
        return result
    if name == "torch":
        return _as_torch(template, result)
    if name in ("jax", "jaxlib"):
        import jax.numpy

        if library(result) == "numpy":
            return jax.numpy.asarray(result)
        return jax.numpy.from_dlpack(result)
    namespace = getattr(template, "__array_namespace__", None)
    return namespace().from_dlpack(result) if namespace else result


def _as_torch(template: Array, result: Any) -> Array:
    import torch

    share: Any = torch.from_numpy if library(result) == "numpy" else torch.utils.dlpack.from_dlpack
    if result.dtype.name == "bfloat16":
        return share(result.view(np.int16)).view(torch.bfloat16)
    tensor = share(result)
    bfloat = template.dtype == torch.bfloat16 and tensor.dtype == torch.float32
    return tensor.to(torch.bfloat16) if bfloat and not tensor.is_cuda else tensor
