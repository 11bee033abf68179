"""Images, calls and judgements of the filter tests: every dtype, layout and awkward size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from gpuconv import filters, kernels
from tests import reference

SMALL_INTEGERS = ("uint8", "int8", "uint16", "int16")
INTEGERS = (*SMALL_INTEGERS, "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*INTEGERS, *FLOATS)

SIZES = ((1, 1), (1, 17), (19, 1), (2, 3), (7, 9), (16, 33), (23, 41))
"""(H, W): single lines, smaller than the windows, and aligned with nothing."""

LAYOUTS = {
    "grey": ((), None),
    "batch": ((2,), None),
    "batches": ((2, 1, 2), None),
    "one channel": ((), 1),
    "grey and alpha": ((2,), 2),
    "colour": ((), 3),
    "colour and alpha": ((1,), 4),
}
"""Leading axes, and channels behind every pixel or None."""

COMMON = {"border": "reflect", "value": 0, "channel_axis": None, "out_dtype": None}
"""What plans of filters are made with where nothing is said."""

SCIPY_MODES = {
    "constant": "constant",
    "edge": "nearest",
    "reflect": "mirror",
    "symmetric": "reflect",
    "wrap": "wrap",
}
"""What SciPy calls our borders."""


def whole_packs(pixels: int, dtype: str) -> int:
    """The next number of pixels whose rows are multiples of 16 bytes, whatever the channels."""
    pack = 16 // dtype_of(dtype).itemsize
    return -(-pixels // pack) * pack


def layout(name: str, size: tuple[int, int]) -> tuple[tuple[int, ...], dict]:
    """Shape of the images of a layout, and the keywords that tell a filter of it."""
    lead, channels = LAYOUTS[name]
    if channels is None:
        return (*lead, *size), {}
    return (*lead, *size, channels), {"channel_axis": -1}


def dtype_of(name: str) -> np.dtype:
    """A dtype by its name; bfloat16 is that of `ml_dtypes`."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def is_integer(dtype: object) -> bool:
    return np.dtype(dtype).kind in "iu"


