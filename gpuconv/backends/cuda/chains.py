"""Launches of chains: kernels_cu/chain.cu for steps that share one, the steps' own for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from gpuconv.arrays import Spec
from gpuconv.backends.cuda.images import BORDERS, IMAGES, TILING, stacks
from gpuconv.backends.cuda.launch import (
    WIDE_BYTES,
    DeviceArray,
    Family,
    Launch,
    Launcher,
    Variant,
    address,
    blocks,
    cuda_type,
    struct,
)
from gpuconv.backends.planes import image_planes
from gpuconv.border import Border
from gpuconv.dtypes import DType, is_integer_type, magnitude
from gpuconv.plan.chain import (
    CHANNELS,
    DTYPES,
    MOST_SWEEPS,
    ChainPlan,
    Sweep,
    TilePlan,
    fit_tile,
    fused_sweeps,
    own_region,
    step_sweeps,
    window_of,
)
from gpuconv.plan.filters import BoxPlan, ImagePlan, Images, LinearPlan, MorphPlan
from gpuconv.plan.pool import PoolPlan

FILE = "chain.cu"
THREADS = 256
PACK = 4
"""Neighbours of a thread."""

MOST_TAPS = 25
ENDINGS = {name: number for number, name in enumerate(("raw", "rounded", "result"))}
"""What a sweep makes of a sum. Twin of `Ending`."""

FORMS = {
    form: number
    for number, form in enumerate(
        (
            *(("sum", (1, 1)), ("sum", (3, 1)), ("sum", (5, 1)), ("sum", (7, 1)), ("sum", (9, 1))),
            *(("sum", (1, 3)), ("sum", (1, 5)), ("sum", (1, 7)), ("sum", (1, 9))),
            *(("sum", (3, 3)), ("sum", (5, 5)), ("gradient", (3, 3)), ("unsharp", (1, 1))),
            *(("max", None), ("mean", None), ("pairs", (2, 2))),
            *(("highest", (3, 1)), ("highest", (5, 1)), ("highest", (7, 1))),
            *(("highest", (1, 3)), ("highest", (1, 5)), ("highest", (1, 7))),
        )
    )
}
"""Windows that sweeps are compiled for. Twin of `sweep_tile`."""

TURNED = {"lowest": "highest", "min": "max"}
"""Sweeps that are another kind's over the pixels with their signs turned."""

SIGN = 1 << 31


