"""Plans of convolutions over feature maps: (N, C, *spatial) or (N, *spatial, C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy.typing as npt

from gpuconv.arrays import Array, Spec, describe
from gpuconv.border import Border, parse_border
from gpuconv.dtypes import (
    INT32,
    INT64,
    DType,
    accumulator,
    is_float,
    is_integer_type,
    magnitude,
    parse_dtype,
    saturate_value,
)
from gpuconv.plan import check, cpu
from gpuconv.plan.maps import MapShape, map_shape
from gpuconv.plan.pool import PoolPlan, plan_pool_window
from gpuconv.plan.remember import WithMemo, remembered
from gpuconv.window import AxisWindow, Padding, resolve_padding

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu")
LEAKY_SLOPE = 0.01
Activation = None | str | tuple[float, float]
"""None, one of ACTIVATIONS, or (lo, hi) to clamp between."""


@dataclass(frozen=True, slots=True, repr=False)
class _Convolution(WithMemo):
    """What convolutions share. `sum_dtype` holds the sum and the bias; then come the activation
    and the conversion to `out_dtype`.
    """

    operands: ClassVar = ("input", "weight", "bias")
    input: MapShape
    output: MapShape
    windows: tuple[AxisWindow, ...]
    groups: int
    input_dtype: DType
    weight_dtype: DType
    sum_dtype: DType
    out_dtype: DType
    activation: Activation

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shape and dtype of the result."""
        return (Spec(self.output.shape, self.out_dtype),)

    @property
    def kernel_taps(self) -> int:
        """Weights that one input channel has for one output channel."""
        return prod(w.size for w in self.windows)

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: input, weights and output once each."""
        weights = self.input.channels * self.output.channels // self.groups * self.kernel_taps
        return (
            prod(self.input.shape) * self.input_dtype.itemsize
            + weights * self.weight_dtype.itemsize
            + prod(self.output.shape) * self.out_dtype.itemsize
        )

    def _told(self, border: str, how: str) -> str:
        size = "x".join(str(w.size) for w in self.windows)
        return (
            f"{type(self).__name__}({self.input_dtype} {self.input} → {self.out_dtype} "
            f"{self.output}, {size}, groups {self.groups}{border}; {how} in {self.sum_dtype})"
        )


@dataclass(frozen=True, slots=True, repr=False)
class ConvPlan(_Convolution):
    """Cross-correlation of a feature map with weights (O, C / groups, *kernel)."""

    border: Border
    value: float
    precision: str
    algorithm: str
    why: str

    @property
    def taps(self) -> int:
        """Products summed into one output."""
        return self.input.channels // self.groups * self.kernel_taps

    @property
    def numbers(self) -> cpu.Numbers:
        """The NumPy backend's number types."""
        return cpu.numbers(self.input_dtype, self.weight_dtype, self.sum_dtype, self.taps)

    @property
    def on_cpu(self) -> cpu.Conv:
        """The NumPy backend's algorithm."""
        channels, last = self.input.channels // self.groups, self.input.channels_last
        return cpu.conv(self.algorithm, channels, self.windows, self.numbers, last)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self.output.shape) * self.taps

    def __repr__(self) -> str:
        how = f"{self.algorithm} ({self.why}; on the CPU {cpu.CONV[self.on_cpu]}), {self.taps} taps"
        return self._told(f", border {self.border.value}", how)


@dataclass(frozen=True, slots=True, repr=False)
class ConvTransposePlan(_Convolution):
    """Transposed convolution with weights (C, O / groups, *kernel): the gradient of `conv`.

    `windows` are those of the convolution that it transposes.
    """

    @property
    def flops(self) -> int:
        """Multiplications and additions: every input meets every weight of its channel."""
        outs = self.output.channels // self.groups
        return 2 * prod(self.input.shape) * outs * self.kernel_taps

    def __repr__(self) -> str:
        stride = "x".join(str(w.stride) for w in self.windows)
        return self._told("", f"one plain convolution for each of the {stride} output phases, sums")


@dataclass(frozen=True, slots=True, repr=False)
class ConvPoolPlan(WithMemo):
    """A convolution whose feature map is pooled before it reaches memory."""

    operands: ClassVar = ("input", "weight", "bias")
    conv: ConvPlan
    pool: PoolPlan

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shape and dtype of the result."""
        return self.pool.outputs

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: the convolution's input and the pool's output."""
        conv = self.conv
        return (
            conv.min_bytes
            - prod(conv.output.shape) * conv.out_dtype.itemsize
            + sum(prod(s.shape) * s.dtype.itemsize for s in self.outputs)
        )

    @property
    def flops(self) -> int:
        """Those of the convolution."""
        return self.conv.flops

    def __repr__(self) -> str:
        return f"ConvPoolPlan({self.conv!r}, then tile by tile {self.pool!r})"


