"""Launches of kernels_cu/conv.cu: convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod, sqrt
from typing import Any

import numpy as np

from gpuconv.backends.cuda.images import BORDERS, NUMBER
from gpuconv.backends.cuda.launch import (
    ANY,
    SHARED_BYTES,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    blocks,
    cuda_type,
    element_strides,
    kind,
    number,
    struct,
)
from gpuconv.backends.cuda.maps import MAP_STRIDES, map_strides, three_axes
from gpuconv.border import Border
from gpuconv.dtypes import FLOAT64, INT32, INT64, DType, is_float, saturate_value
from gpuconv.plan import ConvPlan, ConvTransposePlan
from gpuconv.plan.conv import Activation
from gpuconv.window import AxisWindow

FILE = "conv.cu"
THREADS, TILE, STEP = 256, 64, 8
DIRECT_OUTPUTS, DIRECT_OUTPUTS_LAST = 4, 8
LAST_LANES = 32
DIRECT_COLUMNS, DIRECT_COLUMNS_LAST = 64, 8
"""Outputs along a row of a tile of conv_direct, where the map is as wide."""

ACTIVATIONS = (None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "clamp")

ENDING = struct(
    "Ending",
    *(("low", NUMBER), ("high", NUMBER), ("bias_stride", "i8"), ("activation", "i4")),
    *(("bias_kind", "i4"), ("output_kind", "i4"), ("has_bias", "i4")),
)
WEIGHT_STRIDES = struct(
    "WeightStrides",
    *((name, "i8") for name in ("group", "output", "input", "depth", "row", "column")),
)
AXIS = struct(
    "ConvAxis",
    *((name, "i4") for name in ("input", "output", "kernel", "stride", "dilation", "pad")),
)
CONV = struct(
    "Conv",
    *(("input", MAP_STRIDES), ("output", MAP_STRIDES), ("weights", WEIGHT_STRIDES)),
    *(("value", NUMBER), ("ending", ENDING)),
    *(("depth", AXIS), ("row", AXIS), ("column", AXIS)),
    *(("groups", "i4"), ("inputs", "i4"), ("outputs", "i4"), ("border", "i4")),
    *(("input_kind", "i4"), ("weight_kind", "i4"), ("skip_outside", "i4"), ("block", "i4")),
)
GEMM = struct(
    "GemmParams", ("conv", CONV), ("positions", "i8"), ("jobs", "i8"), ("channel_tiles", "i4")
)
DIRECT = struct(
    "DirectParams",
    *(("conv", CONV), ("jobs", "i8"), ("channel_tiles", "i4"), ("down", "i4"), ("across", "i4")),
    *(("log_threads", "i4"), ("log_columns", "i4"), ("channels", "i4"), ("rows", "i4")),
    *(("columns", "i4"), ("pitch", "i4"), ("plane", "i4"), ("log_lanes", "i4")),
)


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    for kernel, last, types in product(("conv_gemm", "conv_direct"), (False, True), TYPES):
        yield _variant(kernel, last, types)


TYPES = (
    *(
        (cuda_type(FLOAT64) if t == "double" else "float", t, t, t)
        for t in ("float16", "bfloat16", "float", "double")
    ),
    *(("float", ANY, ANY, ANY), ("double", "double", "double", ANY)),
    *(("int", ANY, ANY, ANY), ("int64", ANY, ANY, ANY)),
)
"""(sums, input, weights, output) of the kernels."""


def types_of(plan: ConvPlan | ConvTransposePlan) -> tuple[str, str, str, str]:
    """The entry of TYPES for a plan."""
    if not is_float(plan.input_dtype):
        return "int" if plan.sum_dtype == INT32 else "int64", ANY, ANY, ANY
    sums, stored = cuda_type(plan.sum_dtype), cuda_type(plan.input_dtype)
    if plan.out_dtype == plan.input_dtype:
        return sums, stored, stored, stored
    return (sums, stored, stored, ANY) if sums == "double" else (sums, ANY, ANY, ANY)


def _variant(kernel: str, last: bool, types: Sequence[str]) -> Variant:
    return Variant(FILE, kernel, ("true" if last else "false", *types))


def launches(
    plan: ConvPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch."""
    yield correlation(plain(plan, inputs, outputs[0]), plan.algorithm)


