"""The CUDA kernel of pooled convolutions: its launches, and windows that meet its tiles."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda import conv_pool, launch
from gpuconv.backends.cuda.conv import TILE
from tests.emulator import EmulatorBackend
from tests.image_cases import assert_equal, dtype_of
from tests.launchers import recorded, zeros
from tests.map_cases import random_maps, random_values


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("pool_size", [1, 2, 3, 20, (61, 1)])
def test_a_pooled_convolution_is_one_launch(pool_size, pool):
    x, w = zeros(2, 3, 64, 65), zeros(130, 3, 3, 3)
    (one,) = recorded(lambda: gpuconv.conv2d_pool2d(x, w, pool=pool, pool_size=pool_size))
    packed = one.arguments[-1]
    assert one.variant in set(conv_pool.variants())
    assert packed["row"]["tile"] * packed["column"]["tile"] <= TILE
    places = packed["down"] * packed["across"]
    assert one.grid[0] == packed["jobs"] == 2 * places * -(-130 // TILE)
    for axis, tiles in (("row", "down"), ("column", "across")):
        assert packed[axis]["tile"] * packed[tiles] >= packed[axis]["output"]


def test_tiles_of_large_windows_are_small():
    x, w = zeros(1, 3, 600, 600), zeros(4, 3, 3, 3)
    (one,) = recorded(lambda: gpuconv.conv2d_pool2d(x, w, pool_size=59))
    packed = one.arguments[-1]
    assert (packed["row"]["tile"], packed["column"]["tile"]) == (1, 1)


@pytest.fixture(scope="module")
def emulator():
    return EmulatorBackend(checked=True)


def same_as_one_by_one(emulator, x, w, bias, window, pool, **named):
    """Integers: bit for bit what NumPy's convolution and pool give one after the other."""
    layout = named.get("layout", "NCHW")
    maps = gpuconv.conv2d(x, w, bias, activation="relu", backend="numpy", **named)
    function = {"max": gpuconv.max_pool2d, "avg": gpuconv.avg_pool2d}[pool]
    expected = function(maps, *window, layout=layout, backend="numpy")
    size, stride, padding = window
    result = gpuconv.conv2d_pool2d(
        *(x, w, bias),
        **{"pool": pool, "pool_size": size, "pool_stride": stride, "pool_padding": padding},
        **named,
        backend=emulator,
    )
    assert_equal(result, expected, maps.dtype)


WINDOWS = {
    "side by side": (2, 2, 0),
    "overlapping": ((3, 4), (2, 1), 1),
    "apart": ((1, 2), (3, 5), 0),
    "many chunks": ((20, 30), (7, 1), (4, 9)),
    "the whole map": ((24, 38), 1, 0),
}


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_of_any_size_are_pooled(window, pool, layout, emulator):
    x = random_maps(layout, 5, (24, 38), "uint8")
    w, bias = random_values((70, 5, 3, 3), "int8"), random_values((70,), "int16")
    same_as_one_by_one(emulator, x, w, bias, WINDOWS[window], pool, layout=layout, padding=1)


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_blocks_take_jobs_in_turn(layout, emulator, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    x, w = random_maps(layout, 2, (20, 50), "uint8"), random_values((4, 1, 2, 2), "int8")
    named = {"groups": 2, "layout": layout}
    same_as_one_by_one(emulator, x, w, None, (2, 1, 0), "max", **named)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("pool", "out_dtype"),
    [
        *(("avg", dtype) for dtype in ("uint8", "int32", "uint64", "int64")),
        *(("max", dtype) for dtype in ("uint64", "int64", "float16", "bfloat16", "float64")),
    ],
)
def test_pools_follow_the_rounding_to_any_dtype(pool, out_dtype, emulator):
    x, w = random_values((1, 2, 9, 10), "int32"), random_values((3, 2, 3, 3), "int32")
    if out_dtype == "float16":
        x, w = x >> 24, w >> 28
    out_dtype = dtype_of(out_dtype)
    same_as_one_by_one(emulator, x, w, None, ((3, 2), 1, 1), pool, out_dtype=out_dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_averages_of_large_windows_lose_nothing(dtype, emulator):
    x = random_values((1, 1, 60, 70), dtype)
    w = np.ones((1, 1, 1, 1), dtype)
    result = gpuconv.conv2d_pool2d(
        x, w, activation=None, pool="avg", pool_size=(60, 70), backend=emulator
    )
    exact = np.mean(x.astype(np.longdouble))
    np.testing.assert_allclose(result[0, 0, 0, 0], exact, rtol=np.finfo(dtype).eps)


@pytest.mark.emulator
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_bad_values_reach_exactly_the_windows_that_hold_them(pool, emulator):
    x, w = np.zeros((1, 1, 12, 12), np.float32), np.ones((1, 1, 1, 1), np.float32)
    x[0, 0, 3, 3], x[0, 0, 7, 8], x[0, 0, 9, 1] = np.nan, np.inf, -np.inf
    expected = np.zeros((6, 6), np.float32)
    expected[1, 1], expected[3, 4] = np.nan, np.inf
    expected[4, 0] = -np.inf if pool == "avg" else 0
    result = gpuconv.conv2d_pool2d(x, w, activation=None, pool=pool, backend=emulator)
    np.testing.assert_array_equal(result[0, 0], expected)
