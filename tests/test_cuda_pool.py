"""Pools on CUDA: which kernels a plan asks for, and what the engine's matrix does not reach."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda import adaptive, pool, unpool
from gpuconv.backends.cuda.families import FAMILIES, variants
from gpuconv.backends.cuda.launch import MOST_BLOCKS, SHARED_BYTES
from gpuconv.plan import UnpoolPlan
from gpuconv.plan.pool import plan_adaptive_pool, plan_global_pool, plan_pool, plan_unpool
from tests.image_cases import dtype_of
from tests.map_cases import random_values

# ---------------------------------------------------------------- launches, without a device


class Memory:
    """A launcher that only gives out memory."""

    def __init__(self):
        self.bytes = 0

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        self.bytes += array.nbytes
        return array


def planned(plan, *inputs):
    """The launches of a plan, each checked; and the bytes of workspace."""
    memory = Memory()
    outputs = [np.broadcast_to(np.zeros(1, s.dtype), s.shape) for s in plan.outputs]
    if math.prod(plan.outputs[0].shape) < 2**24:
        outputs = [np.empty(s.shape, s.dtype) for s in plan.outputs]
    launches = list(FAMILIES[type(plan)](plan, inputs, outputs, memory))
    for launch in launches:
        assert launch.variant in variants()
        assert 0 < launch.grid[0] <= MOST_BLOCKS
        assert launch.shared_bytes <= SHARED_BYTES
    return launches, memory.bytes


def kernels(plan, *inputs):
    return [launch.variant.name for launch in planned(plan, *inputs)[0]]


def aligned(shape, dtype="float32"):
    """Zeros that begin at a multiple of 64 bytes."""
    size = math.prod(shape) * dtype_of(dtype).itemsize
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype_of(dtype)).reshape(shape)


@pytest.fixture(autouse=True)
def aligned_outputs(monkeypatch):
    """As on a device, memory begins at multiples of what packs need."""
    monkeypatch.setattr(adaptive, "address", lambda array: array.ctypes.data & ~15)
    for module in (adaptive, pool, unpool):
        module._prepared.cache_clear()
    yield
    for module in (adaptive, pool, unpool):
        module._prepared.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "dtype", "kernel"),
    [
        ({"kernel_size": 2}, "float32", "pool_small<Extreme<float>, 2, 2, 0>"),
        (
            {"kernel_size": 3, "stride": 2, "padding": 1},
            "bfloat16",
            "pool_small<Extreme<bfloat16>, 3, 2, 1>",
        ),
        ({"kernel_size": 2}, "float64", "pool_windows<Extreme<double>>"),
        ({"kernel_size": 2, "return_indices": True}, "uint8", "pool_windows<Choice<uint8, int64>>"),
        ({"kernel_size": 3, "stride": 1}, "float32", "pool_tile<Extreme<float>>"),
        (
            {"kernel_size": 3, "stride": 1, "layout": "NHWC"},
            "uint8",
            "pool_channels<Extreme<uint8>>",
        ),
        ({"kernel_size": 7, "stride": 1, "layout": "NHWC"}, "uint8", "pool_tile<Extreme<uint8>>"),
        ({"kernel_size": 2, "layout": "NHWC"}, "int8", "pool_columns<Extreme<uint8>, 2, 2, 0>"),
        (
            {"kernel_size": 3, "stride": 1, "padding": 1},
            "int16",
            "pool_small<Extreme<uint16>, 3, 1, 1>",
        ),
        (
            {"kernel_size": 9, "stride": 1, "padding": 4},
            "float16",
            "extreme_lanes<9, float16>",
        ),
        (
            {"kernel_size": 11, "stride": 1, "padding": 5},
            "float16",
            "morph_strip<1, Rows::Long, uint16, true>",
        ),
        (
            {"kernel_size": 9, "stride": 1, "padding": 4, "layout": "NHWC"},
            "int8",
            "extreme_channels<uint8>",
        ),
        ({"kernel_size": (60, 60), "stride": 1}, "float64", "pool_tile<Extreme<double>>"),
        ({"kernel_size": (64, 64), "stride": 1}, "float64", "pool_windows<Extreme<double>>"),
    ],
)
def test_pools_pick_the_kernel_of_their_windows(arguments, dtype, kernel):
    arguments = {"layout": "NCHW", **arguments}
    x = aligned((2, 64, 64, 64), dtype)
    assert kernels(plan_pool(2, x, "max", **arguments), x) == [kernel]


def test_rows_that_are_no_packs_take_the_general_kernel():
    for x in (aligned((2, 3, 15, 15)), aligned((2, 3, 16, 32))[..., ::2]):
        plan = plan_pool(2, x, "max", kernel_size=2, layout="NCHW")
        assert kernels(plan, x) == ["pool_windows<Extreme<float>>"]


def test_channels_lie_inside_by_their_strides_not_by_the_layout():
    x = aligned((2, 20, 20, 32)).transpose(0, 3, 1, 2)
    plan = plan_pool(2, x, "max", kernel_size=3, layout="NCHW")
    maps = adaptive.pool_map(plan, adaptive.laid((x, x, x)))
    assert maps.channels_inside
    assert not adaptive.pool_map(plan, adaptive.laid([x.copy()] * 3)).channels_inside


def test_few_huge_windows_are_cut_into_parts():
    x = aligned((1, 1, 4096, 4096), "uint8")
    launches, workspace = planned(plan_global_pool(x, "avg", layout="NCHW"), x)
    assert [launch.grid[0] > 100 for launch in launches] == [True, False]
    assert workspace <= 48 << 20
    x = aligned((64, 64, 32, 32))
    assert len(planned(plan_global_pool(x, "avg", layout="NCHW"), x)[0]) == 1


def test_strides_and_counts_beyond_32_bits_are_kept():
    x = np.broadcast_to(np.zeros(1, np.uint8), (1 << 16, 1 << 10, 64, 64))
    far = np.lib.stride_tricks.as_strided(x, x.shape, (1 << 40, 1 << 35, 64, 1), writeable=False)
    plan = plan_pool(2, x, "max", kernel_size=5, stride=5, layout="NCHW")
    (launch,), _ = planned(plan, far)
    params = launch.arguments[-1]
    assert params["windows"] == (1 << 26) * 12 * 12
    assert params["batch"]["input"] == 1 << 40
    assert params["channel"]["input"] == 1 << 35
    plan = plan_pool(2, x, "max", kernel_size=5, stride=1, layout="NCHW")
    (launch,), _ = planned(plan, far)
    assert launch.arguments[-1]["batch"]["input"] == 1 << 40


def test_launches_are_remembered_by_plan_and_strides():
    x = aligned((2, 3, 32, 32))
    for array in (x, x, x[..., ::-1], x):
        planned(plan_pool(2, array, "max", kernel_size=3, stride=1, layout="NCHW"), array)
    assert pool._prepared.cache_info()[:2] == (2, 2)


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 56, 65_535, 2**30 + 1, 2**31 - 1])
def test_dividers_are_exact_below_two_to_the_31(divisor):
    number, magic, shift = adaptive.divider(divisor)
    assert magic < 2**32
    rng = np.random.default_rng(divisor)
    for n in (0, divisor - 1, divisor, 2**31 - 1, *rng.integers(0, 2**31, 1000).tolist()):
        assert n * magic >> shift == n // number


def test_unpool_keeps_owners_of_small_planes_in_shared_memory():
    for size, expected in (
        (64, ["unpool_planes<uint32>"]),
        (512, ["unpool_clear<int32>", "unpool_claim<Any>", "unpool_fill<uint32>"]),
    ):
        x = aligned((1, 2, size // 2, size // 2))
        indices = np.zeros(x.shape, np.int64)
        plan = plan_unpool(
            *(2, x, indices),
            **{"kernel_size": 2, "stride": None, "padding": 0, "output_size": None},
            layout="NCHW",
        )
        launches, workspace = planned(plan, x, indices)
        assert [launch.variant.name for launch in launches] == expected
        assert workspace <= 48 << 20


def test_adaptive_cells_that_share_nothing_need_one_launch():
    x = aligned((2, 64, 56, 56))
    plan = plan_adaptive_pool(2, x, "avg", 7, layout="NCHW")
    assert kernels(plan, x) == ["pool_windows<Mean<float, double>>"]


# ---------------------------------------------------------------- on the emulator


def check(backend, function, x, *arguments, **named):
    """The same as NumPy; float means within their bound. Returns what was launched."""
    before = backend.launches.copy()
    result = getattr(gpuconv, function)(x, *arguments, backend=backend, **named)
    expected = getattr(gpuconv, function)(x, *arguments, backend="numpy", **named)
    results, all_expected = (r if isinstance(r, tuple) else (r,) for r in (result, expected))
    for ours, theirs in zip(results, all_expected, strict=True):
        assert ours.dtype == theirs.dtype
        if "avg" in function and x.dtype.kind not in "iu":
            tolerance = 8 * float(ml_dtypes.finfo(x.dtype).eps)
            ours, theirs = ours.astype(float), theirs.astype(float)
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
        else:
            if ours.dtype.name == "bfloat16":  # NumPy does not know its NaN
                ours, theirs = ours.astype(float), theirs.astype(float)
            np.testing.assert_array_equal(ours, theirs)
    return backend.launches - before


SMALL_DTYPES = (*pool.SMALL_TYPES, *pool.UNSIGNED)
POOLED = {
    "max_pool2d": {},
    "min_pool2d": {},
    "avg_pool2d": {},
    "avg_pool2d, what is there": {"count_include_pad": False},
    "avg_pool2d, by 6": {"divisor_override": 6},
}


def small_pools(emulator, shapes, layout, kernel, window, dtype):
    """Every operation on windows that `kernel` has a variant for."""
    size, stride, pad = window
    for number, shape in enumerate(shapes):
        x = random_values(shape, dtype)
        for told, named in POOLED.items():
            function = told.partition(",")[0]
            if function == "avg_pool2d" and dtype in pool.UNSIGNED:
                continue
            named = {"padding": pad, "ceil_mode": number % 2 == 0, "layout": layout, **named}
            assert check(emulator, function, x, size, stride, **named) == {kernel: 1}


@pytest.mark.emulator
@pytest.mark.parametrize("window", pool.SMALL_WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_small_windows_slide_over_every_edge(emulator, dtype, window):
    shapes = ((2, 3, window[0], 8), (1, 2, 7, 16), (1, 1, 22, 40))
    small_pools(emulator, shapes, "NCHW", "pool_small", window, dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("window", pool.SMALL_WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_small_windows_slide_down_columns_of_channels(emulator, dtype, window):
    shapes = ((2, window[0], 5, 16), (1, 9, 8, 48), (1, 22, 3, 32))
    small_pools(emulator, shapes, "NHWC", "pool_columns", window, dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("window", [*pool.SMALL_WINDOWS, (9, 1, 4)], ids=str)
def test_what_is_no_number_stays_in_its_windows(emulator, window, dtype, layout):
    size, stride, pad = window
    x = random_values((1, 2, 20, 32) if layout == "NCHW" else (1, 20, 9, 16), dtype).copy()
    places = np.random.default_rng(2).integers(0, x.size, 9)
    for place, strange in zip(places, 3 * [np.nan, np.inf, -np.inf], strict=True):
        x.flat[place] = strange
    for function in ("max_pool2d", "min_pool2d", "avg_pool2d"):
        with np.errstate(invalid="ignore"):
            check(emulator, function, x, size, stride, padding=pad, layout=layout)


@pytest.mark.emulator
def test_averages_are_the_quotients_that_division_rounds_to(emulator):
    x = random_values((1, 1, 30, 64), "float32") * np.float32(1e20)
    assert np.isfinite(x).all()
    rows = (x[..., :-2] + x[..., 1:-1]) + x[..., 2:]
    sums = (rows[..., :-2, :] + rows[..., 1:-1, :]) + rows[..., 2:, :]
    for divisor in (None, 7, -3, 65_537):
        named = {"padding": 1, "divisor_override": divisor, "backend": emulator}
        found = gpuconv.avg_pool2d(x, 3, 1, **named)[..., 1:-1, 1:-1]
        np.testing.assert_array_equal(found, sums / np.float32(divisor or 9))


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_averages_of_whole_numbers_round_every_tie_to_even(emulator, dtype):
    """Each sum of two elements, over counts that divide them into ties."""
    top = np.iinfo(dtype).max
    first = np.arange(1024, dtype=np.uint64) * top // 1023
    x = np.stack([first, first // 3 + 1]).astype(dtype)[:, None, None, :].repeat(4, 2)
    for divisor in (None, 6, 10, 8):
        check(emulator, "avg_pool2d", x, 2, divisor_override=divisor)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "int16", "bfloat16", "float32"])
def test_large_windows_1_apart_go_by_strips(emulator, dtype):
    for shape, layout in (((1, 2, 20, 64), "NCHW"), ((1, 9, 20, 4), "NHWC")):
        x = random_values(shape, dtype)
        for size, pad in ((11, 5), ((4, 6), ((1, 2), (2, 3)))):
            named = {"layout": layout, "padding": pad}
            assert check(emulator, "max_pool2d", x, size, 1, **named) == {"morph_strip": 1}
            assert check(emulator, "min_pool2d", x, size, 1, **named) == {"morph_strip": 1}
            assert check(emulator, "avg_pool2d", x, size, 1, **named) == {"box_strip": 1}


@pytest.mark.emulator
@pytest.mark.parametrize("channels", [5, 12, 36])
def test_strips_of_many_channels(emulator, channels):
    for dtype in ("uint8", "float32"):
        x = random_values((1, 10, 32, channels), dtype)
        for size, pad in ((9, 4), (5, 2)):
            named = {"layout": "NHWC", "padding": pad}
            assert check(emulator, "max_pool2d", x, size, 1, **named) == {"morph_strip": 1}
            assert check(emulator, "avg_pool2d", x, size, 1, **named) == {"box_strip": 1}


@pytest.mark.emulator
def test_what_strips_do_not_take_goes_the_general_way(emulator):
    x = random_values((1, 2, 20, 32), "uint8")
    for named in (
        {"padding": 2, "count_include_pad": False},
        {"padding": 2, "divisor_override": 3},
        {"padding": 1},
    ):
        assert check(emulator, "avg_pool2d", x, 5, 1, **named) == {"pool_tile": 1}
    assert check(emulator, "max_pool2d", x, 5, 1, 2, dilation=2) == {"pool_tile": 1}
    wide = {"divisor_override": pool.MOST_DIVISOR + 1}
    assert "pool_small" not in check(emulator, "avg_pool2d", x, 2, **wide)


@pytest.mark.emulator
def test_small_windows_of_views_and_rows_in_groups(emulator, monkeypatch):
    monkeypatch.setattr(pool, "MOST_ROWS", 3)
    x = random_values((2, 3, 40, 32), "float32")
    for view in (x[:, ::2], x[::-1, :, ::-1], x[:, :, 1::3]):
        assert check(emulator, "max_pool2d", view, 3, 2, padding=1) == {"pool_small": 1}


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("max_pool2d", {"return_indices": True}),
        ("min_pool2d", {"return_indices": True, "index_dtype": "int32"}),
        ("avg_pool2d", {"count_include_pad": False}),
    ],
)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_tiles_meet_along_every_axis(emulator, function, named, layout):
    """Windows of several tiles, planes of several tiles, and a window that is most of a tile."""
    wide = (2, 3, 70, 150) if layout == "NCHW" else (2, 30, 50, 20)
    for kernel, stride, padding in (((7, 6), 1, 3), ((9, 11), (2, 5), (4, 0))):
        x = random_values(wide, "int16")
        done = check(emulator, function, x, kernel, stride, padding, layout=layout, **named)
        assert done == {"pool_tile": 1}
    x = random_values((40, 9, 9, 1) if layout == "NHWC" else (40, 3, 9, 9), "int16")
    check(emulator, function, x, 3, 1, 1, layout=layout, **named)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_channels_last_reads_packs_of_channels(emulator, dtype):
    x = random_values((2, 9, 11, 48), dtype)
    for function in ("max_pool2d", "avg_pool2d"):
        done = check(emulator, function, x, (3, 2), 2, 1, layout="NHWC")
        assert done == {"pool_channels": 1}
    named = {"layout": "NHWC", "return_indices": True}
    assert check(emulator, "max_pool2d", x, 3, 1, 1, **named) == {"pool_channels": 1}
    x = random_values((1, 4, 5, 6, 16), dtype)
    done = check(emulator, "avg_pool3d", x, (2, 3, 2), 1, layout="NHWC")
    assert done == {"pool_channels": 1}


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [(1, 1, 300, 211), (1, 300, 211, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_parts_of_huge_windows_meet(emulator, shape, dtype):
    layout = "NCHW" if shape[1] == 1 else "NHWC"
    x = random_values(shape, dtype)
    for function in ("global_avg_pool", "global_max_pool"):
        assert check(emulator, function, x, layout=layout) == {"pool_windows": 2}
    named = {"return_indices": True, "layout": layout}
    done = check(emulator, "adaptive_max_pool2d", (x % 7).astype(dtype), 1, **named)
    assert done == {"pool_windows": 2}


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_windows_larger_than_shared_memory(emulator, layout):
    x = random_values((1, 2, 130, 120) if layout == "NCHW" else (1, 130, 120, 2), "float64")
    for function, extra in (("max_pool2d", {"return_indices": True}), ("avg_pool2d", {})):
        done = check(emulator, function, x, (121, 111), 3, 5, layout=layout, **extra)
        assert set(done) == {"pool_windows"}


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_depth_of_one_counts_its_padding(emulator, layout):
    x = random_values((2, 3, 1, 9, 20) if layout == "NCHW" else (2, 1, 9, 8, 20), "int16")
    for counts in (True, False):
        named = {"padding": 1, "count_include_pad": counts, "layout": layout}
        check(emulator, "avg_pool3d", x, 3, 1, **named)


@pytest.mark.emulator
def test_the_last_nan_and_the_first_of_equals_whoever_finds_them(emulator):
    x = np.zeros((1, 1, 100, 130), np.float32)
    x[0, 0, 20, 30] = x[0, 0, 20, 31] = x[0, 0, 77, 2] = 5
    for _ in range(2):
        check(emulator, "adaptive_max_pool2d", x, 1, return_indices=True)
        check(emulator, "max_pool2d", x, 60, 20, return_indices=True)
        check(emulator, "max_pool2d", x, 9, 2, return_indices=True)
        x[0, 0, 4, 4] = x[0, 0, 4, 129] = x[0, 0, 60, 7] = np.nan


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("in_blocks", [True, False])
def test_unpool_in_parts(emulator, layout, in_blocks, monkeypatch):
    """Bands of positions, groups of planes and of channels; equal positions, whose last wins."""
    monkeypatch.setattr(unpool, "SHARED_OWNERS", 96)
    monkeypatch.setattr(unpool, "OWNERS", 300)
    monkeypatch.setattr(unpool, "LANES", 4)
    monkeypatch.setattr(unpool, "BANDS", 99 if in_blocks else 0)
    shape = (3, 5, 6, 7) if layout == "NCHW" else (3, 6, 7, 5)
    x = random_values(shape, "int16")
    for dtype in ("uint8", "int64"):
        indices = np.random.default_rng(1).integers(0, 168, shape).astype(dtype)
        done = check(emulator, "max_unpool2d", x, indices, 2, layout=layout)
        if in_blocks:
            assert done == {"unpool_planes": 1}
        else:
            assert done["unpool_clear"] == done["unpool_claim"] == done["unpool_fill"] > 3


@pytest.mark.emulator
def test_unpool_ignores_what_a_device_cannot_refuse(emulator, monkeypatch):
    monkeypatch.setattr(UnpoolPlan, "check_indices", lambda plan, indices: None)
    x = random_values((1, 1, 4), "float32")
    indices = np.array([[[-1, 8, 2**40, 3]]])
    result = gpuconv.max_unpool1d(x, indices, 2, backend=emulator)
    np.testing.assert_array_equal(result[0, 0], [0, 0, 0, x[0, 0, 3], 0, 0, 0, 0])
