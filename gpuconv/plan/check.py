"""Argument checks that every plan shares: `<argument> must <rule>, got <value>`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import Array, Spec, describe, overlap, shares_memory, to_host, to_numpy
from gpuconv.dtypes import is_float, is_integer_type
from gpuconv.window import MOST, is_integer, items_of

LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


def per_axis(argument: str, value: Any, rank: int, minimum: int = 1) -> tuple[int, ...]:
    """One integer for every axis, or one integer an axis."""
    items = [value] if is_integer(value) else items_of(value) or []
    if len(items) == 1:
        items = items * rank
    if len(items) != rank or not all(map(is_integer, items)):
        raise ValueError(f"{argument} must be one integer or {rank} integers, got {value!r}")
    values = tuple(int(v) for v in items)
    if min(values) < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    if max(values) > MOST:
        raise ValueError(f"{argument} must be at most {MOST}, got {_short(value)}")
    return values


def integer(argument: str, value: Any, minimum: int | None = None) -> int:
    """One integer, at least `minimum`."""
    if not is_integer(value):
        raise ValueError(f"{argument} must be an integer, got {value!r}")
    whole = int(value)
    if minimum is not None and whole < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    return whole


def number(
    argument: str, value: Any, *, minimum: float | None = None, finite: bool = True
) -> float:
    """One real number, at least `minimum`. Integers stay Python integers: they may exceed 2**53.

    Those that no float holds are infinite.
    """
    if is_integer(value):
        whole = int(value)
        result: float = whole if _is_finite(whole) else math.inf * (1 if whole > 0 else -1)
    else:
        try:
            if isinstance(value, (str, bytes, bool)):
                raise TypeError
            result = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{argument} must be a number, got {value!r}") from error
    if finite and not math.isfinite(result):
        raise ValueError(f"{argument} must be finite, got {_short(value)}")
    if minimum is not None and not result >= minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value!r}")
    return result


def _is_finite(value: int) -> bool:
    """Whether float64 reaches that far."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} characters)"


def pair_of_numbers(argument: str, value: Any, *, minimum: float) -> tuple[float, float]:
    """One number for both image axes, or a (y, x) pair."""
    items = items_of(value) if isinstance(value, (Sequence, np.ndarray)) else None
    if items is not None:
        if len(items) != 2:
            raise ValueError(f"{argument} must be one number or (y, x), got {value!r}")
        first, second = (number(argument, v, minimum=minimum) for v in items)
        return first, second
    one = number(argument, value, minimum=minimum)
    return one, one


def flag(argument: str, value: Any) -> bool:
    """A truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def channels_last(channel_axis: Any, ndim: int) -> bool:
    """Whether images have an axis of channels, which is the last of their `ndim` axes."""
    if channel_axis is None:
        return False
    if is_integer(channel_axis) and channel_axis in (-1, ndim - 1):
        return True
    raise ValueError(f"channel_axis must be None or -1 (the last axis), got {channel_axis!r}")


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


def images_have_channels(spec: Spec, channel_axis: Any) -> bool:
    """Whether images of this shape, which must be one of images, have an axis of channels."""
    colour = channels_last(channel_axis, spec.ndim)
    axes = 3 if colour else 2
    if spec.ndim < axes:
        form = "(..., H, W, C)" if colour else "(..., H, W)"
        raise ValueError(f"images must have shape {form}, got {spec.shape}")
    if 0 in spec.shape[-axes:]:
        raise ValueError(f"images must have no empty axis but the batch, got {spec.shape}")
    return colour


def outputs_of(images: Sequence[Array], out: Any) -> Sequence[Any]:
    """The output of each image of a list. None may lie where an image does that is read later."""
    if out is None:
        return [None] * len(images)
    if not isinstance(out, (list, tuple)):
        raise ValueError(f"out must be a list of {len(images)} arrays, got {type(out).__name__}")
    if len(out) != len(images):
        raise ValueError(f"out must hold {len(images)} arrays, got {len(out)}")
    if overlap([o for o in out if o is not None], images):
        raise ValueError("out must not share memory with images, got overlapping arrays")
    return out


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
