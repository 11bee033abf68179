"""The truth that every backend is tested against: textbook loops, independent of gpuconv.

Function names and arguments are the public ones. What comes back:

* floats: float64, summed in `np.longdouble` so that a float64 backend can be judged too;
* integers: exact. Feature-map sums are int64 modulo 2^64; whatever selects one of its inputs
  (max, min, median, rank) or averages keeps the dtype; images keep it too, rounded half to even
  and saturated.

Nothing is validated here. The rooms, in order: borders, geometry, exact numbers, activations,
feature maps (N, C, *spatial), images (..., H, W).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

BORDERS = ("constant", "edge", "reflect", "symmetric", "wrap")

quiet = np.errstate(invalid="ignore", over="ignore")  # Inf - Inf and 0 * Inf are meant to be NaN


# ---------------------------------------------------------------- borders


def border_index(i, n, border):
    """Index in [0, n) that answers position `i`, or None where nothing but `value` does."""
    if 0 <= i < n:
        return i
    if border in ("constant", "zeros"):
        return None
    if border == "edge":  # a a | a b c d | d d
        return 0 if i < 0 else n - 1
    if border == "wrap":  # c d | a b c d | a b
        return i % n
    if border == "symmetric":  # b a | a b c d | d c
        i %= 2 * n
        return min(i, 2 * n - 1 - i)
    if border == "reflect":  # c b | a b c d | c b
        if n == 1:
            return 0
        i %= 2 * n - 2
        return min(i, 2 * n - 2 - i)
    raise ValueError(f"border must be one of {BORDERS}, got {border!r}")


def pad(array, pads, border="constant", value=0):
    """Extend the last `len(pads)` axes by (before, after) elements each."""
    for axis, (before, after) in enumerate(pads, start=-len(pads)):
        n = array.shape[axis]
        source = [border_index(i, n, border) for i in range(-before, n + after)]
        outside = [i is None for i in source]
        array = np.take(array, [0 if i is None else i for i in source], axis)
        np.moveaxis(array, axis, 0)[outside] = value
    return array


# ---------------------------------------------------------------- geometry


def per_axis(value, dims):
    """One entry an axis, from one for all or from one each."""
    return tuple(value) if isinstance(value, (tuple, list, np.ndarray)) else (value,) * dims


def extent(size, dilation):
    """Elements from the first tap to the last, both included."""
    return (size - 1) * dilation + 1


def same_pads(n, extent, stride, upper):
    """ONNX: ceil(n / stride) outputs; the odd element goes after (upper) or before (lower)."""
    outputs = math.ceil(n / stride)
    total = max((outputs - 1) * stride + extent - n, 0)
    before = total // 2 if upper else total - total // 2
    return before, total - before


def resolve_pads(padding, sizes, kernel, stride, dilation):
    """(before, after) per axis from any form of `padding`."""
    extents = [extent(k, d) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "valid":
        return [(0, 0) for _ in sizes]
    if padding == "full":
        return [(e - 1, e - 1) for e in extents]
    if padding in ("same", "same_upper", "same_lower"):
        upper = padding != "same_lower"
        axes = zip(sizes, extents, stride, strict=True)
        return [same_pads(n, e, s, upper) for n, e, s in axes]
    return [per_axis(p, 2) for p in per_axis(padding, len(sizes))]


def output_size(n, extent, stride=1, pads=(0, 0), ceil_mode=False):
    """Windows along an axis. PyTorch: with `ceil_mode` a window that starts after the input and
    the padding before it is dropped."""
    before, after = pads
    room = n + before + after - extent
    if not ceil_mode:
        return room // stride + 1
    outputs = math.ceil(room / stride) + 1
    return outputs - 1 if (outputs - 1) * stride >= before + n else outputs


@dataclass(frozen=True)
class Geometry:
    """Sliding windows over every spatial axis."""

    kernel: tuple
    stride: tuple
    dilation: tuple
    pads: list  # as asked for
    reach: list  # the same, longer at the end where `ceil_mode` lets a window stick out
    out: tuple


def geometry(sizes, kernel, stride=1, padding=0, dilation=1, ceil_mode=False):
    """The windows of `kernel` over a plane of `sizes`. Stride None: windows side by side."""
    dims = len(sizes)
    kernel = per_axis(kernel, dims)
    stride = kernel if stride is None else per_axis(stride, dims)
    dilation = per_axis(dilation, dims)
    pads = resolve_pads(padding, sizes, kernel, stride, dilation)
    reach, out = [], []
    for n, k, s, d, (before, after) in zip(sizes, kernel, stride, dilation, pads, strict=True):
        outputs = output_size(n, extent(k, d), s, (before, after), ceil_mode)
        read = (outputs - 1) * s + extent(k, d)
        out.append(outputs)
        reach.append((before, max(after, read - before - n)))
    return Geometry(kernel, stride, dilation, pads, reach, tuple(out))


def taps(padded, geometry):
    """Yield (tap, what each output sees through that tap), taps in row-major order."""
    g = geometry
    for tap in np.ndindex(*g.kernel):
        axes = zip(tap, g.dilation, g.stride, g.out, strict=True)
        seen = [slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, s, o in axes]
        yield tap, padded[(..., *seen)]


def windows(padded, geometry):
    """(..., *out, taps): each output's window as the last axis."""
    return np.stack([seen for _, seen in taps(padded, geometry)], axis=-1)


