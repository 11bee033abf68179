"""Image files: what is read is what was stored, what is written can be read, damage is an error."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from gpuconv import image_io
from gpuconv.image_io import Image, ImageError, Page, png, read_image, write_image
from gpuconv.image_io.metadata import EXIF_PREFIX, Metadata, Resolution, orientation
from tests.image_files import Pixels, exif_bytes, icc_profile, noise


def smooth(height: int, width: int) -> Pixels:
    """RGB ramps: what JPEG keeps within a few levels."""
    y, x = np.mgrid[:height, :width]
    ramps = [y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)]
    return np.stack(ramps, axis=2).astype(np.uint8)


def png_bytes(page: Page, extra: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG file with `extra` chunks."""
    buffer = io.BytesIO()
    png.encode(buffer, page, extra)
    return buffer.getvalue()


def only_page(path: Path) -> Page:
    """The single page of a file."""
    (page,) = read_image(path).pages
    return page


STORED = {
    "grey8": (noise(7, 9), None),
    "rgb8": (noise(7, 9, 3), None),
    "grey_alpha8": (noise(7, 9), noise(7, 9, seed=1)),
    "rgb_alpha8": (noise(7, 9, 3), noise(7, 9, seed=1)),
    "grey16": (noise(7, 9, dtype=np.uint16), None),
    "rgb16": (noise(7, 9, 3, dtype=np.uint16), None),
    "grey_alpha16": (noise(7, 9, dtype=np.uint16), noise(7, 9, dtype=np.uint16, seed=1)),
    "rgb_alpha16": (noise(7, 9, 3, dtype=np.uint16), noise(7, 9, dtype=np.uint16, seed=1)),
    "one_pixel": (noise(1, 1), None),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("name", STORED)
def test_write_image_keeps_every_pixel(tmp_path: Path, name: str, suffix: str) -> None:
    color, alpha = STORED[name]
    path = tmp_path / f"a{suffix}"
    write_image(path, Image((Page(color, alpha),)))
    page = only_page(path)
    assert page.color.dtype == color.dtype
    np.testing.assert_array_equal(page.color, color)
    assert (page.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(page.alpha, alpha)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 2), (7, 9, 5)])
def test_write_image_tiff_keeps_dtype_and_channels(
    tmp_path: Path, dtype: Any, shape: tuple[int, ...]
) -> None:
    color = noise(*shape, dtype=dtype)
    write_image(tmp_path / "a.tiff", Image((Page(color),)))
    page = only_page(tmp_path / "a.tiff")
    assert page.color.dtype == dtype
    assert page.alpha is None
    np.testing.assert_array_equal(page.color, color)


def test_write_image_tiff_keeps_pages_of_different_shapes(tmp_path: Path) -> None:
    pages = [Page(noise(7, 9)), Page(noise(5, 4, 3)), Page(noise(7, 9, dtype=np.uint16))]
    write_image(tmp_path / "a.tif", Image(tuple(pages)))
    found = read_image(tmp_path / "a.tif").pages
    assert len(found) == 3
    for page, wanted in zip(found, pages, strict=True):
        np.testing.assert_array_equal(page.color, wanted.color)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"bigtiff": True}, {"planar": True}])
def test_read_image_tiff_of_every_structure(
    tmp_path: Path, options: dict[str, Any], byteorder: Any
) -> None:
    pixels = noise(40, 50, 3, dtype=np.uint16)
    options = dict(options)
    planar = options.pop("planar", False)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(pixels, -1, 0) if planar else pixels,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        byteorder=byteorder,
        **options,
    )
    page = only_page(tmp_path / "a.tif")
    assert page.color.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(page.color, pixels)


