"""Windows that slide over strips, box means and morphology: against the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.backends.cuda import box, launch, morphology, sliding, window
from gpuconv.plan.filters import plan_box, plan_morphology
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, check_boxes, random_images, whole_packs
from tests.launchers import Memory

WHOLE = ("uint8", "int8", "uint16", "int16")
FLOATS = ("float16", "bfloat16", "float32")
DTYPES = (*WHOLE, *FLOATS)

SIZES = (
    (1, 1),
    (2, 2),
    (3, 3),
    (4, 5),
    (5, 4),
    (7, 8),
    (9, 7),
    (15, 16),
    (31, 9),
    (6, 31),
    (75, 17),
)
"""Windows within a pack and beyond it, within a block of rows and beyond it; even and odd."""

FUNCTIONS = ("dilate", "erode", "morph_gradient", "box_blur")


@pytest.fixture(autouse=True)
def strips_alone(monkeypatch):
    """Boxes of some sizes have kernels of their own; strips serve these as well."""
    monkeypatch.setattr(morphology, "small_launch", lambda plan, stack: None)
    monkeypatch.setattr(morphology, "extreme_launch", lambda *arguments: None)
    monkeypatch.setattr(box, "mean_launch", lambda *arguments: None)


def strips_of(backend):
    """Launches of the kernels here, so far."""
    names = ("box_strip", "morph_strip", "morph_pair")
    return sum(backend.launches[name] for name in names)


def check(backend, function, images, size, strips=True, **keywords):
    """NumPy's numbers; made by a kernel from here, by another one, or by either (None)."""
    before = strips_of(backend)
    check_boxes(backend, function, images, size, **keywords)
    assert strips is None or (strips_of(backend) > before) == strips


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_size_gives_numpys_numbers(function, dtype, border, monkeypatch, emulator):
    monkeypatch.setattr(sliding, "MOST_THREADS", 64)
    for place, size in enumerate(SIZES):
        height = (1, 5, 18, 37, 70)[place % 5]
        width = whole_packs((16, 700, 80, 300)[place % 4], dtype)
        check(emulator, function, random_images((height, width), dtype), size, border=border)


@pytest.mark.emulator
@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_interleaved_channels_give_numpys_numbers(
    function, border, channels, monkeypatch, emulator
):
    for dtype in ("uint8", "float16", "float32"):
        for threads, size in ((256, (3, 4)), (64, (5, 9)), (64, (9, 25))):
            monkeypatch.setattr(sliding, "MOST_THREADS", threads)
            images = random_images((2, 19, whole_packs(120, dtype), channels), dtype)
            check(emulator, function, images, size, border=border, channel_axis=-1, value=7)


@pytest.mark.emulator
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_stay_in_their_windows(dtype, function, emulator):
    images = random_images((40, 64), dtype).copy()
    images[30, 40], images[3, 7], images[20, 9] = np.nan, -np.inf, np.inf
    images[12, 12] = -np.array(np.nan, images.dtype)
    images[25, 50], images[25, 51] = 0, -0.0
    for size in (3, 7, (9, 13), (21, 2)):
        for border, value in (("reflect", 0), ("constant", np.inf), ("constant", np.nan)):
            check(emulator, function, images, size, border=border, value=value)


@pytest.mark.emulator
@pytest.mark.parametrize("function", FUNCTIONS)
def test_strips_of_any_width_and_job_give_the_same_bits(function, monkeypatch):
    images = random_images((3, 70, 640), "int16")
    for threads, blocks in ((32, 7), (96, 2), (256, 2**31 - 1)):
        monkeypatch.setattr(sliding, "MOST_THREADS", threads)
        monkeypatch.setattr(launch, "MOST_BLOCKS", blocks)
        for size in (5, (9, 11)):
            check(EmulatorBackend(checked=True), function, images, size, border="symmetric")


@pytest.mark.emulator
@pytest.mark.parametrize("count", [2, 4, 6, 9, 15, 16, 64, 225, 256, 258, 1000])
def test_means_of_bytes_go_to_even(count, emulator):
    for dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        for images in (
            np.random.default_rng(count).integers(info.min, info.max, (8, 512), dtype, True),
            np.full((3, 96), info.max, dtype),
            np.full((3, 96), info.min, dtype),
        ):
            check(emulator, "box_blur", images, (1, count), None, border="wrap")
            check(emulator, "box_blur", images, (count, 1), count < 258, border="wrap")