# ---------------------------------------------------------------- exact numbers


def is_integer(dtype):
    """Whether results of this dtype are exact. (bfloat16 is no NumPy float, so ask it this way.)"""
    return np.dtype(dtype).kind in "iu"


def correctly_rounded(x, dtype):
    """`x` rounded half to even and saturated to the integer `dtype`."""
    x = np.asarray(x)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if x.dtype.kind == "f":
        whole = np.rint(x.astype(np.longdouble))
        return np.asarray(np.clip(whole, low, high)).astype(dtype)
    clipped = np.frompyfunc(lambda v: min(max(round(v), low), high), 1, 1)(x.astype(object))
    return np.asarray(clipped).astype(dtype)


def divide_half_even(total, count):
    """Exact integers `total / count`, rounded half to even."""
    total, count = np.sign(count) * total, abs(count)
    quotient, twice = total // count, 2 * (total % count)
    return quotient + ((twice > count) | ((twice == count) & (quotient % 2 == 1)))


def python_ints(x):
    """Integers without limits."""
    return np.asarray(x).astype(object)


def selectable(x):
    """`x` ready for comparisons: integers as they are, floats in float64."""
    return x if is_integer(x.dtype) else x.astype(np.float64)


@quiet
def finish(x, dtype):
    """`x` as the result for images of `dtype`: rounded and saturated, or float64."""
    return correctly_rounded(x, dtype) if is_integer(dtype) else x.astype(np.float64)


def border_value(value, dtype):
    """`value` as an element of the input: integers round half to even and saturate."""
    return correctly_rounded(value, dtype) if is_integer(dtype) else np.asarray(value, dtype)


# ---------------------------------------------------------------- activations


@quiet
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": quiet(lambda x: x * sigmoid(x)),
    "gelu": quiet(lambda x: x / 2 * np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2))),
}


def activate(x, activation):
    """Apply a named activation, or clamp to (low, high)."""
    if isinstance(activation, (tuple, list)):
        return np.clip(x, *activation)
    return ACTIVATIONS[activation](x)


# ---------------------------------------------------------------- feature maps


def channels_first(x, dims, layout):
    """(N, C, *spatial), whatever the layout, batched or not."""
    x = np.asarray(x)
    x = x if x.ndim == dims + 2 else x[None]
    return np.moveaxis(x, -1, 1) if layout.endswith("C") else x


