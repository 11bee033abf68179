"""Previews: the pictures show the images' own pixels, at the same place and by the same scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from gpuconv import preview
from gpuconv.image_io import Image, ImageError, Page, PageSpec, read_image, write_image
from gpuconv.image_io.metadata import Metadata
from gpuconv.preview import (
    GAP,
    MARGIN,
    draw_preview,
    plan_layout,
    reach_of,
    render,
    same_field,
    source_pixels,
)
from tests.image_files import Pixels, icc_profile, save


def told_places(height: int, width: int) -> Pixels:
    """Red is the row, green the column, blue is rich at one place and 0 elsewhere."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    blue = np.zeros((height, width), np.uint8)
    blue[90:130, 150:190] = np.random.default_rng(0).integers(0, 255, (40, 40))
    return np.stack([y, x, blue], axis=2)


def noise(*shape: int, dtype: Any = np.uint8) -> Pixels:
    """Random pixels of 8 bits, whatever the dtype."""
    return np.random.default_rng(1).integers(0, 256, shape).astype(dtype)


def draw(
    folder: Path, before: Pixels, after: Pixels, *, suffix: str = "png", alpha: Pixels | None = None
) -> dict[str, Pixels]:
    """The four pictures of a preview, as (H, W, 3) uint8, and the page that they are on."""
    old = save(folder / f"before.{suffix}", before, alpha)
    new = save(folder / f"after.{suffix}", after, alpha)
    draw_preview(old, new, "invert", folder / "preview.png")
    return pictures(folder / "preview.png", before, after)


def pictures(path: Path, before: Pixels, after: Pixels) -> dict[str, Pixels]:
    page = read_image(path).pages[0].color
    layout = plan_layout(PageSpec.of(Page(before)), PageSpec.of(Page(after)))
    found = {"page": page}
    for side, left in (("before", MARGIN), ("after", MARGIN + layout.column + GAP)):
        low = page.shape[0] - MARGIN - layout.detail[0]
        top = low - 66 - layout.whole[0]
        found[side] = page[top : top + layout.whole[0], left : left + layout.whole[1]]
        found[f"{side} detail"] = page[low : low + layout.detail[0], left : left + layout.detail[1]]
    return found


