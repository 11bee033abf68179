"""Filters by strips: which calls take them, how planes are cut, and what the kernel computes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv import filters, kernels
from gpuconv.backends.cuda import dense_strips, strips
from gpuconv.backends.cuda.images import stacks
from gpuconv.backends.cuda.sums import DOUBLE, FLOAT
from gpuconv.plan.filters import plan_filter
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, assert_equal, assert_within, is_integer, random_images, spread

BORDERS = ("constant", "edge", "reflect", "symmetric", "wrap")

FORMS = {
    "uint8": ("uint8", 1),
    "uint16": ("uint16", 1),
    "uint16 by fractions": ("uint16", 7),
    "float16": ("float16", 1),
    "float32": ("float32", 1),
}
"""dtype, and what whole weights are divided by."""

SMALL = list(itertools.product(FORMS, dense_strips.SIZES, dense_strips.CHANNELS))
FLOATS = ("uint8", "uint16 by fractions", "float16", "float32")
LARGE = list(itertools.product(FLOATS, dense_strips.LARGE, (1,)))
SOME = SMALL[::5] + LARGE[::5]
"""Every form, size and number of channels among them."""

PADDING = 77


def aligned(images):
    """(rows, a copy of images in them): each begins at a multiple of 16 bytes and ends in 77."""
    height, *row = images.shape
    elements = int(np.prod(row))
    pitch = -(-elements * images.itemsize // 16) * 16 // images.itemsize
    rows = np.full((height, pitch), PADDING, images.dtype)
    view = np.lib.stride_tricks.as_strided(
        rows, images.shape, (rows.strides[0], *np.empty(row, images.dtype).strides)
    )
    view[...] = images
    return rows, view


def weights_of(size, divisor=1, seed=0):
    """Not separable, not symmetric."""
    weights = np.random.default_rng([seed, size]).integers(-4, 5, (size, size))
    weights[0, :2] = 3, -2
    return weights / divisor if divisor > 1 else weights


def expected(images, weights, **keywords):
    """The NumPy backend's result: exact for integers, of float64 otherwise."""
    if not is_integer(images.dtype):
        images = images.astype(np.float64)
    return filters.filter2d(images, weights, **keywords, backend="numpy")


def assert_filtered(result, images, weights, **keywords):
    """The NumPy backend's integers; floats within DESIGN 3.1's bound."""
    wide = expected(images, weights, **keywords)
    if is_integer(images.dtype):
        assert_equal(result, wide, images.dtype)
    else:
        extra = {k: v for k, v in keywords.items() if k != "delta"}
        bound = spread(weights, images, **extra)
        assert_within(result, wide, bound, images.dtype.name)


def by_strips(images, weights, *, checked=False, **keywords):
    """The result of one launch; nothing is written between its rows."""
    backend = EmulatorBackend(checked=checked)
    rows, out = aligned(np.zeros_like(images))
    _, source = aligned(images)
    filters.filter2d(source, weights, **keywords, out=out, backend=backend)
    elements = int(np.prod(images.shape[1:]))
    assert elements == 1 or backend.launches == {"dense_strip": 1}
    assert np.all(rows[:, elements:] == PADDING)
    return np.array(out)


# ---------------------------------------------------------------- how planes are cut


def stack_of(shape, dtype="uint8", **common):
    images = np.zeros(shape, dtype)
    plan = plan_filter(images, kernels.edge, **(COMMON | common))
    (stack,) = stacks(plan.images, images, images)
    return stack


