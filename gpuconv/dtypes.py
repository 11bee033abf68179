"""Number types: which are accepted, where sums are kept, how results are rounded back."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

DType = np.dtype[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@cache
def is_float(dtype: DType) -> bool:
    """Whether `dtype` is a float type of section 3 (bfloat16 comes from `ml_dtypes`)."""
    return dtype.name in FLOATS


@cache
def is_integer_type(dtype: DType) -> bool:
    """Whether `dtype` is an integer type of 8 to 64 bits."""
    return dtype.name in INTEGERS


@cache
def _native(dtype: DType) -> DType | None:
    """An accepted dtype in native byte order; None for others."""
    if not is_float(dtype) and not is_integer_type(dtype):
        return None
    return dtype if dtype.name == "bfloat16" else dtype.newbyteorder("=")


def check_dtype(argument: str, dtype: DType) -> DType:
    """`dtype` in native byte order, or a TypeError that names `argument`."""
    native = _native(dtype)
    if native is not None:
        return native
    remedy = " (view it as uint8)" if dtype.kind == "b" else ""
    raise TypeError(f"{argument} must be of an integer or float dtype, got {dtype}{remedy}")


def parse_dtype(argument: str, value: npt.DTypeLike) -> DType:
    """A dtype argument → np.dtype, or a TypeError that names `argument`."""
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{argument} must be a dtype, got {value!r}") from error
    return check_dtype(argument, dtype)


def accumulator(dtype: DType) -> DType:
    """Where sums over a float `dtype` are kept: float64 for float64, else float32."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


def limits(dtype: DType) -> tuple[int, int]:
    """(lowest, highest) value of an integer dtype, as Python integers."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def magnitude(dtype: DType) -> int:
    """The largest |x| that an integer dtype holds."""
    low, high = limits(dtype)
    return max(-low, high)


def lowest(dtype: DType) -> Any:
    """The identity of max for `dtype`: its lowest integer or -inf."""
    return limits(dtype)[0] if is_integer_type(dtype) else -np.inf


def highest(dtype: DType) -> Any:
    """The identity of min for `dtype`: its highest integer or +inf."""
    return limits(dtype)[1] if is_integer_type(dtype) else np.inf


def saturate_value(value: float, dtype: DType) -> Any:
    """One number as `dtype` would hold it: integers round half to even and saturate."""
    if not is_integer_type(dtype):
        with np.errstate(over="ignore"):
            return dtype.type(value)
    low, high = limits(dtype)
    if isinstance(value, float) and not np.isfinite(value):
        return dtype.type(high if value > 0 else low)
    return dtype.type(min(max(round(value), low), high))


def saturate(values: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """Integers (or floats that are already whole) → `dtype`, clipped to its range."""
    if values.dtype == dtype:
        return values
    low, high = limits(dtype)
    if values.dtype.kind == "f":
        # float64(2**63 - 1) is 2**63: the bound must be one that converts back.
        top = np.nextafter(float(high), 0) if float(high) > high else float(high)
        result: npt.NDArray[Any] = np.clip(values, float(low), top).astype(dtype)
        if float(high) > high:
            result[values >= float(high)] = high
        return result
    have_low, have_high = limits(values.dtype)
    if low <= have_low and have_high <= high:
        return values.astype(dtype)
    clipped: npt.NDArray[Any] = np.clip(values, max(low, have_low), min(high, have_high))
    return clipped.astype(dtype, copy=False)
