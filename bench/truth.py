"""Whether a result is right: patches of it against the textbook loops of `tests/reference.py`.

Three patches, at the first corner, inside, and at the last corner, each from another image of the
batch. A patch is cut out of the input with everything that its windows read, so the whole of a
16-Mpixel image need not be computed in slow, sure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cases import BLOCK, Arrays, Case
from gpuconv.step_text import parse_step
from gpuconv.window import AxisWindow
from tests import reference

SELECTING = (
    *("median_blur", "rank_filter", "dilate", "erode", "morph_open", "morph_close"),
    *("max_pool2d", "min_pool2d"),
)
"""Operations whose results are elements of their input: exact in every dtype."""

GAINS = {
    **{"sobel": 8 * math.sqrt(2), "scharr": 32 * math.sqrt(2), "sharpen": 9.0},
    **{"unsharp_mask": 3.0, "morph_gradient": 2.0, "pipeline": 8 * math.sqrt(2)},
}
"""How much an operation without weights of its own may amplify; 1 elsewhere."""

MEANS = ("algorithm", "precision")
"""Arguments that tell how, not what."""

EPSILON_TF32 = 2.0**-11

PEER_RELATIVE = {2: 1e-2, 4: 1e-4, 8: 1e-10}
"""What a peer's float may be off, by bytes, relative to the largest sum: TF32 and Winograd pass."""

PEER_LEVELS = 2
"""What a peer's integer may be off: SciPy cuts off the fraction after each of two passes."""


FEW_MIDDLES = 24
"""Outputs of a patch along each axis that are medians: large windows are slow to sort."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A part of the input, and where the outputs that it decides lie in its result and in ours."""

    batch: int
    input: tuple[slice, slice]
    own: tuple[slice, slice]
    whole: tuple[slice, slice]


def complaint(
    case: Case,
    plan: Any,
    arrays: Arrays,
    result: Any,
    *,
    peer: bool = False,
    border: bool = True,
    fetch: Callable[[Any], npt.NDArray[Any]] = np.asarray,
) -> str | None:
    """What is wrong with the result of a case, or None.

    `peer` judges as other libraries deserve: any dtype, and their own rounding. Without `border`
    only what no border reaches is looked at. `fetch` brings a part of the result to the host.
    """
    spec = plan.outputs[0]
    if tuple(result.shape) != spec.shape:
        return f"shape {tuple(result.shape)} instead of {spec.shape}"
    if not peer and result.dtype != spec.dtype:
        return f"dtype {result.dtype} instead of {spec.dtype}"
    allowed = _allowed(case, plan, arrays, peer)
    for patch in _patches(case, plan, border):
        truth = _truth(case, arrays, patch)
        found = fetch(_cut(case, result, patch.batch, patch.whole))
        error = np.abs(found.astype(np.float64) - truth.astype(np.float64))
        worst = np.unravel_index(np.argmax(error), error.shape)
        if not error[worst] <= allowed:
            return f"{found[worst]} instead of {truth[worst]} (allowed: {allowed:.3g})"
    return None


def _allowed(case: Case, plan: Any, arrays: Arrays, peer: bool) -> float:
    if case.operation in SELECTING:
        return 0.0
    if case.dtype.kind in "iu":
        if peer:
            return float(PEER_LEVELS)
        if case.operation == "pipeline":  # a level of an early step, as later ones amplify it
            return math.ceil(GAINS["pipeline"])
        fractions = any(a.dtype.kind == "f" for a in arrays)
        fractions |= case.operation in ("gaussian_blur", "unsharp_mask")
        return 1.0 if fractions else 0.0
    # What is longer than a block repeats it.
    largest = float(np.abs(arrays[0].reshape(-1)[:BLOCK]).max()) * _gain(case, arrays)
    if peer:
        return PEER_RELATIVE[case.dtype.itemsize] * largest
    taps = getattr(plan, "taps", math.prod(w.size for w in _windows(plan)))
    eps = reference.EPSILON[case.dtype.name]
    if case.arguments.get("precision") == "tf32":
        eps = EPSILON_TF32
    return 2 * math.sqrt(taps) * eps * largest


def _gain(case: Case, arrays: Arrays) -> float:
    """The largest Σ|w| of an output."""
    gain = GAINS.get(case.operation, 1.0)
    for weights in arrays[1:]:
        sums = np.abs(weights.astype(np.float64))
        gain *= float(sums.sum(axis=(1, 2, 3)).max() if sums.ndim == 4 else sums.sum())
    return gain


