"""Plans of image filters: (..., H, W) or (..., H, W, C) in, the same shape out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import Array, Spec, describe, sequence_to_numpy
from gpuconv.border import Border, parse_border
from gpuconv.dtypes import (
    DType,
    is_float,
    is_integer_type,
    parse_dtype,
    saturate_value,
)
from gpuconv.plan import check, cpu, gpu, tensor
from gpuconv.plan.remember import WithMemo, remembered
from gpuconv.quantize import Floats, Frozen, Stencil, plan_separable, plan_stencil
from gpuconv.window import AxisWindow, is_integer

AMOUNT_BITS = 12
"""Bits behind the point of `amount` on integer images."""

MOST_AMOUNT = 1024
"""Largest |amount| on integer images: fixed point of 64 bits holds every blur up to it."""


@dataclass(frozen=True, slots=True)
class Images:
    """A batch of images and what lies around each.

    `dtype` is the one that is computed on: the images' own, or the float `out_dtype` that they
    are converted to first. `value` is already of that dtype.
    """

    shape: tuple[int, ...]
    dtype: DType
    out_dtype: DType
    channels_last: bool
    border: Border
    value: float

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.shape[-3:-1] if self.channels_last else self.shape[-2:]
        return height, width

    def __str__(self) -> str:
        to = "" if self.out_dtype == self.dtype else f" → {self.out_dtype}"
        last = ", channels last" if self.channels_last else ""
        return f"{self.dtype} {self.shape}{to}{last}, border {self.border.value}"


@dataclass(frozen=True, slots=True, repr=False)
class ImagePlan(WithMemo, ABC):
    """What all plans over images share."""

    operands: ClassVar = ("images",)
    images: Images

    @property
    def outputs(self) -> tuple[Spec, ...]:
        """Shapes and dtypes of the results."""
        return (Spec(self.images.shape, self.images.out_dtype),)

    @property
    @abstractmethod
    def halo(self) -> tuple[int, int]:
        """Rows and columns that a tile reads beyond its own."""

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: every pixel read once and written once."""
        pixels = int(np.prod(self.images.shape, dtype=np.int64))
        return pixels * (self.images.dtype.itemsize + self.images.out_dtype.itemsize)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.images}; {self.story})"

    @property
    @abstractmethod
    def story(self) -> str:
        """Which algorithm was chosen, and why, for a person to read."""


@dataclass(frozen=True, slots=True, repr=False)
class LinearPlan(ImagePlan):
    """Weighted sums over a window.

    combine "sum": the stencil's sum + `delta`; "magnitude": sqrt of the sum of squares of two
    stencils; "unsharp": x + amount·(x − sum), where integers hold `amount` in 1/4096.
    """

    stencils: tuple[Stencil, ...]
    windows: tuple[AxisWindow, AxisWindow]
    combine: Literal["sum", "magnitude", "unsharp"] = "sum"
    delta: float = 0.0
    amount: float = 0.0
    precision: tensor.Precision = "ieee"
    algorithm: gpu.Algorithm = "auto"

    @property
    def halo(self) -> tuple[int, int]:
        return _halo(self.windows)

    @property
    def on_cpu(self) -> cpu.Linear:
        """The NumPy backend's algorithm."""
        images = self.images
        return cpu.linear(self.stencils, images.dtype, images.out_dtype, self.combine, self.delta)

    @property
    def on_gpu(self) -> gpu.Choice:
        """The CUDA backend's algorithm, and why."""
        images = self.images
        return gpu.choose(
            self.stencils,
            self.combine,
            images.dtype,
            images.dtype.itemsize + images.out_dtype.itemsize,
            images.shape[-1] if images.channels_last else 1,
            self.precision,
            self.algorithm,
        )

    @property
    def story(self) -> str:
        first, on_gpu = self.stencils[0], self.on_gpu
        passes = "separable" if first.separable else "dense"
        return (
            f"{first.height}x{first.width} {passes} ({first.why}), "
            f"{len(self.stencils)} sum(s) in {first.accumulator}, {self.combine}; "
            f"on the CPU {cpu.LINEAR[self.on_cpu]}; "
            f"on a GPU {gpu.LINEAR[on_gpu.form]} ({on_gpu.why})"
        )

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        pixels = int(np.prod(self.images.shape, dtype=np.int64))
        return 2 * pixels * sum(s.multiplications for s in self.stencils)