def test_draw_preview_shows_the_richest_place_pixel_by_pixel(tmp_path):
    image = told_places(200, 240)
    detail = draw(tmp_path, image, 255 - image)["before detail"]
    rows, columns = detail[..., 0].astype(int), detail[..., 1].astype(int)
    np.testing.assert_array_equal(detail, image[rows, columns])
    zoom = plan_layout(PageSpec.of(Page(image)), PageSpec.of(Page(image))).zoom
    np.testing.assert_array_equal(rows[:, 0], rows[0, 0] + np.arange(len(rows)) // zoom)
    np.testing.assert_array_equal(columns[0], columns[0, 0] + np.arange(len(columns[0])) // zoom)
    assert rows.min() <= 90
    assert rows.max() >= 129
    assert columns.min() <= 150
    assert columns.max() >= 189


def test_draw_preview_shows_the_same_place_after(tmp_path):
    image = told_places(200, 240)
    after = image.copy()
    after[..., 2] = image[::-1, ::-1, 2]  # rich elsewhere
    found = draw(tmp_path, image, after)
    places = found["before detail"][..., :2]
    np.testing.assert_array_equal(found["after detail"][..., :2], places)
    assert np.ptp(found["before detail"][..., 2]) > 200


@pytest.mark.parametrize("turned", [False, True])
def test_richest_place_sees_rows_and_columns_alike(turned):
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[200:260:2, 200:260] = 90
    pixels[40:100, 40:100:2] = 60
    spec = PageSpec(300, 300, 3, np.dtype(np.uint8))
    pixels = pixels.swapaxes(0, 1) if turned else pixels
    y, x = preview._richest_place(pixels.repeat(2, 0).repeat(2, 1), plan_layout(spec, spec))
    assert min(y, x) > 100


@pytest.mark.parametrize("step", [2, 3])
def test_draw_preview_magnifies_pooled_images_to_the_same_field(tmp_path, step):
    image = told_places(200, 241)
    pooled = image[: 200 // step * step : step, : 241 // step * step : step]
    found = draw(tmp_path, image, np.ascontiguousarray(pooled))
    for axis in (0, 1):
        before, after = found["before detail"][..., axis], found["after detail"][..., axis]
        np.testing.assert_array_equal(before // step * step, after)


def test_draw_preview_outlines_the_detail_in_both_pictures(tmp_path):
    image = told_places(200, 240)
    found = draw(tmp_path, image, image)
    warm = np.array([0xE8, 0x59, 0x0C])
    zoom = found["before"].shape[0] // 200
    first, last = (found["before detail"][i, i, :2].astype(int) for i in (0, -1))
    marked = np.argwhere((found["before"] == warm).all(axis=2))
    np.testing.assert_allclose(marked.min(axis=0), first * zoom, atol=2)
    np.testing.assert_allclose(marked.max(axis=0), (last + 1) * zoom, atol=2)
    np.testing.assert_array_equal((found["after"] == warm).all(2), (found["before"] == warm).all(2))


def test_draw_preview_reduces_by_area_mean(tmp_path):
    image = noise(270, 1440)
    found = draw(tmp_path, image, image)["after"][20:-20, 20:120]
    mean = image.reshape(135, 2, 720, 2).mean(axis=(1, 3))[20:-20, 20:120]
    np.testing.assert_allclose(found[..., 0], mean, atol=0.5)


def test_draw_preview_keeps_the_mean_where_nothing_divides(tmp_path):
    image = np.zeros((997, 1511), np.uint8)
    image[:, 755:] = 200
    found = draw(tmp_path, image, image)["after"]
    assert found.shape[:2] == (475, 720)
    outside = found[10:100, :, 0].astype(float)
    np.testing.assert_allclose(outside.mean(), 200 * (1511 - 755) / 1511, atol=0.5)
    assert set(np.unique(outside[:, :350])) == {0}
    assert set(np.unique(outside[:, 370:])) == {200}


def test_draw_preview_reduces_up_to_the_last_row(tmp_path):
    image = np.arange(0, 90, 10, dtype=np.uint8)[:, None].repeat(3000, axis=1)
    found = draw(tmp_path, image, image)["after"][:, 100, 0]
    np.testing.assert_allclose(found, [20, 60], atol=5)  # rows 0 to 4.5, 4.5 to 9


def test_draw_preview_reduces_without_aliases(tmp_path):
    image = np.zeros((100, 1100), np.uint8)
    image[:, ::2] = 200
    found = draw(tmp_path, image, image)["after"][:20, 20:120].astype(float)
    assert abs(found - 100).max() < 60


@pytest.mark.parametrize("part_pixels", [300, 20_000])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_draw_preview_by_parts_equals_whole(tmp_path, monkeypatch, part_pixels, dtype):
    image, alpha = noise(95, 1603, 3, dtype=dtype), noise(95, 1603, dtype=dtype)
    image *= 1 + 9 * (dtype == "uint16")
    monkeypatch.setattr(preview, "SAMPLED_PIXELS", 40)
    expected = draw(tmp_path, image, 255 - image, alpha=alpha)["page"]
    monkeypatch.setattr(preview, "PART_PIXELS", part_pixels)
    found = draw(tmp_path, image, 255 - image, suffix="tif", alpha=alpha)["page"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (1, 10**7), (10**6, 3), (50, 70)])
def test_parts_are_small_and_cover_every_pixel_once(height, width):
    spec = PageSpec(height, width, 3, np.dtype(np.uint8))
    size = plan_layout(spec, spec).whole
    step = max(1, height // size[0]), max(1, width // size[1])
    parts = list(preview._parts(spec, step))
    assert max(len(rows) * len(columns) for rows, columns in parts) <= preview.PART_PIXELS
    assert sum(len(rows) * len(columns) for rows, columns in parts) == spec.pixels
    assert len({(rows.start, columns.start) for rows, columns in parts}) == len(parts)
    assert all(rows.start % step[0] == columns.start % step[1] == 0 for rows, columns in parts)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (500, 500, (1, 0)),
        (500, 250, (2, 0)),
        (501, 250, (2, 0)),
        (501, 251, (2, 0)),
        (500, 498, (1, 1)),
        (500, 502, (1, -1)),
        (503, 249, (2, 2)),
        (500, 7, (71, 0)),
        (500, 320, (500 / 320, 0)),
        (64, 512, (1 / 8, 0)),
        (1, 1, (1, 0)),
    ],
)
def test_same_field_knows_pooling_and_windows_that_stay_inside(before, after, expected):
    assert same_field(before, after) == expected


def test_source_pixels_stays_inside():
    found = source_pixels(480, 80, 4, 500, 490)
    assert found.min() == 475
    assert found.max() == 489
    np.testing.assert_array_equal(source_pixels(7, 6, 3, 20, 20), [7, 7, 7, 8, 8, 8])


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", [10, 20], (0, 255)),
        ("uint16", [0, 4094], (0, 4094)),
        ("uint16", [500, 4500], (500, 4500)),
        ("uint16", [0, 5000], (0, 65535)),
        ("uint16", [7, 7], (0, 65535)),
        ("uint32", [0, 1000], (0, 1000)),
        ("int16", np.arange(-100, 101), (-99, 99)),
        ("float32", np.arange(1001) / 1000, (0.005, 0.995)),
        ("float32", [0.25], (-0.25, 0.75)),
        ("float32", [], (0, 1)),
    ],
)
def test_reach_of_uses_the_range_that_is_used(dtype, values, expected):
    found = reach_of(np.dtype(dtype), np.array(values, np.float32))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "float32", "int32"])
