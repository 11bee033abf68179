"""Argument checks that every plan shares: `<argument> must <rule>, got <value>`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import Array, Spec, describe, shares_memory, to_host, to_numpy
from gpuconv.dtypes import is_float, is_integer_type
from gpuconv.window import is_integer

LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def per_axis(argument: str, value: Any, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """One integer for every axis, or one integer an axis."""
    if is_integer(value):
        values = (int(value),) * rank
    elif isinstance(value, Iterable) and not isinstance(value, str):
        items = list(value)
        if len(items) == 1:
            items = items * rank
        if len(items) != rank or not all(map(is_integer, items)):
            raise ValueError(f"{argument} must be one integer or {rank} integers, got {value!r}")
        values = tuple(int(v) for v in items)
    else:
        raise ValueError(f"{argument} must be one integer or {rank} integers, got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    return values


def integer(argument: str, value: Any, minimum: int | None = None) -> int:
    """One integer, at least `minimum`."""
    if not is_integer(value):
        raise ValueError(f"{argument} must be an integer, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    return int(value)


def number(
    argument: str, value: Any, *, minimum: float | None = None, finite: bool = True
) -> float:
    """One real number, at least `minimum`. Integers stay Python integers: they may exceed 2**53."""
    if is_integer(value):
        result: float = int(value)
    else:
        try:
            if isinstance(value, (str, bytes, bool)):
                raise TypeError
            result = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{argument} must be a number, got {value!r}") from error
    if finite and not _is_finite(result):
        raise ValueError(f"{argument} must be finite, got {_short(value)}")
    if minimum is not None and not result >= minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    return result


def _is_finite(value: float) -> bool:
    """Whether float64 holds it; a Python integer may be too large."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def pair_of_numbers(argument: str, value: Any, *, minimum: float) -> tuple[float, float]:
    """One number for both image axes, or a (y, x) pair."""
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{argument} must be one number or (y, x), got {value!r}")
        first, second = (number(argument, v, minimum=minimum) for v in value)
        return first, second
    one = number(argument, value, minimum=minimum)
    return one, one


def flag(argument: str, value: Any) -> bool:
    """A truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def choice(argument: str, value: Any, allowed: Sequence[str]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def layout_is_channels_last(layout: Any, rank: int) -> bool:
    """`layout` of a feature map with `rank` spatial axes; the 2-D names stand for every rank."""
    first, last = LAYOUTS[rank]
    name = choice("layout", layout, tuple(dict.fromkeys(("NCHW", "NHWC", first, last))))
    return name in ("NHWC", last)


def feature_map(argument: str, array: Array, rank: int, channels_last: bool) -> Spec:
    """A batched or unbatched feature map whose axes, but for the batch, are not empty."""
    spec = describe(argument, array)
    if spec.ndim not in (rank + 1, rank + 2):
        axes = ("*spatial, C" if channels_last else "C, *spatial").replace(
            "*spatial", ", ".join("DHW"[3 - rank :])
        )
        raise ValueError(f"{argument} must have shape (N, {axes}) or ({axes}), got {spec.shape}")
    if 0 in spec.shape[spec.ndim - rank - 1 :]:
        raise ValueError(f"{argument} must have no empty axis but the batch, got {spec.shape}")
    return spec


def host_weights(argument: str, weights: Any, ndim: int, *, shape: str) -> npt.NDArray[np.float64]:
    """Image weights as float64: finite, not empty, `ndim` axes. Copied from a device if need be."""
    weights = to_host(weights)
    spec = describe(argument, weights)
    if spec.ndim != ndim or 0 in spec.shape:
        raise ValueError(f"{argument} must have shape {shape}, got {spec.shape}")
    values = to_numpy(argument, weights)
    result = values.astype(np.float64)
    if not np.all(np.isfinite(result)):
        raise ValueError(f"{argument} must be finite, got NaN or Inf among its weights")
    if values.dtype.kind in "iu" and any(
        int(held) != int(given) for held, given in zip(result.flat, values.flat, strict=True)
    ):
        raise ValueError(f"{argument} must hold weights that float64 holds, got larger integers")
    return result


def same_kind(input: Spec, weight: Spec) -> None:
    """Integers with integers; floats with the very same float."""
    if is_integer_type(input.dtype) and is_integer_type(weight.dtype):
        return
    if is_float(input.dtype) and is_integer_type(weight.dtype):
        raise TypeError(f"weight must be of a float dtype like input, got {weight.dtype}")
    if input.dtype != weight.dtype:
        raise TypeError(f"weight must have the dtype of input ({input.dtype}), got {weight.dtype}")


def check_out(out: Any, expected: Spec, inputs: Iterable[tuple[str, Any]]) -> None:
    """An output array of the right shape and dtype that shares no memory with the inputs."""
    spec = describe("out", out)
    if spec.shape != expected.shape:
        raise ValueError(f"out must have shape {expected.shape}, got {spec.shape}")
    if spec.dtype != expected.dtype:
        raise ValueError(f"out must have dtype {expected.dtype}, got {spec.dtype}")
    if isinstance(out, np.ndarray):
        if not out.dtype.isnative:
            raise ValueError(f"out must be in native byte order, got {out.dtype}")
        if not out.flags.writeable:
            raise ValueError("out must be writeable, got a read-only array")
    for name, array in inputs:
        if shares_memory(out, array):
            raise ValueError(f"out must not share memory with {name}, got overlapping arrays")
