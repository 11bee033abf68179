"""Launches of the CUDA morphology, and what its kernels meet that the engine's tests do not."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import filters
from gpuconv.backends.cuda import launch, morphology, window
from gpuconv.backends.cuda.launch import SHARED_BYTES
from gpuconv.plan.filters import plan_morphology
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import COMMON, DTYPES, assert_equal, dtype_of, random_images
from tests.launchers import Memory, plan_launches

FUNCTIONS = ("dilate", "erode", "morph_open", "morph_close", "morph_gradient")
FOOTPRINT = np.random.default_rng(5).random((4, 5)) < 0.4
SPARSE = np.zeros((90, 600), bool)
SPARSE[[3, 40, 80], [5, 300, 580]] = True
"""More than shared memory holds."""


def launches_of(operations, size, footprint=None, shape=(2, 500, 700), dtype="uint8", **keywords):
    """Kernels and grids of a call, and its workspace."""
    gradient = keywords.pop("gradient", False)
    images = np.broadcast_to(np.zeros(1, dtype_of(dtype)), shape)
    plan = plan_morphology(
        images, operations, size, footprint, gradient=gradient, **COMMON | keywords
    )
    memory = Memory()
    return plan_launches(morphology, plan, memory), memory.bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "footprint", "kernel"),
    [
        (3, None, ["morph_box"]),
        (31, None, ["morph_box"]),
        (1001, None, ["morph_down", "morph_across"]),
        (None, FOOTPRINT, ["morph_footprint"]),
        (None, SPARSE, ["morph_footprint"]),
    ],
    ids=["3", "31", "1001", "footprint", "sparse"],
)
def test_a_step_is_a_launch_or_two_of_listed_kernels(size, footprint, kernel, dtype):
    for operations, gradient in ((("dilate",), False), (("dilate", "erode"), True)):
        launches, workspace = launches_of(
            operations, size, footprint, dtype=dtype, gradient=gradient
        )
        assert [one.variant.kernel for one in launches] == kernel
        assert {one.variant for one in launches} <= set(morphology.variants())
        assert all(one.shared_bytes <= SHARED_BYTES for one in launches)
        assert (workspace > 0) == (len(kernel) == 2)


def test_an_opening_is_two_launches_a_piece():
    launches, workspace = launches_of(("erode", "dilate"), 5)
    assert [one.variant.kernel for one in launches] == ["morph_box"] * 2
    assert workspace == 2 * 500 * 704  # rows of whole packs
    launches, workspace = launches_of(("erode", "dilate"), 5, shape=(100, 2000, 2000))
    assert len(launches) == 2 * 17
    assert workspace <= window.WORKSPACE_BYTES
    launches, _ = launches_of(("erode", "dilate"), 1001, shape=(9000, 9000))
    names = [one.variant.kernel for one in launches]
    assert names == ["morph_down", "morph_across"] * (len(names) // 2)


@pytest.mark.parametrize("border", reference.BORDERS)
def test_pieces_of_a_large_image_hold_what_the_second_step_reads(border):
    launches, workspace = launches_of(
        ("erode", "dilate"), (31, 9), shape=(6000, 9000), border=border
    )
    assert workspace <= window.WORKSPACE_BYTES
    rows = [int(one.arguments[-1]["field"]["rows"]) for one in launches]
    assert sum(rows[1::2]) == 6000
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert second < first <= second + 30
    begin = [int(one.arguments[-1]["field"]["from_y"]) for one in launches[::2]]
    assert begin[0] == (-30 if border == "wrap" else -15)


# ---------------------------------------------------------------- on the emulator


def check(backend, function, images, **keywords):
    """The very numbers of the NumPy backend."""
    run = getattr(filters, function)
    result = run(images, backend=backend, **keywords)
    assert_equal(result, run(images, backend="numpy", **keywords), images.dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_large_windows_are_numpys(function, dtype, border, emulator):
    images = random_images((2, 34, 40), dtype)
    for shape in ({"size": (70, 301)}, {"size": (2500, 3)}, {"footprint": SPARSE}):
        check(emulator, function, images, border=border, value=3, **shape)
    images = random_images((7, 5, 3), dtype)
    check(emulator, function, images, border=border, size=(1200, 190), channel_axis=-1)


@pytest.mark.emulator
@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("function", ["morph_open", "morph_close"])
@pytest.mark.parametrize(
    "shape",
    [{"size": (4, 5)}, {"footprint": FOOTPRINT}, {"size": (7, 250)}],
    ids=["4x5", "footprint", "7x250"],
)
def test_openings_in_pieces_give_the_same_bits(shape, function, border, monkeypatch, emulator):
    for dtype, size, keywords in (
        ("int16", (3, 27, 20), {}),
        ("uint8", (2, 21, 10, 3), {"channel_axis": -1}),
    ):
        images = random_images(size, dtype)
        for workspace in (400, 2000):
            monkeypatch.setattr(window, "WORKSPACE_BYTES", workspace)
            check(emulator, function, images, border=border, value=-3, **keywords, **shape)


@pytest.mark.emulator
@pytest.mark.parametrize("function", ["dilate", "morph_close", "morph_gradient"])
def test_planar_channels_and_strides(function, emulator):
    images = np.moveaxis(random_images((2, 3, 40, 35), "uint16"), 1, -1)
    check(emulator, function, images, size=(5, 4), channel_axis=-1)
    check(emulator, function, images[:, ::-1, ::2], size=(90, 500), channel_axis=-1)
    check(emulator, function, images[..., 0].transpose(0, 2, 1), footprint=FOOTPRINT)


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [{"size": 5}, {"footprint": FOOTPRINT}, {"size": 300}], ids=str)
def test_blocks_take_several_jobs(shape, monkeypatch):
    images = random_images((3, 70, 150), "uint8")
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    check(EmulatorBackend(checked=True), "morph_open", images, **shape)


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [{"size": 5}, {"footprint": FOOTPRINT}, {"size": 300}], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_wins_in_every_kernel(function, dtype, shape, emulator):
    images = random_images((40, 50), dtype).copy()
    images[30, 40], images[3, 7], images[20, 9] = np.nan, -np.inf, np.inf
    images[12, 12] = -np.array(np.nan, images.dtype)
    for border in ("reflect", "constant"):
        check(emulator, function, images, border=border, value=np.inf, **shape)
    check(emulator, function, images[:9, :9], border="constant", value=np.nan, **shape)