@dataclass(frozen=True, slots=True)
class Correlation:
    """A convolution as the kernels take it. Its arrays may be views of the caller's.

    `windows`, `input_sizes` and `output_sizes` are (depth, row, column); of a window counts only
    the pad before. Channels are those of one of `groups`.
    """

    plan: ConvPlan | ConvTransposePlan
    input: DeviceArray
    weight: DeviceArray
    bias: DeviceArray | None
    output: DeviceArray
    input_strides: tuple[int, ...]
    output_strides: tuple[int, ...]
    weight_strides: tuple[int, ...]
    windows: tuple[AxisWindow, ...]
    input_sizes: tuple[int, ...]
    output_sizes: tuple[int, ...]
    inputs: int
    outputs: int
    border: Border = Border.CONSTANT
    value: Any = 0
    skip_outside: bool = False

    @property
    def last(self) -> bool:
        """Whether neighbouring channels lie nearer to each other than neighbouring places."""
        _, channel, *spatial = map(abs, self.input_strides)
        return 0 < channel < min((s for s in spatial if s), default=channel + 1)

    @property
    def taps(self) -> int:
        """Products of one output."""
        return self.inputs * prod(w.size for w in self.windows)

    def packed(self) -> np.ndarray[Any, Any]:
        """A CONV."""
        plan = self.plan
        axes = [
            (n, m, w.size, w.stride, w.dilation, w.pad[0])
            for n, m, w in zip(self.input_sizes, self.output_sizes, self.windows, strict=True)
        ]
        block = STEP * max(1, round(sqrt(self.taps) / STEP))
        fields = (
            *(self.input_strides, self.output_strides, self.weight_strides),
            *(number(self.value, plan.input_dtype), self._ending(), *axes),
            *(plan.groups, self.inputs, self.outputs, BORDERS[self.border]),
            *(kind(self.input.dtype), kind(self.weight.dtype), self.skip_outside, block),
        )
        return np.array(fields, CONV)

    def _ending(self) -> tuple[Any, ...]:
        dtype = self.plan.sum_dtype if is_float(self.plan.input_dtype) else INT64
        name, low, high = _activation(self.plan.activation, dtype)
        stride = 0 if self.bias is None else element_strides(self.bias)[0]
        bias_kind = 0 if self.bias is None else kind(self.bias.dtype)
        return (
            *(number(low, dtype), number(high, dtype), stride, ACTIVATIONS.index(name)),
            *(bias_kind, kind(self.output.dtype), self.bias is not None),
        )

    def arguments(self, params: np.ndarray[Any, Any]) -> tuple[Any, ...]:
        """What a kernel takes; where there is no bias, any array stands for it."""
        bias = self.weight if self.bias is None else self.bias
        return self.input, self.weight, bias, self.output, params


def _activation(activation: Activation, dtype: DType) -> tuple[str | None, Any, Any]:
    """(name, low, high): a relu of integers is a clamp."""
    if isinstance(activation, tuple):
        low, high = (saturate_value(v, dtype) for v in activation)
        return "clamp", low, high
    if activation == "relu" and dtype == INT64:
        return "clamp", 0, 2**63 - 1
    return activation, 0, 0


def plain(plan: ConvPlan, inputs: Sequence[DeviceArray], output: DeviceArray | None) -> Correlation:
    """A plain convolution; one without an `output` of its own is pooled."""
    weight = inputs[1]
    out, channel, *kernel = element_strides(weight)
    outs = plan.output.channels // plan.groups
    return Correlation(
        plan,
        inputs[0],
        weight,
        inputs[2] if len(inputs) > 2 else None,
        output,
        map_strides(inputs[0], plan.input),
        map_strides(output, plan.output),
        (outs * out, out, channel, *three_axes(tuple(kernel), 0)),
        three_windows(plan.windows),
        three_axes(plan.input.spatial, 1),
        three_axes(plan.output.spatial, 1),
        plan.input.channels // plan.groups,
        outs,
        plan.border,
        saturate_value(plan.value, plan.input_dtype),
    )