@pytest.mark.emulator
@pytest.mark.parametrize("border", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["morph_open", "morph_close"])
def test_openings_in_one_launch_give_numpys_numbers(function, dtype, border, monkeypatch, emulator):
    for place, size in enumerate(((1, 3), (2, 2), (3, 1), (4, 5), (7, 8), (9, 7), (15, 16))):
        monkeypatch.setattr(sliding, "MOST_THREADS", (128, 64)[place % 2])
        height = (1, 5, 18, 37, 70)[place % 5]
        images = random_images((height, whole_packs((250, 700)[place % 2], dtype)), dtype)
        check(emulator, function, images, size, border=border, value=5)
    channels = 2 + len(border) % 3
    images = random_images((2, 19, whole_packs(200, dtype), channels), dtype)
    check(emulator, function, images, (6, 4), border=border, channel_axis=-1)


@pytest.mark.emulator
def test_openings_that_wrap_or_are_large_take_two_launches():
    images = random_images((30, 256), "uint8")
    for size, keywords in ((5, {"border": "wrap"}), (151, {})):
        backend = EmulatorBackend()
        check(backend, "morph_close", images, size, **keywords)
        assert backend.launches == {"morph_strip": 2}


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
def test_openings_of_many_bytes_take_two_launches_an_image(border, monkeypatch):
    monkeypatch.setattr(morphology, "APART_BYTES", 1)
    for dtype, shape, keywords in (
        ("uint8", (3, 19, 80), {}),
        ("float32", (2, 30, 200, 3), {"channel_axis": -1}),
    ):
        images, backend = random_images(shape, dtype), EmulatorBackend()
        monkeypatch.setattr(window, "WORKSPACE_BYTES", images[0].nbytes)
        check(backend, "morph_open", images, (4, 9), border=border, value=3, **keywords)
        assert backend.launches == {"morph_strip": 2 * len(images)}
        monkeypatch.setattr(window, "WORKSPACE_BYTES", images[0].nbytes - 1)
        backend = EmulatorBackend()
        check(backend, "morph_open", images, (4, 9), None, border=border, value=3, **keywords)
        assert backend.launches.keys() == {"morph_box" if border == "wrap" else "morph_pair"}


@pytest.mark.emulator
@pytest.mark.parametrize("border", ["constant", "reflect"])
def test_openings_survive_the_check_build(border, monkeypatch):
    for dtype, shape, keywords in (
        ("uint8", (2, 41, 640), {}),
        ("float32", (23, 200, 3), {"channel_axis": -1}),
    ):
        images = random_images(shape, dtype)
        for threads, size in ((64, (3, 9)), (128, (10, 4))):
            monkeypatch.setattr(sliding, "MOST_THREADS", threads)
            backend = EmulatorBackend(checked=True)
            check(backend, "morph_open", images, size, border=border, **keywords)


def test_a_box_of_any_size_is_one_launch():
    images = np.empty((8, 2160, 3840), np.uint8)  # never touched
    for size in (1, 3, 15, 31, 75, (201, 75), (75, 301)):
        plans = [
            (morphology, plan_morphology(images, ("dilate",), size, None, **COMMON)),
            (box, plan_box(images, size, **COMMON)),
        ]
        for family, plan in plans:
            (only,) = family.launches(plan, [images], [images], Memory())
            assert only.variant.kernel.endswith("_strip")
            assert only.variant in set(family.variants())
            assert only.shared_bytes <= sliding.MOST_SHARED_BYTES
            told = only.arguments[-1]["sliding"]
            assert told["across"] * told["columns"] >= 3840 > (told["across"] - 1) * told["columns"]
            assert told["down"] * told["rows"] >= 2160 > (told["down"] - 1) * told["rows"]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_an_opening_of_few_bytes_is_one_launch(dtype):
    images = np.empty((512, 1920), dtype)  # never touched
    for size in (2, 3, 7, 15, 31):
        plan = plan_morphology(images, ("erode", "dilate"), size, None, **COMMON)
        (only,) = morphology.launches(plan, [images], [images], Memory())
        assert only.variant.kernel == "morph_pair"
        assert only.variant in set(morphology.variants())
        assert only.shared_bytes <= sliding.MOST_SHARED_BYTES


@pytest.mark.emulator
def test_rows_that_are_no_whole_packs_take_the_general_kernels(emulator):
    memory = random_images((30, 80), "uint8")
    for images in (memory[:, :-1], memory[:, 1:], memory[:, ::-1], memory.T[:, ::2]):
        for function in FUNCTIONS:
            check(emulator, function, images, 5, strips=False)