@dataclass(frozen=True, slots=True, repr=False)
class BoxPlan(ImagePlan):
    """The mean of a box: exact sum, one division, half to even on integers."""

    windows: tuple[AxisWindow, AxisWindow]

    @property
    def count(self) -> int:
        """Pixels in the box."""
        return self.windows[0].size * self.windows[1].size

    @property
    def halo(self) -> tuple[int, int]:
        return _halo(self.windows)

    @property
    def story(self) -> str:
        height, width = (w.size for w in self.windows)
        return (
            f"{height}x{width} box; on the CPU sums by doubling along each axis, "
            f"on a GPU {gpu.SLIDING}"
        )

    @property
    def flops(self) -> int:
        """Additions of the doubling, and one division."""
        pixels = int(np.prod(self.images.shape, dtype=np.int64))
        return pixels * (2 * sum(w.size.bit_length() for w in self.windows) + 1)


@dataclass(frozen=True, slots=True, repr=False)
class RankPlan(ImagePlan):
    """The `rank`-th smallest pixel of a box (0 is the smallest)."""

    windows: tuple[AxisWindow, AxisWindow]
    rank: int

    @property
    def count(self) -> int:
        """Pixels in the box."""
        return self.windows[0].size * self.windows[1].size

    @property
    def sizes(self) -> tuple[int, int]:
        """(height, width) of the box."""
        height, width = (w.size for w in self.windows)
        return height, width

    @property
    def on_cpu(self) -> cpu.Rank:
        """The NumPy backend's algorithm."""
        return cpu.rank(self.count, self.images.dtype)

    @property
    def on_gpu(self) -> gpu.Rank:
        """The CUDA backend's algorithm."""
        images = self.images
        channels = images.shape[-1] if images.channels_last else 1
        return gpu.rank(self.sizes, self.rank, images.dtype, images.out_dtype, channels)

    @property
    def halo(self) -> tuple[int, int]:
        return _halo(self.windows)

    @property
    def story(self) -> str:
        height, width = self.sizes
        return (
            f"{height}x{width} box, rank {self.rank} of {self.count}; "
            f"on the CPU {cpu.RANK[self.on_cpu]}; on a GPU {gpu.RANK[self.on_gpu]}"
        )

    @property
    def flops(self) -> int:
        """Comparisons of a sorting network of the window."""
        pixels = int(np.prod(self.images.shape, dtype=np.int64))
        return pixels * self.count * self.count.bit_length() ** 2 // 2


@dataclass(frozen=True, slots=True)
class MorphStep:
    """One dilation or erosion. `footprint` is None for a full box."""

    operation: Literal["dilate", "erode"]
    windows: tuple[AxisWindow, AxisWindow]
    footprint: Frozen | None

    def __str__(self) -> str:
        height, width = (w.size for w in self.windows)
        shape = "box" if self.footprint is None else "footprint"
        return f"{self.operation} {height}x{width} {shape}"


@dataclass(frozen=True, slots=True, repr=False)
class MorphPlan(ImagePlan):
    """Dilations and erosions in a row; `gradient`: first minus second, both of the input."""

    steps: tuple[MorphStep, ...]
    gradient: bool = False

    @property
    def halo(self) -> tuple[int, int]:
        reaches = [_halo(step.windows) for step in self.steps]
        return sum(y for y, _ in reaches), sum(x for _, x in reaches)

    @property
    def story(self) -> str:
        told = (" minus " if self.gradient else ", then ").join(map(str, self.steps))
        boxes = all(step.footprint is None for step in self.steps)
        return f"{told}; on a GPU {gpu.SLIDING if boxes else gpu.OFFSETS}"

    @property
    def flops(self) -> int:
        """Comparisons: boxes by doubling, footprints one an offset."""
        pixels = int(np.prod(self.images.shape, dtype=np.int64))
        return pixels * sum(
            int(s.footprint.array.sum())
            if s.footprint
            else sum(w.size.bit_length() for w in s.windows)
            for s in self.steps
        )