def three_windows(windows: Sequence[AxisWindow]) -> tuple[AxisWindow, ...]:
    """Windows of 1 to 3 spatial axes as (depth, row, column)."""
    return (AxisWindow(1),) * (3 - len(windows)) + tuple(windows)


def correlation(conv: Correlation, algorithm: str) -> Launch:
    """The launch that carries a convolution out."""
    return _gemm(conv) if algorithm == "gemm" else _direct(conv)


def _gemm(conv: Correlation) -> Launch:
    """TILE channels of a group × TILE positions of the batch a block."""
    positions = conv.plan.output.batch * prod(conv.output_sizes)
    channel_tiles = -(-conv.outputs // TILE)
    jobs = -(-positions // TILE) * conv.plan.groups * channel_tiles
    params = np.array((conv.packed(), positions, jobs, channel_tiles), GEMM)
    return Launch(
        _variant("conv_gemm", conv.last, types_of(conv.plan)),
        blocks(jobs),
        (THREADS, 1, 1),
        conv.arguments(params),
    )


def _power(value: int) -> int:
    """The logarithm of the least power of two that is no less."""
    return (value - 1).bit_length()


@dataclass(frozen=True, slots=True)
class _Tile:
    """A block's outputs in conv_direct: 2^n lanes (channels), columns, and rows."""

    lanes: int
    rows: int
    columns: int
    log_threads: int

    @classmethod
    def of(cls, rows: int, columns: int, last: bool) -> _Tile:
        """The tile for planes of rows × columns outputs."""
        most, wide = (
            (DIRECT_OUTPUTS_LAST * THREADS // LAST_LANES, DIRECT_COLUMNS_LAST)
            if last
            else (DIRECT_OUTPUTS * THREADS, DIRECT_COLUMNS)
        )
        across = 1 << min(_power(columns), _power(wide))
        down = 1 << min(_power(rows), _power(most // across))
        across = max(across, 1 << min(_power(columns), _power(most // down)))
        if last:
            return cls(LAST_LANES, most // across, across, _power(THREADS // LAST_LANES))
        threads = max(1, across * down // DIRECT_OUTPUTS)
        down = threads * DIRECT_OUTPUTS // across
        return cls(THREADS // threads, down, across, _power(threads))


def _direct(conv: Correlation) -> Launch:
    """A tile of outputs of some channels a block."""
    last, (_, row, column) = conv.last, conv.windows
    depth, height, width = conv.output_sizes
    tile = _Tile.of(height, width, last)
    itemsize = 8 if types_of(conv.plan)[0] in ("double", "int64") else 4
    used = min(tile.rows, height), min(tile.columns, width)

    def part(channels: int, rows: int, columns: int) -> tuple[int, int, int]:
        """(pitch, plane, elements) of the shared memory for so many taps."""
        pitch = AxisWindow(columns, column.stride, column.dilation).input_span(used[1])
        plane = pitch * AxisWindow(rows, row.stride, row.dilation).input_span(used[0])
        taps = channels * rows * columns | 1
        return pitch, plane, tile.lanes * (channels * plane + taps)

    room = SHARED_BYTES // itemsize
    size = [conv.inputs, row.size, column.size]
    while part(*size)[2] > room and max(size) > 1:
        axis = next(i for i, n in enumerate(size) if n > 1)
        size[axis] = -(-size[axis] // 2)
    pitch, plane, elements = part(*size)
    if elements > room:
        pitch = plane = 0
        size = [1, 1, min(column.size, room // tile.lanes - 1)]
        elements = tile.lanes * (size[2] | 1)
    channel_tiles = -(-conv.plan.groups * conv.outputs // tile.lanes)
    down, across = -(-height // tile.rows), -(-width // tile.columns)
    jobs = conv.plan.output.batch * depth * channel_tiles * down * across
    params = np.array(
        (
            *(conv.packed(), jobs, channel_tiles, down, across),
            *(tile.log_threads, _power(tile.columns), *size, pitch, plane),
            min(5, _power(max(1, pitch))),
        ),
        DIRECT,
    )
    return Launch(
        _variant("conv_direct", last, types_of(conv.plan)),
        blocks(jobs),
        (THREADS, 1, 1),
        conv.arguments(params),
        elements * itemsize,
    )
