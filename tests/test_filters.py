"""What every image filter has in common: tiles, strides, batches, lists, `out`, memory, laws."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuconv import filters
from gpuconv.backends.numpy import (
    box,
    linear,
    morphology,
    passes,
    rank,
    spectra,
    tile,
    toeplitz,
)
from gpuconv.border import SYNONYMS
from gpuconv.plan import cpu
from gpuconv.plan.remember import forget
from tests import reference
from tests.image_cases import (
    CALLS,
    DTYPES,
    SUMS,
    assert_equal,
    assert_same_sums,
    random_images,
    takes,
)

every_filter = pytest.mark.parametrize("name", CALLS)


def test_calls_cover_every_public_filter():
    assert {name.partition(",")[0] for name in CALLS} == set(filters.__all__)


# ---------------------------------------------------------------- tiles


TINY = {
    "one pixel": {
        **{"TILE_ELEMENTS": 1, "STRIP_BYTES": 1, "DENSE_ELEMENTS": 1, "TILE_BYTES": 1},
        **{"PRODUCT": 1, "MOST_TERMS": 1, "LAYOUT_BYTES": 1, "BAND_BYTES": 1},
        **{"FEW_ELEMENTS": 1, "GATHERED": 0},
    },
    "rows": {
        **{"TILE_ELEMENTS": 40, "TILE_ROW": 10**6, "STRIP_BYTES": 360, "DENSE_ELEMENTS": 90},
        **{"TILE_BYTES": 160, "BAND_BYTES": 100, "MOST_TERMS": 3},
        **{"FEW_ELEMENTS": 80, "GATHERED": 0},
    },
    "columns": {
        **{"TILE_ELEMENTS": 50, "TILE_ROW": 3, "STRIP_BYTES": 28, "TILE_BYTES": 300},
        **{"COLUMNS": 16, "PICKED_ELEMENTS": 0, "GATHERED": 0},
    },
}


def shrink_tiles(monkeypatch, sizes):
    """Set the backend's constants, wherever they live."""
    forget()
    for module in (tile, passes, linear, box, morphology, rank, toeplitz, spectra, cpu):
        for constant, value in sizes.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)


@pytest.mark.numpy_alone
@pytest.mark.parametrize("sizes", TINY.values(), ids=TINY)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in CALLS for d in ("uint8", "int16", "uint64", "float32") if takes(n, d)],
)
def test_tiles_of_every_size_give_the_same_bits(name, sizes, dtype, monkeypatch):
    images = random_images((2, 11, 14, 3), dtype)
    whole = CALLS[name](images, channel_axis=-1, border="symmetric")
    shrink_tiles(monkeypatch, sizes)
    if sizes["TILE_ELEMENTS"] == 1:
        assert sum(1 for _ in tile.tiles(images.shape)) == 2 * 11 * 14
    tiled = CALLS[name](images, channel_axis=-1, border="symmetric")
    assert_same_sums(tiled, whole, name)


@every_filter
def test_a_tile_may_lie_beyond_reach_of_the_image(name, monkeypatch):
    shrink_tiles(monkeypatch, TINY["columns"])
    images = random_images((2, 3), "uint8")
    for border in reference.BORDERS:
        tiled = CALLS[name](images, border=border, value=9)
        monkeypatch.undo()
        forget()
        assert_equal(tiled, CALLS[name](images, border=border, value=9), "uint8")
        shrink_tiles(monkeypatch, TINY["columns"])


# ---------------------------------------------------------------- batches, channels, strides


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in CALLS for d in DTYPES if takes(n, d)])
def test_a_batch_is_its_images_one_by_one(name, dtype):
    images = random_images((2, 3, 9, 12), dtype)
    result = CALLS[name](images)
    assert result.shape == images.shape
    for place in np.ndindex(2, 3):
        assert_equal(result[place], CALLS[name](images[place]), images.dtype)


def sums_by_layout(engine):
    """How the calls begin whose float sums may hang on strides, in their last bits.

    CUDA has kernels of their own for rows that begin at multiples of 16 bytes.
    """
    return () if engine == "numpy" else ("box", *SUMS)


