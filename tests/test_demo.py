"""The demo: every picture is made, from packaged photographs, by the library's own functions."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("matplotlib", reason="the demo needs the extra plot")
pytest.importorskip("skimage", reason="the demo needs the extra plot")

import gpuconv
from gpuconv import cli, filters, kernels
from gpuconv.demo import FILTERED, PHOTOGRAPHS, chapters, coins, photos
from gpuconv.image_io import read_image


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that `gpuconv demo` makes without a network, and what it prints."""
    folder = tmp_path_factory.mktemp("demo") / "deck"

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the demo must not use the network")

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr("gpuconv.demo.say", lines.append)
        assert cli.main(["demo", str(folder)]) == 0
    return folder, "\n".join(lines)


def test_demo_makes_every_chapter_and_the_contact_sheet(deck: tuple[Path, str]) -> None:
    folder, told = deck
    pictures = sorted(path.name for path in folder.glob("*.png"))
    assert len(pictures) == 9
    assert [name[0] for name in pictures] == [*"12345678", "c"]
    for name in pictures:
        with PIL.Image.open(folder / name) as picture:
            sheet = name == "contact-sheet.png"
            assert picture.size == ((1920, 1080) if sheet else (1600, 900))
            shades = np.asarray(picture.convert("L"))
        assert shades.std() > 20, f"{name} is nearly empty"
        edges = np.concatenate((shades[0], shades[-1], shades[:, 0], shades[:, -1]))
        assert edges.min() == 255, f"{name} is cut off at its margin"
        assert str(folder / name) in told
    assert not list(folder.rglob("*.tmp"))
    assert told.splitlines()[0].startswith("gpuconv demo, computed on ")


def test_demo_filtered_photographs_are_what_the_library_computes(deck: tuple[Path, str]) -> None:
    folder, _ = deck
    for name in PHOTOGRAPHS:
        pixels = photos.photograph(name)
        for operation, pipeline in FILTERED.items():
            found = read_image(folder / "filtered" / operation / name).pages[0].color
            expected = pipeline(pixels, channel_axis=-1)
            assert found.shape == expected.shape
            if name.endswith(".png"):
                np.testing.assert_array_equal(found, expected)
            else:  # JPEG loses a little
                assert np.abs(found.astype(int) - expected).mean() < 8
    edge = filters.filter2d(photos.photograph("coffee.png"), kernels.edge, channel_axis=-1)
    found = read_image(folder / "filtered" / "edge" / "coffee.png").pages[0].color
    np.testing.assert_array_equal(found, edge)


def test_demo_folder_that_cannot_be_written_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["demo", str(tmp_path / "file" / "demo")]) == 1
    assert capsys.readouterr().err.rstrip().endswith("cannot be written: Not a directory")


def test_find_coins_finds_every_coin_once() -> None:
    layers = coins.find_coins(photos.photograph("coins.png"))
    assert len(layers.found) == 24
    assert min(math.dist(a, b) for a in layers.found for b in layers.found if a != b) > 30
    assert layers.edges.shape == (8, 303, 384)
    assert layers.arcs.shape == (8, 151, 192)
    assert layers.coins.shape == (3, 75, 96)


def test_receptive_fields_are_what_one_value_depends_on() -> None:
    sizes = coins.receptive_fields()
    assert sizes == (7, 24, 98)
    grey = photos.photograph("coins.png")
    before = coins.find_coins(grey)
    changed = grey.copy()
    y, x = 150, 190
    changed[y, x] ^= 0x80
    after = coins.find_coins(changed)
    steps = (1, 2, 4)
    for first, second, size, step in zip(
        (before.edges, before.arcs, before.coins),
        (after.edges, after.arcs, after.coins),
        sizes,
        steps,
        strict=True,
    ):
        touched = np.argwhere((first != second).any(axis=0))
        assert len(touched) > 0
        reach = np.abs(touched * step - (y, x)).max()
        assert reach <= size / 2 + step


def test_brightness_is_the_weighted_sum_of_the_channels() -> None:
    pixels = photos.photograph("chelsea.png")
    expected = pixels.astype(np.float64) @ photos.LUMA.astype(np.float64)
    assert np.abs(photos.brightness(pixels) - expected).max() <= 0.5 + 1e-4


def test_feature_bank_answers_nothing_to_a_flat_image() -> None:
    maps = chapters.maps_of(np.full((40, 40), 200, np.uint8), chapters.feature_bank())
    assert maps.shape == (8, 40, 40)
    assert np.abs(maps).max() < 1e-3
    ramp = np.tile(np.arange(0, 200, 5, dtype=np.uint8), (40, 1))
    answers = dict(
        zip(
            chapters.feature_bank(),
            np.abs(chapters.maps_of(ramp, chapters.feature_bank())[:, 20, 20]),
            strict=True,
        )
    )
    assert answers["vertical edges"] > 10 * answers["horizontal edges"]


def test_pooling_slide_shows_max_and_mean() -> None:
    maps = chapters.POOLED.astype(np.float32)[None]
    np.testing.assert_array_equal(gpuconv.max_pool2d(maps, 2)[0], [[7, 9], [8, 7]])
    np.testing.assert_array_equal(gpuconv.avg_pool2d(maps, 2)[0], [[3.75, 4.25], [4, 4]])