@pytest.mark.parametrize("shape", [(1, 16), (17, 512), (100, 528), (3, 1000, 1600), (900, 7, 32)])
@pytest.mark.parametrize("most", [8, 64, 300])
def test_strips_cover_a_plane_once(shape, most):
    shape = (1, *shape) if len(shape) == 2 else shape
    fields, grid = strips.Shape(most, 512, 1, 1, 4, 4).strips(stack_of(shape))
    planes, height, row = shape
    down, across, rows = (int(fields[name]) for name in ("down", "across", "rows"))
    assert (down - 1) * rows < height <= down * rows
    assert rows <= most
    assert (across - 1) * 512 < row <= across * 512
    assert fields["jobs"] == planes * down * across
    assert grid == (-(-planes * down * across // strips.WARPS), 1, 1)


@pytest.mark.parametrize("shape", [(1, 16), (17, 512), (100, 528), (3, 1000, 1600), (900, 7, 32)])
@pytest.mark.parametrize("most", [8, 64, 300])
def test_lanes_cover_a_plane_once_and_only_its_last_warp_has_idle_ones(shape, most):
    shape = (1, *shape) if len(shape) == 2 else shape
    fields, grid = strips.Shape(most, 512, 1, 1, 4, 4).lane_strips(stack_of(shape))
    planes, height, row = shape
    each, packs, rows, elements = (int(fields[n]) for n in ("each", "packs", "rows", "elements"))
    bands = -(-height // rows)
    assert rows <= most
    assert (packs - 1) * elements < row <= packs * elements
    assert (each - 1) * 32 < bands * packs <= each * 32
    assert fields["jobs"] == planes * each
    assert grid == (-(-planes * each // strips.WARPS), 1, 1)


@pytest.mark.parametrize("form", ["strips", "lane_strips"])
def test_strips_are_long_where_there_are_many_and_short_where_there_are_few(form):
    shape = strips.Shape(256, 512, 1, 1, 4, 4)
    many, _ = getattr(shape, form)(stack_of((64, 2160, 3840)))
    few, _ = getattr(shape, form)(stack_of((1, 2160, 3840)))
    assert many["rows"] >= 128
    assert few["rows"] <= 32
    assert few["jobs"] <= strips.MULTIPROCESSORS * shape.warps


@pytest.mark.parametrize(
    ("reach", "lane", "itemsize", "elements"),
    [
        *((1, 16, 1, 4), (3, 16, 1, 4), (6, 16, 1, 8), (9, 8, 1, 16), (12, 8, 1, 16)),
        *((1, 8, 2, 2), (3, 8, 2, 4), (9, 8, 2, 16), (1, 4, 4, 1), (2, 4, 4, 2), (9, 4, 4, 12)),
    ],
)
def test_halos_are_the_fewest_aligned_packs(reach, lane, itemsize, elements):
    assert strips.halo(reach, lane, itemsize) == elements


# ---------------------------------------------------------------- which calls take them


def launched(images, kernel, out=None, **keywords):
    plan = plan_filter(images, kernel, **(COMMON | keywords))
    result = np.empty(images.shape, plan.images.out_dtype) if out is None else out
    (stack,) = stacks(plan.images, images, result)
    return dense_strips.launch(plan, stack, None)


def test_strips_are_for_small_square_kernels_and_aligned_rows():
    images = np.zeros((2, 64, 64), np.uint8)
    assert launched(images, kernels.edge).variant.name == "dense_strip<uint8, float, 3, 1>"
    assert launched(images, kernels.edge, anchor=(0, 1))
    assert launched(images, kernels.edge, delta=3)
    assert launched(images[:, ::2], kernels.edge)
    assert launched(images, kernels.edge, delta=0.3) is None
    assert launched(images, kernels.edge, out_dtype="int16") is None
    assert launched(images, np.tri(3) * 2**17) is None
    assert launched(images, np.ones((3, 3))) is None
    assert launched(images, np.tri(17)) is None
    assert launched(images[..., 1:], kernels.edge) is None
    assert launched(images[..., ::2], kernels.edge) is None
    assert launched(images[..., :48], kernels.edge)
    assert launched(images, kernels.edge, out=np.zeros((2, 64, 65), np.uint8)[..., :64]) is None
    assert launched(images, kernels.edge, out=np.zeros((2, 64, 80), np.uint8)[..., 1:65]) is None
    for dtype in ("int8", "int16", "uint32", "bfloat16", "float64"):
        assert launched(random_images((8, 16), dtype), kernels.edge) is None


@pytest.mark.parametrize(
    ("shape", "anchor", "size"),
    [
        *(((3, 3), (1, 0), 5), ((3, 3), (2, 1), 3), ((4, 4), None, 5), ((3, 2), None, 3)),
        *(
            ((4, 7), (0, 2), None),
            ((9, 9), None, 9),
            ((10, 12), None, 13),
            ((15, 14), (3, 8), None),
        ),
        *(((1, 3), None, 3), ((1, 7), None, None), ((9, 1), None, None), ((16, 16), None, None)),
    ],
)
def test_integers_are_filtered_by_larger_squares_where_that_pays(shape, anchor, size):
    images, kernel = np.zeros((8, 64), np.uint8), np.tri(*shape) + np.eye(*shape)
    launch = launched(images, kernel, anchor=anchor)
    assert (launch and int(launch.variant.arguments[2])) == size
    floats = launched(images.astype(np.float32), kernel, anchor=anchor)
    square = size and shape == (size, size) and (anchor is None or anchor[1] == size // 2)
    assert (floats is not None) == bool(square)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_strips_are_for_up_to_four_channels(channels):
    launch = launched(np.zeros((9, 16, channels), np.uint8), kernels.edge, channel_axis=-1)
    assert (launch is not None) == (channels in dense_strips.CHANNELS)


def test_strips_read_so_much_beside_their_own():
    images = np.zeros((64, 64, 3), np.float32)
    fields = launched(images, np.tri(7), channel_axis=-1, anchor=(1, 3)).arguments[-1]["strips"]
    assert (fields["above"], fields["below"]) == (1, 5)
    assert (fields["before"], fields["behind"]) == (12, 12)
    assert fields["elements"] == 4


# ---------------------------------------------------------------- what they compute


def check_sizes(form, size, channels, numbers):
    """Images smaller than a window, around lanes and strips, with strips that no border reaches."""
    dtype, divisor = FORMS[form]
    sums = DOUBLE if divisor > 1 else FLOAT
    lane = dense_strips.lane_elements(np.dtype(dtype), sums, size, channels)
    columns = 32 * lane // channels + 1
    sizes = [(1, 1), (1, 2 * lane), (35, 1), (3, lane + 1), (17, columns), (52, 3 * columns + lane)]
    for (height, width), number in zip(sizes, numbers, strict=False):
        shape = (height, width) if channels == 1 else (height, width, channels)
        images = random_images(shape, dtype, seed=number)
        weights = weights_of(size, divisor, number)
        keywords = {"border": BORDERS[number % 5], "value": 9}
        keywords["channel_axis"] = None if channels == 1 else -1
        result = by_strips(images, weights, **keywords)
        assert_filtered(result, images, weights, **keywords)


@pytest.mark.emulator
@pytest.mark.parametrize(("form", "size", "channels"), SOME)
def test_strips_equal_the_numpy_backend(form, size, channels):
    check_sizes(form, size, channels, itertools.count(size + channels))


@pytest.mark.emulator
@pytest.mark.slow
@pytest.mark.parametrize(("form", "size", "channels"), SMALL + LARGE)
def test_all_strips_equal_the_numpy_backend(form, size, channels):
    for first in range(5):
        check_sizes(form, size, channels, itertools.count(first))


@pytest.mark.emulator
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize(("form", "size", "channels"), [("uint8", 3, 1), ("float32", 7, 1)])
def test_every_border_answers_on_all_sides(form, size, channels, border):
    rng = np.random.default_rng(5)
    for _ in range(8):
        shape = tuple(int(n) for n in rng.integers(1, [40, 300]))
        images = random_images(shape, FORMS[form][0])
        weights = weights_of(size, seed=shape[0])
        keywords = {"border": border, "value": -3, "anchor": (int(rng.integers(size)), size // 2)}
        result = by_strips(images, weights, **keywords)
        if is_integer(images.dtype):
            assert_equal(result, expected(images, weights, **keywords), images.dtype)
        else:
            wide = expected(images, weights, **keywords)
            np.testing.assert_allclose(result, wide, rtol=0, atol=1e-4 * abs(wide).max(initial=1))


@pytest.mark.emulator
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_kernels_of_any_shape_and_anchor(dtype, border):
    rng = np.random.default_rng(9)
    for shape in ((2, 3), (4, 4), (3, 5), (5, 4), (3, 3)):
        weights = rng.integers(-3, 4, shape)
        weights[0, :2], weights[-1, -1] = (1, 2), 3
        anchor = rng.integers(shape)
        images = random_images((int(rng.integers(1, 30)), int(rng.integers(2, 90))), dtype)
        keywords = {"anchor": anchor.tolist(), "border": border, "value": 200}
        backend = EmulatorBackend()
        result = filters.filter2d(aligned(images)[1], weights, **keywords, backend=backend)
        assert_filtered(result, images, weights, **keywords)


@pytest.mark.emulator
def test_batches_and_planes_of_their_own():
    kernel = weights_of(5)
    for dtype in ("uint8", "float32"):
        batch = random_images((2, 3, 19, 32), dtype)
        backend = EmulatorBackend()
        result = filters.filter2d(batch, kernel, backend=backend)
        assert backend.launches == {"dense_strip": 1}
        for place in np.ndindex(2, 3):
            assert_equal(result[place], by_strips(batch[place], kernel), dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("border", BORDERS)
def test_lanes_of_a_warp_lie_in_several_bands(border):
    """The last band has fewer rows, and the last warp of a plane lanes that have none."""
    for dtype, shape in (("uint8", (2, 215, 48)), ("uint16", (3, 101, 136)), ("float32", (90, 4))):
        images = random_images(shape, dtype)
        for anchor in ((0, 1), (2, 1)):
            backend = EmulatorBackend(checked=anchor[0] == 0)
            keywords = {"border": border, "value": 7, "anchor": anchor}
            result = filters.filter2d(images, weights_of(3), **keywords, backend=backend)
            assert backend.launches == {"dense_strip": 1}
            assert_filtered(result, images, weights_of(3), **keywords)
        backend = EmulatorBackend(checked=True)
        keywords = {"border": border, "value": 7}
        result = filters.sobel(images, **keywords, backend=backend)
        assert backend.launches == {"gradient_strip": 1}
        wide = filters.sobel(images, **keywords, backend="numpy")
        if is_integer(images.dtype):
            assert_equal(result, wide, images.dtype)
        else:
            np.testing.assert_allclose(result, wide, rtol=1e-5, atol=1e-4)


@pytest.mark.emulator
@pytest.mark.parametrize("delta", [0, 1, -300, 70_000])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_extremes_saturate(dtype, delta):
    highest = np.iinfo(dtype).max
    images = random_images((20, 96), dtype)
    images = np.where(images > highest // 2, highest, 0).astype(dtype)
    for weights in (kernels.edge, -kernels.edge, np.eye(3) * 9 - kernels.emboss):
        result = by_strips(images, weights, delta=delta)
        assert_filtered(result, images, weights, delta=delta)
        assert delta > 60_000 or {0, highest} <= set(result.ravel().tolist())


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_halves_round_to_even(dtype):
    images = random_images((12, 32), dtype)
    weights = np.diag([0.25, 0.5, 0.25])
    exact = expected(images.astype(np.float64), weights)
    assert np.any(exact % 2 == 0.5)
    assert np.any(exact % 2 == 1.5)
    assert_equal(by_strips(images, weights), np.rint(exact).astype(dtype), dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("border", ["reflect", "constant", "wrap"])
def test_nan_and_infinity_reach_the_windows_that_hold_them(dtype, border):
    images = np.array(random_images((40, 600), dtype))
    spots = [(0, 0, np.nan), (12, 127, np.inf), (13, 300, -np.inf), (39, 599, np.nan)]
    for y, x, value in (*spots, (20, 255, np.nan), (20, 256, np.inf), (5, 4, np.nan)):
        images[y, x] = value
    weights = np.abs(weights_of(5)) + 1
    result = by_strips(images, weights, border=border)
    with np.errstate(invalid="ignore"):
        wide = expected(images, weights, border=border)
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert_equal(kind(result), kind(wide), bool)


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "size"), [("float16", 5), ("float32", 7), ("float32", 3)])
def test_a_sum_does_not_depend_on_where_it_lies(dtype, size):
    images = random_images((70, 500), dtype)
    weights = weights_of(size) * 0.37
    whole = by_strips(images, weights)
    for y, x in ((0, 5), (3, 130), (37, 1)):
        part = by_strips(images[y:, x:], weights)
        inner = (slice(size, -size), slice(size, -size))
        assert_equal(part[inner], whole[y:, x:][inner], dtype)


@pytest.mark.emulator
@pytest.mark.parametrize(("form", "size", "channels"), [("uint8", 5, 3), ("float32", 7, 4)])
def test_strips_read_and_write_nothing_beside_their_arrays(form, size, channels):
    dtype, _ = FORMS[form]
    for shape in ((1, 1, channels), (20, 47, channels), (50, 400 // channels, channels)):
        images = random_images(shape, dtype)
        keywords = {"border": "reflect", "channel_axis": -1, "checked": True}
        by_strips(images, weights_of(size), **keywords)