@every_filter
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_channels_are_planes(name, dtype, engine):
    images = random_images((2, 9, 12, 3), dtype)
    result = CALLS[name](images, channel_axis=-1)
    planes = CALLS[name](np.moveaxis(images, -1, 1))
    assert_same_sums(result, np.moveaxis(planes, 1, -1), name, sums_by_layout(engine) or SUMS)
    assert_equal(CALLS[name](images, channel_axis=3), result, dtype)


def overlapping(images):
    """Windows of one array: planes that share memory."""
    return np.lib.stride_tricks.sliding_window_view(images[0], (7, 9), (0, 1))[:3, ::2]


VIEWS = {
    "negative": lambda a: a[:, ::-1, ::-1],
    "every second": lambda a: a[::2, 1::2, ::3],
    "Fortran": lambda a: np.asfortranarray(a),
    "transposed": lambda a: a.T,
    "broadcast planes": lambda a: np.broadcast_to(a[0], (3, 2, *a[0].shape)),
    "broadcast rows": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "one column for all": lambda a: np.broadcast_to(a[:, :, :1], a.shape),
    "axes that do not merge": lambda a: a.reshape(2, 2, 13, 16)[:, ::-1].transpose(1, 0, 2, 3),
    "overlapping": overlapping,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "inner step": lambda a: np.repeat(a[..., np.newaxis], 2, -1)[..., 1],
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


@every_filter
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_strides_do_not_matter(name, view, dtype, engine):
    images = view(random_images((4, 13, 16), dtype))
    expected = CALLS[name](np.array(images, dtype))
    assert_same_sums(CALLS[name](images), expected, name, sums_by_layout(engine))


APART = {
    "planes": ((3, 2, 9, 16), lambda memory: np.moveaxis(memory, 0, -1)),
    "backwards": ((2, 9, 16, 3), lambda memory: memory[..., ::-1]),
    "of wider pixels": ((2, 9, 16, 16), lambda memory: memory[..., :3]),
}
"""Channels that do not lie side by side: memory, and the view of it that holds the images."""


@every_filter
@pytest.mark.parametrize(("shape", "view"), APART.values(), ids=APART)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channels_need_not_lie_side_by_side(name, shape, view, dtype, engine):
    images, apart = random_images((2, 9, 16, 3), dtype), view(np.zeros(shape, dtype))
    apart[...] = images
    expected = CALLS[name](images, channel_axis=-1)
    result = CALLS[name](apart, channel_axis=-1)
    assert_same_sums(result, expected, name, sums_by_layout(engine))
    out = view(np.zeros(shape, dtype))
    assert CALLS[name](images, channel_axis=-1, out=out) is out
    assert_same_sums(out, expected, name, sums_by_layout(engine))


@every_filter
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(5, 13), (5, 18), (5, 35), (5, 6, 3), (5, 9, 2)])
def test_rows_may_have_room_behind(name, shape, dtype, engine):
    # They begin at multiples of 16 bytes, as CUDA's fast kernels want them, and end anywhere.
    def roomy():
        memory = np.full((shape[0], 48), 77, dtype)
        size = math.prod(shape[1:])
        return memory[:, :size].reshape(shape), memory[:, size:]

    axis = None if len(shape) == 2 else -1
    images, (view, _), (out, room) = random_images(shape, dtype), roomy(), roomy()
    view[...] = images
    CALLS[name](view, channel_axis=axis, border="wrap", out=out)
    expected = CALLS[name](images, channel_axis=axis, border="wrap")
    assert_same_sums(out, expected, name, sums_by_layout(engine))
    assert np.all(room == 77)


@every_filter
def test_images_are_left_alone(name):
    for dtype in ("uint8", "float32"):
        images = random_images((3, 8, 9), dtype).copy()
        before = images.copy()
        result = CALLS[name](images)
        assert_equal(images, before, dtype)
        assert not np.shares_memory(result, images)
        assert result.flags.writeable
        assert result.flags.c_contiguous


