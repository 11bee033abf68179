"""Openings, closings and gradients that have kernels of their own: against the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import launch, morph_small, morphology, strips
from gpuconv.plan.filters import plan_morphology
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, assert_equal, random_images, whole_packs
from tests.launchers import Memory

FUNCTIONS = ("morph_open", "morph_close", "morph_gradient")
SMALL, BLOCKS = morph_small.SIZES, morph_small.BLOCK_SIZES
DTYPES = tuple(morph_small.TYPES)


def check(backend, function, images, size, kernel, **keywords):
    """NumPy's very numbers, by one launch of `kernel`."""
    run, before = getattr(filters, function), backend.launches[kernel]
    result = run(images, size, backend=backend, **keywords)
    assert backend.launches[kernel] == before + 1
    assert_equal(result, run(images, size, backend="numpy", **keywords), images.dtype)


def kernel_of(size):
    return "morph_small" if size in SMALL else "morph_blocks"


def check_boxes(emulator, dtype, border, sizes):
    """Images lower than a window, of one pack a row, of one strip, and with strips inside."""
    for place, size in enumerate(sizes):
        shapes = ((1, 700), (17, 100), (7, 600), (2, 16), (40, 60))[place % 5], (41, 1520)
        for part, function in enumerate(FUNCTIONS):
            for height, width in shapes:
                images = random_images((height + part, whole_packs(width, dtype)), dtype)
                given = {"border": border, "value": 5}
                check(emulator, function, images, size, kernel_of(size), **given)


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        *(("uint8", (3, 15)), ("float32", (15,)), ("float16", (3,))),
        *(
            pytest.param(dtype, sizes, marks=pytest.mark.slow)
            for dtype, sizes in (("int8", (11,)), ("int16", (15,)))
        ),
    ],
)
def test_boxes_give_numpys_numbers(dtype, sizes, border, emulator):
    check_boxes(emulator, dtype, border, sizes)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_box_and_dtype_gives_numpys_numbers(dtype, border, emulator):
    check_boxes(emulator, dtype, border, (*SMALL, *BLOCKS))
    check_boxes(emulator, dtype, border, (15, 9, 7, 5, 3))


def check_channels(emulator, dtype, border, channels, sizes):
    """Images of one pack a row, of two strips, and with strips inside."""
    for place, size in enumerate(sizes):
        shapes = ((2, 9, 10), (2, 9, 150))[place % 2], (38, 450)
        for function in FUNCTIONS:
            for *planes, width in shapes:
                images = random_images((*planes, whole_packs(width, dtype), channels), dtype)
                given = {"border": border, "value": -7, "channel_axis": -1}
                check(emulator, function, images, size, kernel_of(size), **given)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("dtype", "channels", "sizes"),
    [("uint8", 4, SMALL), ("float32", 3, SMALL), ("int8", 2, SMALL), ("uint8", 3, (15, 15))],
)
@pytest.mark.parametrize("border", reference.BORDERS)
def test_interleaved_channels_give_numpys_numbers(border, dtype, channels, sizes, emulator):
    check_channels(emulator, dtype, border, channels, sizes)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("border", reference.BORDERS)
def test_every_interleaved_box_gives_numpys_numbers(border, channels, emulator):
    for dtype in ("uint8", "int8", "int16", "int32", "float32", "float16", "bfloat16"):
        wide = channels == 4 and dtype.endswith("32")
        sizes = (3,) if wide or dtype.endswith("float16") else SMALL
        check_channels(emulator, dtype, border, channels, sizes)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_every_interleaved_box_over_blocks_gives_numpys_numbers(channels, border, emulator):
    for dtype in ("uint8", "int8"):
        check_channels(emulator, dtype, border, channels, BLOCKS)
    for dtype in ("int16", "float16", "float32") if channels == 3 else ():
        check_channels(emulator, dtype, border, channels, (7, 9))


