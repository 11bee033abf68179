"""Filters over batches of images: (..., H, W) in, the same shape out.

Every function takes these keywords:

border : "reflect" (default), "symmetric", "edge", "wrap" or "constant" (filled with `value`).
channel_axis : None, or -1 for interleaved colour (..., H, W, C). All other axes are a batch.
out : array for the result; a list of arrays where `images` is a list.
out_dtype : dtype of the result; default that of the images. For a float one, integer images are
    converted first.
backend : "auto", "cuda", "numpy" or a backend instance; default as `use_backend` says.

A window of n pixels along an axis reaches n // 2 back and (n - 1) // 2 ahead: those of even sizes
one further back than ahead, as OpenCV's and SciPy's do.

Integer images are computed exactly, rounded half to even and saturated: the same bits on every
backend. Images may be NumPy or CuPy arrays or speak DLPack; the result is the same kind and lives
in the same place. A list of images of different shapes gives a list.

Raises (every function)
------
ValueError : a shape, size or name is not as documented; the message names the argument.
TypeError : images are not of an integer or float dtype, or are masked.
BackendUnavailableError : the backend named cannot run here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from gpuconv import kernels
from gpuconv.arrays import Array, as_described
from gpuconv.backends import BackendLike, run
from gpuconv.plan import Plan, check
from gpuconv.plan.filters import (
    plan_box,
    plan_filter,
    plan_gradient,
    plan_morphology,
    plan_rank,
    plan_separable_filter,
    plan_unsharp,
)
from gpuconv.plan.remember import remembered

__all__ = [
    "box_blur",
    "dilate",
    "erode",
    "filter2d",
    "gaussian_blur",
    "laplacian",
    "median_blur",
    "morph_close",
    "morph_gradient",
    "morph_open",
    "prewitt",
    "rank_filter",
    "scharr",
    "separable_filter2d",
    "sharpen",
    "sobel",
    "unsharp_mask",
]

Size = int | Sequence[int]


class Common(TypedDict, total=False):
    """The keywords of every filter."""

    border: str
    value: float
    channel_axis: int | None
    out: Any
    out_dtype: npt.DTypeLike | None
    backend: BackendLike


def _apply(
    plan: Callable[..., Plan],
    images: Any,
    *arguments: Any,
    border: str = "reflect",
    value: float = 0,
    channel_axis: int | None = None,
    out: Any = None,
    out_dtype: npt.DTypeLike | None = None,
    backend: BackendLike = None,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Plan and run one filter over an array of images, or over each array of a list.

    `own` are the keywords of this filter alone.
    """
    common = {
        "border": border,
        "value": value,
        "channel_axis": channel_axis,
        "out_dtype": out_dtype,
        **own,
    }
    if out_dtype is not None:
        several = isinstance(images, (list, tuple))
        images = [as_described(i) for i in images] if several else as_described(images)
    if not isinstance(images, (list, tuple)):
        return run(plan(images, *arguments, **common), images, out=out, backend=backend)
    outs = check.outputs_of(images, out)
    plans = [plan(image, *arguments, **common) for image in images]
    return [
        run(p, image, out=o, backend=backend)
        for p, image, o in zip(plans, images, outs, strict=True)
    ]


def filter2d(
    images: Array,
    kernel: Any,
    *,
    anchor: tuple[int, int] | None = None,
    delta: float = 0,
    precision: str = "ieee",
    algorithm: str = "auto",
    **common: Unpack[Common],
) -> Array:
    """Slide `kernel` over every image without flipping it.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`; any integer or float dtype.
    kernel : (KH, KW) weights. 32- and 64-bit integer images take integer weights.
    anchor : (y, x) of the weight that lies on the output pixel; default (KH // 2, KW // 2).
    delta : number added to every sum before it is rounded.
    precision : "ieee", or "tf32" to allow products of 11 bits on float images. Where there are no
        tensor cores it changes nothing.
    algorithm : "auto", "direct", or "tensor": tensor cores for a dense kernel of 7 taps or more
        along an axis, on uint8, float16, bfloat16 and, with "tf32", float32 images, and for a
        kernel of rank 1 as `separable_filter2d`. Layouts that they do not take, and the NumPy
        backend, go their own way.

    Returns
    -------
    Array of the images' shape and dtype, living where `images` lives.

    Raises
    ------
    ValueError : `algorithm="tensor"` asks for what tensor cores do not take: other dtypes than the
        above or another `out_dtype`, fewer than 7 taps along both axes or more than 255 along one,
        weights that lose too much, a kernel of rank 1 unless it fits `separable_filter2d`'s.
    """
    own = {"anchor": anchor, "delta": delta, "precision": precision, "algorithm": algorithm}
    return _apply(plan_filter, images, kernel, own=own, **common)


