"""Keys that order as pixels do: twin of kernels_cu/common/keys.cuh."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuconv.backends.cuda.launch import ANY, cuda_type, stored_types, struct
from gpuconv.dtypes import DType, is_float

KEYS = struct("Keys", ("mask", "u8"), ("infinity", "u8"))

KEY_TYPES = ("uint8", "uint16", "uint32", "uint64")

INFINITIES = {
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float32": 0x7F800000,
    "float64": 0x7FF0000000000000,
}
"""The bits of infinity."""


def pack_keys(dtype: DType, turned: bool = False) -> tuple[int, int]:
    """A KEYS; `turned`: the highest pixel has the lowest key."""
    bits = 8 * dtype.itemsize
    mask = 2**bits - 1 if turned else 0
    if dtype.kind == "i":
        mask ^= 2 ** (bits - 1)
    return mask, INFINITIES.get(dtype.name, 0)


def key_types(compute: DType, *stored: DType) -> tuple[str, ...]:
    """Template arguments (T, In, Out, …): keys all through, or a type that is converted to."""
    types = stored_types(compute, *stored)
    if types[0] == ANY:
        return (cuda_type(compute), *types)
    return (f"uint{8 * compute.itemsize}",) * (len(stored) + 1)


def give_bits(packed: np.ndarray[Any, Any], dtype: DType, value: float) -> None:
    """Put a float border value's bits into an IMAGES, for kernels of unsigned pixels."""
    if is_float(dtype):
        packed["value"]["whole"] = int(np.array(value, dtype).view(f"i{dtype.itemsize}"))
