"""Weighted sums, gradients, means and unsharp masks, pixel by pixel against the reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest

from gpuconv import filters, kernels
from gpuconv.backends import run
from gpuconv.plan.filters import plan_unsharp
from tests import reference
from tests.image_cases import (
    DTYPES,
    FLOATS,
    INTEGERS,
    LAYOUTS,
    SCIPY_MODES,
    SIZES,
    assert_equal,
    assert_within,
    assert_within_a_level,
    dtype_of,
    is_integer,
    layout,
    random_images,
    spread,
)
from tests.matrix import pairwise


@dataclass(frozen=True)
class Operation:
    """One call of a filter. `taps` are its weights, signs aside: what its error is measured by."""

    function: str
    taps: np.ndarray
    arguments: dict = field(default_factory=dict)
    whole: bool = True
    widest: int = 8
    """Bytes of the largest integer dtype that it takes."""


def dense(kernel, *, widest=8, **arguments):
    kernel = np.asarray(kernel)
    whole = np.array_equal(kernel, np.rint(kernel))
    arguments["kernel"] = kernel
    return Operation("filter2d", kernel, arguments, whole, widest if whole else 2)


def separable(kernel_y, kernel_x, *, widest=8):
    arguments = {"kernel_y": np.asarray(kernel_y), "kernel_x": np.asarray(kernel_x)}
    taps = np.outer(kernel_y, kernel_x)
    whole = np.array_equal(taps, np.rint(taps))
    return Operation("separable_filter2d", taps, arguments, whole, widest if whole else 2)


def bell(sigma, truncate=4.0):
    pair = reference.per_axis(sigma, 2)
    return np.outer(*(reference.gaussian_kernel1d(s, truncate) for s in pair))


def gaussian(sigma, **arguments):
    taps = bell(sigma, **arguments)
    whole = taps.size == 1
    arguments["sigma"] = sigma
    return Operation("gaussian_blur", taps, arguments, whole, 8 if whole else 2)


def gradient(name, axis):
    down, across = reference.KERNELS[f"{name}_y"], reference.KERNELS[f"{name}_x"]
    taps = {0: down, 1: across, None: abs(down) + abs(across)}[axis]
    return Operation(name, taps, {"axis": axis})


def unsharp(sigma, amount):
    taps = abs(amount) * bell(sigma)
    taps[tuple(n // 2 for n in taps.shape)] += 1 + abs(amount)
    whole = taps.size == 1
    arguments = {"sigma": sigma, "amount": amount}
    return Operation("unsharp_mask", taps, arguments, whole, 8 if whole else 2)


def box(size):
    height, width = reference.per_axis(size, 2)
    return Operation("box_blur", kernels.box((height, width)), {"size": size})


RNG = np.random.default_rng(20)
OPERATIONS = {
    "1x1": dense([[3]]),
    "edge": dense(kernels.edge),
    "emboss, anchored": dense(kernels.emboss, anchor=(0, 2)),
    "integers 2x2": dense([[1, -2], [3, 4]]),
    "integers 4x3, anchored": dense(RNG.integers(-9, 10, (4, 3)), anchor=(3, 0)),
    "integers 1x6": dense(RNG.integers(-9, 10, (1, 6))),
    "integers 5x1": dense(RNG.integers(-9, 10, (5, 1)).astype(np.int8)),
    "integers of rank 1": dense(np.outer([2, -4, 6, 0, 8], [3, 9, -6]), anchor=(4, 0)),
    "integers past 2^24": dense(RNG.integers(-(2**20), 2**20, (3, 3))),
    "integers past 2^53": dense(RNG.integers(-(2**40), 2**40, (3, 2)), widest=2),
    "rank 1 past 2^53": dense(2**20 * np.outer([1, 3, -2], [2**20, 5 * 2**20]), widest=2),
    "zeros": dense(np.zeros((3, 4))),
    "integers and half a delta": dense(kernels.laplacian, delta=0.5, widest=4),
    "integers and a delta": dense([[2, 0, -1]], delta=-1000),
    "fractions 1x1": dense([[0.7]]),
    "fractions 3x3": dense(RNG.normal(size=(3, 3)) / 3),
    "fractions 2x5, anchored": dense(RNG.random((2, 5)) / 9, anchor=(1, 4)),
    "fractions 1x7": dense(RNG.random((1, 7)) / 4),
    "fractions 6x1": dense(RNG.random((6, 1)) / 3),
    "fractions of rank 1": dense(np.outer(RNG.normal(size=4), RNG.random(5)) / 5),
    "fractions and a delta": dense(RNG.normal(size=(3, 3)) / 2, delta=12.3),
    "gain 1000": dense(RNG.normal(size=(3, 3)) * 120),
    "gain 1000 of rank 1": dense(np.outer(RNG.normal(size=3), RNG.normal(size=3)) * 150),
    "gain 10^7": dense(RNG.normal(size=(2, 3)) * 1e6),
    "gain 10^8": dense(RNG.normal(size=(3, 3)) * 2e7, delta=-(10**8)),
    "gain 10^-9": dense(RNG.normal(size=(3, 3)) * 1e-9, delta=3.5),
    "31x31": dense(RNG.random((31, 31)) / 961),
    "factors of integers": separable([1, 4, 6, 4, 1], [1, 2, 1]),
    "factors of fractions": separable(RNG.normal(size=3) / 2, RNG.random(6) / 2),
    "factors 1x1 and 1x5": separable([0.5], [2.0, 4, 6, -4, 2], widest=4),
    "sigma 0": gaussian(0),
    "sigma 1": gaussian(1),
    "sigma (0, 2)": gaussian((0, 2)),
    "sigma (3, 0.6)": gaussian((3, 0.6), truncate=2.0),
    "sigma 7": gaussian(7),
    "sobel": gradient("sobel", None),
    "sobel down": gradient("sobel", 0),
    "sobel across": gradient("sobel", 1),
    "scharr": gradient("scharr", None),
    "scharr down": gradient("scharr", 0),
    "prewitt": gradient("prewitt", None),
    "prewitt across": gradient("prewitt", 1),
    "laplacian": Operation("laplacian", kernels.laplacian),
    "sharpen": Operation("sharpen", kernels.sharpen),
    "sharpen 3": Operation("sharpen", 13 * np.ones((3, 3)), {"amount": 3}),
    "sharpen 0.3": Operation("sharpen", np.ones((3, 3)), {"amount": 0.3}, False, 2),
    "unsharp": unsharp(1.0, 1.0),
    "unsharp (2, 0.5)": unsharp((2, 0.5), -0.7),
    "unsharp 0": unsharp(0, 5.0),
    "unsharp 100": unsharp(0.8, 100),
    "box 1": box(1),
    "box 3": box(3),
    "box 2x5": box((2, 5)),
    "box 1x4": box((1, 4)),
    "box 9": box(9),
}
VALUES = (0, 7.5, -300.25)
AXES = {
    "operation": list(OPERATIONS),
    "dtype": list(DTYPES),
    "border": list(reference.BORDERS),
    "layout": list(LAYOUTS),
    "size": list(SIZES),
    "value": list(VALUES),
}


def check(operation, dtype, border, layout_name, size, value):
    """One call against the reference: exact, within a level, within the bound, or a TypeError."""
    shape, keywords = layout(layout_name, size)
    images = random_images(shape, dtype)
    keywords |= {"border": border, "value": value}
    run = getattr(filters, operation.function)
    if is_integer(images.dtype) and images.dtype.itemsize > operation.widest:
        if not operation.whole:
            with pytest.raises(TypeError, match=r"^kernel must have integer weights for .*, got "):
                run(images, **operation.arguments, **keywords)
        return
    result = run(images, **operation.arguments, **keywords)
    expected = getattr(reference, operation.function)(images, **operation.arguments, **keywords)
    if not is_integer(images.dtype):
        more = {k: operation.arguments[k] for k in ("anchor", "delta") if k in operation.arguments}
        if "delta" in more:
            more["delta"] = abs(more["delta"])
        bound = spread(operation.taps, images, **more, **keywords)
        assert_within(result, expected, bound, dtype)
    elif operation.whole:
        assert_equal(result, expected, images.dtype)
    else:
        assert_within_a_level(result, expected)


@pytest.mark.parametrize(
    "case",
    [*pairwise(AXES, seed=2), *pairwise(AXES, seed=3)],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_linear_filters_are_the_reference(case):
    check(
        OPERATIONS[case["operation"]],
        case["dtype"],
        case["border"],
        case["layout"],
        case["size"],
        case["value"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_linear_filters_are_the_reference_in_every_combination(name, dtype, border):
    for layout_name, size in itertools.product(LAYOUTS, SIZES):
        value = VALUES[len(layout_name) % 3]
        check(OPERATIONS[name], dtype, border, layout_name, size, value)


# ---------------------------------------------------------------- NaN, infinity, overflow


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_linear_filters_spread_nan_and_inf_over_their_window_alone(name, border):
    operation = OPERATIONS[name]
    clean = random_images((24, 29), "float32")
    spoiled = clean.copy()
    spoiled[9, 12], spoiled[20, 3], spoiled[2, 27] = np.nan, np.inf, -np.inf
    keywords = {"border": border, "value": 1}
    window = np.ones(operation.taps.shape)
    anchor = operation.arguments.get("anchor")

    def reach(mask):
        counts = reference.filter2d(mask.astype(np.int16), window, anchor, 0, border, 0)
        return counts > 0

    result = getattr(filters, operation.function)(spoiled, **operation.arguments, **keywords)
    expected = getattr(reference, operation.function)(clean, **operation.arguments, **keywords)
    touched = reach(~np.isfinite(spoiled))
    np.testing.assert_array_equal(~np.isfinite(result), touched)
    assert np.all(np.isnan(result[reach(np.isnan(spoiled))]))
    delta = abs(operation.arguments.get("delta", 0))
    bound = spread(operation.taps, clean, anchor=anchor, delta=delta, **keywords)
    assert np.all(abs(result - expected)[~touched] <= bound[~touched])


def test_filters_sum_float16_in_float32():
    bright = np.full((5, 6), 60000, np.float16)
    assert np.all(filters.box_blur(bright, 3) == 60000)
    assert np.all(filters.filter2d(bright, [[1, 1, -1]]) == 60000)
    assert np.all(filters.gaussian_blur(bright, 2) == 60000)
    assert np.all(filters.filter2d(bright, [[1, 1]]) == np.inf)
    assert np.all(filters.unsharp_mask(bright, 2) == 60000)


def test_filters_hold_a_border_value_past_the_dtype_as_inf():
    images = random_images((5, 6), "float16")
    result = filters.box_blur(images, 3, border="constant", value=1e6)
    assert np.all(np.isinf(result[0]))
    assert np.all(np.isfinite(result[1:-1, 1:-1]))


# ---------------------------------------------------------------- delta, out_dtype, anchor


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
@pytest.mark.parametrize("delta", [0.5, -0.5, 1.5, 2**62, -(2**62) - 1, 2**63 + 3, 2**70, 0.25])
def test_filter2d_rounds_a_delta_on_64_bits(dtype, delta):
    info = np.iinfo(dtype)
    row = [info.min, info.min + 1, -3, -2, 0, 1, 2, 2**62, 2**62 + 1, info.max - 1, info.max]
    pixels = [max(info.min, v) for v in row]
    result = filters.filter2d(np.array([pixels], dtype), [[1]], delta=delta)
    # Twice the sum, or four times, is a whole number that Python rounds exactly.
    quarters = [4 * p + int(4 * delta) for p in pixels]
    expected = [q // 4 + (q % 4 + (q // 4 & 1) > 2) for q in quarters]
    assert result[0].tolist() == [min(max(e, info.min), info.max) for e in expected]


@pytest.mark.parametrize("kernel", [[[1]], [[1.5]], [[0.1, 0.9]]])
@pytest.mark.parametrize("out_dtype", ["int64", "uint64", "int8"])
@pytest.mark.parametrize("delta", [2**61, -(2**61) - 1, 2**62 + 5, 2**63 + 4, -(2**70), 2**64])
def test_filter2d_adds_a_delta_that_only_a_wide_out_dtype_holds(kernel, out_dtype, delta):
    images = np.full((2, 3), 2, np.uint8)
    result = filters.filter2d(images, kernel, delta=delta, out_dtype=out_dtype)
    info = np.iinfo(out_dtype)
    expected = round(2 * sum(kernel[0])) + delta
    assert np.all(result == min(max(expected, info.min), info.max))


def test_filter2d_delta_decides_ties_to_even_and_what_lies_beside_them():
    images = np.arange(6, dtype=np.int16).reshape(1, 6)
    assert filters.filter2d(images, [[1]], delta=0.5).tolist() == [[0, 2, 2, 4, 4, 6]]
    assert filters.filter2d(images, [[1]], delta=np.nextafter(0.5, 1))[0].tolist() == [*range(1, 7)]
    assert filters.filter2d(images, [[1]], delta=np.nextafter(0.5, 0))[0].tolist() == [*range(6)]
    assert filters.filter2d(images, [[0.5]]).tolist() == [[0, 0, 1, 2, 2, 2]]
    assert filters.filter2d(images, [[0.5]], delta=0.5).tolist() == [[0, 1, 2, 2, 2, 3]]


def test_filter2d_anchor_defaults_to_the_middle_and_minus_one_is_the_default(rng):
    images, kernel = random_images((9, 8), "int16"), rng.integers(-5, 5, (4, 3))
    default = filters.filter2d(images, kernel)
    for anchor in ((2, 1), (-1, -1), (2, -1), [-1, 1], np.array([2, 1]), -1):
        assert_equal(filters.filter2d(images, kernel, anchor=anchor), default, "int16")


@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_gradients_of_uint8_keep_their_sign_in_int16(name, axis):
    images = random_images((2, 12, 11), "uint8")
    result = getattr(filters, name)(images, axis=axis, out_dtype="int16")
    assert_equal(result, getattr(reference, name)(images.astype(np.int16), axis=axis), "int16")
    assert axis is None or (result < 0).any()


@pytest.mark.parametrize("name", [n for n in OPERATIONS if "10^7" not in n and "10^8" not in n])
@pytest.mark.parametrize("out_dtype", FLOATS)
def test_linear_filters_convert_integers_first_for_a_float_out_dtype(name, out_dtype):
    operation, kind = OPERATIONS[name], dtype_of(out_dtype)
    run = getattr(filters, operation.function)
    images = random_images((9, 14), "int16") // 64
    result = run(images, **operation.arguments, out_dtype=kind, border="constant", value=1.3)
    converted = run(images.astype(kind), **operation.arguments, border="constant", value=1.3)
    assert_equal(result, converted, kind)


@pytest.mark.parametrize("name", ["fractions 3x3", "sigma 1", "sobel", "unsharp", "box 3"])
def test_linear_filters_round_once_to_another_float(name):
    operation = OPERATIONS[name]
    run = getattr(filters, operation.function)
    images = random_images((9, 14), "float32")
    wide = run(images.astype(np.float64), **operation.arguments)
    assert_equal(run(images, **operation.arguments, out_dtype="float64"), wide, "float64")
    single = run(images, **operation.arguments)
    narrow = run(images, **operation.arguments, out_dtype="float16")
    assert_equal(narrow, single.astype(np.float16), "float16")


@pytest.mark.parametrize("out_dtype", INTEGERS)
@pytest.mark.parametrize("name", ["edge", "integers past 2^24", "fractions and a delta", "box 3"])
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_linear_filters_saturate_to_another_integer(name, dtype, out_dtype):
    operation = OPERATIONS[name]
    images = random_images((9, 14), dtype)
    result = getattr(filters, operation.function)(
        images, **operation.arguments, out_dtype=out_dtype
    )
    if operation.function == "box_blur":
        exact = reference.box_blur(images, **operation.arguments)
    else:
        exact = reference.filter2d_exact(images, **operation.arguments)
    expected = reference.correctly_rounded(exact, out_dtype)
    if operation.whole:
        assert_equal(result, expected, out_dtype)
    else:
        assert_within_a_level(result, expected)


# ---------------------------------------------------------------- symmetry and large factors


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("flip", [np.fliplr, np.flipud])
@pytest.mark.parametrize("kernel", [kernels.gaussian(1.3), kernels.log(1.1) + 0.01, kernels.box(5)])
def test_filter2d_of_a_mirrored_image_is_the_mirrored_result(kernel, dtype, flip):
    images = random_images((20, 23), dtype)
    mirrored = filters.filter2d(flip(images), kernel)
    assert_equal(flip(mirrored), filters.filter2d(images, kernel), dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "float32"])
def test_separable_filter2d_takes_long_integer_factors_as_they_are(dtype):
    ramp = np.arange(-100.0, 101)
    images = random_images((3, 5), dtype) // 2
    arguments = {"kernel_y": np.ones(150), "kernel_x": ramp}
    result = filters.separable_filter2d(images, **arguments)
    expected = reference.separable_filter2d(images, **arguments)
    if is_integer(images.dtype):
        assert_equal(result, expected, dtype)
    else:
        bound = spread(np.outer(*arguments.values()), images)
        assert_within(result, expected, bound, dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "float32"])
def test_separable_filter2d_of_zeros_is_zero(dtype):
    images = random_images((4, 5), dtype)
    for fractions in (np.full(3, 0.5), np.full(200, 0.5)):
        zeros = np.zeros_like(fractions)
        assert not filters.separable_filter2d(images, fractions, zeros).any()
        assert not filters.separable_filter2d(images, zeros, fractions).any()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("amount", [0, 1e-5, 0.3, 5, 20, 100, -1000, 1024])
@pytest.mark.parametrize("sigma", [0.6, 2, 5, (0, 1.5), (3, 0)])
def test_unsharp_mask_is_within_a_level_for_every_amount(dtype, amount, sigma):
    images = random_images((14, 17), dtype) // 8 + np.arange(17, dtype=dtype)
    result = filters.unsharp_mask(images, sigma, amount)
    assert_within_a_level(result, reference.unsharp_mask(images, sigma, amount))


# ---------------------------------------------------------------- second witnesses


@pytest.mark.parametrize("border", reference.BORDERS)
def test_linear_filters_agree_with_scipy(border, rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    images, mode = random_images((21, 26), "float64"), SCIPY_MODES[border]
    kernel = rng.normal(size=(4, 5))
    ours, theirs = {"border": border}, {"mode": mode}
    pairs = [
        (
            filters.filter2d(images, kernel, value=2.5, **ours),
            ndimage.correlate(images, kernel, cval=2.5, **theirs),
        ),
        (
            filters.gaussian_blur(images, (1, 2.5), **ours),
            ndimage.gaussian_filter(images, (1, 2.5), **theirs),
        ),
        (
            filters.box_blur(images, (4, 3), **ours),
            ndimage.uniform_filter(images, (4, 3), **theirs),
        ),
        (filters.sobel(images, axis=0, **ours), ndimage.sobel(images, 0, **theirs)),
        (filters.prewitt(images, axis=1, **ours), ndimage.prewitt(images, 1, **theirs)),
        (filters.laplacian(images, **ours), ndimage.laplace(images, **theirs)),
    ]
    for result, witness in pairs:
        np.testing.assert_allclose(result, witness, rtol=1e-12, atol=1e-11)


OPENCV_BORDERS = {
    "constant": "BORDER_CONSTANT",
    "edge": "BORDER_REPLICATE",
    "reflect": "BORDER_REFLECT_101",
    "symmetric": "BORDER_REFLECT",
}


@pytest.mark.parametrize("border", OPENCV_BORDERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_linear_filters_agree_with_opencv(border, dtype, rng):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    flag = getattr(cv2, OPENCV_BORDERS[border])
    images = random_images((21, 26), dtype)
    for kernel in (kernels.edge, kernels.emboss, rng.integers(-4, 5, (5, 3))):
        ours = filters.filter2d(images, kernel, border=border)
        theirs = cv2.filter2D(images, -1, kernel.astype(np.float64), borderType=flag)
        np.testing.assert_array_equal(ours, theirs)
    blurred = filters.gaussian_blur(images, 1.5, border=border)
    taps = kernels.gaussian_taps(1.5)
    witness = cv2.sepFilter2D(images.astype(np.float64), -1, taps, taps, borderType=flag)
    assert abs(blurred - witness).max() <= 1.5
    if dtype == "uint8":
        ours = filters.sobel(images, axis=1, border=border, out_dtype="int16")
        theirs = cv2.Sobel(images, cv2.CV_16S, 1, 0, borderType=flag)
        np.testing.assert_array_equal(ours, theirs)
        mean = cv2.boxFilter(images.astype(np.float64), -1, (5, 3), borderType=flag)
        np.testing.assert_array_equal(
            filters.box_blur(images, (3, 5), border=border), np.rint(mean.round(9))
        )


@pytest.mark.parametrize("border", ["reflect", "edge", "wrap"])
def test_filter2d_agrees_with_torch(border, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    images, kernel = random_images((2, 15, 16), "float32"), rng.normal(size=(5, 3))
    mode = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[border]
    padded = torch.nn.functional.pad(torch.from_numpy(images.copy())[:, None], (1, 1, 2, 2), mode)
    weight = torch.from_numpy(kernel.astype(np.float32))[None, None]
    witness = torch.nn.functional.conv2d(padded, weight)[:, 0].numpy()
    result = filters.filter2d(images, kernel, border=border)
    np.testing.assert_allclose(result, witness, rtol=1e-5, atol=1e-4)


def test_blurs_agree_with_skimage():
    skimage = pytest.importorskip("skimage.filters", reason="scikit-image is not installed")
    images = random_images((25, 31), "float64") / 100
    np.testing.assert_allclose(
        filters.gaussian_blur(images, 1.7), skimage.gaussian(images, 1.7, mode="mirror"), atol=1e-12
    )
    witness = skimage.unsharp_mask(images, radius=1.2, amount=0.8, preserve_range=True)
    ours = filters.unsharp_mask(images, 1.2, 0.8, border="symmetric")
    np.testing.assert_allclose(ours, witness, atol=1e-12)


def test_unsharp_mask_rounds_exact_halves_to_even():
    images = np.array([[9, 10, 11, 13, 14, 17]], np.uint8)
    common = {"border": "edge", "value": 0, "channel_axis": None, "out_dtype": None}
    plan = plan_unsharp(images, np.ones(1), np.array([0.5, 0.5]), 1.0, **common)
    # x + (x − (x + left) / 2) = x + (x − left) / 2: 9, 10.5, 11.5, 14, 14.5, 18.5
    assert run(plan, images, backend="numpy").tolist() == [[9, 10, 12, 14, 14, 18]]


@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_magnitudes_of_flat_images_are_zero(dtype, name):
    for shape in ((1, 1), (9, 40)):
        images = np.full(shape, 7).astype(dtype_of(dtype))
        assert_equal(getattr(filters, name)(images), np.zeros(shape), dtype_of(dtype))
        if is_integer(images.dtype):
            for out_dtype in ("int8", "int32"):
                result = getattr(filters, name)(images, out_dtype=out_dtype)
                assert_equal(result, np.zeros(shape), out_dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kernel", [np.ones((3, 3)) / 9, np.arange(1.0, 10).reshape(3, 3)])
def test_filter2d_adds_a_delta_that_no_sum_holds(kernel, dtype):
    images = np.ones((32, 64), dtype)
    images[3, 3] = -np.inf
    more = filters.filter2d(images, kernel, delta=1e39)
    less = filters.filter2d(images, kernel, delta=-1e39)
    assert np.isposinf(more[0, 0])
    assert np.isnan(more[3, 3])
    assert np.isneginf(less).all()
