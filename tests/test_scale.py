"""Operations on Dask arrays against the array in one piece: every border, any chunks, any batch."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuconv
from gpuconv import Pipeline, filters, scale
from gpuconv.extras import MissingExtraError
from gpuconv.tiling import NotTileableError
from tests.reference import BORDERS
from tests.step_cases import FILTERS, POOLS, STEPS, image

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")


def assert_chunks_are_the_whole(function, source, chunks, channel_axis=None, wanted=None):
    """The result of chunks, computed in this thread, is the whole's; returns the Dask array."""
    axis = {} if channel_axis is None else {"channel_axis": channel_axis}
    run = function if callable(function) else Pipeline(function)
    whole = run(source, **axis)
    array = da.from_array(source, chunks=chunks)
    result = scale.map(function, array, channel_axis=channel_axis, chunks=wanted)
    assert (result.shape, result.dtype) == (whole.shape, whole.dtype)
    blocks = [
        result.blocks[index]
        for index in itertools.islice(np.ndindex(*result.numblocks), 3)
        if result.size
    ]
    found, *some = dask.compute(result, *blocks, scheduler="synchronous")
    assert type(found) is np.ndarray
    assert [block.shape for block in some] == [block.shape for block in blocks]
    if whole.dtype.kind == "f":
        tolerance = 64 * np.finfo(whole.dtype).eps * (float(np.abs(whole).max(initial=0)) + 1)
        np.testing.assert_allclose(found, whole, rtol=0, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, whole)
    return result


# ---------------------------------------------------------------- any operation, any chunks


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("step", FILTERS)
def test_filters_of_chunks_are_those_of_the_whole(step, border):
    text = f"{step}{',' if ':' in step else ':'}border={border},value=9"
    chunks = ((1, 6, 1, 1, 14), (9, 2, 8))
    result = assert_chunks_are_the_whole(text, image((23, 19), np.uint8), chunks)
    assert result.chunks == chunks


@pytest.mark.parametrize("step", POOLS)
def test_pools_of_chunks_are_those_of_the_whole(step):
    chunks = ((1, 11, 1, 7, 17), (13, 2, 14))
    assert_chunks_are_the_whole(step, image((37, 29), np.uint16), chunks)
    colour = image((37, 29, 3), np.float32)
    assert_chunks_are_the_whole(step, colour, (*chunks, (1, 2)), channel_axis=-1)


def some_chunks(draw, size):
    cuts = draw(st.lists(st.integers(0, size), max_size=4))
    return tuple(b - a for a, b in itertools.pairwise([0, *sorted(cuts), size]))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    chain=st.lists(STEPS, min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    dtype=st.sampled_from([np.uint8, np.int16]),
    form=st.sampled_from(["HW", "NHW", "HWC", "NHWC"]),
    own=st.booleans(),
    data=st.data(),
)
def test_chains_of_chunks_are_those_of_the_whole(chain, size, dtype, form, own, data):
    sizes = {"N": 3, "H": size[0], "W": size[1], "C": 2}
    source = image([sizes[axis] for axis in form], dtype)
    axis = -1 if form[-1] == "C" else None
    pipeline = Pipeline(*chain)
    try:
        shape = pipeline(source, channel_axis=axis).shape
    except ValueError:  # a pool's window that does not fit
        return
    chunks = tuple(some_chunks(data.draw, n) for n in source.shape)
    wanted = None
    if own:
        whole = [letter == "C" for letter in form]
        wanted = tuple(
            n if one else some_chunks(data.draw, n) for n, one in zip(shape, whole, strict=True)
        )
    result = assert_chunks_are_the_whole(pipeline, source, chunks, axis, wanted)
    if not own:
        assert all(0 not in result.chunks[place] for place in map(form.index, "HW"))


@pytest.mark.parametrize("border", BORDERS)
def test_windows_may_reach_over_many_chunks(border):
    step = f"box_blur:size=(9,15),border={border}"
    assert_chunks_are_the_whole(step, image((12, 16), np.uint8), (1, 1))
    assert_chunks_are_the_whole(step, image((3, 4), np.uint8), (1, 2))


@pytest.mark.parametrize("mode", BORDERS)
@pytest.mark.parametrize("stride", [1, 3])
def test_convolutions_of_chunks_are_those_of_the_whole(mode, stride):
    weight = image((4, 3, 3, 5), np.int8, 1)
    maps = image((3, 3, 33, 41), np.uint8, 2)

    def convolve(x):
        return gpuconv.conv2d(
            x, weight, stride=stride, padding=(2, 3), dilation=(2, 1), padding_mode=mode, value=7
        )

    result = assert_chunks_are_the_whole(convolve, maps, ((2, 1), 1, (10, 1, 22), (17, 24)))
    assert result.numblocks == (2, 1, 3 if stride == 1 else 2, 2)
    assert_chunks_are_the_whole(convolve, maps[0], (1, (10, 1, 22), 20))