def separable_filter2d(
    images: Array,
    kernel_y: Any,
    kernel_x: Any,
    *,
    algorithm: str = "auto",
    **common: Unpack[Common],
) -> Array:
    """Slide the kernel outer(kernel_y, kernel_x) over every image, one axis after the other.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    kernel_y : (KH,) weights along the height.
    kernel_x : (KW,) weights along the width.
    algorithm : "auto", "direct", or "tensor": tensor cores for 2 to 33 weights along each axis, on
        uint8, float16 and bfloat16 images. Integer results are the same. Rows that do not begin at
        multiples of 16 bytes, and windows that reach further than 48 elements of interleaved
        channels, go another way.

    Returns
    -------
    Array of the images' shape and dtype.

    Raises
    ------
    ValueError: tensor cores are asked for and do not take these images or weights.
    """
    own = {"algorithm": algorithm}
    return _apply(plan_separable_filter, images, kernel_y, kernel_x, own=own, **common)


def gaussian_blur(
    images: Array,
    sigma: float | Sequence[float],
    *,
    truncate: float = 4.0,
    algorithm: str = "auto",
    **common: Unpack[Common],
) -> Array:
    """Blur with a Gaussian bell.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    sigma : spread in pixels, one value or (y, x); 0 leaves that axis alone.
    truncate : the bell is cut off after this many sigmas.
    algorithm : as of `separable_filter2d`.

    Returns
    -------
    Array of the images' shape and dtype.

    Raises
    ------
    ValueError: tensor cores are asked for and do not take these images or weights.
    """
    return _apply(_plan_gaussian, images, sigma, truncate, own={"algorithm": algorithm}, **common)


@remembered("images")
def _plan_gaussian(
    images: Array, sigma: float | Sequence[float], truncate: float, **common: Any
) -> Plan:
    taps = _gaussian(sigma, truncate)
    return plan_separable_filter(images, *taps, **common)


def _gaussian(sigma: float | Sequence[float], truncate: float) -> tuple[Any, Any]:
    vertical, horizontal = (
        kernels.gaussian_taps(s, truncate=truncate)
        for s in check.pair_of_numbers("sigma", sigma, minimum=0)
    )
    return vertical, horizontal


def box_blur(images: Array, size: Size, **common: Unpack[Common]) -> Array:
    """The mean of a box around every pixel.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).

    Returns
    -------
    Array of the images' shape and dtype; integers are the exact mean, rounded half to even.
    """
    return _apply(plan_box, images, size, **common)


def sobel(images: Array, *, axis: int | None = None, **common: Unpack[Common]) -> Array:
    """Sobel's derivative: [-1, 0, 1] along the axis, [1, 2, 1] across, unnormalised.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    axis : 0 along the height, 1 along the width, None for the magnitude sqrt(gy² + gx²).

    Returns
    -------
    Array of the images' shape and dtype (`out_dtype="int16"` keeps an 8-bit derivative's sign).
    """
    return _apply(plan_gradient, images, (1, 2, 1), axis, **common)


def scharr(images: Array, *, axis: int | None = None, **common: Unpack[Common]) -> Array:
    """Scharr's derivative: like `sobel`, with [3, 10, 3] across.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    axis : 0 along the height, 1 along the width, None for the magnitude.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_gradient, images, (3, 10, 3), axis, **common)


def prewitt(images: Array, *, axis: int | None = None, **common: Unpack[Common]) -> Array:
    """Prewitt's derivative: like `sobel`, with [1, 1, 1] across.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    axis : 0 along the height, 1 along the width, None for the magnitude.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_gradient, images, (1, 1, 1), axis, **common)


