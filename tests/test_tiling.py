"""Tiles against the whole: every operation, every border, any tile, and chains of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuconv
from gpuconv import Pipeline, filters
from gpuconv.errors import NotTileableError
from gpuconv.tiling import cut, trace
from tests.reference import BORDERS
from tests.step_cases import FILTERS, POOLS, STEPS, image


def tiled(function, source, tile, channel_axis=None):
    """The result put together from tiles, each of which reads only what it needs."""
    chain = trace(function, source.shape, source.dtype, channel_axis=channel_axis)
    y, x = chain.axes

    def read(rows, columns):
        place = [slice(None)] * source.ndim
        place[y], place[x] = (slice(r.start, r.stop) for r in (rows, columns))
        for wanted, axis in ((rows, y), (columns, x)):
            assert 0 <= wanted.start < wanted.stop <= source.shape[axis]
        return source[tuple(place)]

    bands = [
        [chain.compute(rows, columns, read) for columns in cut(chain.size[1], tile[1])]
        for rows in cut(chain.size[0], tile[0])
    ]
    result = np.concatenate([np.concatenate(band, axis=x) for band in bands], axis=y)
    assert (result.shape, result.dtype) == (chain.output.shape, chain.output.dtype)
    return result


def assert_tiles_are_the_whole(function, source, tile, channel_axis=None):
    keywords = {} if channel_axis is None else {"channel_axis": channel_axis}
    whole = function(source, **keywords)
    found = tiled(function, source, tile, channel_axis)
    if whole.dtype.kind == "f":
        scale = float(np.abs(whole).max()) + 1
        tolerance = 64 * np.finfo(whole.dtype).eps * scale
        np.testing.assert_allclose(found, whole, rtol=0, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("step", FILTERS)
@pytest.mark.parametrize(
    ("shape", "tile"), [((37, 29), (5, 8)), ((6, 70), (4, 11)), ((3, 2), (1, 1))]
)
def test_filters_by_tiles_are_those_of_the_whole(step, border, shape, tile):
    separator = "," if ":" in step else ":"
    pipeline = Pipeline(f"{step}{separator}border={border},value=9")
    assert_tiles_are_the_whole(pipeline, image(shape, np.uint8), tile)


@pytest.mark.parametrize("step", POOLS)
@pytest.mark.parametrize(("shape", "tile"), [((37, 29), (3, 4)), ((24, 18), (2, 100))])
def test_pools_by_tiles_are_those_of_the_whole(step, shape, tile):
    assert_tiles_are_the_whole(Pipeline(step), image(shape, np.uint16), tile)
    colour = image((*shape, 3), np.float32)
    assert_tiles_are_the_whole(Pipeline(step), colour, tile, channel_axis=-1)


@settings(max_examples=60, deadline=None)
@given(
    chain=st.lists(STEPS, min_size=2, max_size=4),
    height=st.integers(20, 60),
    width=st.integers(20, 60),
    tile=st.tuples(st.integers(1, 20), st.integers(1, 30)),
    dtype=st.sampled_from([np.uint8, np.int16, np.float64]),
    colour=st.booleans(),
)
def test_chains_by_tiles_are_those_of_the_whole(chain, height, width, tile, dtype, colour):
    source = image((height, width, 3) if colour else (2, height, width), dtype)
    axis = -1 if colour else None
    pipeline = Pipeline(*chain)
    try:
        pipeline(source, channel_axis=axis)
    except ValueError:  # a pool's window that no longer fits
        return
    assert_tiles_are_the_whole(pipeline, source, tile, axis)


@pytest.mark.parametrize("mode", BORDERS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_by_tiles_are_those_of_the_whole(mode, stride):
    weight = image((4, 3, 3, 5), np.int8, 1)
    maps = image((2, 3, 33, 41), np.uint8, 2)

    def convolve(x):
        return gpuconv.conv2d(
            x, weight, stride=stride, padding=(2, 3), dilation=(2, 1), padding_mode=mode, value=7
        )

    def pooled(x):
        return gpuconv.conv2d_pool2d(
            x,
            weight,
            stride=stride,
            padding=2,
            padding_mode=mode,
            pool_padding=1,
            pool_size=3,
            pool_stride=2,
        )

    for function in (convolve, pooled):
        assert_tiles_are_the_whole(function, maps, (3, 4))


def test_networks_by_tiles_are_those_of_the_whole():
    first, second = image((8, 3, 3, 3), np.float32, 1), image((4, 8, 3, 3), np.float32, 2)

    def network(x):
        maps = gpuconv.conv2d_pool2d(x.reshape(1, *x.shape), first, padding=1)
        maps = gpuconv.conv2d(maps, second, padding="same", dilation=2, activation="relu")
        return gpuconv.conv_transpose2d(maps, second, stride=2, padding=1)

    assert_tiles_are_the_whole(network, image((3, 40, 52), np.float32), (7, 9))


def test_nothing_but_a_chain_is_traced():
    photo = (40, 40)
    with pytest.raises(NotTileableError, match="no chain"):
        trace(lambda x: (filters.sobel(x), filters.laplacian(x))[1], photo, np.uint8)
    with pytest.raises(NotTileableError, match="more than gpuconv's operations"):
        trace(lambda x: filters.sobel(x) + 1, photo, np.uint8)
    with pytest.raises(NotTileableError, match="give back"):
        trace(lambda x: None, photo, np.uint8)
    with pytest.raises(ValueError, match="size must"):
        trace(lambda x: filters.median_blur(x, 0), photo, np.uint8)


def test_a_tile_keeps_to_the_limit():
    chain = trace(Pipeline("gaussian_blur:sigma=3", "median_blur:size=5"), (20000, 20000), np.uint8)
    for limit in (1 << 20, 1 << 24, 1 << 28):
        rows, columns = chain.tile(limit)
        assert chain.nbytes(rows, columns) <= limit
        assert 1 <= columns <= 20000
    rows, columns = chain.tile(1 << 26)
    assert columns == 20000
    assert 100 < rows < 2000
    with pytest.raises(NotTileableError, match="single pixel"):
        chain.tile(100)


def test_a_tile_of_a_global_pool_needs_the_whole_image():
    chain = trace(Pipeline("adaptive_avg_pool2d:output_size=1"), (3000, 3000), np.uint8)
    with pytest.raises(NotTileableError, match="single pixel"):
        chain.tile(1 << 20)
    assert chain.tile(1 << 26) == (1, 1)


def test_reads_tells_what_a_rectangle_depends_on():
    chain = trace(Pipeline("box_blur:size=5", "max_pool2d:kernel_size=2"), (100, 80), np.uint8)
    assert chain.reads(range(10, 20), range(0, 40)) == (range(18, 42), range(0, 80))
