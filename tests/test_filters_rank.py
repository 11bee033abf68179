"""Medians, ranks and morphology, pixel by pixel against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import filters
from tests import reference
from tests.image_cases import (
    DTYPES,
    FLOATS,
    INTEGERS,
    LAYOUTS,
    SCIPY_MODES,
    SIZES,
    assert_equal,
    dtype_of,
    is_integer,
    layout,
    random_images,
)
from tests.matrix import pairwise

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])

RANKS = {
    "median 1": ("median_blur", {"size": 1}),
    "median 2": ("median_blur", {"size": 2}),
    "median 3": ("median_blur", {"size": 3}),
    "median 1x5": ("median_blur", {"size": (1, 5)}),
    "median 4x1": ("median_blur", {"size": (4, 1)}),
    "median 5x4": ("median_blur", {"size": (5, 4)}),
    "median 7": ("median_blur", {"size": 7}),
    "median 15, the largest network": ("median_blur", {"size": 15}),
    "median 16x15": ("median_blur", {"size": (16, 15)}),
    "rank 0 of 3": ("rank_filter", {"rank": 0, "size": 3}),
    "rank -1 of 2x3": ("rank_filter", {"rank": -1, "size": (2, 3)}),
    "rank 2 of 4": ("rank_filter", {"rank": 2, "size": 4}),
    "rank -7 of 5": ("rank_filter", {"rank": -7, "size": 5}),
    "rank 250 of 17x16": ("rank_filter", {"rank": 250, "size": (17, 16)}),
}
FUNCTIONS = ("dilate", "erode", "morph_open", "morph_close", "morph_gradient")
NEIGHBOURHOODS = {
    "1": {"size": 1},
    "3": {},
    "2": {"size": 2},
    "1x4": {"size": (1, 4)},
    "8x3": {"size": (8, 3)},
    "21": {"size": 21},
    "cross": {"footprint": CROSS},
    "corner": {"footprint": [[False, False], [True, False], [False, False]]},
    "random 4x5": {"footprint": np.random.default_rng(21).random((4, 5)) < 0.4},
    "line 1x6": {"footprint": np.ones((1, 6), np.uint8)},
    "diagonal": {"footprint": np.eye(5)},
}
VALUES = (0, 7.5, -300.25)
SHARED = {
    "dtype": list(DTYPES),
    "border": list(reference.BORDERS),
    "layout": list(LAYOUTS),
    "size": list(SIZES),
    "value": list(VALUES),
}


def check(function, arguments, dtype, border, layout_name, size, value):
    """One call against the reference: the very same numbers."""
    shape, keywords = layout(layout_name, size)
    images = random_images(shape, dtype)
    keywords |= {"border": border, "value": value}
    result = getattr(filters, function)(images, **arguments, **keywords)
    expected = getattr(reference, function)(images, **arguments, **keywords)
    if not is_integer(images.dtype):
        expected = expected.astype(images.dtype)
    assert_equal(result, expected, images.dtype)


def shared(case):
    return case["dtype"], case["border"], case["layout"], case["size"], case["value"]


def name(case):
    return "-".join(map(str, case.values()))


@pytest.mark.parametrize("case", pairwise({"rank": list(RANKS), **SHARED}, seed=5), ids=name)
def test_rank_filters_are_the_reference(case):
    check(*RANKS[case["rank"]], *shared(case))


@pytest.mark.parametrize(
    "case",
    pairwise(
        {"function": list(FUNCTIONS), "neighbourhood": list(NEIGHBOURHOODS), **SHARED}, seed=6
    ),
    ids=name,
)
def test_morphology_is_the_reference(case):
    check(case["function"], NEIGHBOURHOODS[case["neighbourhood"]], *shared(case))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", RANKS)
def test_rank_filters_are_the_reference_in_every_combination(rank, dtype):
    for border, layout_name, size in itertools.product(reference.BORDERS, LAYOUTS, SIZES):
        value = VALUES[len(border) % 3]
        check(*RANKS[rank], dtype, border, layout_name, size, value)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_morphology_is_the_reference_in_every_combination(function, neighbourhood, dtype):
    for border, layout_name, size in itertools.product(reference.BORDERS, LAYOUTS, SIZES):
        value = VALUES[len(border) % 3]
        check(function, NEIGHBOURHOODS[neighbourhood], dtype, border, layout_name, size, value)


# ---------------------------------------------------------------- NaN


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("rank", RANKS)
def test_rank_filters_give_nan_where_the_window_holds_one(rank, dtype):
    function, arguments = RANKS[rank]
    images = random_images((20, 27), dtype).copy()
    images[7, 11], images[12, 20], images[3, 3] = np.nan, np.inf, -np.inf
    result = getattr(filters, function)(images, **arguments)
    size = reference.per_axis(arguments["size"], 2)
    touched = reference.dilate(np.isnan(images).astype(np.uint8), size) > 0
    np.testing.assert_array_equal(np.isnan(result), touched)
    expected = getattr(reference, function)(images, **arguments)
    assert_equal(result, expected.astype(dtype), np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_morphology_gives_nan_where_the_neighbourhood_holds_one(function, neighbourhood, dtype):
    arguments = NEIGHBOURHOODS[neighbourhood]
    images = random_images((20, 27), dtype).copy()
    images[7, 11], images[12, 20], images[3, 3] = np.nan, np.inf, -np.inf
    result = getattr(filters, function)(images, **arguments)
    expected = getattr(reference, function)(images, **arguments)
    assert np.isnan(expected).any()
    assert_equal(result, expected.astype(images.dtype), images.dtype)


# ---------------------------------------------------------------- out_dtype


@pytest.mark.parametrize("out_dtype", INTEGERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [RANKS["median 3"], RANKS["median 16x15"], ("dilate", {}), ("morph_gradient", {"size": 2})],
)
def test_rank_filters_saturate_to_another_integer(function, arguments, dtype, out_dtype):
    images = random_images((9, 14), dtype)
    result = getattr(filters, function)(images, **arguments, out_dtype=out_dtype)
    if function == "morph_gradient":
        high, low = (getattr(reference, f)(images, **arguments) for f in ("dilate", "erode"))
        expected = high.astype(object) - low.astype(object)
    else:
        expected = getattr(reference, function)(images, **arguments)
    assert_equal(result, reference.correctly_rounded(expected, out_dtype), out_dtype)


@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("function", ["median_blur", "dilate", "morph_open", "morph_gradient"])
def test_rank_filters_convert_integers_first_for_a_float_out_dtype(function, out_dtype):
    run, kind = getattr(filters, function), dtype_of(out_dtype)
    images = random_images((2, 9, 14), "int16")
    result = run(images, size=(3, 4), out_dtype=kind, border="constant", value=0.3)
    converted = run(images.astype(kind), size=(3, 4), border="constant", value=0.3)
    assert_equal(result, converted, kind)


@pytest.mark.parametrize("function", ["median_blur", "erode", "morph_close"])
def test_rank_filters_round_to_another_float(function):
    images = random_images((9, 14), "float32")
    run = getattr(filters, function)
    single = run(images, size=3)
    assert_equal(run(images, size=3, out_dtype="float16"), single.astype(np.float16), "float16")
    assert_equal(run(images, size=3, out_dtype="float64"), single.astype(np.float64), "float64")


# ---------------------------------------------------------------- meaning, second witnesses


def test_dilate_does_not_reflect_its_footprint_and_opening_does_in_its_second_step():
    point = np.zeros((5, 7), np.uint8)
    point[2, 3] = 9
    right = [[0, 0, 1]]
    assert np.argwhere(filters.dilate(point, footprint=right)).tolist() == [[2, 2]]
    assert np.argwhere(255 - filters.erode(255 - point, footprint=right)).tolist() == [[2, 2]]
    assert np.argwhere(filters.morph_open(point, footprint=right)).tolist() == [[2, 3]]
    assert np.argwhere(filters.morph_close(point, footprint=right)).tolist() == [[2, 3]]


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**70, -1, 1.5, float("inf")])
def test_border_values_of_64_bits_are_exact(value):
    images = np.full((3, 3), 7, np.uint64)
    result = filters.median_blur(images, 3, border="constant", value=value)
    held = min(max(round(value) if value != float("inf") else 2**64, 0), 2**64 - 1)
    assert result.tolist() == [[held, 7, held], [7, 7, 7], [held, 7, held]]


def test_median_blur_takes_the_upper_middle_of_an_even_box():
    assert filters.median_blur(np.array([[1, 5, 9, 3]]), (1, 2)).tolist() == [[5, 5, 9, 9]]
    assert filters.rank_filter(np.array([[1, 5, 9, 3]]), 0, (1, 2)).tolist() == [[1, 1, 5, 3]]


@pytest.mark.parametrize("border", SCIPY_MODES)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_rank_filters_agree_with_scipy(border, dtype, rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    images = random_images((21, 26), dtype)
    ours = {"border": border, "value": 3}
    theirs = {"mode": SCIPY_MODES[border], "cval": 3}
    footprint = rng.random((3, 5)) < 0.6
    pairs = [
        (filters.median_blur(images, 5, **ours), ndimage.median_filter(images, 5, **theirs)),
        (
            filters.rank_filter(images, -3, (4, 5), **ours),
            ndimage.rank_filter(images, -3, (4, 5), **theirs),
        ),
        (
            filters.dilate(images, footprint=footprint, **ours),
            ndimage.maximum_filter(images, footprint=footprint, **theirs),
        ),
        (filters.erode(images, (6, 3), **ours), ndimage.minimum_filter(images, (6, 3), **theirs)),
    ]
    for result, witness in pairs:
        np.testing.assert_array_equal(result, witness)


def test_opening_and_closing_agree_with_scipy_inside_the_border(rng):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    images, footprint = random_images((24, 26), "uint8"), rng.random((3, 5)) < 0.6
    inside = (slice(6, -6), slice(8, -8))
    opened = filters.morph_open(images, footprint=footprint)
    witness = ndimage.grey_opening(images, footprint=footprint)
    np.testing.assert_array_equal(opened[inside], witness[inside])
    # SciPy's dilation reflects the footprint, so its closing begins with the reflected one.
    closed = filters.morph_close(images, footprint=footprint)
    witness = ndimage.grey_closing(images, footprint=footprint[::-1, ::-1])
    np.testing.assert_array_equal(closed[inside], witness[inside])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_rank_filters_agree_with_opencv(dtype):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    images = random_images((31, 37), dtype)
    for size in (3, 5):
        ours = filters.median_blur(images, size, border="edge")
        np.testing.assert_array_equal(ours, cv2.medianBlur(images, size))
    cross = CROSS.astype(np.uint8)
    names = {
        "morph_open": "MORPH_OPEN",
        "morph_close": "MORPH_CLOSE",
        "morph_gradient": "MORPH_GRADIENT",
    }
    for ours, theirs in names.items():
        witness = cv2.morphologyEx(
            images, getattr(cv2, theirs), cross, borderType=cv2.BORDER_REPLICATE
        )
        result = getattr(filters, ours)(images, footprint=cross, border="edge")
        np.testing.assert_array_equal(result[2:-2, 2:-2], witness[2:-2, 2:-2])


def test_median_blur_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    images = random_images((15, 16), "float32")
    padded = torch.from_numpy(np.pad(images, 2, "reflect"))
    witness = padded.unfold(0, 5, 1).unfold(1, 5, 1).flatten(-2).median(-1).values
    np.testing.assert_array_equal(filters.median_blur(images, 5), witness.numpy())


def test_morphology_agrees_with_skimage():
    skimage = pytest.importorskip("skimage.morphology", reason="scikit-image is not installed")
    images, disk = random_images((22, 30), "uint8"), skimage.disk(3)
    pairs = {
        "dilate": "dilation",
        "erode": "erosion",
        "morph_open": "opening",
        "morph_close": "closing",
    }
    for ours, theirs in pairs.items():
        result = getattr(filters, ours)(images, footprint=disk, border="symmetric")
        witness = getattr(skimage, theirs)(images, disk)
        np.testing.assert_array_equal(result[6:-6, 6:-6], witness[6:-6, 6:-6])