def laplacian(images: Array, **common: Unpack[Common]) -> Array:
    """The sum of the second differences, `kernels.laplacian`.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_filter, images, kernels.laplacian, **common)


def sharpen(images: Array, amount: float = 1.0, **common: Unpack[Common]) -> Array:
    """Add `amount` times the difference from the four neighbours.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    amount : a in the kernel [[0, -a, 0], [-a, 1 + 4a, -a], [0, -a, 0]].

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(_plan_sharpen, images, amount, **common)


@remembered("images")
def _plan_sharpen(images: Array, amount: float, **common: Any) -> Plan:
    a = check.number("amount", amount)
    kernel = np.array([[0, -a, 0], [-a, 1 + 4 * a, -a], [0, -a, 0]], dtype=np.float64)
    return plan_filter(images, kernel, **common)


def unsharp_mask(
    images: Array,
    sigma: float | Sequence[float] = 1.0,
    amount: float = 1.0,
    **common: Unpack[Common],
) -> Array:
    """Sharpen by what a Gaussian blur takes away: x + amount·(x − blur).

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    sigma : spread of the blur in pixels, one value or (y, x).
    amount : strength; integers hold it in steps of 1/4096 and round once, at the end.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(_plan_unsharp_mask, images, sigma, amount, **common)


@remembered("images")
def _plan_unsharp_mask(
    images: Array, sigma: float | Sequence[float], amount: float, **common: Any
) -> Plan:
    return plan_unsharp(images, *_gaussian(sigma, 4.0), amount, **common)


def median_blur(images: Array, size: Size, **common: Unpack[Common]) -> Array:
    """The median of a box around every pixel (the upper one where the box is even).

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).

    Returns
    -------
    Array of the images' shape and dtype; NaN where a window holds NaN.
    """
    return _apply(plan_rank, images, None, size, **common)


def rank_filter(images: Array, rank: int, size: Size, **common: Unpack[Common]) -> Array:
    """The `rank`-th smallest pixel of a box around every pixel.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    rank : 0 is the smallest; negative counts from the largest, -1.
    size : pixels of the box, one value or (y, x).

    Returns
    -------
    Array of the images' shape and dtype; NaN where a window holds NaN.
    """
    return _apply(plan_rank, images, check.integer("rank", rank), size, **common)


def dilate(
    images: Array, size: Size = 3, *, footprint: Any = None, **common: Unpack[Common]
) -> Array:
    """The brightest pixel of a neighbourhood.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).
    footprint : (FH, FW) array whose non-zero places make up the neighbourhood instead of a box;
        it is not reflected, and its anchor is (FH // 2, FW // 2).

    Returns
    -------
    Array of the images' shape and dtype; NaN where a neighbourhood holds NaN.
    """
    return _apply(plan_morphology, images, ("dilate",), size, footprint, **common)


def erode(
    images: Array, size: Size = 3, *, footprint: Any = None, **common: Unpack[Common]
) -> Array:
    """The darkest pixel of a neighbourhood.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).
    footprint : (FH, FW) array of the neighbourhood, as for `dilate`.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_morphology, images, ("erode",), size, footprint, **common)


def morph_open(
    images: Array, size: Size = 3, *, footprint: Any = None, **common: Unpack[Common]
) -> Array:
    """Erode, then dilate with the reflected footprint: removes what is bright and small.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).
    footprint : (FH, FW) array of the neighbourhood, as for `dilate`.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_morphology, images, ("erode", "dilate"), size, footprint, **common)


def morph_close(
    images: Array, size: Size = 3, *, footprint: Any = None, **common: Unpack[Common]
) -> Array:
    """Dilate, then erode with the reflected footprint: fills what is dark and small.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).
    footprint : (FH, FW) array of the neighbourhood, as for `dilate`.

    Returns
    -------
    Array of the images' shape and dtype.
    """
    return _apply(plan_morphology, images, ("dilate", "erode"), size, footprint, **common)


def morph_gradient(
    images: Array, size: Size = 3, *, footprint: Any = None, **common: Unpack[Common]
) -> Array:
    """Dilation minus erosion: outlines.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with `channel_axis=-1`.
    size : pixels of the box, one value or (y, x).
    footprint : (FH, FW) array of the neighbourhood, as for `dilate`.

    Returns
    -------
    Array of the images' shape and dtype; signed integers saturate.
    """
    return _apply(
        plan_morphology,
        images,
        ("dilate", "erode"),
        size,
        footprint,
        own={"gradient": True},
        **common,
    )
