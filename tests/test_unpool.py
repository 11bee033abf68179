"""max_unpool1d, 2d and 3d against the reference and the pools that they undo."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from tests import reference
from tests.image_cases import assert_equal
from tests.map_cases import LAYOUTS, public_layout, random_maps, random_values, shrink_tiles


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("tiles", ["whole", "small"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int64"])
def test_max_unpool_puts_values_back(dtype, rank, layout, tiles, monkeypatch):
    if tiles == "small":
        shrink_tiles(monkeypatch, rank)
    sizes = (7, 6, 8)[:rank]
    x = random_maps(layout, 3, sizes, dtype)
    named = {"layout": public_layout(layout)}
    pool, unpool = (f"max_{p}{rank}d" for p in ("pool", "unpool"))
    for window in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1}):
        values, indices = getattr(gpuconv, pool)(x, **window, return_indices=True, **named)
        result = getattr(gpuconv, unpool)(values, indices, output_size=sizes, **window, **named)
        arguments = {"output_size": sizes, **window, **named}
        expected = getattr(reference, unpool)(values, indices, **arguments)
        assert_equal(result, expected.astype(x.dtype), x.dtype)
        whole = x.shape
        again = getattr(gpuconv, unpool)(values, indices, output_size=whole, **window, **named)
        np.testing.assert_array_equal(again, result)


def test_of_equal_indices_the_last_wins():
    values, indices = np.arange(1, 5, dtype=np.int16)[None], np.array([[3, 0, 3, 0]], np.uint64)
    np.testing.assert_array_equal(gpuconv.max_unpool1d(values, indices, 1), [[4, 0, 0, 3]])


@pytest.mark.parametrize("wrong", [-1, 8, 2**40])
def test_indices_outside_the_plane_are_refused(wrong):
    values, indices = random_values((1, 2, 4), "float32"), np.zeros((1, 2, 4), np.int64)
    indices[0, 1, 2] = wrong
    with pytest.raises(ValueError, match=rf"^indices must lie in \[0, 8\), got {wrong}"):
        gpuconv.max_unpool1d(values, indices, 2)
