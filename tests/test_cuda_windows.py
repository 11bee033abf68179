"""Kernels for boxes of a few widths and over many channels, against the NumPy backend."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda import box, launch, window_channels, window_lanes
from gpuconv.backends.cuda.families import variants
from gpuconv.plan.filters import plan_box
from gpuconv.window import AxisWindow
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, assert_equal, check_boxes, random_images, whole_packs
from tests.launchers import Memory
from tests.map_cases import random_values

pytestmark = pytest.mark.emulator

KERNELS = ("extreme_lanes", "mean_lanes", "extreme_channels", "mean_channels")
FUNCTIONS = ("dilate", "erode", "box_blur")
WIDTHS = {
    **{"uint8": (5, 9, 15), "int8": (7,), "int16": (9,)},
    **{"float16": (15,), "bfloat16": (7,), "float32": (9,)},
}
"""Windows of every dtype that every run tries: a kernel each, to be compiled."""
SHAPES = {5: (40, 16), 7: (2, 1, 8), 9: (5, 9, 700), 15: (3, 20, 112)}
"""By width: rows longer and shorter than a warp's, planes lower than a window."""
POOLS = ("max_pool2d", "min_pool2d", "avg_pool2d")


def launched(backend):
    """Launches of the kernels here, so far."""
    return sum(backend.launches[name] for name in KERNELS)


def compare(backend, function, images, size, **keywords):
    """NumPy's numbers, or nearly those of means of floats; whether a kernel from here made them."""
    before = launched(backend)
    check_boxes(backend, function, images, size, **keywords)
    return launched(backend) > before


def served(function, dtype):
    """Whether there is a kernel for it."""
    return function != "box_blur" or dtype in window_lanes.MEAN_TYPES