def test_draw_preview_shows_before_and_after_by_one_scale(tmp_path, dtype):
    image = noise(200, 240, dtype=dtype) * 10
    image[:8], image[8:16] = 0, 2550
    found = draw(tmp_path, image, image // 2, suffix="tif")
    before, after = found["before detail"].astype(int), found["after detail"].astype(int)
    assert before.min() <= 1
    assert before.max() >= 254
    np.testing.assert_allclose(after, before / 2, atol=1)


def test_draw_preview_shows_both_signs_of_edges(tmp_path):
    image = noise(200, 240, dtype=np.float32) / 255
    edges = image - np.roll(image, 1, axis=1)
    found = draw(tmp_path, image, edges, suffix="tif")
    after = found["after detail"][..., 0]
    assert np.mean(after == 0) < 0.02
    assert np.mean(after == 255) < 0.02
    assert np.ptp(found["before detail"]) > 80


def test_draw_preview_puts_transparency_over_a_checkerboard(tmp_path):
    image = np.full((200, 240, 3), (200, 30, 60), np.uint8)
    alpha = np.zeros((200, 240), np.uint8)
    alpha[:, 120:] = 255
    image[:, :120] = 7  # nobody sees it
    found = draw(tmp_path, image, image, alpha=alpha)["after"]
    greys = np.unique(found[:20, :200].reshape(-1, 3), axis=0)
    np.testing.assert_array_equal(greys, [[233] * 3, [255] * 3])
    solid = found[:20, -200:].reshape(-1, 3)
    np.testing.assert_array_equal(np.unique(solid, axis=0), [[200, 30, 60]])


def test_draw_preview_blends_what_is_half_transparent(tmp_path):
    image = np.full((200, 240, 3), (200, 30, 60), np.uint8)
    found = draw(tmp_path, image, image, alpha=np.full((200, 240), 51, np.uint8))
    expected = [[0.2 * color + 0.8 * grey for color in (200, 30, 60)] for grey in (233, 255)]
    for name in ("before", "after detail"):
        corner = found[name][-30:, :30].reshape(-1, 3)
        np.testing.assert_allclose(np.unique(corner, axis=0), expected, atol=0.51)


def test_draw_preview_takes_black_and_white_from_what_is_seen(tmp_path):
    image, alpha = noise(200, 240, 3, dtype=np.uint16), np.full((200, 240), 65535, np.uint16)
    image[50:60], alpha[50:60] = 60_000, 0
    found = draw(tmp_path, image, image, alpha=alpha)
    assert np.ptp(found["before"][300:]) > 240


def test_render_saturates_before_it_blends():
    planes = np.array([[[50.0, 200]], [[0.0, -10]], [[0.0, 0]], [[0.25, 0.5]]], np.float32)
    np.testing.assert_array_equal(
        render(planes, (0, 255))[0],
        np.rint([[50 + 0.75 * 255, 0.75 * 255, 0.75 * 255], [255, 127.5, 127.5]]),
    )


def test_draw_preview_shows_what_is_not_finite_as_transparent(tmp_path):
    image = noise(200, 240, dtype=np.float64)
    image[:40, :100], image[160:, :100], image[160:, 200:] = np.nan, np.inf, 1e300
    found = draw(tmp_path, image, image, suffix="npy")["after"]
    for corner in (found[:60, :190], found[-60:, :190], found[-60:, -70:]):
        assert set(np.unique(corner)) == {233, 255}
    assert len(np.unique(found[150:250])) > 100


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 700), (900, 1), (3, 2, 3), (40, 3000), (37, 53, 2), (37, 53, 5)],
)
def test_draw_preview_takes_any_shape(tmp_path, shape):
    image = noise(*shape)
    found = draw(tmp_path, image, 255 - image, suffix="tif")
    difference = found["before detail"].astype(int) + found["after detail"] - 255
    assert not difference.any()
    assert found["before"].size
    assert found["page"].shape[1] <= 2 * (MARGIN + 720) + GAP


