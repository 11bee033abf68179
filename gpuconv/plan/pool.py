"""Plans of pools over feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy.typing as npt

from gpuconv.arrays import Array, Spec, describe
from gpuconv.dtypes import INT32, INT64, DType, is_integer_type, parse_dtype
from gpuconv.plan import check
from gpuconv.plan.maps import MapShape, map_shape
from gpuconv.plan.remember import WithMemo, remembered
from gpuconv.window import AxisWindow, Padding, items_of, resolve_padding


@dataclass(frozen=True, slots=True, repr=False)
class _ValuesAndIndices(WithMemo):
    """What pools share: values of the input's dtype and, if wanted, where they came from.

    `index_dtype` is set where the positions of the extremes are wanted too: flat in the unpadded
    spatial plane.
    """

    operands: ClassVar = ("input",)
    input: MapShape
    output: MapShape
    operation: str
    dtype: DType
    index_dtype: DType | None

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shapes and dtypes of the values and, if wanted, the indices."""
        values = Spec(self.output.shape, self.dtype)
        if self.index_dtype is None:
            return (values,)
        return values, Spec(self.output.shape, self.index_dtype)

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: input and outputs once each."""
        return prod(self.input.shape) * self.dtype.itemsize + sum(
            prod(s.shape) * s.dtype.itemsize for s in self.outputs
        )


@dataclass(frozen=True, slots=True, repr=False)
class PoolPlan(_ValuesAndIndices):
    """A window slid over every channel.

    operation: "max", "min", "avg" or "lp". `divisor` replaces the count of an average;
    `count_pad` counts padding (not what lies beyond it); `norm` is the p of "lp".
    """

    windows: tuple[AxisWindow, ...]
    count_pad: bool = True
    divisor: int | None = None
    norm: float = 0.0

    @property
    def flops(self) -> int:
        """One operation a tap."""
        return prod(self.output.shape) * prod(w.size for w in self.windows)

    def __repr__(self) -> str:
        size = "x".join(str(w.size) for w in self.windows)
        stride = "x".join(str(w.stride) for w in self.windows)
        extra = " with indices" if self.index_dtype is not None else ""
        return (
            f"PoolPlan({self.operation} {size} stride {stride}{extra}, {self.dtype} {self.input} → "
            f"{self.output}; one strided slab a tap, axis after axis where the operation allows)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class AdaptivePoolPlan(_ValuesAndIndices):
    """Windows that share the input out among a given number of outputs (PyTorch's rule)."""

    @property
    def flops(self) -> int:
        """One operation an input."""
        return prod(self.input.shape)

    def __repr__(self) -> str:
        return (
            f"AdaptivePoolPlan({self.operation}, {self.dtype} {self.input} → {self.output}; "
            "each window reduced by itself)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class UnpoolPlan(WithMemo):
    """Values scattered to the flat positions that a max pool reported; zero elsewhere."""

    operands: ClassVar = ("input", "indices")
    input: MapShape
    output: MapShape
    dtype: DType

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shape and dtype of the result."""
        return (Spec(self.output.shape, self.dtype),)

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: values, indices and the output once each."""
        pixels = prod(self.input.shape)
        return pixels * (self.dtype.itemsize + 8) + prod(self.output.shape) * self.dtype.itemsize

    @property
    def flops(self) -> int:
        """None: it only moves values."""
        return 0

    def check_indices(self, indices: npt.NDArray[Any]) -> None:
        """Refuse positions outside a plane: a backend calls it where the host holds them."""
        size = prod(self.output.spatial)
        for worst in (indices.min(), indices.max()):
            if not 0 <= worst < size:
                raise ValueError(f"indices must lie in [0, {size}), got {worst}")

    def __repr__(self) -> str:
        return f"UnpoolPlan({self.dtype} {self.input} → {self.output}; one scatter a plane)"


@remembered("input")
def plan_pool(
    rank: int,
    input: Array,
    operation: str,
    *,
    kernel_size: Any,
    stride: Any = None,
    padding: Padding = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    index_dtype: npt.DTypeLike = "int64",
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    norm_type: float = 0.0,
    layout: str,
) -> PoolPlan:
    """`max_pool*`, `min_pool*`, `avg_pool*`, `lp_pool*`."""
    channels_last = check.layout_is_channels_last(layout, rank)
    spec = check.feature_map("input", input, rank, channels_last)
    if operation == "lp":
        norm_type = float(check.number("norm_type", norm_type, finite=False))
        if not norm_type > 0:
            raise ValueError(f"norm_type must be greater than 0, got {norm_type!r}")
        if is_integer_type(spec.dtype):
            raise TypeError(f"input must be of a float dtype for an lp pool, got {spec.dtype}")
    divisor = None
    if divisor_override is not None:
        divisor = check.integer("divisor_override", divisor_override)
        if divisor == 0:
            raise ValueError("divisor_override must not be 0, got 0")
        if abs(divisor) >= 2**1023:
            raise ValueError(f"divisor_override must be below 2^1023, got {divisor!r:.60}")
    return plan_pool_window(
        spec,
        map_shape(spec, rank, channels_last),
        operation,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=check.flag("ceil_mode", ceil_mode),
        index_dtype=_index_dtype(return_indices, index_dtype),
        count_pad=check.flag("count_include_pad", count_include_pad),
        divisor=divisor,
        norm=norm_type,
    )


def _index_dtype(return_indices: Any, index_dtype: npt.DTypeLike) -> DType | None:
    if not check.flag("return_indices", return_indices):
        return None
    dtype = parse_dtype("index_dtype", index_dtype)
    if dtype not in (INT32, INT64):
        raise ValueError(f"index_dtype must be int32 or int64, got {dtype}")
    return dtype


def plan_pool_window(
    spec: Spec,
    shape: MapShape,
    operation: str,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Padding,
    dilation: Any = 1,
    ceil_mode: bool = False,
    index_dtype: DType | None = None,
    count_pad: bool = True,
    divisor: int | None = None,
    norm: float = 0.0,
    argument_prefix: str = "",
) -> PoolPlan:
    """The geometry that every windowed pool shares."""
    rank = len(shape.spatial)
    size_name = "pool_size" if argument_prefix else "kernel_size"
    sizes = check.per_axis(size_name, kernel_size, rank)
    strides = _strides(f"{argument_prefix}stride", stride, sizes)
    dilations = check.per_axis("dilation", dilation, rank)
    bare = [AxisWindow(*w) for w in zip(sizes, strides, dilations, strict=True)]
    pads = resolve_padding(padding, shape.spatial, bare, f"{argument_prefix}padding")
    windows = tuple(
        AxisWindow(w.size, w.stride, w.dilation, p) for w, p in zip(bare, pads, strict=True)
    )
    counts = tuple(
        w.outputs(n, ceil_mode=ceil_mode) for w, n in zip(windows, shape.spatial, strict=True)
    )
    if min(counts) < 1:
        raise ValueError(
            f"{size_name} must fit into the padded input, got {kernel_size!r} over spatial size "
            f"{shape.spatial} with {argument_prefix}padding {padding!r}"
        )
    if any(w.padding_only(n, c) for w, n, c in zip(windows, shape.spatial, counts, strict=True)):
        raise ValueError(
            f"{argument_prefix}padding must leave input in every window, got {padding!r} for "
            f"{size_name} {kernel_size!r} over spatial size {shape.spatial}"
        )
    output = MapShape(shape.batch, shape.channels, counts, shape.channels_last, shape.batched)
    return PoolPlan(
        shape, output, operation, spec.dtype, index_dtype, windows, count_pad, divisor, norm
    )


def _strides(argument: str, stride: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of the window: its size where none are told, by None or PyTorch's empty sequence."""
    if stride is None or items_of(stride) == []:
        return sizes
    return check.per_axis(argument, stride, len(sizes))


@remembered("input")
def plan_adaptive_pool(
    rank: int,
    input: Array,
    operation: str,
    output_size: Any,
    *,
    return_indices: bool = False,
    index_dtype: npt.DTypeLike = "int64",
    layout: str,
) -> AdaptivePoolPlan:
    """`adaptive_avg_pool*`, `adaptive_max_pool*`. None keeps an axis as it is."""
    channels_last = check.layout_is_channels_last(layout, rank)
    spec = check.feature_map("input", input, rank, channels_last)
    shape = map_shape(spec, rank, channels_last)
    if isinstance(output_size, (list, tuple)) and len(output_size) == rank:
        output_size = [
            n if wanted is None else wanted
            for wanted, n in zip(output_size, shape.spatial, strict=True)
        ]
    sizes = check.per_axis("output_size", output_size, rank)
    output = MapShape(shape.batch, shape.channels, sizes, channels_last, shape.batched)
    return AdaptivePoolPlan(
        shape, output, operation, spec.dtype, _index_dtype(return_indices, index_dtype)
    )


@remembered("input")
def plan_global_pool(input: Array, operation: str, *, layout: str) -> AdaptivePoolPlan:
    """`global_avg_pool`, `global_max_pool`: a batched input of any spatial rank from 1 to 3."""
    rank = describe("input", input).ndim - 2
    if rank not in check.LAYOUTS:
        raise ValueError(
            f"input must have shape (N, C, *spatial) with 1 to 3 spatial axes, got {rank + 2} axes"
        )
    return plan_adaptive_pool(rank, input, operation, 1, layout=layout)


@remembered("input", "indices")
def plan_unpool(
    rank: int,
    input: Array,
    indices: Array,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
    layout: str,
) -> UnpoolPlan:
    """`max_unpool*`."""
    channels_last = check.layout_is_channels_last(layout, rank)
    spec = check.feature_map("input", input, rank, channels_last)
    where = describe("indices", indices)
    if not is_integer_type(where.dtype):
        raise TypeError(f"indices must be of an integer dtype, got {where.dtype}")
    if where.shape != spec.shape:
        raise ValueError(f"indices must have the shape of input {spec.shape}, got {where.shape}")
    shape = map_shape(spec, rank, channels_last)
    sizes = check.per_axis("kernel_size", kernel_size, rank)
    strides = _strides("stride", stride, sizes)
    pads = check.per_axis("padding", padding, rank, minimum=0)
    natural = tuple(
        AxisWindow(k, s, pad=(p, p)).transposed_outputs(n, 0)
        for k, s, p, n in zip(sizes, strides, pads, shape.spatial, strict=True)
    )
    if output_size is not None:
        wanted = list(output_size) if isinstance(output_size, (list, tuple)) else output_size
        if isinstance(wanted, list) and len(wanted) == len(spec.shape):
            inner = wanted[-rank - 1 : -1] if channels_last else wanted[-rank:]
            wanted = inner
        chosen = check.per_axis("output_size", wanted, rank)
        if any(abs(c - n) >= s for c, n, s in zip(chosen, natural, strides, strict=True)):
            raise ValueError(
                f"output_size must lie within a stride of {natural}, got {output_size!r}"
            )
        natural = chosen
    if min(natural) < 1:
        raise ValueError(f"padding must leave an output of at least 1, got {padding!r}")
    output = MapShape(shape.batch, shape.channels, natural, channels_last, shape.batched)
    return UnpoolPlan(shape, output, spec.dtype)