def test_networks_of_chunks_are_those_of_the_whole():
    first, second = image((8, 3, 3, 3), np.int8, 1), image((4, 8, 3, 3), np.int8, 2)

    def network(x):
        maps = gpuconv.conv2d_pool2d(x, first, padding=1, out_dtype="int8")
        maps = filters.median_blur(maps, 3)
        maps = gpuconv.conv2d(maps, second, padding="same", dilation=2, activation="relu")
        return gpuconv.max_pool2d(maps, 2)

    source = image((2, 3, 40, 52), np.uint8)
    result = assert_chunks_are_the_whole(network, source, (1, 3, (20, 20), (12, 40)))
    assert result.chunks == ((1, 1), (4,), (5, 5), (3, 10))


def test_transposed_convolutions_and_channels_last():
    weight = image((3, 2, 4, 4), np.float32, 1)

    def up(x):
        return gpuconv.conv_transpose2d(x, weight, stride=2, padding=1)

    def last(x):
        return gpuconv.conv2d(x, weight, padding=1, layout="NHWC")

    result = assert_chunks_are_the_whole(up, image((2, 3, 16, 20), np.float32), (1, 2, 8, 5))
    assert result.chunks == ((1, 1), (2,), (16, 16), (10,) * 4)
    assert_chunks_are_the_whole(last, image((2, 16, 20, 2), np.float32), (1, 5, 7, 1))


# ---------------------------------------------------------------- batches


def test_batches_keep_their_chunks():
    source = image((4, 5, 12, 10), np.uint8)
    chunks = ((1, 3), (2, 3), (7, 5), 10)
    for step in ("sobel", "max_pool2d:kernel_size=2"):
        result = assert_chunks_are_the_whole(step, source, chunks)
        assert result.chunks[:2] == ((1, 3), (2, 3))


def test_a_function_that_folds_the_batch_may_insist_on_its_shape():
    weight = image((4, 3, 3, 3), np.int8, 1)
    source = image((2, 3, 12, 10), np.uint8)

    def folded(x):
        return gpuconv.conv2d(x.reshape((1, *x.shape)), weight, padding=1).reshape((4, 12, 10))

    def mixed(x):
        maps = gpuconv.conv2d(x.reshape((1, 6, 12, 10)), image((6, 6, 3, 3), np.int8), padding=1)
        return maps.reshape((2, 3, 12, 10))

    def fixed(x):
        maps = gpuconv.max_pool2d(x.reshape((6, 1, 12, 10)), 3, 1, 1)
        return maps.reshape((2, 3, 12, 10))

    assert_chunks_are_the_whole(folded, source[0], (1, 5, 5))
    assert_chunks_are_the_whole(mixed, source, (1, 1, 5, 5))
    assert_chunks_are_the_whole(fixed, source, (1, 3, 5, 5))


def test_an_empty_batch_and_an_empty_chunk():
    assert_chunks_are_the_whole("sobel", image((0, 9, 8), np.uint8), (1, 4, 4))
    result = assert_chunks_are_the_whole("sobel", image((9, 8), np.uint8), ((4, 0, 5), (0, 8)))
    assert result.chunks == ((4, 5), (8,))


def test_read_only_and_foreign_byte_order():
    source = image((20, 30), np.int16).astype(">i2")
    source.setflags(write=False)
    found = scale.map("median_blur:size=3", da.from_array(source, chunks=8)).compute()
    np.testing.assert_array_equal(found, filters.median_blur(source, 3))


# ---------------------------------------------------------------- chunks of the result


def test_strided_chunks_lie_where_their_windows_do():
    array = da.zeros((4003, 4003), chunks=1000, dtype=np.uint8)
    result = scale.map("max_pool2d:kernel_size=4", array)
    assert result.chunks[0] == (250, 250, 250, 250)
    result = scale.map("max_pool2d:kernel_size=3,stride=2,padding=1", array)
    assert result.chunks[0] == (500, 500, 500, 500, 2)


def test_chunks_can_be_asked_for():
    source = image((4, 20, 30), np.uint8)
    array = da.from_array(source, chunks=(2, 10, 10))
    for chunks, expected in (
        ((1, 7, None), ((1,) * 4, (7, 7, 6), (10,) * 3)),
        ({-1: 15}, ((2, 2), (10, 10), (15, 15))),
        (-1, ((4,), (20,), (30,))),
    ):
        result = scale.map("sobel", array, chunks=chunks)
        assert result.chunks == expected
        np.testing.assert_array_equal(result.compute(), filters.sobel(source))
    with pytest.raises(ValueError, match="chunks must leave axis 2 whole"):
        scale.map("sobel", array, channel_axis=-1, chunks=(4, 20, 10))


# ---------------------------------------------------------------- tasks