def plan_images(
    images: Array,
    *,
    border: str,
    value: float,
    channel_axis: int | None,
    out_dtype: npt.DTypeLike | None,
) -> Images:
    """The checks that every image filter shares."""
    spec = describe("images", images)
    channels_last = check.images_have_channels(spec, channel_axis)
    dtype = spec.dtype
    result = dtype if out_dtype is None else parse_dtype("out_dtype", out_dtype)
    if is_float(dtype) and is_integer_type(result):
        raise TypeError(f"out_dtype must be a float dtype for {dtype} images, got {result}")
    if is_float(result) and (is_integer_type(dtype) or result.itemsize > dtype.itemsize):
        dtype = result
    number = check.number("value", value, finite=False)
    if is_integer_type(dtype) and number != number:
        raise ValueError(f"value must be a number for integer images, got {value!r}")
    return Images(
        spec.shape,
        dtype,
        result,
        channels_last,
        parse_border(border),
        saturate_value(number, dtype).item(),
    )


def _halo(windows: tuple[AxisWindow, AxisWindow]) -> tuple[int, int]:
    height, width = windows
    return height.extent - 1, width.extent - 1


def _windows(
    sizes: Sequence[int], anchor: Sequence[int] | None = None
) -> tuple[AxisWindow, AxisWindow]:
    """Windows of stride 1 whose anchor, by default size // 2, lies on the output pixel."""
    anchors = [n // 2 for n in sizes] if anchor is None else anchor
    height, width = (AxisWindow(n, pad=(a, n - 1 - a)) for n, a in zip(sizes, anchors, strict=True))
    return height, width


def _gradient_taps(smooth: Sequence[int], axis: int) -> tuple[Floats, Floats]:
    """(column, row) of a derivative along `axis` with `smooth` taps across."""
    derivative = np.array([-1.0, 0.0, 1.0])
    across = np.array(smooth, dtype=np.float64)
    return (derivative, across) if axis == 0 else (across, derivative)


@remembered("images")
def plan_filter(
    images: Array,
    kernel: Any,
    *,
    anchor: Sequence[int] | None = None,
    delta: float = 0,
    precision: tensor.Precision = "ieee",
    algorithm: gpu.Algorithm = "auto",
    **common: Any,
) -> LinearPlan:
    """`filter2d`: one dense kernel."""
    head = plan_images(images, **common)
    weights = check.host_weights("kernel", kernel, 2, shape="(KH, KW)")
    if anchor is not None:
        anchor = check.per_axis("anchor", anchor, 2, minimum=-1)
        anchor = [n // 2 if a == -1 else a for a, n in zip(anchor, weights.shape, strict=True)]
        if any(a >= n for a, n in zip(anchor, weights.shape, strict=True)):
            raise ValueError(f"anchor must lie inside the kernel {weights.shape}, got {anchor}")
    stencil = plan_stencil(weights, head.dtype)
    check.choice("precision", precision, ("ieee", "tf32"))
    _check_algorithm(algorithm, stencil, head, precision)
    return LinearPlan(
        head,
        (stencil,),
        _windows(weights.shape, anchor),
        delta=check.number("delta", delta),
        precision=precision,
        algorithm=algorithm,
    )


def _check_algorithm(
    algorithm: gpu.Algorithm, stencil: Stencil, head: Images, precision: tensor.Precision
) -> None:
    if check.choice("algorithm", algorithm, ("auto", "direct", "tensor")) == "tensor":
        refusal = gpu.refusal((stencil,), "sum", head.dtype, head.out_dtype, precision)
        if refusal:
            raise ValueError(
                f"algorithm must be 'auto' or 'direct' for {refusal}, got {algorithm!r}"
            )


@remembered("images")
def plan_separable_filter(
    images: Array,
    kernel_y: Any,
    kernel_x: Any,
    *,
    algorithm: gpu.Algorithm = "auto",
    **common: Any,
) -> LinearPlan:
    """`separable_filter2d` and `gaussian_blur`: one kernel given by its factors."""
    head = plan_images(images, **common)
    column = check.host_weights("kernel_y", kernel_y, 1, shape="(KH,)")
    row = check.host_weights("kernel_x", kernel_x, 1, shape="(KW,)")
    stencil = plan_separable(column, row, head.dtype)
    _check_algorithm(algorithm, stencil, head, "ieee")
    windows = _windows((column.size, row.size))
    return LinearPlan(head, (stencil,), windows, algorithm=algorithm)


@remembered("images")
def plan_gradient(
    images: Array, smooth: Sequence[int], axis: int | None, **common: Any
) -> LinearPlan:
    """`sobel`, `scharr`, `prewitt`: a derivative along one axis, or the magnitude of both."""
    head = plan_images(images, **common)
    if axis is not None and (not is_integer(axis) or axis not in (0, 1)):
        raise ValueError(f"axis must be 0 (along H), 1 (along W) or None, got {axis!r}")
    axes = (0, 1) if axis is None else (axis,)
    stencils = tuple(plan_separable(*_gradient_taps(smooth, a), head.dtype) for a in axes)
    combine: Literal["sum", "magnitude"] = "magnitude" if axis is None else "sum"
    return LinearPlan(head, stencils, _windows((3, 3)), combine)


@remembered("images")
def plan_unsharp(
    images: Array, column: Floats, row: Floats, amount: float, **common: Any
) -> LinearPlan:
    """`unsharp_mask`: x + amount·(x − blur), the blur in unrounded fixed point."""
    head = plan_images(images, **common)
    amount = check.number("amount", amount)
    windows = _windows((column.size, row.size))
    if not is_integer_type(head.dtype):
        stencil = plan_separable(column, row, head.dtype)
        return LinearPlan(head, (stencil,), windows, "unsharp", 0.0, amount)
    if abs(amount) > MOST_AMOUNT:
        raise ValueError(
            f"amount must be at most {MOST_AMOUNT} on integer images, got {amount!r} "
            "(convert the images to float64)"
        )
    stencil = plan_separable(column, row, head.dtype, gain=abs(amount))
    if column.size == row.size == 1:
        # Nothing was blurred, so nothing is added. 64-bit pixels may take this way too.
        return LinearPlan(head, (stencil,), windows)
    steps = round(amount * 2**AMOUNT_BITS)
    return LinearPlan(head, (stencil,), windows, "unsharp", 0.0, steps)


@remembered("images")
def plan_box(images: Array, size: Any, **common: Any) -> BoxPlan:
    """`box_blur`."""
    head = plan_images(images, **common)
    plan = BoxPlan(head, _windows(check.per_axis("size", size, 2)))
    if is_integer_type(head.dtype) and head.dtype.itemsize == 8 and plan.count >= 2**30:
        raise ValueError(f"size must span less than 2^30 pixels on {head.dtype}, got {size!r}")
    return plan


@remembered("images")
def plan_rank(images: Array, rank: int | None, size: Any, **common: Any) -> RankPlan:
    """`rank_filter`; the median where `rank` is None."""
    head = plan_images(images, **common)
    windows = _windows(check.per_axis("size", size, 2))
    count = windows[0].size * windows[1].size
    if rank is None:
        return RankPlan(head, windows, count // 2)
    wanted = check.integer("rank", rank)
    if not -count <= wanted < count:
        raise ValueError(f"rank must lie in [-{count}, {count}), got {rank}")
    return RankPlan(head, windows, wanted % count)


def _footprint(footprint: Any) -> npt.NDArray[np.bool_]:
    """Which places of a footprint belong to the neighbourhood."""
    if isinstance(footprint, (list, tuple)):
        footprint = sequence_to_numpy("footprint", footprint)
    if str(getattr(footprint, "dtype", None)).endswith("bool"):
        footprint = footprint * 1
    shape: npt.NDArray[np.bool_] = (
        check.host_weights("footprint", footprint, 2, shape="(FH, FW)") != 0
    )
    if not shape.any():
        raise ValueError("footprint must have an element that is not 0, got only zeros")
    return shape


@remembered("images")
def plan_morphology(
    images: Array,
    operations: Sequence[Literal["dilate", "erode"]],
    size: Any,
    footprint: Any,
    *,
    gradient: bool = False,
    **common: Any,
) -> MorphPlan:
    """`dilate`, `erode` and what is made of them. A second step in a row reflects its footprint."""
    head = plan_images(images, **common)
    shape = None
    if footprint is not None:
        shape = _footprint(footprint)
        size = shape.shape
    sizes = check.per_axis("size", size, 2)
    if shape is not None and shape.all():
        shape = None
    steps = []
    for position, operation in enumerate(operations):
        reflected = position > 0 and not gradient
        windows = _windows(sizes, [(n - 1) - n // 2 for n in sizes] if reflected else None)
        taps = shape if shape is None or not reflected else shape[::-1, ::-1]
        steps.append(MorphStep(operation, windows, None if taps is None else Frozen(taps)))
    return MorphPlan(head, tuple(steps), gradient)
