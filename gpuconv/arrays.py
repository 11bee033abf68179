"""All knowledge of array libraries: what an argument is, how it becomes NumPy, how it goes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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

    A PyTorch bfloat16 tensor is described as float32: NumPy computes it there and the result is
    rounded once on the way back.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{argument} must not be a masked array, got {type(array).__name__}")
    if isinstance(array, (np.ndarray, np.generic)):
        return Spec(array.shape, check_dtype(argument, array.dtype))
    if isinstance(array, (bool, int, float, complex, str, bytes)) or array is None:
        raise TypeError(f"{argument} must be an array, got {type(array).__name__}")
    if hasattr(array, "shape") and hasattr(array, "dtype"):
        name = str(array.dtype).rpartition(".")[2]
        if name == "bfloat16" and library(array) == "torch":
            return Spec(tuple(array.shape), FLOAT32)
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


def sequence_to_numpy(argument: str, values: Any) -> npt.NDArray[Any]:
    """Nested Python sequences of numbers → a NumPy array."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{argument} must be a rectangular array, got {values!r:.80}") from error


def library(array: Array) -> str:
    """Top-level package of the array's type: "numpy", "cupy", "torch", "jaxlib", ..."""
    return type(array).__module__.partition(".")[0]


def on_device(array: Array) -> bool:
    """Whether the array lives in the memory of a CUDA device."""
    if isinstance(array, (np.ndarray, np.generic, list, tuple)):
        return False
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
    if getattr(array, "requires_grad", False):
        raise TypeError(f"{argument} must not require a gradient, got one that does (use detach())")
    if library(array) == "torch" and str(array.dtype) == "torch.bfloat16":
        array = array.float()
    if hasattr(array, "__dlpack__") and str(array.dtype) != "bfloat16":
        return np.from_dlpack(array)
    return np.asarray(array)


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


def finish_output(array: Array, written: npt.NDArray[Any]) -> None:
    """Bring to `array` what was written to `as_output(array)`, where that was no view."""
    if library(array) == "torch" and str(array.dtype) == "torch.bfloat16":
        array.copy_(like(array, written))


def like(template: Array, result: npt.NDArray[Any]) -> Array:
    """`result` as an array of the template's library; no copy where the library shares memory."""
    name = library(template)
    if isinstance(template, (np.ndarray, np.generic, list, tuple)):
        return result
    if name == "torch":
        import torch

        if result.dtype.name == "bfloat16":
            return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
        tensor = torch.from_numpy(result)
        bfloat = template.dtype == torch.bfloat16 and tensor.dtype == torch.float32
        return tensor.to(torch.bfloat16) if bfloat else tensor
    if name in ("jax", "jaxlib"):
        import jax.numpy

        return jax.numpy.asarray(result)
    namespace = getattr(template, "__array_namespace__", None)
    return namespace().from_dlpack(result) if namespace else result