SWEEP = struct(
    "Sweep",
    *(("weights", ("f4", (MOST_TAPS,))), ("scale", "f4"), ("offset", "f4")),
    *(("real_amount", "f4"), ("amount", "i8"), ("form", "i4"), ("ending", "i4")),
    *(("shift", "i4"), ("rows", "i4"), ("columns", "i4"), ("in_at", "i4")),
    *(("in_columns", "i4"), ("out_at", "i4"), ("own_at", "i4"), ("own_columns", "i4")),
    *(("scale_y", "i4"), ("from_y", "i4"), ("scale_x", "i4"), ("from_x", "i4")),
    *(("height", "i4"), ("width", "i4"), ("border", "i4"), ("fills", "i4")),
    *(("outside", "f4"), ("window_y", "i4"), ("window_x", "i4"), ("stride_y", "i4")),
    *(("stride_x", "i4"), ("low_y", "i4"), ("high_y", "i4"), ("low_x", "i4")),
    *(("high_x", "i4"), ("flip_in", "u4"), ("flip_out", "u4")),
)
CHAIN = struct(
    "ChainParams",
    *(("images", IMAGES), ("tiling", TILING), ("tile_rows", "i4"), ("tile_columns", "i4")),
    *(("height", "i4"), ("row", "i4"), ("wide_stores", "i4"), ("result_at", "i4")),
    *(("in_rows", "i4"), ("sweeps", "i4"), ("sweep", (SWEEP, (MOST_SWEEPS,)))),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for dtype in DTYPES:
        for channels in CHANNELS:
            yield _variant(np.dtype(dtype), channels)


def _variant(dtype: DType, channels: int) -> Variant:
    return Variant(FILE, "chain", (cuda_type(dtype), str(channels)))


def launches(
    families: Mapping[type, Family],
    plan: ChainPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """Group after group; what lies between two is memory of the device."""
    source = inputs[0]
    for group in plan.groups:
        steps = plan.steps[group.first : group.stop]
        last = group.stop == len(plan.steps)
        target = outputs[0] if last else _between(plan, group.stop, launcher)
        if group.fused:
            yield from _fused(steps, plan.channels_last, source, target)
        else:
            yield from _alone(families, steps[0], plan.channels_last, source, target, launcher)
        source = target


def _between(plan: ChainPlan, steps: int, launcher: Launcher) -> DeviceArray:
    """Memory for what the first steps give. Its rows begin at multiples of 16 bytes."""
    spec = plan.after(steps)
    width, pixel = (-2, spec.shape[-1]) if plan.channels_last else (-1, 1)
    shape = list(spec.shape)
    step = WIDE_BYTES // np.gcd(WIDE_BYTES, pixel * spec.dtype.itemsize)
    shape[width] = -(-shape[width] // step) * step
    place = (..., slice(spec.shape[width]), *[slice(None)] * (-1 - width))
    return launcher.empty(shape, spec.dtype)[place]


def _alone(
    families: Mapping[type, Family],
    step: Any,
    channels_last: bool,
    source: DeviceArray,
    target: DeviceArray,
    launcher: Launcher,
) -> Iterator[Launch]:
    """A step by its own kernels. Pools fold the leading axes, as far as strides allow."""
    family = families[type(step)]
    if isinstance(step, ImagePlan):
        yield from family(step, [source], [target], launcher)
        return
    for arrays in image_planes((source, target), channels_last):
        maps = arrays if channels_last else [a[:, np.newaxis, ..., 0] for a in arrays]
        batch = maps[0].shape[0]
        part = replace(
            step, input=replace(step.input, batch=batch), output=replace(step.output, batch=batch)
        )
        yield from family(part, maps[:1], maps[1:], launcher)


def _fused(
    steps: tuple[Any, ...], channels_last: bool, source: DeviceArray, target: DeviceArray
) -> Iterator[Launch]:
    """One launch a stack of planes."""
    sweeps = fused_sweeps(steps)
    assert sweeps is not None
    dtype = source.dtype
    images = _first_images(steps[0], Spec(source.shape, dtype), channels_last, sweeps[0])
    size = target.shape[-3:-1] if channels_last else target.shape[-2:]
    for stack in stacks(images, source, target):
        channels = stack.channels
        tile = fit_tile(sweeps, channels, (size[0], size[1]))
        assert tile is not None
        row = size[1] * channels
        columns = tile.pixels * channels
        down, across = -(-size[0] // tile.rows), -(-row // columns)
        jobs = stack.planes * down * across
        params = np.zeros((), CHAIN)
        params["images"], params["tiling"] = stack.packed, (jobs, down, across)
        params["tile_rows"], params["tile_columns"] = tile.rows, columns
        params["height"], params["row"] = size[0], row
        params["wide_stores"] = _stores_wide(stack.output, stack.packed)
        params["result_at"] = tile.starts[-1]
        params["in_rows"], params["sweeps"] = tile.regions[0].rows, len(sweeps)
        params["sweep"][: len(sweeps)] = _packed(steps, tile, channels)
        yield Launch(
            _variant(dtype, channels),
            blocks(jobs),
            (THREADS, 1, 1),
            (stack.input, stack.output, params),
            tile.shared_bytes,
        )


def _first_images(step: Any, spec: Spec, channels_last: bool, sweep: Sweep) -> Images:
    """What lies around the images that the first step reads."""
    if isinstance(step, ImagePlan):
        return step.images
    return Images(spec.shape, spec.dtype, spec.dtype, channels_last, Border.CONSTANT, sweep.outside)


def _stores_wide(array: DeviceArray, packed: np.ndarray[Any, Any]) -> bool:
    """Whether every row begins at a multiple of a pack and its elements lie side by side."""
    strides = packed["output"]
    return (
        int(strides["step"]) == 1
        and all(int(strides[s]) % PACK == 0 for s in ("outer_stride", "inner_stride", "row"))
        and address(array) % (PACK * array.dtype.itemsize) == 0
    )


@lru_cache(maxsize=256)
def _packed(steps: tuple[Any, ...], tile: TilePlan, channels: int) -> np.ndarray[Any, Any]:
    """The SWEEPs of the steps."""
    own = [(step, sweep) for step in steps for sweep in step_sweeps(step) or ()]
    sweeps = [sweep for _, sweep in own]
    packed = np.zeros(len(own), SWEEP)
    for place, (step, sweep) in enumerate(own):
        one = packed[place]
        source, target = tile.regions[place : place + 2]
        one["form"] = _form(sweep, channels)
        one["rows"], one["columns"] = target.rows, target.pixels * channels
        one["in_at"], one["out_at"] = tile.starts[place : place + 2]
        one["in_columns"] = source.pixels * channels
        one["scale_y"], one["scale_x"] = source.scale
        one["from_y"], one["from_x"] = source.start
        if sweep.border is not None:
            height, width = step.images.size if isinstance(step, ImagePlan) else step.input.spatial
            one["height"], one["width"] = height, width
            one["border"], one["outside"] = BORDERS[sweep.border], sweep.outside
            one["fills"] = place > 0 and sweep.border is not Border.WRAP
        ends = place + 1 == len(own) or sweeps[place + 1].border is not None
        if sweep.kind in TURNED:
            one["flip_in"] = SIGN if sweep.border is not None else 0
            one["flip_out"] = SIGN if ends else 0
        if isinstance(step, PoolPlan):
            _give_pool(one, step)
        elif isinstance(step, MorphPlan):
            _give_ones(one)
        elif sweep.kind == "unsharp":
            begin = own_region(sweeps, place)
            region = tile.regions[begin]
            before = [w.pad[0] for w in step.windows]
            columns = region.pixels * channels
            one["own_columns"] = columns
            one["own_at"] = tile.starts[begin] + before[0] * columns + before[1] * channels
            one["shift"], one["amount"] = step.stencils[0].shift, int(step.amount)
            one["real_amount"] = step.amount
        else:
            _give_sum(one, step, sweep, ends)
    return packed


def _form(sweep: Sweep, channels: int) -> int:
    """The number of what a sweep is compiled as."""
    kind = TURNED.get(sweep.kind, sweep.kind)
    if kind == "max" and sweep.size == sweep.stride == (2, 2) and PACK % channels == 0:
        kind = "pairs"
    return FORMS[kind, None if kind in ("max", "mean") else sweep.size]


def _give_sum(one: Any, step: LinearPlan | BoxPlan, sweep: Sweep, ends: bool) -> None:
    """Weights, and what becomes of the sum."""
    if isinstance(step, BoxPlan):
        one["weights"][: max(sweep.size)] = 1
        one["ending"], one["scale"] = ENDINGS["rounded" if ends else "raw"], 1 / step.count
        return
    first = step.stencils[0]
    if sweep.kind == "gradient":
        assert first.row is not None  # of the derivative along H: what lies across
        one["weights"][:2] = first.row.array[:2]
        return
    if first.dense is not None:
        weights = first.dense.array
    else:
        line = first.column if sweep.size[1] == 1 else first.row
        assert line is not None
        weights = line.array
    one["weights"][: weights.size] = weights.ravel()
    integers = is_integer_type(step.images.dtype)
    if ends:
        one["scale"], one["offset"] = 0.5**first.shift, step.delta
        one["ending"] = ENDINGS["rounded" if _stays_inside(step) else "result"]
    elif sweep.size[1] == 1 and integers:
        one["ending"], one["scale"] = ENDINGS["rounded"], 0.5**first.column_shift
    else:
        one["ending"] = ENDINGS["raw"]


def _stays_inside(step: LinearPlan) -> bool:
    """Whether a sum of unsigned integers is rounded to one that its dtype holds, whatever it is."""
    first, dtype = step.stencils[0], step.images.dtype
    most = magnitude(dtype) if is_integer_type(dtype) else 0
    factors = [(f.array, s) for f, s in ((first.column, first.column_shift),) if f is not None]
    last = first.row if first.dense is None else first.dense
    assert last is not None
    if not most or step.delta or any((f < 0).any() for f in (last.array, *(a for a, _ in factors))):
        return False
    reached = most
    for array, shift in (*factors, (last.array, first.shift)):
        reached = -(-reached * int(array.sum()) >> shift)  # rounded up
    return reached <= most


def _give_ones(one: Any) -> None:
    """A sum of one pixel, for boxes of one: other sweeps of integers take no weights."""
    one["weights"], one["ending"], one["scale"] = 1, ENDINGS["result"], 1


def _give_pool(one: Any, step: PoolPlan) -> None:
    """Where the windows lie."""
    (y, low_y, high_y), (x, low_x, high_x) = window_of(step, 0), window_of(step, 1)
    one["window_y"], one["window_x"] = y.size, x.size
    one["stride_y"], one["stride_x"] = y.stride, x.stride
    one["low_y"], one["high_y"], one["low_x"], one["high_x"] = low_y, high_y, low_x, high_x