def test_windows_of_one_pixel_copy():
    images = random_images((5, 6), "uint8").copy()
    for run in (filters.box_blur, filters.median_blur, filters.dilate, filters.morph_open):
        result = run(images, 1)
        assert_equal(result, images, "uint8")
        assert not np.shares_memory(result, images)


@pytest.mark.not_emulated
@pytest.mark.parametrize("name", [name for name in CALLS if "large" not in name])
def test_more_planes_than_a_launch_grid(name):
    planes = np.broadcast_to(random_images((1, 2, 3), "uint8"), (70_000, 2, 3))
    result = CALLS[name](planes)
    assert_equal(result, np.broadcast_to(CALLS[name](planes[0]), planes.shape), "uint8")


@pytest.mark.parametrize("synonym", SYNONYMS)
def test_border_synonyms_mean_the_border(synonym):
    images = random_images((7, 8), "uint8")
    result = filters.box_blur(images, 5, border=synonym)
    assert_equal(result, filters.box_blur(images, 5, border=SYNONYMS[synonym].value), "uint8")


# ---------------------------------------------------------------- lists, empty batches


@every_filter
def test_a_list_of_different_images_gives_a_list(name):
    images = [random_images((5, 6), "uint8"), random_images((2, 3, 4), "float32")]
    results = CALLS[name](images)
    assert isinstance(results, list)
    for result, image in zip(results, images, strict=True):
        assert_equal(result, CALLS[name](image), image.dtype)
    assert CALLS[name](tuple(images))[0].shape == (5, 6)
    assert CALLS[name]([]) == []


def test_a_list_may_hold_nested_python_lists():
    (result,) = filters.dilate([[[1, 2], [3, 4]]], 3)
    assert_equal(result, np.full((2, 2), 4), np.asarray([1]).dtype)


@every_filter
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_an_empty_batch_gives_an_empty_result(name, dtype):
    for shape, keywords in (((0, 5, 6), {}), ((3, 0, 5, 6, 2), {"channel_axis": -1})):
        result = CALLS[name](np.zeros(shape, dtype), **keywords)
        assert result.shape == shape
        assert result.dtype == dtype


# ---------------------------------------------------------------- out


@every_filter
@pytest.mark.parametrize(
    "make",
    [
        lambda shape, dtype: np.empty(shape, dtype),
        lambda shape, dtype: np.empty(shape[::-1], dtype).T,
        lambda shape, dtype: np.empty(shape, dtype)[:, ::-1, ::-1],
        lambda shape, dtype: np.empty([2 * n for n in shape], dtype)[::2, 1::2, ::2],
        lambda shape, dtype: np.empty((*shape[1:], shape[0]), dtype).transpose(2, 0, 1),
    ],
    ids=["contiguous", "Fortran", "negative", "stepped", "planes last"],
)
def test_out_of_any_strides_is_filled_and_returned(name, make):
    for dtype in ("uint8", "float32"):
        images = random_images((3, 8, 9), dtype)
        out = make(images.shape, dtype)
        assert CALLS[name](images, out=out) is out
        assert_equal(out, CALLS[name](images), dtype)


@every_filter
def test_out_whose_leading_axes_do_not_merge_is_filled(name):
    images = random_images((2, 3, 8, 9), "uint8")
    out = np.empty((3, 2, 8, 9), np.uint8).transpose(1, 0, 2, 3)
    stepped = np.empty((2, 6, 8, 9), np.uint8)[:, ::2]
    for target in (out, stepped):
        assert CALLS[name](images, out=target) is target
        assert_equal(target, CALLS[name](images), "uint8")


def test_out_takes_a_list_for_a_list_and_another_dtype_for_out_dtype():
    images = [random_images((5, 6), "uint8"), random_images((3, 4), "uint8")]
    outs = [np.empty(image.shape, np.int16) for image in images]
    results = filters.sobel(images, axis=0, out=outs, out_dtype="int16")
    assert all(result is out for result, out in zip(results, outs, strict=True))
    for out, image in zip(outs, images, strict=True):
        assert_equal(out, filters.sobel(image, axis=0, out_dtype="int16"), "int16")