def test_draw_preview_takes_another_dtype_and_a_larger_image(tmp_path):
    image = noise(20, 30)
    old, new = save(tmp_path / "a.png", image), tmp_path / "b.tif"
    larger = image.repeat(6, axis=0).repeat(6, axis=1).astype(np.int16)
    draw_preview(old, save(new, larger), "grow", tmp_path / "p.png")
    found = pictures(tmp_path / "p.png", image, larger)
    np.testing.assert_array_equal(found["after detail"], found["before detail"])
    np.testing.assert_array_equal(found["after"][:60], found["before"][:60])
    assert plan_layout(PageSpec.of(Page(image)), PageSpec.of(Page(larger))).zoom % 6 == 0


def test_draw_preview_shows_the_first_page_of_several(tmp_path):
    pages = noise(3, 60, 80)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    save(tmp_path / "one.tif", pages[0])
    for name in ("a", "one"):
        path = tmp_path / f"{name}.tif"
        draw_preview(path, path, "x", tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_draw_preview_is_a_rgb_png_and_the_same_each_time(tmp_path):
    image = noise(90, 120, 3)
    draw(tmp_path, image, image)
    first = (tmp_path / "preview.png").read_bytes()
    draw(tmp_path, image, image)
    assert (tmp_path / "preview.png").read_bytes() == first
    with PIL.Image.open(tmp_path / "preview.png") as page:
        assert (page.format, page.mode) == ("PNG", "RGB")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["after.png", "before.png", "preview.png"]


def test_draw_preview_keeps_the_colour_profile(tmp_path):
    profile = icc_profile()
    image = Image((Page(noise(40, 50, 3)),), metadata=Metadata(icc_profile=profile))
    write_image(tmp_path / "a.png", image)
    draw_preview(tmp_path / "a.png", tmp_path / "a.png", "x", tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").metadata.icc_profile == profile


def test_draw_preview_writes_long_captions_in_lines_that_fit(tmp_path):
    image = save(tmp_path / "a.png", noise(300, 300))
    heights = []
    for count in (1, 5, 500):
        caption = " | ".join(["gaussian_blur:border=reflect,sigma=2"] * count)
        draw_preview(image, image, caption, tmp_path / "p.png")
        page = read_image(tmp_path / "p.png").pages[0].color
        assert (page[:, -MARGIN + 4 :] == 255).all()
        assert (page[MARGIN : MARGIN + 30, MARGIN:-MARGIN] < 100).any()
        heights.append(page.shape[0])
    assert heights[0] < heights[1] <= heights[2] < heights[0] + 200
    lines = preview._wrapped("a" * 1000, 30, 500)
    assert len(lines) == 4
    assert lines[-1].endswith("…")
    assert all(preview._length(line, 30) <= 520 for line in lines)


def test_draw_preview_refuses_what_needs_more_memory_than_the_limit(tmp_path):
    image = noise(300, 400, 3)
    parts, whole = save(tmp_path / "a.tif", image), save(tmp_path / "a.png", image)
    draw_preview(parts, parts, "x", tmp_path / "p.png", memory_limit=1000)
    (tmp_path / "p.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: needs more memory than the limit"):
        draw_preview(parts, whole, "x", tmp_path / "p.png", memory_limit=1000)
    assert not (tmp_path / "p.png").exists()


def test_draw_preview_tells_what_cannot_be_read_or_written(tmp_path):
    image = save(tmp_path / "a.png", noise(30, 40))
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:-200])
    for bad in (tmp_path / "missing.png", broken):
        with pytest.raises(ImageError, match=bad.name):
            draw_preview(image, bad, "x", tmp_path / "p.png")
    with pytest.raises(ImageError, match="cannot be written"):
        draw_preview(image, image, "x", image / "below" / "p.png")
    draw_preview(image, image, "x", tmp_path / "new" / "folder" / "p.png")
    assert (tmp_path / "new" / "folder" / "p.png").exists()