def test_read_image_tiff_stack_behind_one_page_gives_all_pages(tmp_path: Path) -> None:
    stack = noise(4, 20, 30, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    tifffile.imwrite(tmp_path / "b.tif", stack, truncate=True, photometric="minisblack")
    for name in ("a.tif", "b.tif"):
        found = read_image(tmp_path / name).pages
        np.testing.assert_array_equal(np.stack([page.color for page in found]), stack)


def test_read_image_tiff_white_is_zero_and_bilevel(tmp_path: Path) -> None:
    bits = noise(16, 16) > 127
    tifffile.imwrite(tmp_path / "white.tif", bits, photometric="miniswhite")
    np.testing.assert_array_equal(only_page(tmp_path / "white.tif").color, np.where(bits, 0, 255))
    tifffile.imwrite(tmp_path / "black.tif", bits, photometric="minisblack")
    np.testing.assert_array_equal(only_page(tmp_path / "black.tif").color, np.where(bits, 255, 0))


def test_read_image_tiff_palette_becomes_rgb(tmp_path: Path) -> None:
    indices = noise(8, 8)
    table = noise(3, 256, seed=3)
    tifffile.imwrite(
        tmp_path / "a.tif", indices, photometric="palette", colormap=table.astype(np.uint16) * 257
    )
    np.testing.assert_array_equal(only_page(tmp_path / "a.tif").color, table.T[indices])


def test_read_image_tiff_premultiplied_alpha_becomes_straight(tmp_path: Path) -> None:
    stored = np.full((4, 4, 4), 64, np.uint8)
    stored[..., 3] = 128
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"], metadata=None
    )
    page = only_page(tmp_path / "a.tif")
    assert np.unique(page.color).tolist() == [128]  # 64 · 255 / 128 = 127.5, half to even
    assert page.alpha is not None
    assert np.unique(page.alpha).tolist() == [128]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_read_image_png_modes_agree_with_pillow(tmp_path: Path, mode: str) -> None:
    source = PIL.Image.fromarray(noise(9, 11, 4))
    if mode == "I;16":
        picture = PIL.Image.fromarray(noise(9, 11, dtype=np.uint16))
    else:
        picture = source.convert("RGB").convert(mode) if mode == "P" else source.convert(mode)
    picture.save(tmp_path / "a.png")
    page = only_page(tmp_path / "a.png")
    wanted = {"1": "L", "P": "RGB"}.get(mode, mode)
    expected = np.asarray(picture.convert(wanted) if wanted != mode else picture)
    assert page.color.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    np.testing.assert_array_equal(page.interleaved, expected)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_read_image_png_transparent_colour_becomes_alpha(tmp_path: Path, mode: str) -> None:
    picture = PIL.Image.new("RGB", (4, 2), (255, 255, 255))
    picture.paste((0, 0, 0), (0, 0, 2, 2))
    picture = picture.convert(mode)
    key: Any = (0, 0, 0) if mode == "RGB" else 0
    if mode == "P":
        key = picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png", transparency=key)
    page = only_page(tmp_path / "a.png")
    assert page.alpha is not None
    assert page.color.shape == ((2, 4) if mode in ("1", "L") else (2, 4, 3))
    np.testing.assert_array_equal(page.alpha, [[0, 0, 255, 255]] * 2)


def test_read_image_png16_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    pixels = noise(5, 6, 3, dtype=np.uint16)
    key = struct.pack(">HHH", *pixels[2, 3].tolist())
    (tmp_path / "a.png").write_bytes(png_bytes(Page(pixels), [(b"tRNS", key)]))
    page = only_page(tmp_path / "a.png")
    assert page.alpha is not None
    assert np.argwhere(page.alpha == 0).tolist() == [[2, 3]]
    np.testing.assert_array_equal(page.color, pixels)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_write_image_jpeg_stays_close(tmp_path: Path, mode: str) -> None:
    pixels = smooth(40, 50) if mode == "RGB" else smooth(40, 50)[..., 0]
    write_image(tmp_path / "a.jpg", Image((Page(pixels),)))
    page = only_page(tmp_path / "a.jpg")
    assert page.color.shape == pixels.shape
    assert np.abs(page.color.astype(int) - pixels).max() <= 4