def test_out_beside_the_images_in_one_buffer_is_accepted():
    buffer = np.zeros((2, 6, 7), np.uint8)
    buffer[0] = random_images((6, 7), "uint8")
    filters.box_blur(buffer[0], 3, out=buffer[1])
    assert_equal(buffer[1], filters.box_blur(buffer[0], 3), "uint8")


# ---------------------------------------------------------------- memory


MEMORY_CALLS = {
    "gaussian_blur 3": lambda images: filters.gaussian_blur(images, 3),
    "gaussian_blur 200": lambda images: filters.gaussian_blur(images, 200),
    "filter2d 31x31": lambda images: filters.filter2d(images, np.eye(31) + 0.1),
    "filter2d 401x401": lambda images: filters.filter2d(images, LARGE),
    "box_blur 999": lambda images: filters.box_blur(images, 999),
    "sobel": lambda images: filters.sobel(images),
    "unsharp_mask": lambda images: filters.unsharp_mask(images, 3),
    "median_blur 5": lambda images: filters.median_blur(images, 5),
    "median_blur 31": lambda images: filters.median_blur(images, 31),
    "dilate 501": lambda images: filters.dilate(images, 501),
    "dilate by a disk": lambda images: filters.dilate(images, footprint=DISK),
    "morph_open 31": lambda images: filters.morph_open(images, 31),
    "morph_gradient 31": lambda images: filters.morph_gradient(images, 31),
}
LARGE = np.random.default_rng(41).normal(size=(401, 401))
DISK = np.hypot(*np.mgrid[-15:16, -15:16]) <= 15
QUICK = {  # MEMORY_CALLS by the megapixels that take about a second
    "gaussian_blur 3": (1500, 2000),
    "gaussian_blur 200": (400, 700),
    "filter2d 31x31": (300, 1000),
    "box_blur 999": (1500, 2000),
    "sobel": (1500, 2000),
    "unsharp_mask": (1500, 2000),
    "median_blur 5": (1000, 1500),
    "median_blur 31": (40, 1000),
    "dilate 501": (1500, 2000),
    "dilate by a disk": (500, 1000),
    "morph_open 31": (1500, 2000),
    "morph_gradient 31": (1500, 2000),
}


def workspace_mib(run, images):
    """Peak memory of a call beyond its result, in MiB."""
    tracemalloc.start()
    try:
        result = run(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (peak - result.nbytes) / 2**20


@pytest.mark.numpy_alone
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("name", QUICK)
def test_filters_work_in_64_mib(name, dtype):
    if dtype == "float64" and name in ("filter2d 31x31", "median_blur 31"):
        pytest.skip("too slow here; the slow run has it")
    images = random_images(QUICK[name], dtype)
    assert workspace_mib(MEMORY_CALLS[name], images) < 64


@pytest.mark.numpy_alone
@pytest.mark.parametrize("run", [filters.box_blur, filters.dilate, filters.morph_open])
def test_filters_work_in_64_mib_on_a_batch_that_is_mostly_border(run):
    images = np.broadcast_to(random_images((4, 5), "float64"), (1500, 4, 5))
    assert workspace_mib(lambda images: run(images, (1, 1999)), images) < 64


@pytest.mark.numpy_alone
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gaussian_blur 3", (250_000, 1)),
        ("sobel", (250_000, 1)),
        ("morph_open 31", (250_000, 1)),
        ("dilate by a disk", (250_000, 1)),
        ("median_blur 5", (40_000, 1, 10)),
    ],
)
def test_rows_shorter_than_a_cache_line_take_no_more(name, shape):
    images = np.broadcast_to(random_images(shape[1:], "uint8"), shape)
    assert workspace_mib(MEMORY_CALLS[name], images) < 32


@pytest.mark.numpy_alone
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
@pytest.mark.parametrize("name", MEMORY_CALLS)
def test_filters_work_in_64_mib_on_large_images(name, dtype):
    shape = (400, 400) if name in ("filter2d 401x401", "median_blur 31") else (1500, 2000)
    assert workspace_mib(MEMORY_CALLS[name], random_images(shape, dtype)) < 64