@pytest.mark.parametrize("size", BLOCKS)
def test_lanes_beside_results_hold_what_their_windows_meet(size):
    """And little more: less than two lanes."""
    for steps in (1, 2):
        for kind, several in morph_small.BLOCK_CHANNELS.items():
            for channels in several:
                lane = 16 // morph_small.KIND_BYTES[kind]
                beside = morph_small._lanes_beside(size, channels, steps, kind)
                assert (beside - 2) * lane < steps * (size // 2) * channels <= beside * lane


@pytest.mark.emulator
@pytest.mark.parametrize("height", [1, 3, 4, 5, 8, 15, 16, 17, 19, 35])
def test_rows_around_a_block_of_four_give_numpys_numbers(height, monkeypatch, emulator):
    monkeypatch.setattr(morph_small, "STRIP_ROWS", 8)
    monkeypatch.setattr(morph_small, "BLOCK_STRIP_ROWS", 8)
    monkeypatch.setattr(strips, "FEWEST_ROWS", 3)
    strips.strips_down.cache_clear()
    images = random_images((2, height, 80), "uint8")
    for size in (3, 15):
        for function, border in (("morph_open", "edge"), ("morph_gradient", "reflect")):
            check(emulator, function, images, size, kernel_of(size), border=border)
    strips.strips_down.cache_clear()


@pytest.mark.emulator
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        *(("float16", (3,)), ("float32", (5,))),
        pytest.param("float32", (3, 15), marks=pytest.mark.slow),
        pytest.param("bfloat16", (3, 5, 7, 15), marks=pytest.mark.slow),
        pytest.param("float16", (5, 7, 15), marks=pytest.mark.slow),
    ],
)
def test_nan_and_infinity_stay_in_their_windows(dtype, sizes, function, emulator):
    images = random_images((40, 64), dtype).copy()
    images[30, 40], images[3, 7], images[20, 9] = np.nan, -np.inf, np.inf
    images[12, 12] = -np.array(np.nan, images.dtype)
    images[25, 50], images[25, 51] = 0, -0.0
    for size in sizes:
        for border, value in (("reflect", 0), ("constant", np.inf), ("constant", np.nan)):
            given = {"border": border, "value": value}
            check(emulator, function, images, size, kernel_of(size), **given)


@pytest.mark.emulator
def test_differences_of_signed_integers_saturate(emulator):
    for dtype, sizes in (("int8", (3,)), ("int16", (15,)), ("int32", (3,))):
        info = np.iinfo(dtype)
        images = np.full((9, whole_packs(40, dtype)), info.min, dtype)
        images[4, 5], images[4, 30] = info.max, 0
        for size in sizes:
            check(emulator, "morph_gradient", images, size, kernel_of(size))


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_box_survives_the_check_build(dtype, function):
    backend = EmulatorBackend(checked=True)
    for size in (*SMALL, *BLOCKS):
        images = random_images((2, 19, whole_packs(250, dtype)), dtype)
        check(backend, function, images, size, kernel_of(size), border="edge")


@pytest.mark.emulator
@pytest.mark.parametrize("function", ["morph_open", "morph_gradient"])
def test_blocks_that_take_several_jobs_survive_the_check_build(function, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    backend = EmulatorBackend(checked=True)
    for dtype, shape, keywords in (
        ("uint8", (3, 20, 272), {}),
        ("float32", (2, 9, 140, 3), {"channel_axis": -1}),
    ):
        images = random_images(shape, dtype)
        for size in (3, 15) if len(keywords) == 0 else (5,):
            check(backend, function, images, size, kernel_of(size), border="edge", **keywords)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_two_steps_are_one_launch(dtype, channels):
    images = np.empty((8, 2160, 3840, channels)[: 3 if channels == 1 else 4], dtype)  # untouched
    given = COMMON if channels == 1 else COMMON | {"channel_axis": -1}
    row = 3840 * channels
    for gradient in (False, True):
        for size in (3, 7, 9, 11) if channels == 3 else (*SMALL, *BLOCKS):
            operations = ("erode", "dilate")
            plan = plan_morphology(images, operations, size, None, gradient=gradient, **given)
            (only,) = morphology.launches(plan, [images], [images], Memory())
            assert only.variant.kernel == kernel_of(size)
            assert only.variant in set(morph_small.variants())
            assert only.shared_bytes <= launch.SHARED_BYTES
            told = only.arguments[-1]["strips"]
            assert told["across"] * told["columns"] >= row > (told["across"] - 1) * told["columns"]
            assert told["down"] * told["rows"] >= 2160 > (told["down"] - 1) * told["rows"]


@pytest.mark.emulator
def test_what_is_no_such_box_takes_other_kernels(emulator):
    memory = random_images((30, 80), "uint8")
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    five = random_images((9, 48, 5), "uint8")
    half, four = random_images((9, 40, 3), "float16"), random_images((9, 40, 4), "float32")
    before = emulator.launches["morph_small"], emulator.launches["morph_blocks"]
    for images, keywords in (
        *((view, {"size": 3}) for view in (memory[:, :-1], memory[:, 1:], memory[:, ::-1])),
        *((memory, {"size": size}) for size in (2, 19, (3, 5))),
        (memory, {"footprint": cross}),
        (memory.astype("int64"), {"size": 3}),
        (five, {"size": 3, "channel_axis": -1}),
        (half, {"size": 5, "channel_axis": -1}),
        (four, {"size": 7, "channel_axis": -1}),
    ):
        for function in ("morph_open", "morph_gradient"):
            run = getattr(filters, function)
            result = run(images, backend=emulator, **keywords)
            assert_equal(result, run(images, backend="numpy", **keywords), images.dtype)
    assert before == (emulator.launches["morph_small"], emulator.launches["morph_blocks"])