def compare_pool(backend, function, x, size, **named):
    """The same of pools whose results are as many as elements."""
    before, run = launched(backend), getattr(gpuconv, function)
    pad = tuple(s // 2 for s in reference.per_axis(size, 2))
    result = run(x, size, 1, pad, backend=backend, **named)
    expected = run(x, size, 1, pad, backend="numpy", **named)
    if function != "avg_pool2d" or x.dtype.kind == "u":
        assert_equal(result, expected, x.dtype)
    else:
        bound = 2 * math.prod(reference.per_axis(size, 2)) ** 0.5 * reference.EPSILON[x.dtype.name]
        scale = abs(x.astype(np.float64)).max()
        error = abs(result.astype(np.float64) - expected.astype(np.float64))
        assert error.max() <= bound * scale
    return launched(backend) > before


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_lanes_give_numpys_numbers(dtype, border, emulator):
    check_lanes(dtype, border, WIDTHS[dtype], emulator)


@pytest.mark.slow
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_lanes_of_every_width_give_numpys_numbers(dtype, border, emulator):
    check_lanes(dtype, border, window_lanes.WIDTHS, emulator)


def check_lanes(dtype, border, sizes, emulator):
    for size in sizes:
        for *outer, width in (SHAPES[size], (2, 37, 80)):
            images = random_images((*outer, whole_packs(width, dtype)), dtype)
            for function in FUNCTIONS:
                made = compare(emulator, function, images, size, border=border, value=3)
                assert made == served(function, dtype)


def test_lanes_of_windows_of_other_heights(emulator):
    for height in (1, 4, 6, 31):
        for border in ("reflect", "constant"):
            for dtype in ("uint8", "float16"):
                images = random_images((45, 320), dtype)
                for function in FUNCTIONS:
                    made = compare(emulator, function, images, (height, 5), border=border)
                    rings = dtype != "uint8" or function != "box_blur"
                    assert made == (height >= 4 if rings else height % 2 == 1)
    assert not compare(emulator, "dilate", images, (9, 11))


@pytest.mark.parametrize("seed", range(6))
def test_lanes_of_random_shapes(seed, emulator):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        dtype = str(rng.choice(["uint8", "float16", "float32"]))
        planes, height = int(rng.integers(1, 40)), int(rng.integers(1, 60))
        shape = (planes, height, whole_packs(int(rng.integers(1, 400)), dtype))
        border = str(rng.choice(reference.BORDERS))
        size = (int(rng.choice([4, 5, 7, 9, 12])), int(rng.choice(WIDTHS[dtype])))
        function = str(rng.choice(FUNCTIONS))
        images = random_images(shape, dtype)
        compare(emulator, function, images, size, border=border, value=5)


@pytest.mark.parametrize(("dtype", "size"), [("float16", 15), ("bfloat16", 7), ("float32", 9)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_and_infinity_stay_in_their_windows(dtype, size, function, emulator):
    images = random_images((40, 64), dtype).copy()
    images[30, 40], images[3, 7], images[20, 9] = np.nan, -np.inf, np.inf
    images[12, 12] = -np.array(np.nan, images.dtype)
    images[25, 50], images[25, 51] = 0, -0.0
    for border, value in (("reflect", 0), ("constant", np.inf), ("constant", np.nan)):
        assert compare(emulator, function, images, size, border=border, value=value)


def test_inverses_round_every_mean_of_bytes_to_the_nearest():
    """In float64 the product and the sum are exact, so that float32 rounds once, as an FMA does."""
    for count in range(1, 258):
        inverse = window_lanes.inverse_of((AxisWindow(count), AxisWindow(1)), np.dtype("uint8"))
        if inverse is None:
            assert count % 2 == 0
            assert count & (count - 1) != 0
            continue
        assert np.float32(inverse) == inverse
        sums = np.arange(255 * count + 1, dtype=np.int64)
        found = (2.0**23 + sums) * inverse + (2.0**23 - 2.0**23 * inverse)
        means = found.astype(np.float32).view(np.uint32) & 0xFF
        np.testing.assert_array_equal(means, np.rint(sums / count))


@pytest.mark.parametrize("count", [5, 25, 35, 45, 75, 125, 225, 255])
def test_means_of_bytes_go_to_the_nearest(count, emulator):
    width = next(w for w in (15, 5) if count % w == 0)
    values = np.random.default_rng(count).integers(0, 256, (24, 512), np.uint8)
    for images in (values, values // 255 * 255, np.full((3, 96), 255, np.uint8)):
        assert compare(emulator, "box_blur", images, (count // width, width), border="wrap")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32"])
def test_channels_give_numpys_numbers(dtype, emulator):
    elements = 32 if dtype == "uint8" else 16
    for size, (batch, height, width), channels in (
        *((9, (2, 14, 14), elements), (5, (1, 30, 9), 2 * elements)),
        *(((9, 5), (2, 5, 60), elements), (15, (1, 20, 70), elements), (7, (1, 70, 33), 64)),
    ):
        x = random_values((batch, height, width, channels), dtype)
        for function in POOLS:
            if function == "avg_pool2d" and not served("box_blur", dtype):
                continue
            assert compare_pool(emulator, function, x, size, layout="NHWC")


@pytest.mark.parametrize(("dtype", "size"), [("uint8", 9), ("float16", 15), ("float32", 9)])
def test_pools_of_planes_give_numpys_numbers(dtype, size, emulator):
    x = random_values((3, 5, 22, 112), dtype)
    for function in POOLS:
        assert compare_pool(emulator, function, x, size)


def test_channels_that_are_no_whole_packs_go_another_way(emulator):
    for channels in (12, 20):
        x = random_values((1, 16, 16, channels), "uint8")
        assert not compare_pool(emulator, "max_pool2d", x, 5, layout="NHWC")


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_that_take_several_jobs_compute_the_same(blocks, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", blocks)
    backend = EmulatorBackend(checked=True)
    images = random_images((4, 70, 640), "uint8")
    x = random_values((2, 21, 80, 64), "float16")
    for function in FUNCTIONS:
        assert compare(backend, function, images, 9, border="symmetric")
    for function in POOLS:
        assert compare_pool(backend, function, x, 9, layout="NHWC")


@pytest.mark.slow
@pytest.mark.parametrize("border", ["constant", "reflect"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "bfloat16", "float32"])
def test_lanes_survive_the_check_build(dtype, border):
    backend = EmulatorBackend(checked=True)
    for size in window_lanes.WIDTHS:
        images = random_images((2, 19, whole_packs(250, dtype)), dtype)
        for function in FUNCTIONS:
            compare(backend, function, images, size, border=border)


def test_every_kernel_is_of_this_file():
    known = [v for room in (window_lanes, window_channels) for v in room.variants()]
    assert {v.kernel for v in known} == set(KERNELS)
    assert set(known) <= set(variants())


@pytest.mark.parametrize(
    ("shape", "least"), [((8, 2160, 3840), 0.93), ((512, 112, 112), 0.87), ((512, 64, 64), 0.82)]
)
def test_few_lanes_are_idle(shape, least):
    images = np.empty(shape, np.uint8)  # never touched
    plan = plan_box(images, 9, **COMMON | {"border": "constant"})
    (only,) = box.launches(plan, [images], [images], Memory())
    told = only.arguments[-1]["windows"]
    rows, down = int(told["rows"]), int(told["down"])
    assert down * rows >= shape[1] > (down - 1) * rows
    packs = shape[0] * down * shape[2] // 8
    assert least <= packs / (int(told["jobs"]) * 32) < 1