def random_images(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Read-only noise: integers over their whole range, both ends included, floats around 0."""
    rng = np.random.default_rng([seed, len(shape), *shape])
    kind = dtype_of(dtype)
    if is_integer(kind):
        info = np.iinfo(kind)
        images = rng.integers(info.min, info.max, shape, kind, endpoint=True)
        images[rng.random(shape) < 0.1] = info.max
        images[rng.random(shape) < 0.1] = info.min
    else:
        images = (rng.normal(size=shape) * 30).astype(kind)
    images.setflags(write=False)
    return images


FRACTIONS = np.random.default_rng(40).normal(size=(4, 5)) / 6
SMALL = 2
"""Bytes of the largest integers that take kernels of fractions."""

CALLS = {
    "filter2d": lambda images, **k: filters.filter2d(images, kernels.emboss, delta=3, **k),
    "filter2d, fractions": lambda images, **k: filters.filter2d(images, FRACTIONS, **k),
    "filter2d, huge gain": lambda images, **k: filters.filter2d(images, FRACTIONS * 1e7, **k),
    "separable_filter2d": lambda images, **k: filters.separable_filter2d(
        images, [1, 4, 6, 4, 1], [1, 2, 1, 0], **k
    ),
    "gaussian_blur": lambda images, **k: filters.gaussian_blur(images, (1, 2), **k),
    "box_blur": lambda images, **k: filters.box_blur(images, (4, 3), **k),
    "sobel": lambda images, **k: filters.sobel(images, **k),
    "scharr": lambda images, **k: filters.scharr(images, axis=1, **k),
    "prewitt": lambda images, **k: filters.prewitt(images, axis=0, **k),
    "laplacian": lambda images, **k: filters.laplacian(images, **k),
    "sharpen": lambda images, **k: filters.sharpen(images, **k),
    "unsharp_mask": lambda images, **k: filters.unsharp_mask(images, 1.2, 0.7, **k),
    "median_blur": lambda images, **k: filters.median_blur(images, 3, **k),
    "median_blur, large": lambda images, **k: filters.median_blur(images, (17, 16), **k),
    "rank_filter": lambda images, **k: filters.rank_filter(images, 2, (2, 3), **k),
    "dilate": lambda images, **k: filters.dilate(images, (5, 4), **k),
    "erode": lambda images, **k: filters.erode(images, footprint=np.eye(3), **k),
    "morph_open": lambda images, **k: filters.morph_open(images, (3, 6), **k),
    "morph_close": lambda images, **k: filters.morph_close(
        images, footprint=[[1, 0], [1, 1], [0, 1]], **k
    ),
    "morph_gradient": lambda images, **k: filters.morph_gradient(images, **k),
}
"""A call of every public filter, some of them more than once."""

ONLY_SMALL = {"filter2d, fractions", "filter2d, huge gain", "gaussian_blur", "unsharp_mask"}


def takes(name: str, dtype: str) -> bool:
    """Whether a call of CALLS takes images of a dtype."""
    kind = dtype_of(dtype)
    return not (is_integer(kind) and kind.itemsize > SMALL and name in ONLY_SMALL)


def spread(weights: np.ndarray, images: np.ndarray, **keywords: object) -> np.ndarray:
    """The error that DESIGN 3.1 allows to Σ weights·images: 2·sqrt(T)·eps·Σ|x||w|."""
    keywords["value"] = abs(keywords.get("value", 0))
    wide = abs(images.astype(np.float64))
    scale = reference.filter2d(wide, abs(weights), **keywords)
    eps = reference.EPSILON[images.dtype.name]
    return 2 * math.sqrt(np.size(weights)) * eps * scale


def assert_equal(result: np.ndarray, expected: np.ndarray, dtype: object) -> None:
    """The very same numbers, of the dtype asked for. NaN equals NaN."""
    assert result.dtype == dtype
    assert result.shape == expected.shape
    if not is_integer(result.dtype):
        result, expected = result.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(result, expected)


SUMS = ("filter", "separable", "gaussian", "sobel", "scharr", "prewitt", "lap", "sharp", "unsharp")
"""How the calls begin whose results are sums of weighted pixels."""


def assert_same_sums(
    result: np.ndarray, expected: np.ndarray, call: str, sums: tuple[str, ...] = SUMS
) -> None:
    """The same bits, but for float sums: tiles of another shape may add in another order."""
    if is_integer(result.dtype) or not call.startswith(sums):
        assert_equal(result, expected, expected.dtype)
        return
    assert result.dtype == expected.dtype
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    atol = 4 * reference.EPSILON[result.dtype.name] * float(largest)
    np.testing.assert_allclose(result, expected, rtol=0, atol=atol)


def assert_within_a_level(result: np.ndarray, expected: np.ndarray) -> None:
    """Integers at most one level off, of the same dtype."""
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    off = abs(result.astype(np.int64) - expected.astype(np.int64))
    assert off.max(initial=0) <= 1


def assert_within(result: np.ndarray, expected: np.ndarray, bound: np.ndarray, dtype: str) -> None:
    """Floats within `bound`; infinite only where they may be too large for their dtype."""
    kind = dtype_of(dtype)
    assert result.dtype == kind
    assert result.shape == expected.shape
    largest = float(ml_dtypes.finfo(kind).max)
    values = result.astype(np.float64)
    overflow = np.isinf(values) & (abs(expected) + bound >= largest)
    overflow &= np.sign(values) == np.sign(expected)
    off = abs(np.where(overflow, 0, values - expected))
    worst = np.unravel_index(np.argmax(off - bound), off.shape)
    assert np.all(off <= bound), (
        f"{values[worst]} is not {expected[worst]} within {bound[worst]} at {worst}"
    )


def check_boxes(
    backend: object, function: str, images: np.ndarray, size: object, **keywords: object
) -> None:
    """A filter over boxes computes what NumPy does; means of floats within the contract's bound."""
    run = getattr(filters, function)
    result = run(images, size, backend=backend, **keywords)
    expected = run(images, size, backend="numpy", **keywords)
    if function != "box_blur" or is_integer(images.dtype):
        assert_equal(result, expected, images.dtype)
        return
    result, expected = result.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite])
    wide = np.where(np.isfinite(images), abs(images.astype(np.float64)), 0)
    value = keywords.pop("value", 0)
    keywords["value"] = abs(value) if math.isfinite(value) else 0
    scale = filters.box_blur(wide, size, backend="numpy", **keywords)
    taps = math.prod(reference.per_axis(size, 2))
    bound = 2 * math.sqrt(taps) * reference.EPSILON[images.dtype.name] * scale
    assert np.all(abs(result[finite] - expected[finite]) <= bound[finite])


FORM = re.compile(r"(\w+) must .+, got .+")


def refuse(error: type[Exception], argument: str, run: Callable[[], object]) -> None:
    """`run` raises `error`, and the message names the argument."""
    with pytest.raises(error) as caught:
        run()
    form = FORM.fullmatch(str(caught.value))
    assert form, str(caught.value)
    assert form[1] == argument
