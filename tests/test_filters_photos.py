"""Fixed-point kernels over photographs, noise and stripes: a level at most, 0.05 on average."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters, kernels
from tests import reference
from tests.image_cases import random_images

SIDE = 96
DTYPES = ("uint8", "int16", "uint16")
GAINS = (1, 10, 30, 100, 1000)


def photographs():
    """Crops of the photographs that scikit-image carries with it, uint8."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    camera, coffee = data.camera(), data.coffee()
    return [
        camera[100 : 100 + SIDE, 200 : 200 + SIDE],
        camera[300 : 300 + SIDE, 50 : 50 + SIDE],
        coffee[100 : 100 + SIDE, 200 : 200 + SIDE, 0],
    ]


def stripes(rng):
    """Dark and bright bars, each of its own brightness.

    A single pair of levels may put a whole image on a tie (0 and 255: 127.5 everywhere under a wide
    blur), where every scheme of fixed point is a level off at half of the pixels.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    bars = [x // 3, y // 2, (x + y) // 5]
    return [
        np.where(b % 2, rng.integers(0, 60, 96)[b], rng.integers(180, 256, 96)[b]) for b in bars
    ]


@pytest.fixture(scope="module")
def scenes():
    """{dtype: (7, SIDE, SIDE)}; 16-bit photographs have fine levels too."""
    rng, noise = np.random.default_rng(30), random_images((1, SIDE, SIDE), "uint8")
    eight = np.concatenate([photographs(), noise, stripes(rng)]).astype(np.int64)
    fine = rng.integers(0, 256, eight.shape)
    fine[4:] = 0
    sixteen = eight * 256 + fine
    return {
        "uint8": eight.astype(np.uint8),
        "uint16": sixteen.astype(np.uint16),
        "int16": (sixteen - 2**15).astype(np.int16),
    }


def judge(result, exact):
    """Compare with the correctly rounded answer, over the whole set."""
    expected = reference.correctly_rounded(exact, result.dtype)
    off = abs(result.astype(np.int64) - expected.astype(np.int64))
    assert off.max() <= 1
    assert off.mean() <= 0.05, off.mean(axis=(1, 2)).round(3).tolist()


def balanced_delta(kernel, images):
    """What brings the sums of a kernel of any gain to the middle of the dtype."""
    info = np.iinfo(images.dtype)
    middle = (int(info.min) + int(info.max) + 1) / 2
    return middle - round(float(kernel.sum()) * float(np.median(images)))


def check_dense(kernel, images):
    delta = balanced_delta(kernel, images)
    exact = reference.filter2d_exact(images, kernel, delta=delta)
    judge(filters.filter2d(images, kernel, delta=delta), exact)


def check_separable(column, row, images):
    judge(
        filters.separable_filter2d(images, column, row),
        reference.separable_exact(images, column, row),
    )


def random_kernel(size, gain, kind):
    """Σ|w| = gain; positive, or of mean 0, dense or of rank 1."""
    rng = np.random.default_rng([size, gain, len(kind)])
    if kind == "positive":
        kernel = rng.random((size, size))
    elif kind == "signed":
        kernel = rng.normal(size=(size, size))
        kernel -= kernel.mean()
    else:
        column, row = rng.normal(size=(2, size))
        kernel = np.outer(column - column.mean(), row - row.mean())
    return kernel * gain / abs(kernel).sum()


KINDS = ("positive", "signed", "rank 1")
SIGMAS = (0.5, 0.8, 1, 1.5, 2, 2.3, 3, 4, 5, 6.5, 8, 11, 17, 23, 30)
SIZES = (3, 4, 5, 7, 8, 11, 15, 21, 31)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sigma", [0.5, 1, 2.3, 6.5, 30])
def test_gaussian_blur_of_photographs_is_within_a_level(scenes, sigma, dtype):
    judge(
        filters.gaussian_blur(scenes[dtype], sigma),
        reference.gaussian_exact(scenes[dtype], sigma, 4.0, "reflect", 0),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, 5, 31])
def test_box_kernels_over_photographs_are_within_a_level(scenes, size, dtype):
    taps = np.full(size, 1 / size)
    check_separable(taps, taps, scenes[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "gain", "kind"),
    [
        (3, 1, "positive"),
        (3, 10, "rank 1"),
        (3, 30, "rank 1"),
        (3, 1000, "signed"),
        (4, 100, "rank 1"),
        (5, 30, "signed"),
        (8, 10, "signed"),
        (15, 1000, "positive"),
        (15, 100, "rank 1"),
        (31, 1, "positive"),
    ],
)
def test_filter2d_of_photographs_is_within_a_level(scenes, size, gain, kind, dtype):
    check_dense(random_kernel(size, gain, kind), scenes[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amount", [0.5, 2, 9, 100])
def test_unsharp_mask_of_photographs_is_within_a_level(scenes, amount, dtype):
    images = scenes[dtype]
    blur = reference.gaussian_exact(images, 1.2, 4.0, "reflect", 0)
    exact = images + round(amount * 4096) / 4096 * (images - blur)
    judge(filters.unsharp_mask(images, 1.2, amount), exact)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_gaussian_blur_of_photographs_at_every_sigma(scenes, sigma, dtype):
    test_gaussian_blur_of_photographs_is_within_a_level(scenes, sigma, dtype)
    taps = kernels.gaussian_taps(sigma)
    if taps.size <= 49:
        check_dense(np.outer(taps, taps), scenes[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("size", SIZES)
def test_filter2d_of_photographs_at_every_size_and_gain(scenes, size, gain, kind, dtype):
    check_dense(random_kernel(size, gain, kind), scenes[dtype])