def _spatial_windows(
    kernel: Sequence[int], stride: Any, padding: Padding, dilation: Any, sizes: Sequence[int]
) -> tuple[AxisWindow, ...]:
    """One window an axis from arguments in any accepted form."""
    rank = len(sizes)
    strides = check.per_axis("stride", stride, rank)
    dilations = check.per_axis("dilation", dilation, rank)
    bare = [AxisWindow(*w) for w in zip(kernel, strides, dilations, strict=True)]
    pads = resolve_padding(padding, sizes, bare)
    return tuple(
        AxisWindow(w.size, w.stride, w.dilation, p) for w, p in zip(bare, pads, strict=True)
    )


def _sum_dtype(input: DType, weight: DType, taps: int) -> DType:
    """Where the sum is kept; integers by the contract's rule for exact sums."""
    if is_float(input):
        return accumulator(input)
    small = input.itemsize == weight.itemsize == 1
    if small and taps * magnitude(input) * magnitude(weight) < 2**31:
        return INT32
    return INT64


def parse_activation(activation: Any, dtype: DType) -> Activation:
    """None, a name, or (lo, hi); integers know relu and clamp alone."""
    if activation is None:
        return None
    if isinstance(activation, str):
        name = check.choice("activation", activation, ACTIVATIONS)
        if is_integer_type(dtype) and name != "relu":
            raise TypeError(
                f"activation must be relu or (lo, hi) for integer feature maps, got {name!r}"
            )
        return name
    if isinstance(activation, Sequence) and len(activation) == 2:
        low, high = (check.number("activation", v, finite=False) for v in activation)
        if low <= high:
            return low, high
    raise ValueError(
        f"activation must be None, one of {', '.join(ACTIVATIONS)} or (lo, hi), got {activation!r}"
    )


def _check_operands(
    input: Spec, weight: Spec, bias: Array | None, channels: int, rank: int
) -> None:
    check.same_kind(input, weight)
    if weight.ndim != rank + 2 or 0 in weight.shape:
        raise ValueError(
            f"weight must have {rank + 2} axes, none of them empty, got shape {weight.shape}"
        )
    if bias is None:
        return
    spec = describe("bias", bias)
    if spec.shape != (channels,):
        raise ValueError(f"bias must have shape ({channels},), got {spec.shape}")
    if is_float(spec.dtype) != is_float(input.dtype):
        raise TypeError(f"bias must be of the kind of input ({input.dtype}), got {spec.dtype}")


def _out_dtype(out_dtype: npt.DTypeLike | None, natural: DType) -> DType:
    if out_dtype is None:
        return natural
    dtype = parse_dtype("out_dtype", out_dtype)
    if is_integer_type(natural) and is_float(dtype):
        return dtype
    if is_float(natural) and is_integer_type(dtype):
        raise TypeError(f"out_dtype must be a float dtype for float feature maps, got {dtype}")
    return dtype


@remembered("input", "weight", "bias")
def plan_conv(
    rank: int,
    input: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Any,
    padding: Padding,
    dilation: Any,
    groups: int,
    padding_mode: str,
    value: float,
    activation: Any,
    layout: str,
    out_dtype: npt.DTypeLike | None,
    precision: str,
    algorithm: str,
) -> ConvPlan:
    """`conv1d`, `conv2d`, `conv3d`."""
    channels_last = check.layout_is_channels_last(layout, rank)
    spec = check.feature_map("input", input, rank, channels_last)
    kernel = describe("weight", weight)
    _check_operands(spec, kernel, bias, kernel.shape[0] if kernel.ndim else 0, rank)
    shape = map_shape(spec, rank, channels_last)
    groups = check.integer("groups", groups, 1)
    if shape.channels % groups or kernel.shape[0] % groups:
        raise ValueError(
            f"groups must divide the channels of input ({shape.channels}) and of the output "
            f"({kernel.shape[0]}), got {groups}"
        )
    if kernel.shape[1] * groups != shape.channels:
        raise ValueError(
            f"weight must have {shape.channels // groups} input channels a group, got "
            f"{kernel.shape[1]} (shape {kernel.shape})"
        )
    windows = _spatial_windows(kernel.shape[2:], stride, padding, dilation, shape.spatial)
    sizes = tuple(w.outputs(n) for w, n in zip(windows, shape.spatial, strict=True))
    if min(sizes) < 1:
        raise ValueError(
            f"weight must fit into the padded input, got kernel {kernel.shape[2:]} with dilation "
            f"{dilation!r} over spatial size {shape.spatial} with padding {padding!r}"
        )
    border = parse_border(padding_mode, "padding_mode")
    fill = check.number("value", value, finite=False)
    if is_integer_type(spec.dtype) and fill != saturate_value(fill, spec.dtype):
        raise ValueError(f"value must be one that {spec.dtype} holds, got {value!r}")
    taps = kernel.shape[1] * prod(kernel.shape[2:])
    sums = _sum_dtype(spec.dtype, kernel.dtype, taps)
    natural = spec.dtype if is_float(spec.dtype) else sums
    check.choice("precision", precision, ("ieee", "tf32"))
    name, why = _choose(
        check.choice("algorithm", algorithm, ("auto", "direct", "gemm")), kernel, groups
    )
    return ConvPlan(
        shape,
        MapShape(shape.batch, kernel.shape[0], sizes, channels_last, shape.batched),
        windows,
        groups,
        spec.dtype,
        kernel.dtype,
        sums,
        _out_dtype(out_dtype, natural),
        parse_activation(activation, spec.dtype),
        border,
        fill,
        precision,
        name,
        why,
    )


