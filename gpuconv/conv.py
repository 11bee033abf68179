"""Convolutions over feature maps, as CNN libraries mean them: the kernel is not flipped.

`input` is (N, C, *spatial) or unbatched (C, *spatial); with `layout="NHWC"`, channels last, it is
(N, *spatial, C). NumPy or CuPy arrays, or arrays that speak DLPack, come in; the same kind comes
out, in the same place. These keywords mean the same everywhere:

activation : None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", or (lo, hi) to clamp;
    integers know "relu" and (lo, hi) alone.
layout : "NCHW" or "NHWC", whatever the number of spatial axes. Weights are the same in both.
    The result's memory lies in that order: of a PyTorch tensor in channels_last format, pass
    `x.permute(0, 2, 3, 1)` and "NHWC" to keep the format.
out : array for the result.
backend : "auto", "cuda", "numpy" or a backend instance; default as `use_backend` says.

Floats keep their dtype; float16 is summed in float32. Integers are exact: int32 where both
operands have 8 bits and no sum can exceed it, else int64 modulo 2^64.

Raises (every function)
------
ValueError : a shape, size or name is not as documented; the message names the argument.
TypeError : dtypes are not numbers, or do not go together (integer and float).
BackendUnavailableError : the backend named cannot run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from gpuconv.arrays import Array, as_described
from gpuconv.backends import BackendLike, run
from gpuconv.plan.conv import Activation, plan_conv, plan_conv_pool, plan_conv_transpose
from gpuconv.ranks import per_rank
from gpuconv.window import Padding

__all__ = [
    "conv1d",
    "conv2d",
    "conv2d_pool2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

Size = int | Sequence[int]


def _conv(
    rank: int,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    value: float = 0,
    activation: Activation = None,
    layout: str = "NCHW",
    out: Any = None,
    out_dtype: npt.DTypeLike | None = None,
    precision: str = "ieee",
    algorithm: str = "auto",
    backend: BackendLike = None,
) -> Array:
    """Slide every kernel over the feature map and sum what it covers over the input channels.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.
    weight : (O, C / groups, *kernel). Of the input's dtype; integers go with any integers.
    bias : (O,) added to every sum.
    stride : steps of the kernel, one for all axes or one each.
    padding : elements around the input: one number, one an axis, a (before, after) pair an axis,
        "valid", "same" (= "same_upper"), "same_lower" or "full".
    dilation : distance between the elements that a kernel covers.
    groups : parts that the channels are split into; each output sees the inputs of its own part.
    padding_mode : what the padding holds: "zeros" (`value`), "replicate", "reflect", "symmetric",
        "circular", or NumPy's names for them.
    value : number that a "zeros" padding holds.
    out_dtype : dtype of the result; narrower integers saturate.
    precision : "ieee", or "tf32" to let float32 products be rounded where that is faster.
    algorithm : "auto", "direct" or "gemm".

    Returns
    -------
    (N, O, *spatial) or (O, *spatial), laid out as the input is.
    """
    if out_dtype is not None:
        input = as_described(input)
    plan = plan_conv(
        rank,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        value=value,
        activation=activation,
        layout=layout,
        out_dtype=out_dtype,
        precision=precision,
        algorithm=algorithm,
    )
    return run(plan, input, weight, bias, out=out, backend=backend)


conv1d, conv2d, conv3d = per_rank(_conv)


def _conv_transpose(
    rank: int,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    *,
    activation: Activation = None,
    layout: str = "NCHW",
    out: Any = None,
    backend: BackendLike = None,
) -> Array:
    """Spread every input element over the output, times the kernel: the transpose of a conv.

    Parameters
    ----------
    input : (N, C, *spatial) or (C, *spatial) of any integer or float dtype.
    weight : (C, O / groups, *kernel).
    bias : (O,) added to every sum.
    stride : distance between the places where neighbouring inputs are spread.
    padding : elements cut off the output: one number, one an axis, a (before, after) pair an axis,
        or "same" (= "same_upper") or "same_lower" for stride times as many outputs as inputs.
    output_padding : elements more at the end of each axis, fewer than stride or dilation.
    groups : parts that the channels are split into.
    dilation : distance between the elements of a kernel.

    Returns
    -------
    (N, O, *spatial) or (O, *spatial), where an axis of n elements becomes
    (n - 1) stride - padding before and after + (kernel - 1) dilation + 1 + output_padding.
    """
    plan = plan_conv_transpose(
        rank,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        activation=activation,
        layout=layout,
    )
    return run(plan, input, weight, bias, out=out, backend=backend)


conv_transpose1d, conv_transpose2d, conv_transpose3d = per_rank(_conv_transpose)


def conv2d_pool2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    value: float = 0,
    activation: Activation = "relu",
    pool: str = "max",
    pool_size: Size = 2,
    pool_stride: Size | None = None,
    pool_padding: Padding = 0,
    layout: str = "NCHW",
    out: Any = None,
    out_dtype: npt.DTypeLike | None = None,
    precision: str = "ieee",
    algorithm: str = "auto",
    backend: BackendLike = None,
) -> Array:
    """`conv2d`, then `max_pool2d` or `avg_pool2d`; the feature map between never is in memory.

    Parameters
    ----------
    input, weight, bias, stride, padding, dilation, groups : as `conv2d` has them; so are
        `padding_mode`, `value`, `out_dtype`, `precision` and `algorithm`.
    pool : "max" or "avg".
    pool_size, pool_stride, pool_padding : kernel_size, stride and padding of the pool.

    Returns
    -------
    (N, O, H, W) or (O, H, W): what the pool makes of the convolution's result.
    """
    if out_dtype is not None:
        input = as_described(input)
    conv = plan_conv(
        2,
        input,
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        value=value,
        activation=activation,
        layout=layout,
        out_dtype=out_dtype,
        precision=precision,
        algorithm=algorithm,
    )
    plan = plan_conv_pool(
        conv, pool=pool, pool_size=pool_size, pool_stride=pool_stride, pool_padding=pool_padding
    )
    return run(plan, input, weight, bias, out=out, backend=backend)