def test_write_image_jpeg_does_not_subsample_chroma(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", Image((Page(smooth(32, 32)),)))
    with PIL.Image.open(tmp_path / "a.jpg") as picture:
        assert [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_read_image_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(smooth(32, 32))
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    page = only_page(tmp_path / "a.jpg")
    assert page.color.shape == (32, 32, 3)
    assert np.abs(page.color.astype(int) - smooth(32, 32)).max() <= 12


def test_read_image_cmyk_profile_is_not_kept_for_rgb(tmp_path: Path) -> None:
    picture = PIL.Image.fromarray(smooth(32, 32)).convert("CMYK")
    picture.save(tmp_path / "a.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108)
    assert read_image(tmp_path / "a.jpg").metadata.icc_profile is None


def test_read_image_jpeg_with_previews_gives_its_main_picture(tmp_path: Path) -> None:
    main, preview = PIL.Image.fromarray(smooth(32, 32)), PIL.Image.fromarray(noise(8, 8, 3))
    main.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    with PIL.Image.open(tmp_path / "a.jpg") as picture:
        assert picture.format == "MPO"
    image = read_image(tmp_path / "a.jpg")
    assert image.format == "JPEG"
    assert np.abs(image.pages[0].color.astype(int) - smooth(32, 32)).max() <= 12


@pytest.mark.parametrize("alpha", [False, True])
def test_write_image_webp_stays_lossless_where_the_source_was(tmp_path: Path, alpha: bool) -> None:
    pixels = noise(12, 14, 4 if alpha else 3)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exact=True)
    PIL.Image.fromarray(pixels).save(tmp_path / "b.webp", quality=80)
    first, second = read_image(tmp_path / "a.webp"), read_image(tmp_path / "b.webp")
    assert first.lossless
    assert not second.lossless
    np.testing.assert_array_equal(first.pages[0].interleaved, pixels)
    write_image(tmp_path / "c.webp", first)
    write_image(tmp_path / "d.webp", second)
    np.testing.assert_array_equal(only_page(tmp_path / "c.webp").interleaved, pixels)
    assert not read_image(tmp_path / "d.webp").lossless


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_read_image_turns_upright_and_resets_the_tag(
    tmp_path: Path, suffix: str, turn: int
) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255
    picture = PIL.Image.fromarray(pixels)
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, extratags=[(274, 3, 1, turn, True)], metadata=None)
    else:
        options = {"lossless": True} if suffix == ".webp" else {}
        picture.save(path, exif=exif_bytes(turn), **options)
    tagged = PIL.Image.fromarray(pixels)
    tagged.getexif()[0x0112] = turn
    expected = np.asarray(PIL.ImageOps.exif_transpose(tagged))
    page = only_page(path)
    assert page.color.shape == expected.shape
    np.testing.assert_array_equal(page.color > 127, expected > 127)
    write_image(path, read_image(path))
    with PIL.Image.open(path) as written:
        assert written.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(only_page(path).color > 127, expected > 127)


def test_read_image_png16_turns_upright(tmp_path: Path) -> None:
    pixels = noise(5, 6, 3, dtype=np.uint16)
    exif = exif_bytes(6).removeprefix(EXIF_PREFIX)
    (tmp_path / "a.png").write_bytes(png_bytes(Page(pixels), [(b"eXIf", exif)]))
    np.testing.assert_array_equal(only_page(tmp_path / "a.png").color, np.rot90(pixels, -1))


WITH_METADATA = [suffix for suffix, kind in image_io.FORMATS.items() if kind not in ("NPY", "Zarr")]
CHANGES = [
    *((a, b, np.uint8) for a in (".png", ".jpg", ".webp", ".tif") for b in WITH_METADATA),
    *((a, b, np.uint16) for a in (".png", ".tif") for b in (".png", ".tif")),
]


@pytest.mark.parametrize(("source", "target", "depth"), CHANGES)
def test_write_image_keeps_metadata_through_any_format(
    tmp_path: Path, source: str, target: str, depth: Any
) -> None:
    icc = icc_profile()
    metadata = Metadata(
        icc,
        exif_bytes().removeprefix(EXIF_PREFIX),
        Resolution(Fraction(300), Fraction(300)),
    )
    page = Page(noise(16, 24, 3, dtype=depth))
    first, second = tmp_path / f"a{source}", tmp_path / f"b{target}"
    write_image(first, Image((page,), metadata=metadata))
    write_image(second, read_image(first))
    found = read_image(second).metadata
    assert found.icc_profile == icc
    assert found.exif is not None
    exif = PIL.Image.Exif()
    exif.load(EXIF_PREFIX + found.exif)
    assert exif[0x010F] == "Camera"
    assert exif[0x013B].encode("latin-1").decode() == "Zoé"
    assert exif.get_ifd(0x8769)[0x9003] == "2024:01:02"
    assert exif.get_ifd(0x8769)[0xA002] == 24
    assert float(exif.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
    assert tuple(map(float, exif.get_ifd(0x8825)[2])) == (1.0, 2.0, 3.0)
    if ".webp" not in (source, target):  # WebP has no resolution of its own
        assert found.resolution is not None
        assert found.resolution.dpi == pytest.approx((300, 300), rel=1e-3)


def test_write_image_tiff_keeps_the_exact_resolution_and_description(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(8, 8),
        resolution=((1000, 7), (2000, 7)),
        resolutionunit="CENTIMETER",
        description="a leaf in café light".encode(),
        metadata=None,
    )
    write_image(tmp_path / "b.tif", read_image(tmp_path / "a.tif"))
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        tags = tiff.pages.first.tags
        assert tags[282].value == (1000, 7)
        assert tags[283].value == (2000, 7)
        assert tags[296].value == 3
        assert tags[270].value == "a leaf in café light"


def test_write_image_exif_has_the_new_size_and_no_thumbnail(tmp_path: Path) -> None:
    secret = b"\xff\xd8 the unfiltered face \xff\xd9"
    order = "<"
    first = struct.pack(order + "HHHIHHI", 2, 0x0112, 3, 1, 6, 0, 0)[:-4]
    first += struct.pack(order + "HHII", 0x8769, 4, 1, 80)
    assert len(first) == 2 + 24
    data = b"II*\0" + struct.pack(order + "I", 8) + first + struct.pack(order + "I", 40)
    data = data.ljust(40, b"\0")
    data += struct.pack(order + "HHHIIHHIII", 2, 0x0201, 4, 1, 120, 0x0202, 4, 1, len(secret), 0)
    data = data.ljust(80, b"\0")
    data += struct.pack(order + "HHHIIHHIII", 2, 0xA002, 4, 1, 999, 0xA003, 4, 1, 777, 0)
    data = data.ljust(120, b"\0") + secret
    assert orientation(data) == 6
    PIL.Image.fromarray(smooth(16, 24)).save(tmp_path / "a.jpg", exif=EXIF_PREFIX + data)
    write_image(tmp_path / "b.jpg", read_image(tmp_path / "a.jpg"))
    assert b"unfiltered face" in (tmp_path / "a.jpg").read_bytes()
    assert b"unfiltered face" not in (tmp_path / "b.jpg").read_bytes()
    with PIL.Image.open(tmp_path / "b.jpg") as picture:
        assert picture.size == (16, 24)
        exif = picture.getexif()
        assert exif[0x0112] == 1
        assert exif.get_ifd(0x8769)[0xA002] == 16
        assert exif.get_ifd(0x8769)[0xA003] == 24


def test_read_image_passes_over_broken_exif(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    good = exif_bytes(6).removeprefix(EXIF_PREFIX)
    for trial in range(60):
        broken = bytearray(good)
        for at in rng.integers(8, len(broken), 6):
            broken[at] = rng.integers(256)
        PIL.Image.fromarray(smooth(8, 8)).save(
            tmp_path / "a.jpg", exif=EXIF_PREFIX + bytes(broken[: len(broken) - trial])
        )
        image = read_image(tmp_path / "a.jpg")
        for target in ("b.jpg", "b.png", "b.tif"):
            write_image(tmp_path / target, image)


def test_write_image_keeps_png_gamma(tmp_path: Path) -> None:
    for pixels in (noise(4, 4), noise(4, 4, dtype=np.uint16)):
        metadata = Metadata(color_chunks=((b"gAMA", struct.pack(">I", 100_000)),))
        write_image(tmp_path / "a.png", Image((Page(pixels),), metadata=metadata))
        assert read_image(tmp_path / "a.png").metadata.color_chunks == metadata.color_chunks


def encoded(kind: str) -> bytes:
    """A small valid file of each kind, as bytes."""
    buffer = io.BytesIO()
    pixels = noise(24, 31, 3)
    if kind == "png16":
        return png_bytes(Page(noise(24, 31, 3, dtype=np.uint16)))
    if kind.startswith("tiff"):
        with tifffile.TiffWriter(buffer) as writer:
            for page in (pixels, pixels[:8]):
                writer.write(page, compression=kind[5:] or None, metadata=None, photometric="rgb")
        return buffer.getvalue()
    options: dict[str, Any] = {"progressive": True} if kind == "progressive" else {}
    form = "JPEG" if kind in ("jpeg", "progressive") else kind
    PIL.Image.fromarray(smooth(24, 31) if form == "JPEG" else pixels).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind",
    ["png", "png16", "jpeg", "progressive", "webp", "tiff", "tiff-zlib", "tiff-lzw", "tiff-jpeg"],
)
def test_read_image_truncated_anywhere_is_an_error_or_the_whole_image(
    tmp_path: Path, kind: str
) -> None:
    data = encoded(kind)
    path = tmp_path / "a"
    path.write_bytes(data)
    whole = read_image(path).pages
    reasons = []
    cuts = np.unique(np.linspace(0, len(data) - 1, 150).astype(int))
    for cut in cuts:
        path.write_bytes(data[:cut])
        try:
            found = read_image(path).pages
        except ImageError as error:
            reasons.append(error.reason)
            continue
        assert len(found) == len(whole)
        for page, wanted in zip(found, whole, strict=True):
            np.testing.assert_array_equal(page.color, wanted.color)
    assert all(r.startswith("cannot be decoded: ") and "\n" not in r for r in reasons)
    assert len(reasons) >= len(cuts) - 4


def test_read_image_corrupt_png_is_an_error(tmp_path: Path) -> None:
    for kind in ("png", "png16"):
        data = bytearray(encoded(kind))
        data[len(data) // 2] ^= 0x55
        (tmp_path / "a.png").write_bytes(bytes(data))
        with pytest.raises(ImageError, match="cannot be decoded"):
            read_image(tmp_path / "a.png")


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return png.SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def test_read_image_decompression_bomb_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "b.png").write_bytes(png_header(60_000, 60_000, depth=16))
    (tmp_path / "c.png").write_bytes(png_header(15_000, 11_000))  # where Pillow alone would warn
    tile = np.zeros((256, 256), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(
            (tile for _ in range(64 * 64)),
            shape=(16384, 16384),
            dtype=np.uint8,
            tile=(256, 256),
            compression="zlib",
        )
    for name in ("a.png", "b.png"):
        reason = "needs about .* GiB in memory, more than the limit of 1.0 GiB"
        with pytest.raises(ImageError, match=reason):
            read_image(tmp_path / name, memory_limit=1 << 30)
    with pytest.raises(ImageError, match="decompression bomb"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "c.png")


def test_read_image_says_why_it_cannot(tmp_path: Path) -> None:
    reasons = {}
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is no image at all")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    PIL.Image.new("P", (4, 4)).save(tmp_path / "gif.png", "GIF")
    frames = [PIL.Image.fromarray(noise(8, 8, 3, seed=s)) for s in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    for name in ("empty", "text", "folder", "loop", "pipe", "gif", "missing"):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / f"{name}.png")
        reasons[name] = caught.value.reason
        assert str(caught.value) == f"{tmp_path / name}.png: {caught.value.reason}"
    assert reasons == {
        "empty": "cannot be decoded: the file is empty",
        "text": "cannot be decoded: not a PNG, JPEG, WebP, TIFF or NPY image",
        "folder": "cannot be read: Is a directory",
        "loop": "cannot be read: Too many levels of symbolic links",
        "pipe": "cannot be read: not a regular file",
        "gif": "cannot be decoded: not a PNG, JPEG, WebP, TIFF or NPY image but GIF",
        "missing": "cannot be read: No such file or directory",
    }
    with pytest.raises(ImageError, match="an animation of 3 frames"):
        read_image(tmp_path / "moving.webp")


@pytest.mark.parametrize(
    ("name", "page", "reason"),
    [
        (
            "a.png",
            Page(noise(4, 4, dtype=np.float32)),
            "PNG cannot hold float32 pixels; write TIFF",
        ),
        ("a.png", Page(noise(4, 4, 5)), "PNG cannot hold 5 colour channels; write TIFF"),
        ("a.jpg", Page(noise(4, 4, dtype=np.uint16)), "JPEG cannot hold uint16 pixels; write PNG"),
        ("a.jpg", Page(noise(4, 4), noise(4, 4)), "JPEG cannot hold an alpha channel"),
        ("a.webp", Page(noise(4, 4, dtype=np.uint16)), "WebP cannot hold uint16 pixels"),
        ("a.webp", Page(noise(1, 20_000)), "WebP holds at most 16383 pixels a side, not 20000"),
        ("a.gif", Page(noise(4, 4)), "its name must end in .png"),
        ("none/a.png", Page(noise(4, 4)), "cannot be written: No such file or directory"),
    ],
)
def test_write_image_says_why_it_cannot_and_leaves_nothing(
    tmp_path: Path, name: str, page: Page, reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        write_image(tmp_path / name, Image((page,)))
    assert caught.value.reason.startswith(reason)
    assert list(tmp_path.iterdir()) == []


def test_write_image_refuses_pages_where_the_format_has_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="PNG holds one page, this image has 2; write TIFF"):
        write_image(tmp_path / "a.png", Image((Page(noise(4, 4)), Page(noise(4, 4)))))


def test_write_image_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(file: Any, *rest: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(image_io.pillow, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, Image((Page(noise(4, 4)),)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_image_has_ordinary_permissions(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_image(tmp_path / "a.png", Image((Page(noise(4, 4)),)))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_read_image_leaves_no_warning_and_no_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encoded("tiff-zlib")
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")
