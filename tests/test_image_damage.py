"""Images that are damaged, hostile or not what they seem: an error that says so, and no more."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from gpuconv.image_io import ImageError, Page, PageSpec, open_image, read_image
from gpuconv.image_io.codestreams import claimed_pixels
from tests.image_files import Pixels, noise
from tests.image_formats import WAYS, ZARR_FORMATS, make_zarr, same, write_tiff


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), bool), "arrays of dtype bool are not supported"),
        (np.zeros((4, 4), complex), "arrays of dtype complex128 are not supported"),
        (np.zeros((4, 4), "U3"), "arrays of dtype <U3 are not supported"),
        (np.zeros((4, 4), [("a", "u1"), ("b", "f4")]), "are not supported"),
        (np.zeros(4), r"an array of shape \(4,\) is no image: it must be \(H, W\)"),
        (np.zeros((2, 3, 4, 5)), r"an array of shape \(2, 3, 4, 5\) is no image"),
        (np.zeros((2, 2, 3, 4, 5)), "is no image"),
        (np.zeros((0, 4)), "holds no pixels"),
        (np.array([[{}]]), "pickled"),
    ],
)
def test_open_image_npy_says_what_it_refuses(tmp_path: Path, array: Pixels, reason: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ImageError, match=reason):
        open_image(tmp_path / "a.npy")


def test_open_image_npy_that_is_damaged(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(20, 30))
    data = (tmp_path / "a.npy").read_bytes()
    for cut in range(0, len(data), 7):
        (tmp_path / "a.npy").write_bytes(data[:cut])
        with pytest.raises(ImageError, match="cannot be decoded"):
            open_image(tmp_path / "a.npy")
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        for at in rng.integers(6, 128, 3):
            broken[at] = rng.integers(256)
        (tmp_path / "a.npy").write_bytes(broken)
        with contextlib.suppress(ImageError):
            read_image(tmp_path / "a.npy")


def test_open_image_zarr_says_what_it_refuses(tmp_path: Path) -> None:
    pixels = noise(9, 9)
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    make_zarr(tmp_path / "group.zarr" / "level0", pixels)
    with pytest.raises(ImageError, match=r"name one of its arrays, such as .*group\.zarr/level0"):
        open_image(tmp_path / "group.zarr")
    same(read_image(tmp_path / "group.zarr" / "level0").pages[0], Page(pixels))
    (tmp_path / "plain.zarr").mkdir()
    with pytest.raises(ImageError, match="Is a directory"):
        open_image(tmp_path / "plain.zarr")
    for name, array, reason in [
        ("bool", pixels > 9, "dtype bool"),
        ("flat", pixels[0], "is no image"),
        ("complex", pixels * 1j, "dtype complex128"),
    ]:
        make_zarr(tmp_path / name, array)
        with pytest.raises(ImageError, match=reason):
            open_image(tmp_path / name)

    def told(name: str, **change: Any) -> Path:
        make_zarr(tmp_path / name, pixels)
        file = tmp_path / name / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        return tmp_path / name

    with pytest.raises(ImageError, match="pickled"):
        open_image(told("pickled", filters=[{"id": "pickle"}]))
    with pytest.raises(ImageError, match="a decompression bomb: 810000 megapixels in"):
        open_image(told("bomb", shape=[900_000, 900_000]))
    pipe = told("pipe")
    (pipe / "0.0").unlink()
    os.mkfifo(pipe / "0.0")
    with pytest.raises(ImageError, match=r"0\.0 in its folder is not a regular file"):
        open_image(pipe)
    (tmp_path / "pipes.zarr").mkdir()
    os.mkfifo(tmp_path / "pipes.zarr" / "zarr.json")
    with pytest.raises(ImageError, match="Is a directory"):
        open_image(tmp_path / "pipes.zarr")


@pytest.mark.parametrize("codec", ["normal", "blosc"])
@pytest.mark.parametrize("version", ZARR_FORMATS)
def test_read_image_zarr_that_is_damaged(tmp_path: Path, version: int, codec: str) -> None:
    path = tmp_path / "a"
    options: dict[str, Any] = {"chunks": (20, 20)}
    if codec == "blosc" and len(ZARR_FORMATS) == 2:
        blosc = numcodecs.Blosc() if version == 2 else zarr.codecs.BloscCodec()
        options["compressors"] = blosc
    make_zarr(path, noise(40, 40, dtype=np.uint16), version, **options)
    chunk = next(p for p in sorted(path.rglob("*")) if p.is_file() and "z" not in p.name)
    data = chunk.read_bytes()
    for broken in (b"", data[: len(data) // 2], bytes(len(data))):
        chunk.write_bytes(broken)
        with pytest.raises(ImageError, match="cannot be decoded"):
            read_image(path)
    metadata = path / (".zarray" if version == 2 else "zarr.json")
    text = metadata.read_bytes()
    for cut in range(0, len(text), 40):
        metadata.write_bytes(text[:cut])
        with pytest.raises(ImageError, match="cannot be decoded"):
            open_image(path)


def test_open_image_tiff_whose_pages_form_a_loop(tmp_path: Path) -> None:
    for bigtiff in (False, True):
        tifffile.imwrite(
            tmp_path / "a.tif",
            noise(120, 4, 4),
            photometric="minisblack",
            bigtiff=bigtiff,
            metadata=None,
            compression="zlib",
        )
        data = bytearray((tmp_path / "a.tif").read_bytes())
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            last, first = tiff.pages[119].offset, tiff.pages[0].offset
            form = tiff.tiff
            count = struct.unpack_from(form.tagnoformat, data, last)[0]
            link = last + form.tagnosize + count * form.tagsize
        struct.pack_into(form.offsetformat, data, link, first)
        (tmp_path / "a.tif").write_bytes(data)
        with pytest.raises(ImageError, match="its pages form a loop"):
            open_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("codec", "compression", "options"),
    [
        ("jpeg8", 7, {}),
        ("jpeg2k", 34712, {"codecformat": "J2K"}),
        ("jpeg2k", 34712, {"codecformat": "JP2"}),
        ("png", 34933, {}),
        ("webp", 50001, {"lossless": True}),
        ("webp", 50001, {"lossless": False, "level": 80}),
    ],
)
def test_claimed_pixels_are_those_that_a_decoder_would_make(
    codec: str, compression: int, options: dict[str, Any]
) -> None:
    data = getattr(imagecodecs, f"{codec}_encode")(noise(70, 90, 3), **options)
    assert claimed_pixels(data, compression) == 70 * 90
    for cut in range(0, 100, 3):
        assert claimed_pixels(data[:cut], compression) in (0, 70 * 90)
    assert claimed_pixels(data, 8) == 0


def test_read_image_tiff_tile_that_claims_too_much_is_a_bomb(tmp_path: Path) -> None:
    pixels = noise(64, 64, 3)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, compression="jpeg", tile=(32, 32), photometric="rgb"
    )
    data = (tmp_path / "a.tif").read_bytes()
    size = struct.pack(">BHH", 8, 32, 32)
    assert size in data
    (tmp_path / "a.tif").write_bytes(data.replace(size, struct.pack(">BHH", 8, 65500, 65500)))
    with open_image(tmp_path / "a.tif") as image:
        for act in (image.read, lambda: image.read_part(0, range(9), range(9))):
            with pytest.raises(ImageError, match="a decompression bomb: a strip or tile of"):
                act()


@pytest.mark.parametrize("way", WAYS)
def test_read_part_tiff_of_damaged_files_is_an_error_or_an_image(tmp_path: Path, way: str) -> None:
    write_tiff(tmp_path / "a.tif", "rgb8", way)
    data = (tmp_path / "a.tif").read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(60):
        broken = bytearray(data)
        for at in rng.integers(4, min(len(data), 400 if trial % 2 else len(data)), 4):
            broken[at] = rng.integers(256)
        (tmp_path / "a.tif").write_bytes(broken)
        with contextlib.suppress(ImageError), open_image(tmp_path / "a.tif") as image:
            spec = image.header.pages[0]
            if image.peak_bytes < 1 << 26:
                part = image.read_part(0, range(spec.height), range(spec.width))
                assert PageSpec.of(part) == spec


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
def test_zarr_chunks_that_are_bombs_are_refused_unread(tmp_path: Path, codec: str) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    import zarr

    if not hasattr(zarr, "create_array"):
        pytest.skip("made with zarr-python 3")
    compressor = {"gzip": numcodecs.GZip, "zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc}[codec]()
    folder = tmp_path / "a.zarr"
    array = zarr.create_array(
        str(folder),
        shape=(64, 64),
        chunks=(64, 64),
        dtype="u1",
        zarr_format=2,
        compressors=compressor,
    )
    array[:] = 7
    (folder / "notes").write_bytes(b"no chunk")
    assert read_image(folder).pages[0].color.max() == 7
    (chunk,) = [path for path in folder.rglob("*") if path.name in ("0.0", "0")]
    chunk.write_bytes(bytes(compressor.encode(np.zeros(1 << 26, np.uint8))))
    with pytest.raises(
        ImageError, match="a decompression bomb: a chunk of 4096 bytes that unpacks"
    ):
        open_image(folder)
    chunk.write_bytes(b"\x28\xb5")
    with pytest.raises(ImageError, match=r"truncated|decoded"):
        read_image(folder)
