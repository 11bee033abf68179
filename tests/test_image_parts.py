"""Images by parts: a rectangle is what the whole image has there, bands become the whole again."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuconv import image_io
from gpuconv.image_io import (
    Header,
    Image,
    ImageError,
    OpenImage,
    Page,
    PageSpec,
    format_of,
    misfit,
    open_image,
    read_image,
    remove_leftovers,
    replacing,
    write_image,
    write_parts,
)
from gpuconv.image_io.metadata import Metadata, Resolution
from gpuconv.image_io.parts import SegmentCache, cut_page, regroup
from tests.image_files import Pixels, exif_bytes, icc_profile, noise
from tests.image_formats import KINDS, WAYS, ZARR_FORMATS, make_zarr, same, write_tiff


def check_parts(path: Path, seed: int = 0, count: int = 8) -> Image:
    """Random rectangles of every page equal the whole image, which is returned."""
    rng = np.random.default_rng(seed)
    whole = read_image(path)
    with open_image(path) as image:
        assert image.by_parts
        assert image.header == replace(whole.header, tile=image.header.tile)
        for number, page in enumerate(whole.pages):
            height, width = page.color.shape[:2]
            for _ in range(count):
                top, left = int(rng.integers(height)), int(rng.integers(width))
                bottom = int(rng.integers(top + 1, height + 1))
                right = int(rng.integers(left + 1, width + 1))
                part = image.read_part(number, range(top, bottom), range(left, right))
                same(part, page, np.s_[top:bottom, left:right])
    return whole


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_read_part_tiff_equals_the_whole(tmp_path: Path, kind: str, way: str) -> None:
    for byteorder in "<>":
        write_tiff(tmp_path / "a.tif", kind, way, byteorder=byteorder)
        check_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("way", ["one strip", "strips", "deflate strips", "deflate tiles"])
@pytest.mark.parametrize("kind", ["rgb8", "premultiplied", "planes"])
@pytest.mark.parametrize("turn", range(2, 9))
def test_read_part_tiff_is_upright(tmp_path: Path, kind: str, way: str, turn: int) -> None:
    tags = [(274, 3, 1, turn, True)]
    write_tiff(tmp_path / "a.tif", kind, way, extratags=tags)
    whole = check_parts(tmp_path / "a.tif", seed=turn)
    assert whole.pages[0].color.shape[:2] == ((40, 50) if turn < 5 else (50, 40))


@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12])
def test_read_part_tiff_of_few_bits(tmp_path: Path, bits: int, options: dict[str, Any]) -> None:
    pixels = noise(40, 51, dtype=np.uint8 if bits < 8 else np.uint16) % 2**bits
    options = {"bitspersample": bits, "photometric": "minisblack", "metadata": None} | options
    try:
        tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    except NotImplementedError as error:
        pytest.skip(f"imagecodecs cannot write these: {error}")
    check_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_read_part_tiff_bilevel(tmp_path: Path, photometric: str, compression: str | None) -> None:
    bits = noise(40, 51) > 127
    tifffile.imwrite(
        tmp_path / "a.tif", bits, photometric=photometric, compression=compression, rowsperstrip=7
    )
    whole = check_parts(tmp_path / "a.tif")
    white = bits if photometric == "minisblack" else ~bits
    np.testing.assert_array_equal(whole.pages[0].color, np.where(white, 255, 0))


@pytest.mark.parametrize("indices", [noise(40, 50), noise(40, 50) > 127])
def test_read_part_tiff_palette(tmp_path: Path, indices: Pixels) -> None:
    table = noise(3, 2 if indices.dtype == bool else 256, seed=3)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        indices,
        photometric="minisblack",
        metadata=None,
        extratags=[
            (320, 3, table.size, (table.astype(np.uint16) * 257).ravel().tolist(), True),
        ],
    )
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        place = tiff.pages.first.tags[262].valueoffset
    data[place : place + 2] = struct.pack("<H", 3)
    (tmp_path / "a.tif").write_bytes(data)
    whole = check_parts(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole.pages[0].color, table.T[indices.astype(np.uint8)])


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64)])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "png", "lerc"])
def test_read_part_tiff_of_image_codecs(
    tmp_path: Path, compression: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(*shape),
        compression=compression,
        photometric=photometric,
        metadata=None,
        **options,
    )
    check_parts(tmp_path / "a.tif")


def test_read_part_tiff_subsampled_jpeg(tmp_path: Path) -> None:
    options = {"compression": "jpeg", "subsampling": (2, 2), "tile": (32, 32)}
    tifffile.imwrite(tmp_path / "a.tif", noise(70, 90, 3), photometric="rgb", **options)
    check_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["imagej", "shaped", "pages", "deflated pages"])
def test_read_part_tiff_of_many_pages(tmp_path: Path, kind: str) -> None:
    stack = noise(12, 20, 30, dtype=np.uint16)
    options: dict[str, dict[str, Any]] = {
        "imagej": {"imagej": True},
        "shaped": {"truncate": True},
        "pages": {},
        "deflated pages": {"compression": "zlib"},
    }
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options[kind])
    whole = check_parts(tmp_path / "a.tif", count=3)
    np.testing.assert_array_equal(np.stack([page.color for page in whole.pages]), stack)


def test_read_part_tiff_reads_a_huge_strip_only_where_it_must(tmp_path: Path) -> None:
    height, width = 40_000, 30_000
    with (tmp_path / "a.tif").open("wb") as file:
        tifffile.imwrite(file, shape=(height, width), dtype=np.uint8, photometric="minisblack")
    with (tmp_path / "a.tif").open("r+b") as file, tifffile.TiffFile(file) as tiff:
        file.seek(tiff.pages.first.dataoffsets[0] + 30_000 * width + 20_000)
        file.write(b"\x07")
    with open_image(tmp_path / "a.tif") as image:
        assert image.by_parts
        assert image.peak_bytes >= height * width
        part = image.read_part(0, range(29_999, 30_002), range(19_990, 20_010))
        assert np.argwhere(part.color).tolist() == [[1, 10]]
        band = image.read_part(0, range(30_000, 30_001), range(width))
        assert np.argwhere(band.color).tolist() == [[0, 20_000]]
    with pytest.raises(ImageError, match=r"needs about 1\.1 GiB in memory, more than"):
        read_image(tmp_path / "a.tif", memory_limit=1 << 30)


def test_open_image_a_huge_compressed_strip_has_no_parts(tmp_path: Path) -> None:
    zeros = np.zeros((8200, 8200), np.uint8)
    options = {"compression": "zlib", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", zeros, rowsperstrip=8200, **options)
    tifffile.imwrite(tmp_path / "b.tif", zeros, rowsperstrip=100, **options)
    with open_image(tmp_path / "a.tif") as one, open_image(tmp_path / "b.tif") as many:
        assert not one.by_parts
        assert many.by_parts
        assert one.peak_bytes > many.peak_bytes


SHAPES = [
    *((40, 50), (40, 50, 1), (40, 50, 3), (40, 50, 4), (3, 40, 50), (3, 40, 50, 1)),
    *((3, 40, 50, 3), (3, 40, 50, 4), (1, 40, 50), (3, 40, 4, 1), (1, 1), (2, 1, 1, 1)),
]
DTYPES = ["u1", "i1", "<u2", ">u2", "<f2", ">f4", "f8", ">i8", "u8", "u4"]


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", SHAPES)
def test_read_part_npy_equals_the_whole(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    dtype = DTYPES[SHAPES.index(shape) % len(DTYPES)]
    native = np.dtype(dtype).newbyteorder("=")
    array = np.asarray(noise(*shape, dtype=native).astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    whole = check_parts(tmp_path / "a.npy")
    stack = np.stack([page.interleaved for page in whole.pages])
    assert stack.dtype == native
    np.testing.assert_array_equal(stack.reshape(shape), array)
    write_image(tmp_path / "b.npy", whole)
    again = np.load(tmp_path / "b.npy")
    assert again.shape == shape
    np.testing.assert_array_equal(again, array)


def test_read_part_npy_reads_rows_wider_than_a_run(tmp_path: Path) -> None:
    for order in "CF":
        array = np.asarray(noise(30, 20_000, 3, dtype=np.uint16), order=order)  # type: ignore[call-overload]
        np.save(tmp_path / "a.npy", array)
        check_parts(tmp_path / "a.npy")


@pytest.mark.parametrize("version", ZARR_FORMATS)
@pytest.mark.parametrize("chunks", [16, 100])
@pytest.mark.parametrize("shape", SHAPES[:9])
def test_read_part_zarr_equals_the_whole(
    tmp_path: Path, shape: tuple[int, ...], chunks: int, version: int
) -> None:
    dtype = np.dtype(DTYPES[SHAPES.index(shape) % len(DTYPES)])
    array = noise(*shape, dtype=dtype.newbyteorder("="))
    made = make_zarr(
        tmp_path / "a",
        array,
        version,
        chunks=tuple(min(chunks, size) for size in shape),
        shards=shape if version == 3 and chunks == 100 else None,
        dtype=dtype if version == 2 else array.dtype,
        attributes={"scale": [1.5, 2]},
    )
    assert format_of(tmp_path / "a") == "Zarr"
    whole = check_parts(tmp_path / "a", count=4)
    stack = np.stack([page.interleaved for page in whole.pages])
    np.testing.assert_array_equal(stack.reshape(shape), array)
    write_image(tmp_path / "b.zarr", whole)
    again: Any = zarr.open_array(str(tmp_path / "b.zarr"), mode="r")
    np.testing.assert_array_equal(again[...], array)
    assert again.chunks == made.chunks
    assert getattr(again, "shards", None) == getattr(made, "shards", None)
    assert (tmp_path / "b.zarr" / ".zarray").exists() == (version == 2)
    assert dict(again.attrs) == {"scale": [1.5, 2]}


def test_write_image_zarr_without_a_zarr_source(tmp_path: Path) -> None:
    pages = (Page(noise(700, 600, 3), noise(700, 600)),) * 2
    write_image(tmp_path / "a.zarr", Image(pages))
    made: Any = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    assert made.shape == (2, 700, 600, 4)
    assert made.chunks == (1, 512, 512, 4)
    for page in read_image(tmp_path / "a.zarr").pages:
        same(page, pages[0])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_read_part_is_a_rectangle_of_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("p") / "a.tif"
    turn = data.draw(st.integers(1, 8))
    kind, way = data.draw(st.sampled_from(list(KINDS))), data.draw(st.sampled_from(list(WAYS)))
    write_tiff(path, kind, way, extratags=[(274, 3, 1, turn, True)])
    with open_image(path) as image:
        (page,) = image.read().pages
        height, width = page.color.shape[:2]
        for _ in range(4):
            top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, height)] * 2)))
            left, right = sorted(data.draw(st.tuples(*[st.integers(0, width)] * 2)))
            part = image.read_part(0, range(top, bottom), range(left, right))
            same(part, page, np.s_[top:bottom, left:right])


def test_read_part_by_many_threads(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", "rgb16", "deflate tiles")
    np.save(tmp_path / "a.npy", noise(40, 50, 3))
    write_image(tmp_path / "a.zarr", Image((Page(noise(40, 50, 3)),)))
    for name in ("a.tif", "a.npy", "a.zarr"):
        with open_image(tmp_path / name) as image, ThreadPoolExecutor(8) as threads:
            (page,) = image.read().pages
            places = [(y, x) for y in range(0, 40, 3) for x in range(0, 50, 7)] * 2

            def part(place: tuple[int, int], image: OpenImage = image) -> Page:
                y, x = place
                return image.read_part(0, range(y, min(40, y + 9)), range(x, min(50, x + 9)))

            for (y, x), found in zip(places, threads.map(part, places), strict=True):
                same(found, page, np.s_[y : y + 9, x : x + 9])


def test_segment_cache_decodes_once_and_stays_within_its_capacity() -> None:
    cache = SegmentCache(250)
    decoded: list[int] = []
    barrier = threading.Barrier(4)

    def segment(i: int) -> Pixels:
        decoded.append(i)
        return np.full(100, i, np.uint8)

    def ask(_: int) -> int:
        barrier.wait()
        return int(cache.get(1, lambda: segment(1))[0])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [1] * 4
    assert decoded == [1]
    for i in (2, 1, 3, 1, 2):
        cache.get(i, lambda i=i: segment(i))  # type: ignore[misc]
    assert decoded == [1, 2, 3, 2]
    with pytest.raises(ValueError, match="broken"):
        cache.get(9, lambda: (_ for _ in ()).throw(ValueError("broken")))
    assert cache.get(9, lambda: segment(9))[0] == 9


def in_bands(page: Page, heights: list[int]) -> Iterator[Page]:
    """A page as bands of the given heights, over and over."""
    row, turn = 0, 0
    while row < len(page.color):
        band = slice(row, row + heights[turn % len(heights)])
        yield Page(page.color[band], None if page.alpha is None else page.alpha[band])
        row, turn = band.stop, turn + 1


PAGES = {
    "grey": Page(noise(300, 270)),
    "rgb": Page(noise(300, 270, 3)),
    "rgba16": Page(noise(300, 270, 3, dtype=np.uint16), noise(300, 270, dtype=np.uint16)),
    "float": Page(noise(300, 270, dtype=np.float32)),
    "int64": Page(noise(300, 270, dtype=np.int64)),
    "column": Page(noise(300, 1)),
    "row": Page(noise(1, 600, 3)),
    "pixel": Page(noise(1, 1)),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
@pytest.mark.parametrize("name", PAGES)
def test_write_parts_makes_the_whole(
    tmp_path: Path, name: str, suffix: str, compressed: bool
) -> None:
    page = PAGES[name]
    header = replace(Image((page, page)).header, compressed=compressed)
    paths = []
    for i, heights in enumerate(([1000], [1, 40, 7], [256], [511, 3])):
        paths.append(tmp_path / f"{i}{suffix}")
        write_parts(paths[-1], header, (in_bands(page, heights) for _ in range(2)))
    for found in check_parts(paths[0], count=2).pages:
        same(found, page)
    files = [sorted(p for p in path.rglob("*") if p.is_file()) or [path] for path in paths]
    contents = [[file.read_bytes() for file in some] for some in files]
    assert all(content == contents[0] for content in contents)
    assert sorted(tmp_path.iterdir()) == paths


def test_write_parts_tiff_keeps_what_write_image_keeps(tmp_path: Path) -> None:
    exif = exif_bytes().removeprefix(b"Exif\0\0")
    resolution = Resolution(Fraction(1000, 7), Fraction(2000, 7), 3)
    metadata = Metadata(icc_profile(), exif, resolution, description="a leaf in café light")
    pages = (Page(noise(60, 40, 3)), Page(noise(20, 10)))
    image = Image(pages, "TIFF", metadata)
    write_image(tmp_path / "a.tif", image)
    write_parts(tmp_path / "b.tif", image.header, map(cut_page, pages))
    first, second = read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif")
    assert second.metadata == first.metadata
    assert second.metadata.exif is not None
    for found, page in zip(second.pages, pages, strict=True):
        same(found, page)


def test_write_parts_tiff_keeps_the_tiles(tmp_path: Path) -> None:
    page = Page(noise(100, 90, 3))
    for tile, kept in [((32, 64), (32, 64)), ((20, 32), (256, 256)), (None, (256, 256))]:
        header = replace(Image((page,)).header, tile=tile)
        write_parts(tmp_path / "a.tif", header, [[page]])
        with open_image(tmp_path / "a.tif") as image:
            assert image.header.tile == kept
    write_image(tmp_path / "a.tif", read_image(tmp_path / "a.tif"))
    with open_image(tmp_path / "a.tif") as image:
        assert image.header.tile is None


def test_write_parts_a_wrong_band_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    good = Page(noise(8, 9, 3))
    header = Image((good,)).header
    for suffix in (".tif", ".npy", ".zarr"):
        for pages in (
            [],
            [[]],
            [[Page(noise(7, 9, 3))]],
            [[Page(noise(9, 9, 3))]],
            [[good, good]],
            [[Page(noise(8, 8, 3))]],
            [[Page(noise(8, 9))]],
            [[Page(noise(8, 9, 3, dtype=np.uint16))]],
            [[good], [good]],
        ):
            with pytest.raises(ImageError, match="cannot be written"):
                write_parts(tmp_path / f"a{suffix}", header, pages)
            assert list(tmp_path.iterdir()) == []


def test_write_parts_passes_on_what_its_source_raises(tmp_path: Path) -> None:
    def broken() -> Iterator[Page]:
        yield Page(noise(4, 9))
        raise LookupError("the source")

    header = Header((PageSpec(8, 9, 1, np.dtype(np.uint8)),), "TIFF")
    for suffix in (".tif", ".npy", ".zarr"):
        with pytest.raises(LookupError, match="the source"):
            write_parts(tmp_path / f"a{suffix}", header, [broken()])
        assert list(tmp_path.iterdir()) == []


def test_regroup_gives_blocks_of_the_height_asked_for() -> None:
    page = Page(noise(23, 4, 3), noise(23, 4))
    for heights in ([1], [23], [5, 1, 9]):
        blocks = [b.copy() for b in regroup(PageSpec.of(page), in_bands(page, heights), 6)]
        assert [len(block) for block in blocks] == [6, 6, 6, 5]
        np.testing.assert_array_equal(np.concatenate(blocks), page.interleaved)


def test_write_image_replaces_a_zarr_array_and_nothing_else(tmp_path: Path) -> None:
    page = Page(noise(4, 5))
    for seed in (1, 2):
        write_image(tmp_path / "a.zarr", Image((Page(noise(4, 5, seed=seed)),)))
    same(read_image(tmp_path / "a.zarr").pages[0], Page(noise(4, 5, seed=2)))
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "mine.txt").write_text("keep")
    zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    for name in ("b.zarr", "c.zarr"):
        with pytest.raises(ImageError, match="a folder that is no Zarr array has this name"):
            write_image(tmp_path / name, Image((page,)))
    assert (tmp_path / "b.zarr" / "mine.txt").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr", "c.zarr"]


def test_write_image_zarr_has_ordinary_permissions(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_image(tmp_path / "a.zarr", Image((Page(noise(4, 4)),)))
    finally:
        os.umask(previous)
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()}
    assert modes == {0o640}
    assert (tmp_path / "a.zarr").stat().st_mode & 0o777 == 0o750


def test_misfit_is_told_before_anything_is_computed() -> None:
    grey, rgb = PageSpec(4, 5, 1, np.dtype("u1")), PageSpec(4, 5, 3, np.dtype("u1"))
    assert misfit("TIFF", Header((grey, rgb), "PNG")) is None
    assert misfit("NPY", Header((grey, grey), "PNG")) is None
    assert "pages of one size and kind" in (misfit("Zarr", Header((grey, rgb), "PNG")) or "")
    assert "grey pixels with alpha" in (
        misfit("NPY", Header((replace(grey, alpha=True),), "")) or ""
    )
    assert "5 colour channels" in (misfit("Zarr", Header((replace(rgb, channels=5),), "")) or "")
    assert "65500 pixels a side" in (misfit("JPEG", Header((replace(rgb, width=70000),), "")) or "")


def test_format_of_knows_names_and_zarr_folders(tmp_path: Path) -> None:
    assert format_of("a/b.NPY") == "NPY"
    assert format_of(tmp_path / "a.zarr") == "Zarr"
    assert format_of(tmp_path) is None
    for version in ZARR_FORMATS:
        make_zarr(tmp_path / f"any{version}", noise(2, 2), version)
        assert format_of(tmp_path / f"any{version}") == "Zarr"


def test_remove_leftovers_deletes_what_dead_processes_of_this_host_left(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from gpuconv.image_io import replacing, _temporary\n"
        "_temporary(pathlib.Path(sys.argv[1])).mkdir()\n"
        "with replacing(sys.argv[1] + '/a.tif') as file: os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    assert all(path.name.startswith(".gpuconv-") for path in left)
    host, pid = left[0].name.split("-")[1:3]
    others = [
        left[0].name.replace(host, "0" * len(host)),
        f".gpuconv-{host}-{os.getpid()}-abc.tmp",
        f".gpuconv-{host}-{pid}-abc.tmp.txt",
        "a.tif",
    ]
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
    remove_leftovers(tmp_path / "none")
    with replacing(tmp_path / "a.tif"):
        remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_image_io_reads_npy_without_the_image_packages(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(4, 5))
    code = (
        "import sys; sys.modules['PIL'] = sys.modules['tifffile'] = sys.modules['zarr'] = None\n"
        "from gpuconv.image_io import read_image, write_image\n"
        "write_image(sys.argv[2], read_image(sys.argv[1]))"
    )
    names = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    subprocess.run([sys.executable, "-c", code, *names], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), noise(4, 5))


def test_open_image_without_zarr_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.zarr", Image((Page(noise(4, 5)),)))
    monkeypatch.setitem(sys.modules, "zarr", None)
    for act in (
        lambda: open_image(tmp_path / "a.zarr"),
        lambda: write_image(tmp_path / "b.zarr", Image((Page(noise(4, 5)),))),
    ):
        with pytest.raises(image_io.MissingExtraError, match=r"pip install 'gpuconv\[zarr\]'"):
            act()