def flat(x):
    """(N, C, everything else)."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def as_given(out, input, dims, layout):
    """Undo `channels_first`: the result in the input's layout, batched as the input is."""
    out = np.moveaxis(out, 1, -1) if layout.endswith("C") else out
    return out if np.ndim(input) == dims + 2 else out[0]


def accumulator(x):
    """`x` in the type that sums it: int64 modulo 2^64, or longdouble."""
    return x.astype(np.int64 if is_integer(x.dtype) else np.longdouble)


def result(total):
    """A sum as it is returned: int64 or float64."""
    return total if is_integer(total.dtype) else total.astype(np.float64)


@quiet
def conv(
    input,
    weight,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    padding_mode="constant",
    value=0,
    activation=None,
    layout="NCHW",
):
    """Cross-correlation of (N, C, *spatial) with (O, C / groups, *kernel)."""
    weight = np.asarray(weight)
    outputs, inputs, *kernel = weight.shape
    dims = len(kernel)
    x = channels_first(input, dims, layout)
    g = geometry(x.shape[2:], kernel, stride, padding, dilation)
    x = accumulator(pad(x, g.reach, padding_mode, border_value(value, x.dtype)))
    x = x.reshape(len(x), groups, inputs, *x.shape[2:])
    w = accumulator(weight).reshape(groups, outputs // groups, inputs, *kernel)
    total = sum(np.einsum("ngi...,goi->ngo...", seen, w[(..., *tap)]) for tap, seen in taps(x, g))
    total = total.reshape(len(x), outputs, *g.out)
    if bias is not None:
        total = total + accumulator(np.asarray(bias)).reshape(outputs, *[1] * dims)
    return as_given(activate(result(total), activation), input, dims, layout)


def transpose_axis(n, size, stride, dilation, padding, output_padding):
    """(elements cut before, outputs) of a transposed convolution along one axis."""
    full = (n - 1) * stride + extent(size, dilation) + output_padding
    if padding in ("same", "same_upper", "same_lower"):  # ONNX: n * stride outputs
        total = max(full - n * stride, 0)
        return total // 2 if padding != "same_lower" else total - total // 2, n * stride
    ((before, after),) = resolve_pads(padding, [n], [size], [stride], [dilation])
    return before, full - before - after


@quiet
def conv_transpose(
    input,
    weight,
    bias=None,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
    activation=None,
    layout="NCHW",
):
    """Every input element adds its multiple of the kernel, (C, O / groups, *kernel)."""
    weight = np.asarray(weight)
    inputs, outputs, *kernel = weight.shape
    dims = len(kernel)
    x = accumulator(channels_first(input, dims, layout))
    sizes = x.shape[2:]
    stride, dilation = per_axis(stride, dims), per_axis(dilation, dims)
    padding = [padding] * dims if isinstance(padding, str) else per_axis(padding, dims)
    padding = [p if isinstance(p, str) else [per_axis(p, 2)] for p in padding]
    axes = [sizes, kernel, stride, dilation, padding, per_axis(output_padding, dims)]
    cuts = [transpose_axis(*axis) for axis in zip(*axes, strict=True)]

    spans = zip(sizes, kernel, stride, dilation, cuts, strict=True)
    canvas = [max((n - 1) * s + extent(k, d), sum(cut)) for n, k, s, d, cut in spans]
    x = x.reshape(len(x), groups, inputs // groups, *sizes)
    w = accumulator(weight).reshape(groups, inputs // groups, outputs, *kernel)
    total = np.zeros((len(x), groups, outputs, *canvas), x.dtype)
    for tap in np.ndindex(*kernel):
        steps = zip(tap, dilation, stride, sizes, strict=True)
        landing = [slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, s, n in steps]
        total[(..., *landing)] += np.einsum("ngi...,gio->ngo...", x, w[(..., *tap)])
    total = total[(..., *[slice(before, before + out) for before, out in cuts])]
    total = total.reshape(len(x), groups * outputs, *total.shape[3:])
    if bias is not None:
        total = total + accumulator(np.asarray(bias)).reshape(-1, *[1] * dims)
    return as_given(activate(result(total), activation), input, dims, layout)


EPSILON = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


def bound(input, weight, bias=None, **arguments):
    """The error that DESIGN 3.1 allows: 2 sqrt(T) eps Σ|x||w|, eps that of the input's dtype.

    `arguments` are those of `conv`, without an activation. |bias| counts as one more product.
    """
    input, weight = np.asarray(input), np.asarray(weight)
    bias = None if bias is None else abs(np.asarray(bias))
    arguments["value"] = abs(arguments.get("value", 0))
    terms = math.prod(weight.shape[1:])
    scale = conv(abs(input), abs(weight), bias, **arguments)
    return 2 * math.sqrt(terms) * EPSILON[input.dtype.name] * scale


def first_best(candidates, positions, best):
    """(best, its position) over the last axis among positions >= 0. PyTorch: the first of equals
    wins; NaN beats everything and the last NaN wins."""
    present = positions >= 0
    low, high = (-np.inf, np.inf)
    if is_integer(candidates.dtype):
        low, high = np.iinfo(candidates.dtype).min, np.iinfo(candidates.dtype).max
    top = best(np.where(present, candidates, low if best is np.max else high), axis=-1)
    hits = present & ((candidates == top[..., None]) | np.isnan(candidates))
    first = np.argmax(hits, axis=-1)
    last = hits.shape[-1] - 1 - np.argmax(hits[..., ::-1], axis=-1)
    winner = np.where(np.isnan(top), last, first)[..., None]
    positions = np.broadcast_to(positions, candidates.shape)
    return top, np.take_along_axis(positions, winner, axis=-1)[..., 0]


def extreme_pool(
    dims,
    best,
    input,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
    layout="NCHW",
):
    """Largest or smallest element of each window; indices are flat in the unpadded plane."""
    x = channels_first(input, dims, layout)
    sizes = x.shape[2:]
    g = geometry(sizes, kernel_size, stride, padding, dilation, ceil_mode)
    plane = np.arange(math.prod(sizes)).reshape(sizes)
    positions = windows(pad(plane, g.reach, "constant", -1), g)
    top, index = first_best(windows(pad(selectable(x), g.reach), g), positions, best)
    top, index = as_given(top, input, dims, layout), as_given(index, input, dims, layout)
    return (top, index) if return_indices else top


def mean(total, count, dtype):
    """`total / count`: float64, or the integer dtype, rounded half to even and saturated."""
    if is_integer(dtype):
        return correctly_rounded(divide_half_even(total, count), dtype)
    return (total / count).astype(np.float64)


def summable(x):
    """`x` in the type that sums it without loss: integers without limits, or longdouble."""
    return python_ints(x) if is_integer(x.dtype) else x.astype(np.longdouble)


@quiet
def avg_pool(
    dims,
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
    dilation=1,
    layout="NCHW",
):
    """Sum of each window over the elements counted: those inside, with the padding or without,
    never what `ceil_mode` adds; or over `divisor_override`."""
    x = channels_first(input, dims, layout)
    sizes = x.shape[2:]
    g = geometry(sizes, kernel_size, stride, padding, dilation, ceil_mode)
    total = sum(seen for _, seen in taps(pad(summable(x), g.reach), g))
    counted = pad(np.ones(sizes, int), g.pads, "constant", int(count_include_pad))
    beyond = [(0, r - p) for (_, r), (_, p) in zip(g.reach, g.pads, strict=True)]
    count = sum(seen for _, seen in taps(pad(counted, beyond), g))
    count = np.full_like(count, divisor_override) if divisor_override else count
    count = python_ints(count) if is_integer(x.dtype) else count
    return as_given(mean(total, count, x.dtype), input, dims, layout)


@quiet
def lp_pool(
    dims,
    input,
    norm_type,
    kernel_size,
    stride=None,
    ceil_mode=False,
    padding=0,
    dilation=1,
    layout="NCHW",
):
    """(Σ|x|^p)^(1/p) over the elements of each window that are there."""
    x = channels_first(input, dims, layout).astype(np.longdouble)
    g = geometry(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    total = sum(abs(seen) ** norm_type for _, seen in taps(pad(x, g.reach), g))
    return as_given(result(total ** (np.longdouble(1) / norm_type)), input, dims, layout)


def adaptive_cells(sizes, output_size):
    """Yield (cell, its slices): cell i of m over n elements spans floor(i n/m) to ceil((i+1) n/m).
    An output size of None keeps the axis."""
    wanted = per_axis(output_size, len(sizes))
    out = [n if m is None else m for n, m in zip(sizes, wanted, strict=True)]
    for cell in np.ndindex(*out):
        axes = zip(cell, sizes, out, strict=True)
        yield cell, tuple(slice(i * n // m, math.ceil((i + 1) * n / m)) for i, n, m in axes)


def assemble(cells, x, dims):
    """(N, C, *out) from {cell: (N, C)}."""
    out = [size + 1 for size in max(cells)]
    return np.stack(list(cells.values()), axis=-1).reshape(*x.shape[:-dims], *out)


@quiet
def adaptive_avg_pool(dims, input, output_size, layout="NCHW"):
    """Mean of each cell."""
    x = channels_first(input, dims, layout)
    cells = {}
    for cell, region in adaptive_cells(x.shape[2:], output_size):
        inside = flat(summable(x[(..., *region)]))
        cells[cell] = mean(inside.sum(axis=-1), inside.shape[-1], x.dtype)
    return as_given(assemble(cells, x, dims), input, dims, layout)


def adaptive_max_pool(dims, input, output_size, return_indices=False, layout="NCHW"):
    """Largest element of each cell; indices are flat in the plane."""
    x = channels_first(input, dims, layout)
    plane = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
    tops, indices = {}, {}
    for cell, region in adaptive_cells(x.shape[2:], output_size):
        inside = flat(selectable(x[(..., *region)]))
        tops[cell], indices[cell] = first_best(inside, plane[region].ravel(), np.max)
    top, index = (as_given(assemble(c, x, dims), input, dims, layout) for c in (tops, indices))
    return (top, index) if return_indices else top


def global_avg_pool(input, layout="NCHW"):
    """Mean of each plane of a batched input, spatial axes kept with size 1."""
    return adaptive_avg_pool(np.ndim(input) - 2, input, 1, layout=layout)


def global_max_pool(input, layout="NCHW"):
    """Largest element of each plane of a batched input, spatial axes kept with size 1."""
    return adaptive_max_pool(np.ndim(input) - 2, input, 1, layout=layout)


def max_unpool(
    dims,
    input,
    indices,
    kernel_size,
    stride=None,
    padding=0,
    output_size=None,
    layout="NCHW",
):
    """Zeros, with every element put back at its flat index; of equal indices the last one wins."""
    x = selectable(channels_first(input, dims, layout))
    indices = flat(channels_first(indices, dims, layout))
    kernel = per_axis(kernel_size, dims)
    stride = kernel if stride is None else per_axis(stride, dims)
    pads = resolve_pads(padding, x.shape[2:], kernel, stride, [1] * dims)
    axes = zip(x.shape[2:], kernel, stride, pads, strict=True)
    out = [(n - 1) * s + k - sum(p) for n, k, s, p in axes]
    out = out if output_size is None else tuple(output_size)[-dims:]
    plane = np.zeros((*x.shape[:2], math.prod(out)), x.dtype)
    np.put_along_axis(plane, indices, flat(x), axis=-1)
    return as_given(plane.reshape(*x.shape[:2], *out), input, dims, layout)


def conv2d_pool2d(
    input,
    weight,
    bias=None,
    *arguments,
    activation="relu",
    pool="max",
    pool_size=2,
    pool_stride=None,
    pool_padding=0,
    layout="NCHW",
    **keywords,
):
    """`conv2d`, its activation, then `max_pool2d` or `avg_pool2d`."""
    keywords |= {"activation": activation, "layout": layout}
    maps = conv(input, weight, bias, *arguments, **keywords)
    pooled = {"max": max_pool2d, "avg": avg_pool2d}[pool]
    return pooled(maps, pool_size, pool_stride, pool_padding, layout=layout)


def for_dims(function, *fixed):
    """The 1-, 2- and 3-dimensional forms of `function(dims, ...)`."""
    return [functools.partial(function, dims, *fixed) for dims in (1, 2, 3)]


conv1d = conv2d = conv3d = conv
conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose
max_pool1d, max_pool2d, max_pool3d = for_dims(extreme_pool, np.max)
min_pool1d, min_pool2d, min_pool3d = for_dims(extreme_pool, np.min)
avg_pool1d, avg_pool2d, avg_pool3d = for_dims(avg_pool)
lp_pool1d, lp_pool2d, lp_pool3d = for_dims(lp_pool)
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = for_dims(adaptive_avg_pool)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = for_dims(adaptive_max_pool)
max_unpool1d, max_unpool2d, max_unpool3d = for_dims(max_unpool)


# ---------------------------------------------------------------- image kernels

IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
EDGE = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
SOBEL_Y = np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
SCHARR_Y = np.array([[-3, -10, -3], [0, 0, 0], [3, 10, 3]])
PREWITT_Y = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])
KERNELS = {
    "identity": IDENTITY,
    "sharpen": SHARPEN,
    "edge": EDGE,
    "emboss": EMBOSS,
    "laplacian": LAPLACIAN,
    "sobel_y": SOBEL_Y,
    "sobel_x": SOBEL_Y.T,
    "scharr_y": SCHARR_Y,
    "scharr_x": SCHARR_Y.T,
    "prewitt_y": PREWITT_Y,
    "prewitt_x": PREWITT_Y.T,
}


def gaussian_kernel1d(sigma, truncate=4.0):
    """exp(-x² / 2σ²), normalised, for |x| <= int(truncate σ + 0.5). Sigma 0 is the identity."""
    if sigma == 0:
        return np.ones(1)
    radius = int(truncate * sigma + 0.5)
    bell = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return bell / bell.sum()


# ---------------------------------------------------------------- images


def on_planes(function):
    """Let a function of (..., H, W) take `channel_axis` too."""

    @functools.wraps(function)
    def wrapper(images, *arguments, channel_axis=None, **keywords):
        images = np.asarray(images)
        if channel_axis is None:
            return function(images, *arguments, **keywords)
        planes = np.moveaxis(images, channel_axis, 0)
        return np.moveaxis(function(planes, *arguments, **keywords), 0, channel_axis)

    return wrapper


def weights(kernel):
    """A kernel as integers without limits if all its weights are integers, else in longdouble."""
    kernel = np.asarray(kernel)
    if is_integer(kernel.dtype):
        return python_ints(kernel)
    kernel = kernel.astype(np.longdouble)
    if not np.array_equal(kernel, np.rint(kernel)):
        return kernel
    return np.asarray(np.frompyfunc(int, 1, 1)(kernel), object)


def exact(images, *kernels):
    """Images and `weights` in one type that loses nothing: integers (int64 where they are sure to
    fit, else without limits) if all of them are, else longdouble."""
    if not is_integer(images.dtype) or any(kernel.dtype != object for kernel in kernels):
        return [x.astype(np.longdouble) for x in (images, *kernels)]
    gain = math.prod(1 + np.sum(abs(kernel)) for kernel in kernels)
    narrow = images.dtype.itemsize <= 2 and gain < 2**46
    return [x.astype(np.int64) if narrow else python_ints(x) for x in (images, *kernels)]


@quiet
def slide(images, kernel):
    """Weighted sum of each window that lies inside."""
    g = geometry(images.shape[-2:], kernel.shape)
    return sum(kernel[tap] * seen for tap, seen in taps(images, g))


def around(images, size, border, value, anchor=None):
    """The images with the border that windows of `size` (anchored at size // 2) reach into."""
    anchor = [k // 2 for k in size] if anchor is None else anchor
    pads = [(a, k - 1 - a) for a, k in zip(anchor, size, strict=True)]
    return pad(images, pads, border, border_value(value, images.dtype))


@on_planes
def filter2d_exact(images, kernel, anchor=None, delta=0, border="reflect", value=0):
    """The unrounded sum: integers for integers with integer weights and delta, else longdouble."""
    padded = around(images, np.shape(kernel), border, value, anchor)
    padded, kernel, delta = exact(padded, weights(kernel), weights(delta))
    return slide(padded, kernel) + delta


@on_planes
def filter2d(images, kernel, anchor=None, delta=0, border="reflect", value=0):
    """Slide `kernel` over every image without flipping it."""
    return finish(filter2d_exact(images, kernel, anchor, delta, border, value), images.dtype)


@on_planes
def filter2d_bound(images, kernel, anchor=None, delta=0, border="reflect", value=0):
    """`bound` for a filter of float images; |delta| counts as one more product."""
    scale = filter2d(abs(images), abs(np.asarray(kernel)), anchor, abs(delta), border, abs(value))
    return 2 * math.sqrt(np.size(kernel)) * EPSILON[images.dtype.name] * scale


@on_planes
def separable_exact(images, kernel_y, kernel_x, border="reflect", value=0):
    """The unrounded sum over the outer product of a column and a row."""
    padded = around(images, (len(kernel_y), len(kernel_x)), border, value)
    padded, kernel_y, kernel_x = exact(padded, weights(kernel_y), weights(kernel_x))
    return slide(slide(padded, kernel_y[:, None]), kernel_x[None, :])


@on_planes
def separable_filter2d(images, kernel_y, kernel_x, border="reflect", value=0):
    """`filter2d` with the outer product of a column and a row."""
    return finish(separable_exact(images, kernel_y, kernel_x, border, value), images.dtype)


def gaussian_exact(images, sigma, truncate, border, value):
    """The unrounded Gaussian blur."""
    kernels = [gaussian_kernel1d(s, truncate) for s in per_axis(sigma, 2)]
    return separable_exact(images, *kernels, border, value)


@on_planes
def gaussian_blur(images, sigma, truncate=4.0, border="reflect", value=0):
    """Gaussian-weighted mean of each neighbourhood."""
    return finish(gaussian_exact(images, sigma, truncate, border, value), images.dtype)


@on_planes
def box_blur(images, size, border="reflect", value=0):
    """Mean of each window."""
    size = per_axis(size, 2)
    total = separable_exact(images, *[np.ones(k) for k in size], border, value)
    return mean(total, math.prod(size), images.dtype)


def rounded_root(square):
    """The integer nearest to the root of an integer. (It is never half way.)"""
    root = math.isqrt(square)
    return root + (square - root * root > root)


def derivative(images, taps_y, axis, border, value):
    """Derivative along H (axis 0) or W (axis 1), or (None) the magnitude of both."""
    kernels = {0: taps_y, 1: taps_y.T}
    if axis is not None:
        return filter2d(images, kernels[axis], None, 0, border, value)
    gy, gx = (filter2d_exact(images, k, None, 0, border, value) for k in kernels.values())
    if is_integer(images.dtype):
        square = python_ints(gx) ** 2 + python_ints(gy) ** 2
        return finish(np.frompyfunc(rounded_root, 1, 1)(square), images.dtype)
    return finish(np.sqrt(gx * gx + gy * gy), images.dtype)


@on_planes
def sobel(images, axis=None, border="reflect", value=0):
    """Sobel derivative or magnitude, unnormalised."""
    return derivative(images, SOBEL_Y, axis, border, value)


@on_planes
def scharr(images, axis=None, border="reflect", value=0):
    """Scharr derivative or magnitude, unnormalised."""
    return derivative(images, SCHARR_Y, axis, border, value)


@on_planes
def prewitt(images, axis=None, border="reflect", value=0):
    """Prewitt derivative or magnitude, unnormalised."""
    return derivative(images, PREWITT_Y, axis, border, value)


@on_planes
def laplacian(images, border="reflect", value=0):
    """Sum of the second differences along H and W."""
    return filter2d(images, LAPLACIAN, None, 0, border, value)


@on_planes
def sharpen(images, amount=1.0, border="reflect", value=0):
    """The image less `amount` times its Laplacian."""
    return filter2d(images, IDENTITY - amount * LAPLACIAN, None, 0, border, value)


@on_planes
def unsharp_mask(images, sigma=1.0, amount=1.0, border="reflect", value=0):
    """x + amount (x - blur), the blur unrounded; for integers the amount is a multiple of 2^-12."""
    amount = round(amount * 2**12) / 2**12 if is_integer(images.dtype) else amount
    blur = gaussian_exact(images, sigma, 4.0, border, value)
    x = images.astype(np.longdouble)
    return finish(x + amount * (x - blur), images.dtype)


@on_planes
def rank_filter(images, rank, size, border="reflect", value=0):
    """The element of each window at `rank` of the ascending order; NaN if one is in the window."""
    size = per_axis(size, 2)
    padded = selectable(around(images, size, border, value))
    order = np.sort(windows(padded, geometry(padded.shape[-2:], size)), axis=-1)
    return np.where(np.isnan(order[..., -1]), order[..., -1], order[..., rank])


@on_planes
def median_blur(images, size, border="reflect", value=0):
    """The middle of each window; the upper one of two."""
    return rank_filter(images, math.prod(per_axis(size, 2)) // 2, size, border, value)


def offsets(size, footprint):
    """(y, x) from the anchor, shape // 2, to every element of a flat footprint."""
    footprint = np.ones(per_axis(size, 2)) if footprint is None else np.asarray(footprint)
    return np.argwhere(footprint) - [k // 2 for k in footprint.shape]


def extreme_at(images, offsets, best, border, value):
    """out(p) = best over the offsets o of in(p + o)."""
    height, width = images.shape[-2:]
    top, left = np.maximum(0, -offsets.min(axis=0))
    bottom, right = np.maximum(0, offsets.max(axis=0))
    fill = border_value(value, images.dtype)
    padded = pad(selectable(images), [(top, bottom), (left, right)], border, fill)
    corners = [(top + y, left + x) for y, x in offsets]
    return best([padded[..., y : y + height, x : x + width] for y, x in corners], axis=0)


@on_planes
def dilate(images, size=3, footprint=None, border="reflect", value=0):
    """Largest element under the footprint, which is not reflected."""
    return extreme_at(images, offsets(size, footprint), np.max, border, value)


@on_planes
def erode(images, size=3, footprint=None, border="reflect", value=0):
    """Smallest element under the footprint."""
    return extreme_at(images, offsets(size, footprint), np.min, border, value)


@on_planes
def morph_open(images, size=3, footprint=None, border="reflect", value=0):
    """Erosion, then dilation with the footprint reflected through its anchor."""
    eroded = erode(images, size, footprint, border, value)
    return extreme_at(eroded, -offsets(size, footprint), np.max, border, value)


@on_planes
def morph_close(images, size=3, footprint=None, border="reflect", value=0):
    """Dilation, then erosion with the footprint reflected through its anchor."""
    dilated = dilate(images, size, footprint, border, value)
    return extreme_at(dilated, -offsets(size, footprint), np.min, border, value)


@on_planes
@quiet
def morph_gradient(images, size=3, footprint=None, border="reflect", value=0):
    """Dilation less erosion."""
    high = dilate(images, size, footprint, border, value)
    low = erode(images, size, footprint, border, value)
    return finish(summable(high) - summable(low), images.dtype)