def _choose(algorithm: str, weight: Spec, groups: int) -> tuple[str, str]:
    """The algorithm and the reason for it."""
    if algorithm != "auto":
        return algorithm, "asked for"
    return choose_algorithm(weight.shape[1], weight.shape[0] // groups)


def choose_algorithm(inputs: int, outputs: int) -> tuple[str, str]:
    """The algorithm for groups of so many channels, and the reason for it."""
    if inputs == outputs == 1:
        return "direct", "few channels a group leave nothing to share"
    return "gemm", "many channels share each window"


@remembered("input", "weight", "bias")
def plan_conv_transpose(
    rank: int,
    input: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Any,
    padding: Padding,
    output_padding: Any,
    groups: int,
    dilation: Any,
    activation: Any,
    layout: str,
) -> ConvTransposePlan:
    """`conv_transpose1d`, `conv_transpose2d`, `conv_transpose3d`."""
    channels_last = check.layout_is_channels_last(layout, rank)
    spec = check.feature_map("input", input, rank, channels_last)
    kernel = describe("weight", weight)
    groups = check.integer("groups", groups, 1)
    channels = kernel.shape[1] * groups if kernel.ndim > 1 else 0
    _check_operands(spec, kernel, bias, channels, rank)
    shape = map_shape(spec, rank, channels_last)
    if shape.channels % groups or kernel.shape[0] != shape.channels:
        raise ValueError(
            f"weight must have shape (C, O / groups, ...) with C = {shape.channels} divisible by "
            f"groups, got shape {kernel.shape} and groups {groups}"
        )
    extra = check.per_axis("output_padding", output_padding, rank, minimum=0)
    windows = _spatial_windows(
        kernel.shape[2:], stride, 0 if _is_same(padding) else padding, dilation, shape.spatial
    )
    if any(e >= max(w.stride, w.dilation) for e, w in zip(extra, windows, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than stride or dilation, got {output_padding!r}"
        )
    if _is_same(padding):
        windows, extra = _same_transposed(windows, shape.spatial, extra, padding)
    sizes = tuple(
        w.transposed_outputs(n, e) for w, n, e in zip(windows, shape.spatial, extra, strict=True)
    )
    if min(sizes) < 1:
        raise ValueError(f"padding must leave an output of at least 1, got {padding!r} → {sizes}")
    taps = shape.channels // groups * prod(kernel.shape[2:])
    sums = _sum_dtype(spec.dtype, kernel.dtype, taps)
    return ConvTransposePlan(
        shape,
        MapShape(shape.batch, channels, sizes, channels_last, shape.batched),
        windows,
        groups,
        spec.dtype,
        kernel.dtype,
        sums,
        spec.dtype if is_float(spec.dtype) else sums,
        parse_activation(activation, spec.dtype),
    )


def _is_same(padding: Padding) -> bool:
    return isinstance(padding, str) and padding in ("same", "same_upper", "same_lower")


def _same_transposed(
    windows: Sequence[AxisWindow], sizes: Sequence[int], extra: Sequence[int], padding: Padding
) -> tuple[tuple[AxisWindow, ...], tuple[int, ...]]:
    """Pads and output padding that give n·stride outputs: ONNX's rule for transposed "same"."""
    padded, extended = [], []
    for w, n, e in zip(windows, sizes, extra, strict=True):
        total = w.transposed_outputs(n, e) - n * w.stride
        small, large = max(0, total) // 2, max(0, total) - max(0, total) // 2
        pad = (large, small) if padding == "same_lower" else (small, large)
        padded.append(AxisWindow(w.size, w.stride, w.dilation, pad))
        extended.append(e + max(0, -total))
    return tuple(padded), tuple(extended)


def plan_conv_pool(
    conv: ConvPlan, *, pool: str, pool_size: Any, pool_stride: Any, pool_padding: Padding
) -> ConvPoolPlan:
    """`conv2d_pool2d`: `conv` and the pool over its output."""
    check.choice("pool", pool, ("max", "avg"))
    spec = conv.outputs[0]
    plan = plan_pool_window(
        spec,
        conv.output,
        pool,
        kernel_size=pool_size,
        stride=pool_stride,
        padding=pool_padding,
        argument_prefix="pool_",
    )
    return ConvPoolPlan(conv, plan)