class Counted:
    """An array that counts what is read of it."""

    def __init__(self, shape):
        self.shape, self.dtype, self.ndim = shape, np.dtype(np.uint8), len(shape)
        self.chunks_read = set()

    def __getitem__(self, place):
        self.chunks_read.add(tuple(part.start for part in place))
        return np.zeros([part.stop - part.start for part in place], self.dtype)


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("reflect", {(y, x) for y in (0, 100) for x in (0, 100)}),
        ("wrap", {(y, x) for y in (0, 100, 900) for x in (0, 100, 900)}),
    ],
)
def test_a_corner_of_the_result_loads_a_corner_of_the_source(border, expected):
    source = Counted((1000, 1000))
    array = da.from_array(source, chunks=100, asarray=False, meta=np.empty((0, 0), np.uint8))
    result = scale.map(f"gaussian_blur:sigma=2,border={border}", array)
    source.chunks_read.clear()
    result[:100, :100].compute()
    assert source.chunks_read == expected


def test_a_block_has_few_tasks_and_gets_thin_strips():
    array = da.zeros((3000, 3000), chunks=1000, dtype=np.uint8)
    result = scale.map("box_blur:size=5", array)
    layer = result.dask.layers[result.name]
    blocks = [key for key in layer if key[0] == result.name]
    strips = [key for key in layer if key[0].endswith("strip")]
    assert len(blocks) == 9
    assert len(strips) == 24  # two for each of the twelve edges between chunks
    assert len(layer) == 9 + 24 + 1
    for _, axis, start, stop, *_ in strips:
        assert axis in (-2, -1)
        assert stop - start == 2


def test_pooling_of_aligned_chunks_needs_no_strips():
    array = da.zeros((3000, 3000), chunks=1000, dtype=np.uint8)
    result = scale.map("max_pool2d:kernel_size=2", array)
    assert len(result.dask.layers[result.name]) == 9 + 1


def test_graphs_grow_with_the_blocks_alone():
    array = da.zeros((3200, 3200), chunks=100, dtype=np.uint8)
    result = scale.map("gaussian_blur:sigma=2", array)
    assert result.numblocks == (32, 32)
    assert len(result.dask.layers[result.name]) <= 5 * 32 * 32 + 1


def test_nothing_is_computed_before_it_is_asked_for():
    source = Counted((100, 100))
    array = da.from_array(source, chunks=10, asarray=False, meta=np.empty((0, 0), np.uint8))
    scale.map("sobel", array)
    assert source.chunks_read == set()


def test_names_tell_results_apart():
    array = da.from_array(image((20, 20), np.uint8), chunks=10)
    name = scale.map("sobel", array).name
    assert scale.map("sobel", array).name == name
    assert scale.map("scharr", array).name != name
    assert scale.map("sobel", array, chunks=5).name != name
    assert scale.map("sobel", array, backend="numpy").name != name


def test_graphs_can_be_pickled():
    source = image((2, 3, 20, 20), np.uint8)
    weight = image((4, 3, 3, 3), np.int8)
    array = da.from_array(source, chunks=(1, 3, 10, 10))
    result = scale.map(lambda x: gpuconv.conv2d(x, weight), array)
    restored = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(restored.compute(), gpuconv.conv2d(source, weight))


def test_the_threads_of_dask_give_the_same():
    source = image((300, 200), np.uint8)
    result = scale.map("gaussian_blur:sigma=3", da.from_array(source, chunks=70))
    found = result.compute(scheduler="threads", num_workers=4)
    np.testing.assert_array_equal(found, filters.gaussian_blur(source, 3))


class OtherArray(np.ndarray):
    """Stands for another library's arrays."""


def test_the_array_library_is_kept():
    source = image((20, 20), np.uint8).view(OtherArray)
    array = da.from_array(source, chunks=10, asarray=False)
    assert isinstance(scale.map("sobel", array)._meta, OtherArray)


# ---------------------------------------------------------------- errors


def test_errors():
    array = da.zeros((20, 20), chunks=10, dtype=np.uint8)
    with pytest.raises(TypeError, match="array must be a Dask array, got ndarray"):
        scale.map("sobel", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"known sizes.*compute_chunk_sizes"):
        scale.map("sobel", array[array[:, 0] == 0])
    with pytest.raises(NotTileableError, match="more than gpuconv's operations"):
        scale.map(lambda x: filters.sobel(x) + 1, array)
    with pytest.raises(ValueError, match="sobble"):
        scale.map("sobble", array)
    with pytest.raises(ValueError, match="backend must be one of"):
        scale.map("sobel", array, backend="gpu")
    with pytest.raises(TypeError):
        scale.map("sobel", array.astype(complex))


def test_dask_is_needed_only_by_a_call(monkeypatch):
    code = "import sys, gpuconv.scale; sys.exit('dask' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gpuconv\[dask\]'"):
        scale.map("sobel", None)