def _windows(plan: Any) -> tuple[AxisWindow, ...]:
    """The plan's windows; steps in a row reach as far as all of them together."""
    if hasattr(plan, "windows"):
        return tuple(plan.windows)
    axes = zip(*(step.windows for step in plan.steps), strict=True)
    return tuple(
        AxisWindow(
            1 + sum(w.size - 1 for w in axis),
            pad=(sum(w.pad[0] for w in axis), sum(w.pad[1] for w in axis)),
        )
        for axis in axes
    )


def _channels_last(case: Case) -> bool:
    return case.arguments.get("channel_axis") == -1 or case.arguments.get("layout") == "NHWC"


def _cut(case: Case, array: Any, batch: int, region: tuple[slice, slice]) -> Any:
    """A region of one item of the batch, which stays an axis."""
    last = (slice(None),) * _channels_last(case)
    return array[(slice(batch, batch + 1), ..., *region, *last)]


def _patches(case: Case, plan: Any, border: bool) -> Iterator[Patch]:
    windows = _windows(plan)
    sizes = case.shape[-3:-1] if _channels_last(case) else case.shape[-2:]
    outputs = plan.outputs[0].shape
    outputs = outputs[-3:-1] if _channels_last(case) else outputs[-2:]
    wanted = 8 if case.operation == "conv2d" else 32
    most = FEW_MIDDLES if case.operation == "median_blur" else max(outputs)
    axes = [
        _axis_patches(n, w, o, wanted, most)
        for n, w, o in zip(sizes, windows, outputs, strict=True)
    ]
    items = case.shape[0]
    for position, batch in enumerate((0, items // 2, items - 1)):
        parts = [axis[position] for axis in axes]
        inside = border or position == 1
        if inside and all(own.start < own.stop for _, own, _ in parts):
            yield Patch(batch, *(tuple(column) for column in zip(*parts, strict=True)))


def _axis_patches(
    n: int, window: AxisWindow, outputs: int, wanted: int, most: int
) -> list[tuple[slice, slice, slice]]:
    """(input, outputs in the patch's result, the same in the whole) at the start, inside, the end.

    A patch starts at a multiple of the stride, so that its windows are windows of the whole. At
    most `most` outputs are looked at: at the start the first ones, at the end the last.
    """
    stride, before, extent = window.stride, window.pad[0], window.extent
    reach = wanted * stride + 2 * extent
    found = []
    spans = ((0, reach), ((n - reach) // 2, (n + reach) // 2), (n - reach, n))
    for place, (low, high) in enumerate(spans):
        low = max(0, low) // stride * stride
        high = min(n, high)
        first = -(-before // stride) if low > 0 else 0
        last = outputs - low // stride
        if high < n:
            last = min(last, (high - low - extent + before) // stride + 1)
        if place == 2:
            first = max(first, last - most)
        else:
            last = min(last, first + most)
        shift = low // stride
        found.append((slice(low, high), slice(first, last), slice(first + shift, last + shift)))
    return found


def _truth(case: Case, arrays: Arrays, patch: Patch) -> npt.NDArray[Any]:
    images = _cut(case, arrays[0], patch.batch, patch.input)
    if case.operation == "median_blur":
        return _middles(images, patch.own, **case.arguments)
    return _cut(case, textbook(case, images, *arrays[1:]), 0, patch.own)


def textbook(case: Case, images: npt.NDArray[Any], *weights: Any) -> npt.NDArray[Any]:
    """A case's result in slow, sure arithmetic."""
    if case.operation == "pipeline":
        for step in case.arguments["steps"]:
            name, arguments = parse_step(step)
            pools = name.endswith("pool2d")
            images = images[:, None] if pools else images
            images = getattr(reference, name)(images, **arguments)
            images = (images[:, 0] if pools else images).astype(case.dtype)
        return images
    function: Callable[..., npt.NDArray[Any]] = getattr(reference, case.operation)
    meant = {key: value for key, value in case.arguments.items() if key not in MEANS}
    return function(images, *weights, **meant)


@reference.on_planes
def _middles(images: npt.NDArray[Any], own: tuple[slice, slice], size: Any) -> npt.NDArray[Any]:
    """`reference.median_blur` where it is wanted alone."""
    size = reference.per_axis(size, 2)
    padded = reference.around(images, size, "reflect", 0)
    rows, columns = (
        slice(part.start, part.stop + k - 1) for part, k in zip(own, size, strict=True)
    )
    part = reference.selectable(padded)[..., rows, columns]
    windows = reference.windows(part, reference.geometry(part.shape[-2:], size))
    return np.sort(windows, axis=-1)[..., math.prod(size) // 2]
