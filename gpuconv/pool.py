"""Pools over feature maps: each window of a channel becomes one value.

`input` is (N, C, *spatial) or unbatched (C, *spatial); with `layout="NHWC"`, channels last, it is
(N, *spatial, C). NumPy or CuPy arrays, or arrays that speak DLPack, come in; the same kind comes
out, in the same place and of the same dtype. These arguments mean the same everywhere:

kernel_size : elements of a window, one number for all axes or one each.
stride : steps of the window; default (None, or no numbers at all) its size.
padding : elements around the input that never win a maximum: one number, one an axis, a (before,
    after) pair an axis, "valid", "same" (= "same_upper"), "same_lower" or "full". Every window must
    hold an element of the input; PyTorch's may lie in padding alone where they are dilated.
dilation : distance between the elements of a window.
ceil_mode : whether a last window that reaches over the end counts.
return_indices : whether the flat position of each value in its plane comes too, as a second array.
index_dtype : "int64" or "int32".
layout : "NCHW" or "NHWC", whatever the number of spatial axes.
    The result's memory lies in that order: of a PyTorch tensor in channels_last format, pass
    `x.permute(0, 2, 3, 1)` and "NHWC" to keep the format.
out : array for the result; a pair of arrays with `return_indices`.
backend : "auto", "cuda", "numpy" or a backend instance; default as `use_backend` says.

Raises (every function)
------
ValueError : a shape, size or name is not as documented; the message names the argument.
TypeError : the input is not of an integer or float dtype.
BackendUnavailableError : the backend named cannot run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from gpuconv.arrays import Array
from gpuconv.backends import BackendLike, run
from gpuconv.plan.pool import (
    plan_adaptive_pool,
    plan_global_pool,
    plan_pool,
    plan_unpool,
)
from gpuconv.ranks import per_rank
from gpuconv.window import Padding

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "global_avg_pool",
    "global_max_pool",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
]

Size = int | Sequence[int]


def _max_pool(
    rank: int,
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: npt.DTypeLike = "int64",
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Any:
    """The largest element of every window. NaN wins.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.

    Returns
    -------
    (N, C, *spatial) or (C, *spatial) of the input's dtype; with `return_indices` a pair of that
    and the positions: of equal elements the first, of several NaN the last.
    """
    plan = plan_pool(
        rank,
        input,
        "max",
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        return_indices=return_indices,
        index_dtype=index_dtype,
        layout=layout,
    )
    return run(plan, input, out=out, backend=backend)


def _min_pool(
    rank: int,
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    index_dtype: npt.DTypeLike = "int64",
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Any:
    """The smallest element of every window; otherwise as the max pool. NaN wins.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.

    Returns
    -------
    (N, C, *spatial) or (C, *spatial) of the input's dtype, or a pair with the positions.
    """
    plan = plan_pool(
        rank,
        input,
        "min",
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        return_indices=return_indices,
        index_dtype=index_dtype,
        layout=layout,
    )
    return run(plan, input, out=out, backend=backend)


def _avg_pool(
    rank: int,
    input: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Size = 1,
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Array:
    """The mean of every window. Integers are summed exactly and rounded half to even.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.
    count_include_pad : whether the zeros of the padding are counted.
    divisor_override : number to divide every sum by, instead of the count.

    Returns
    -------
    (N, C, *spatial) or (C, *spatial) of the input's dtype.
    """
    plan = plan_pool(
        rank,
        input,
        "avg",
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
        layout=layout,
    )
    return run(plan, input, out=out, backend=backend)


def _lp_pool(
    rank: int,
    input: Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Array:
    """The p-norm (Σ|x|^p)^(1/p) of the elements of every window.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of a float dtype.
    norm_type : p, above 0; infinity is the largest |x|.

    Returns
    -------
    (N, C, *spatial) or (C, *spatial) of the input's dtype.
    """
    plan = plan_pool(
        rank,
        input,
        "lp",
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
        norm_type=norm_type,
        layout=layout,
    )
    return run(plan, input, out=out, backend=backend)


def _adaptive_avg_pool(
    rank: int,
    input: Array,
    output_size: Any,
    *,
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Array:
    """The mean of each of `output_size` cells that share the input, as PyTorch shares it.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.
    output_size : cells along each axis, one number for all or one each; None keeps the axis.

    Returns
    -------
    (N, C, *output_size) or (C, *output_size) of the input's dtype.
    """
    plan = plan_adaptive_pool(rank, input, "avg", output_size, layout=layout)
    return run(plan, input, out=out, backend=backend)


def _adaptive_max_pool(
    rank: int,
    input: Array,
    output_size: Any,
    return_indices: bool = False,
    *,
    index_dtype: npt.DTypeLike = "int64",
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Any:
    """The largest element of each of `output_size` cells that share the input.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.
    output_size : cells along each axis, one number for all or one each; None keeps the axis.

    Returns
    -------
    (N, C, *output_size) or (C, *output_size) of the input's dtype, or a pair with the positions.
    """
    plan = plan_adaptive_pool(
        rank,
        input,
        "max",
        output_size,
        return_indices=return_indices,
        index_dtype=index_dtype,
        layout=layout,
    )
    return run(plan, input, out=out, backend=backend)


def global_avg_pool(
    input: Array, *, layout: str = "NCHW", out: Any = None, backend: BackendLike = None
) -> Array:
    """The mean of every plane; spatial axes stay, with size 1.

    Parameters
    ----------
    input : (N, C, *spatial) with one to three spatial axes.

    Returns
    -------
    (N, C, 1, ...) of the input's dtype.
    """
    plan = plan_global_pool(input, "avg", layout=layout)
    return run(plan, input, out=out, backend=backend)


def global_max_pool(
    input: Array, *, layout: str = "NCHW", out: Any = None, backend: BackendLike = None
) -> Array:
    """The largest element of every plane; spatial axes stay, with size 1.

    Parameters
    ----------
    input : (N, C, *spatial) with one to three spatial axes.

    Returns
    -------
    (N, C, 1, ...) of the input's dtype.
    """
    plan = plan_global_pool(input, "max", layout=layout)
    return run(plan, input, out=out, backend=backend)


def _max_unpool(
    rank: int,
    input: Array,
    indices: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Array:
    """Put the values of a max pool back where they were; zero everywhere else.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial): values of a max pool.
    indices : their flat positions, of the input's shape.
    kernel_size, stride, padding : those of the pool.
    output_size : (*spatial) of the result, or its whole shape, where the pool's is ambiguous.

    Returns
    -------
    (N, C, *output_size) or (C, *output_size) of the input's dtype.

    Raises
    ------
    ValueError : an index lies outside the plane.
    """
    plan = plan_unpool(
        rank,
        input,
        indices,
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        output_size=output_size,
        layout=layout,
    )
    return run(plan, input, indices, out=out, backend=backend)


max_pool1d, max_pool2d, max_pool3d = per_rank(_max_pool)
min_pool1d, min_pool2d, min_pool3d = per_rank(_min_pool)
avg_pool1d, avg_pool2d, avg_pool3d = per_rank(_avg_pool)
lp_pool1d, lp_pool2d, lp_pool3d = per_rank(_lp_pool)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = per_rank(_adaptive_avg_pool)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = per_rank(_adaptive_max_pool)
max_unpool1d, max_unpool2d, max_unpool3d = per_rank(_max_unpool)