# ---------------------------------------------------------------- laws


laws = settings(derandomize=True, deadline=None, max_examples=25)
sides = st.integers(1, 12)
small_dtypes = st.sampled_from(["uint8", "int8", "uint16", "int16", "int32"])
borders = st.sampled_from(reference.BORDERS)
windows = st.tuples(st.integers(1, 6), st.integers(1, 6))


@st.composite
def pictures(draw, dtypes=small_dtypes):
    shape = (draw(sides), draw(sides))
    return random_images(shape, draw(dtypes), draw(st.integers(0, 2**32 - 1)))


@laws
@given(pictures(st.sampled_from(DTYPES)), windows, borders, st.data())
def test_identity_kernels_change_nothing(images, size, border, data):
    kernel = np.zeros(size)
    anchor = tuple(data.draw(st.integers(0, n - 1)) for n in size)
    kernel[anchor] = 1
    result = filters.filter2d(images, kernel, anchor=anchor, border=border)
    assert_equal(result, images, images.dtype)


@laws
@given(pictures(), windows, borders, st.integers(0, 2**32 - 1), st.integers(-9, 9))
def test_filter2d_of_integers_is_linear(images, size, border, seed, factor):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-50, 50, (2, *size))
    common = {"border": border, "out_dtype": "int64"}
    whole = filters.filter2d(images, first + factor * second, **common)
    parts = [filters.filter2d(images, k, **common) for k in (first, second)]
    assert_equal(whole, parts[0] + factor * parts[1], np.dtype("int64"))
    other = random_images(images.shape, "int16", seed)
    both = filters.filter2d(images.astype(np.int64) + other, first, **common)
    assert_equal(both, parts[0] + filters.filter2d(other, first, **common), np.dtype("int64"))


@laws
@given(st.sampled_from(sorted(CALLS)), st.integers(0, 5), st.integers(0, 5))
def test_a_shifted_image_gives_the_shifted_result(name, down, right):
    images = random_images((48, 50), "uint8")
    shifted = CALLS[name](images[down:, right:])
    inside = (slice(12, 30), slice(12, 30))
    plain = CALLS[name](images)[down:, right:]
    assert_equal(shifted[inside], plain[inside], "uint8")


@laws
@given(pictures(st.sampled_from(["uint8", "uint16"])), windows, borders)
def test_erosion_is_the_dilation_of_the_negative(images, size, border):
    high = np.iinfo(images.dtype).max
    dilated = high - filters.dilate(high - images, size, border=border, value=high)
    assert_equal(filters.erode(images, size, border=border), dilated, images.dtype)


@laws
@given(pictures(), st.sampled_from([1, 3, 5]), st.sampled_from(["edge", "symmetric"]))
def test_opening_twice_is_opening_once(images, size, border):
    for run in (filters.morph_open, filters.morph_close):
        once = run(images, size, border=border)
        assert_equal(run(once, size, border=border), once, images.dtype)


@laws
@given(pictures(st.just("uint8")), windows, st.integers(0, 35), st.integers(0, 2**32 - 1), borders)
def test_ranks_commute_with_monotone_maps(images, size, place, seed, border):
    table = np.sort(np.random.default_rng(seed).integers(-(2**15), 2**15, 256)).astype(np.int16)
    place %= size[0] * size[1]
    for run in (
        lambda x, **k: filters.median_blur(x, size, **k),
        lambda x, **k: filters.rank_filter(x, place, size, **k),
    ):
        mapped = run(table[images], border=border, value=int(table[7]))
        assert_equal(mapped, table[run(images, border=border, value=7)], "int16")


@laws
@given(pictures(), windows, borders)
def test_box_blur_lies_between_erosion_and_dilation(images, size, border):
    mean = filters.box_blur(images, size, border=border)
    assert np.all(filters.erode(images, size, border=border) <= mean)
    assert np.all(mean <= filters.dilate(images, size, border=border))
    assert np.array_equal(
        filters.erode(images, size, border=border),
        filters.rank_filter(images, 0, size, border=border),
    )
