"""Image kernels: the fixed arrays, and what the made ones promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv import kernels
from tests import reference
from tests.image_cases import refuse

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", reference.KERNELS)
def test_fixed_kernels_are_those_of_the_contract(name):
    kernel = getattr(kernels, name)
    assert kernel.dtype == np.float64
    np.testing.assert_array_equal(kernel, reference.KERNELS[name])


@pytest.mark.parametrize("name", reference.KERNELS)
def test_fixed_kernels_are_read_only(name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(kernels, name)[0, 0] = 7


def test_all_lists_every_public_kernel():
    public = {n for n in vars(kernels) if not n.startswith("_") and n.islower()}
    imported = {"annotations", "math", "np", "npt", "check"}
    assert set(kernels.__all__) == public - imported


@pytest.mark.parametrize(
    "make",
    [
        lambda: kernels.box(3),
        lambda: kernels.gaussian(1),
        lambda: kernels.log(1),
        lambda: kernels.gabor(4, 0, 1),
        lambda: kernels.motion(5, 30),
        lambda: kernels.gaussian_taps(2),
    ],
)
def test_made_kernels_are_new_float64_arrays(make):
    kernel = make()
    assert kernel.dtype == np.float64
    kernel[...] = 0
    assert make().any()


@pytest.mark.parametrize("size", [1, 4, (2, 5), [3, 1], np.array([2, 2])])
def test_box_is_the_mean(size):
    height, width = reference.per_axis(size, 2)
    np.testing.assert_array_equal(kernels.box(size), np.full((height, width), 1 / (height * width)))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 1.3, 7, 30])
@pytest.mark.parametrize("truncate", [1.0, 3.3, 4.0])
def test_gaussian_taps_are_scipys(sigma, truncate):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    radius = int(truncate * sigma + 0.5)
    point = np.zeros(2 * radius + 1)
    point[radius] = 1
    witness = ndimage.gaussian_filter1d(point, sigma, truncate=truncate, mode="constant")
    taps = kernels.gaussian_taps(sigma, truncate=truncate)
    np.testing.assert_allclose(taps, witness, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("size", [None, 1, 2, 3, 8, 21])
@pytest.mark.parametrize("sigma", [0, 1e-200, 1e-9, 0.009, 0.011, 0.5, 2, 1e6, 1e200])
def test_gaussian_taps_sum_to_one_and_mirror(sigma, size):
    if size is None and sigma > 1e3:
        return
    taps = kernels.gaussian_taps(sigma, size)
    assert taps.shape == (size or 2 * int(4 * sigma + 0.5) + 1,)
    assert taps.sum() == pytest.approx(1, abs=1e-15)
    np.testing.assert_array_equal(taps, taps[::-1])
    assert np.all(np.diff(taps)[: (taps.size - 1) // 2] >= 0)


@pytest.mark.parametrize(("size", "expected"), [(1, [1]), (3, [0, 1, 0]), (4, [0, 0.5, 0.5, 0])])
def test_gaussian_taps_of_no_spread_are_a_point(size, expected):
    for sigma in (0, 1e-300, 1e-20, 0.001):
        np.testing.assert_array_equal(kernels.gaussian_taps(sigma, size), expected)


def test_gaussian_is_the_product_of_its_axes():
    np.testing.assert_array_equal(
        kernels.gaussian((1, 2), (5, 4)),
        np.outer(kernels.gaussian_taps(1, 5), kernels.gaussian_taps(2, 4)),
    )
    assert kernels.gaussian((0, 1)).shape == (1, 9)
    assert kernels.gaussian(1.5, 7).shape == (7, 7)


@pytest.mark.parametrize("size", [None, 5, 8, 21])
@pytest.mark.parametrize("sigma", [0.8, 1.4, 3])
def test_log_sums_to_zero_and_dips_in_the_middle(sigma, size):
    kernel = kernels.log(sigma, size)
    assert kernel.sum() == pytest.approx(0, abs=1e-12)
    for mirrored in (kernel[::-1], kernel[:, ::-1], kernel.T):
        np.testing.assert_allclose(mirrored, kernel, atol=1e-15)
    assert kernel.argmin() == np.ravel_multi_index(((len(kernel) - 1) // 2,) * 2, kernel.shape)


def test_log_is_the_laplacian_of_a_bell():
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    point = np.zeros((41, 41))
    point[20, 20] = 1
    witness = ndimage.gaussian_laplace(point, 3, truncate=6)
    np.testing.assert_allclose(kernels.log(3, 41), witness, atol=1e-6)


def test_gabor_is_a_wave_under_a_bell():
    kernel = kernels.gabor(8, 0, 3, gamma=0.5, size=25)
    row = kernel[12]
    x = np.arange(-12, 13)
    np.testing.assert_allclose(row, np.exp(-(x**2) / 18) * np.cos(2 * np.pi * x / 8), atol=1e-15)
    column = kernel[:, 12]
    np.testing.assert_allclose(column, np.exp(-((0.5 * x) ** 2) / 18), atol=1e-15)
    quarter = kernels.gabor(8, math.pi / 2, 3, gamma=0.5, size=25)
    np.testing.assert_allclose(quarter, kernel.T, atol=1e-12)
    edge = kernels.gabor(8, 0, 3, psi=math.pi / 2)
    np.testing.assert_allclose(edge, -edge[:, ::-1], atol=1e-12)
    assert edge.shape == (37, 37)


def test_gabor_is_opencvs():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    ours = kernels.gabor(7, 0.6, 2.5, gamma=0.8, psi=0.3, size=15)
    theirs = cv2.getGaborKernel((15, 15), 2.5, 0.6, 7, 0.8, 0.3)
    # OpenCV lays its kernel out for a convolution: half a turn, with the wave reversed.
    np.testing.assert_allclose(ours, theirs[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 15])
@pytest.mark.parametrize("angle", [0, 17, 45, 90, 133.3, -60, 360, 1e6])
def test_motion_sums_to_one_and_is_its_own_half_turn(length, angle):
    kernel = kernels.motion(length, angle)
    assert kernel.sum() == pytest.approx(1)
    assert np.all(kernel >= 0)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    assert kernel.shape[0] == kernel.shape[1] == 2 * math.ceil((length - 1) / 2) + 1


def test_motion_runs_anticlockwise_from_the_right():
    level = np.zeros((5, 5))
    level[2] = 0.2
    np.testing.assert_allclose(kernels.motion(5, 0), level, atol=1e-15)
    np.testing.assert_allclose(kernels.motion(5, 90), level.T, atol=1e-12)
    assert np.count_nonzero(kernels.motion(5, 90)) == 5
    rising = kernels.motion(7, 45)
    assert rising[1, 5] > 0  # up and to the right
    assert rising[1, 1] == 0
    np.testing.assert_allclose(kernels.motion(7, -45), rising[::-1], atol=1e-12)
    assert kernels.motion(1, 77).tolist() == [[1]]


CASES = [
    *[
        ("size", lambda v=v: kernels.box(v))
        for v in (0, -1, 2.0, "3", None, (1, 2, 3), True, (0, 1))
    ],
    *[
        ("sigma", lambda v=v, make=make: make(v))
        for v in (-1, NAN, INF, "1", None, 1j, True)
        for make in (
            kernels.gaussian,
            kernels.gaussian_taps,
            kernels.log,
            lambda v: kernels.gabor(4, 0, v),
        )
    ],
    ("sigma", lambda: kernels.log(0)),
    ("sigma", lambda: kernels.log(1e308)),
    ("sigma", lambda: kernels.gaussian((1, 1e12))),
    ("sigma", lambda: kernels.gaussian_taps(1, truncate=10**30)),
    ("sigma", lambda: kernels.gabor(4, 0, 1, 1e-300)),
    ("sigma", lambda: kernels.gabor(4, 0, 0)),
    ("sigma", lambda: kernels.gaussian((1, 2, 3))),
    *[
        ("size", lambda v=v, make=make: make(v))
        for v in (0, -1, 2.5, "3", NAN, True, 10**30, int)
        for make in (
            lambda v: kernels.gaussian(1, v),
            lambda v: kernels.gaussian_taps(1, v),
            lambda v: kernels.log(1, v),
            lambda v: kernels.gabor(4, 0, 1, size=v),
        )
    ],
    ("truncate", lambda: kernels.gaussian_taps(1, truncate=-1)),
    *[("wavelength", lambda v=v: kernels.gabor(v, 0, 1)) for v in (0, -1, NAN, INF, "4")],
    *[("theta", lambda v=v: kernels.gabor(4, v, 1)) for v in (NAN, INF, "0", None)],
    *[("gamma", lambda v=v: kernels.gabor(4, 0, 1, v)) for v in (0, -1, NAN, INF)],
    *[("psi", lambda v=v: kernels.gabor(4, 0, 1, psi=v)) for v in (NAN, INF, None)],
    *[("length", lambda v=v: kernels.motion(v, 0)) for v in (0, -3, 2.5, NAN, "5", True, 10**400)],
    *[("angle", lambda v=v: kernels.motion(3, v)) for v in (NAN, INF, "45", None)],
]


@pytest.mark.parametrize(
    ("argument", "make"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)]
)
def test_kernels_refuse_what_their_arguments_must_not_be(argument, make):
    refuse(ValueError, argument, make)
