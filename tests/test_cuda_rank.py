"""Launches of the CUDA ranks, and what its kernels meet that the engine's tests do not."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import launch, rank
from gpuconv.backends.cuda.launch import SHARED_BYTES
from gpuconv.plan import gpu
from gpuconv.plan.filters import plan_rank
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, DTYPES, FLOATS, assert_equal, dtype_of, random_images
from tests.launchers import Memory, plan_launches


class Workspace(Memory):
    """The same, of any size: the tests look at the sum."""

    def empty(self, shape, dtype):
        self.bytes += math.prod(shape) * dtype.itemsize
        return np.broadcast_to(np.zeros(1, dtype), shape)


SORTED = ["rank_entries", "rank_sort", "rank_bits"]


def kernels_of(plan, memory, dtype=None):
    """The kernels that a plan launches, each once."""
    launches = plan_launches(rank, plan, memory, dtype)
    assert {one.variant for one in launches} <= set(rank.variants())
    assert all(one.shared_bytes <= SHARED_BYTES for one in launches)
    return list(dict.fromkeys(one.variant.kernel for one in launches))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "wanted", "kernel"),
    [
        *[(n, None, "median") for n in (3, 5, 7)],
        *[(n, None, "large") for n in (4, 9, 31, (3, 9), 75)],
        *[(n, None, "rank_any") for n in (1, 2)],
        *((3, 4, "median"), (7, 25, "large"), (200, None, "huge")),
    ],
    ids=str,
)
def test_kernels_by_the_size_of_the_window(size, wanted, kernel, dtype):
    one_byte = dtype_of(dtype).itemsize == 1
    images = np.broadcast_to(np.zeros(1, dtype_of(dtype)), (2, 500, 700))
    plan = plan_rank(images, wanted, size, **COMMON)
    memory = Workspace()
    kernels = kernels_of(plan, memory)
    assert memory.bytes <= rank.WORKSPACE_BYTES
    if kernel == "huge":
        assert kernels == (["rank_counts"] if one_byte else ["rank_any"])
    elif kernel == "large":
        assert kernels == (["rank_counts"] if one_byte else SORTED)
    else:
        assert kernels == [kernel]
    forms = {"median": "network", "rank_counts": "counts", "rank_bits": "sorted"}
    assert f"on a GPU {gpu.RANK[forms.get(kernels[-1], 'any')]}" in repr(plan)


def test_images_in_whole_packs_take_3x3_medians_by_strips():
    for dtype in DTYPES:
        images = np.broadcast_to(np.zeros(1, dtype_of(dtype)), (2, 500, 640))
        plan = plan_rank(images, None, 3, **COMMON)
        laid = np.zeros((2, 500, 640), dtype_of(dtype))
        (only,) = rank.launches(plan, [laid], [laid.copy()], Memory())
        wide = dtype_of(dtype).itemsize == 8
        assert only.variant.kernel == ("median" if wide else "median_strip")


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
@pytest.mark.parametrize("height", [1, 30, 5000])
@pytest.mark.parametrize("size", [5, 15, 31, 75, (75, 9), (3, 200)], ids=str)
def test_sorted_tiles_fit_their_memory(size, height, dtype):
    images = np.broadcast_to(np.zeros(1, dtype), (3, height, 3000))
    plan = plan_rank(images, 3, size, **COMMON)
    memory = Workspace()
    launches = plan_launches(rank, plan, memory)
    jobs = 0
    for one in launches[::3]:
        params = one.arguments[-1]
        assert params["count"] <= params["padded"] < 2 * max(int(params["count"]), 256)
        assert params["padded"] & (params["padded"] - 1) == 0
        assert params["first"] == jobs
        jobs += int(params["jobs"])
    assert jobs == 3 * -(-height // int(params["rows"])) * -(-3000 // 32)
    assert memory.bytes <= rank.WORKSPACE_BYTES


def test_medians_that_convert_are_ranks_of_any_pixels():
    images = np.broadcast_to(np.uint8(0), (50, 70))
    for size, names in ((2, ["rank_any<float, Any, Any>"]), (3, SORTED)):
        plan = plan_rank(images, None, size, **COMMON | {"out_dtype": "f4"})
        launches = plan_launches(rank, plan, Workspace(), np.uint8)
        assert len(launches) == len(names)
        for one, name in zip(launches, names, strict=True):
            assert one.variant.name.startswith(name)


# ---------------------------------------------------------------- on the emulator


def check(backend, images, size, wanted=None, **keywords):
    """The very numbers of the NumPy backend; the rank is the median where `wanted` is None."""
    if wanted is None:
        run = partial(filters.median_blur, images, size)
    else:
        run = partial(filters.rank_filter, images, wanted, size)
    result, expected = run(backend=backend, **keywords), run(backend="numpy", **keywords)
    assert_equal(result, expected, images.dtype)


def unaligned(shape, dtype):
    """Images whose rows begin anywhere."""
    return random_images((*shape[:-1], shape[-1] + 1), dtype)[..., 1:]


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_networks_are_numpys_on_many_tiles(dtype, size, emulator):
    before = emulator.launches["median"]
    for border in reference.BORDERS:
        check(emulator, unaligned((2, 37, 150), dtype), size, border=border, value=3)
    for channels in (2, 3, 4, 5):
        check(emulator, unaligned((11, 93, channels), dtype), size, channel_axis=-1)
    check(emulator, random_images((41, 33), dtype)[::-2, ::-1], size)
    assert emulator.launches["median"] - before == 9


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", [d for d in DTYPES if dtype_of(d).itemsize < 8])
def test_strips_are_numpys(dtype, emulator):
    before = emulator.launches["median_strip"]
    lane = 16 // dtype_of(dtype).itemsize
    for border in reference.BORDERS:
        check(emulator, random_images((2, 19, 35 * lane), dtype), 3, border=border, value=3)
    for channels in (2, 3, 4):
        check(emulator, random_images((10, 12 * lane, channels), dtype), 3, channel_axis=-1)
    for height, lanes in ((1, 1), (2, 2), (3, 32), (4, 33), (5, 70)):
        check(emulator, random_images((height, lanes * lane), dtype), 3, border="edge")
    assert emulator.launches["median_strip"] - before == 13


SHAPES = {
    "a pixel": ((1, 1), {}),
    "a row": ((1, 50), {"border": "wrap"}),
    "a column": ((70, 1), {"border": "symmetric"}),
    "tiles": ((2, 67, 70), {"border": "reflect"}),
    "colour": ((34, 21, 3), {"border": "constant", "value": 7, "channel_axis": -1}),
}
WINDOWS = ((9, None), (4, 0), ((3, 17), -1), ((12, 5), 7), (31, None))


@pytest.mark.emulator
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_windows_are_numpys(dtype, shape, emulator):
    before = sum(emulator.launches[k] for k in ("rank_counts", "rank_bits"))
    size, keywords = SHAPES[shape]
    for window, wanted in WINDOWS:
        check(emulator, random_images(size, dtype), window, wanted, **keywords)
    assert sum(emulator.launches[k] for k in ("rank_counts", "rank_bits")) - before == 5


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
def test_windows_of_75_are_numpys(dtype, emulator):
    check(emulator, random_images((45, 70), dtype), 75)
    check(emulator, random_images((50, 33), dtype)[::-1, ::2], (75, 60), 40, border="edge")


@pytest.mark.emulator
@pytest.mark.parametrize("size", [(16, 16), (2, 130), (257, 260)], ids=str)
def test_counters_hold_whole_windows(size, emulator):
    # 256 pixels of one value are too many for a counter of 8 bits, 65,536 for one of 16.
    check(emulator, np.full((40, 40), 200, np.uint8), size)
    check(emulator, random_images((40, 40), "int8"), size, 200)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_ties_and_jumps_are_numpys(dtype, emulator):
    y, x = np.mgrid[:60, :64]
    highest = 255 if dtype == "uint8" else 60_000
    for images in ((x + y) % 2 * highest, x // 20 % 2 * highest, y * 4, y // 30 * highest, x * 0):
        check(emulator, images.astype(dtype), 9)
        check(emulator, images.astype(dtype), (3, 31), 4)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [3, 5, 7])
def test_every_order_of_zeros_and_ones(size, emulator):
    # What sorts these sorts everything (Knuth's zero-one principle).
    density = np.linspace(0.2, 0.8, 304)
    images = (np.random.default_rng(size).random((300, 304)) < density).astype(np.uint8)
    check(emulator, images, size)
    check(emulator, images[:, 1:], size)
    check(emulator, images.astype(np.uint32), size)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [2, 3, 5, 7, 9, (5, 20)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_reaches_its_windows(dtype, size, emulator):
    images = random_images((40, 104), dtype).copy()
    images[3, 5], images[31, 63], images[39, 103] = np.nan, np.nan, -np.array(np.nan, images.dtype)
    images[20, 20], images[20, 22] = np.inf, -np.inf
    check(emulator, images, size)
    check(emulator, images[:, 1:], size, 0)
    check(emulator, images[10:20], size, border="constant", value=np.nan)


@pytest.mark.emulator
def test_zeros_keep_their_signs_order(emulator):
    # A negative zero is the lower key; NumPy takes the two for equal.
    zeros = np.where(np.random.default_rng(0).random((30, 64)) < 0.5, -0.0, 0.0)
    for dtype in ("float16", "float32"):
        for size in (3, 5, 9):
            result = filters.median_blur(zeros.astype(dtype), size, backend=emulator)
            signs = filters.median_blur(~np.signbit(zeros) * 1.0, size, backend="numpy")
            np.testing.assert_array_equal(np.signbit(result), signs == 0)


@pytest.mark.emulator
@pytest.mark.parametrize("size", [2, 3, 5, 9], ids=str)
def test_blocks_take_several_jobs(size, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    backend = EmulatorBackend(checked=True)
    check(backend, random_images((3, 70, 150), "uint8"), size)
    check(backend, random_images((3, 40, 96), "float32"), size)
    check(backend, random_images((20, 48, 3), "uint8"), size, channel_axis=-1)
    check(backend, random_images((20, 48, 4), "float16"), size, channel_axis=-1)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_a_small_workspace_takes_several_turns(dtype, monkeypatch, emulator):
    monkeypatch.setattr(rank, "WORKSPACE_BYTES", 1 << 17)
    before = emulator.launches["rank_bits"]
    check(emulator, random_images((2, 70, 60, 3), dtype), 9, channel_axis=-1)
    assert emulator.launches["rank_bits"] - before > 2


@pytest.mark.emulator
def test_sorting_and_counting_meet_no_bank_conflicts():
    for size, dtype in (
        (15, "uint8"),
        (31, "uint8"),
        (15, "uint16"),
        (75, "float32"),
        (9, "int64"),
    ):
        backend = EmulatorBackend(counted=True)
        filters.median_blur(random_images((40, 64), dtype), size, backend=backend)
        counts = [c for one in backend.kernels.values() for c in one.counts if c.space == "shared"]
        assert counts
        assert max(count.excess for count in counts) <= 1.05


@pytest.mark.emulator
def test_windows_that_no_table_holds(emulator):
    check(emulator, random_images((3, 4), "float64"), (90, 120), border="wrap")
    check(emulator, random_images((2, 3, 3), "uint16"), (150, 150), channel_axis=-1)
    check(emulator, random_images((2, 5, 3), "uint8"), (2, 5000), channel_axis=-1)


@pytest.mark.emulator
def test_bytes_whose_rows_are_too_long_for_counts_are_sorted(emulator):
    before = emulator.launches["rank_bits"]
    check(emulator, random_images((2, 5, 3), "uint8"), (1, 4000), channel_axis=-1)
    assert emulator.launches["rank_bits"] - before == 1
