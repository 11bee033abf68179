"""PNG, JPEG and WebP: headers without decoding, damage, memory, and files as others write them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from gpuconv.image_io import pillow, png
from gpuconv.image_io.metadata import Metadata
from gpuconv.image_io.types import Image, Page, PageSpec
from tests.image_files import Pixels, noise


def smooth(height: int = 43, width: int = 61) -> Pixels:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5, x * 4, (x + y) * 2], axis=2).clip(0, 255).astype(np.uint8)


def by_pillow(pixels: Pixels, kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
    return buffer.getvalue()


def by_us(kind: str, image: Image) -> bytes:
    buffer = io.BytesIO()
    pillow.write(buffer, kind, image)
    return buffer.getvalue()


def opened(path: Path, data: bytes, kind: str) -> tuple[PageSpec, Page]:
    """What the header says, and the page."""
    path.write_bytes(data)
    with path.open("rb") as file, pillow.open_compressed(file, kind) as image:
        (page,) = image.read().pages
        return image.header.pages[0], page


CODED = {
    **{f"png {mode}": ("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "png P clear": ("PNG", "P", {"transparency": 3}),
    "png L clear": ("PNG", "L", {"transparency": 3}),
    **{f"jpeg {mode}": ("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")},
    **{
        f"jpeg {sampling}": ("JPEG", "RGB", {"subsampling": sampling, "progressive": progressive})
        for progressive in (False, True)
        for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")
    },
    "jpeg rgb": ("JPEG", "RGB", {"keep_rgb": True}),
    **{f"webp {mode}": ("WebP", mode, {"quality": 80}) for mode in ("RGB", "RGBA")},
    **{f"webp {mode} kept": ("WebP", mode, {"lossless": True}) for mode in ("RGB", "RGBA")},
    "webp profile": ("WebP", "RGB", {"icc_profile": bytes(200)}),
}


@pytest.mark.parametrize("name", CODED)
def test_open_compressed_tells_what_read_gives_and_pillow_decodes(
    tmp_path: Path, name: str
) -> None:
    kind, mode, options = CODED[name]
    data = by_pillow(smooth(), kind, mode, **options)
    spec, page = opened(tmp_path / "a", data, kind)
    assert spec == PageSpec.of(page)
    with PIL.Image.open(io.BytesIO(data)) as picture:
        picture.load()
        clear = "transparency" in picture.info
        plain = {"1": "L", "P": "RGBA" if clear else "RGB", "L": "LA" if clear else "L"}
        turned = picture.convert({**plain, "CMYK": "RGB"}.get(picture.mode, picture.mode))
    np.testing.assert_array_equal(page.interleaved, np.asarray(turned))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
def test_open_compressed_says_upright_size(tmp_path: Path, kind: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = by_pillow(smooth(), kind, exif=exif.tobytes())
    spec, page = opened(tmp_path / "a", data, kind)
    assert (spec.height, spec.width) == (61, 43)
    assert spec == PageSpec.of(page)


def test_open_compressed_has_no_limit_of_its_own(tmp_path: Path) -> None:
    """A bomb is told by what it would need, and Pillow's limit stays as it was."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png.SIGNATURE)
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
            png._write_chunk(file, kind, content)
    with pillow.open_compressed((tmp_path / "a.png").open("rb"), "PNG") as image:
        assert image.peak_bytes > 3 * 60_000**2
    assert limit == PIL.Image.MAX_IMAGE_PIXELS


def several_data_chunks() -> bytes:
    rows = np.hstack([np.zeros((6, 1), np.uint8), noise(6, 21)])
    packed = zlib.compress(rows.tobytes())
    buffer = io.BytesIO()
    buffer.write(png.SIGNATURE)
    png._write_chunk(buffer, b"IHDR", struct.pack(">IIBBBBB", 7, 6, 8, 2, 0, 0, 0))
    for start in range(0, len(packed), 50):
        png._write_chunk(buffer, b"IDAT", packed[start : start + 50])
    png._write_chunk(buffer, b"IEND", b"")
    return buffer.getvalue()


DAMAGED = {
    "8 bits": lambda: by_pillow(noise(6, 7, 3), "PNG"),
    "16 bits": lambda: by_us("PNG", Image((Page(noise(6, 7, dtype=np.uint16)),))),
    "palette": lambda: by_pillow(noise(6, 7, 3), "PNG", "P", transparency=3),
    "several chunks": several_data_chunks,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_read_png_with_any_byte_changed_is_an_error(tmp_path: Path, name: str) -> None:
    data = DAMAGED[name]()
    opened(tmp_path / "a", data, "PNG")
    for at in range(len(png.SIGNATURE), len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        with pytest.raises(ValueError):
            opened(tmp_path / "a", bytes(damaged), "PNG")


@pytest.mark.parametrize("progressive", [False, True])
def test_read_jpeg_without_its_end_is_an_error(tmp_path: Path, progressive: bool) -> None:
    data = by_pillow(smooth(), "JPEG", progressive=progressive)
    for cut in (len(data) - 1, len(data) - 2, len(data) * 2 // 3):
        with pytest.raises(ValueError, match="the file is truncated"):
            opened(tmp_path / "a", data[:cut], "JPEG")
    opened(tmp_path / "a", data + b"what some programs append", "JPEG")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_write_jpeg_is_byte_for_byte_what_pillow_writes(mode: str) -> None:
    pixels = smooth() if mode == "RGB" else smooth()[..., 0]
    exif = PIL.Image.Exif()
    exif[0x010F] = "Camera"
    profile = bytes(16) + (b"RGB " if mode == "RGB" else b"GRAY") + bytes(150_000)
    metadata = Metadata(profile, exif.tobytes()[6:])
    options = {"quality": 95, "subsampling": 0, "exif": exif.tobytes(), "icc_profile": profile}
    assert by_us("JPEG", Image((Page(pixels),), metadata=metadata)) == by_pillow(
        pixels, "JPEG", **options
    )


def test_write_jpeg_refuses_exif_that_is_too_long() -> None:
    exif = b"II*\0\x08\0\0\0" + bytes(70_000)
    with pytest.raises(ValueError, match="too long"):
        by_us("JPEG", Image((Page(smooth()),), metadata=Metadata(exif=exif)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(700, 300, 3), (3, 90_000, 3), (1, 1), (600, 700)])
@pytest.mark.parametrize("compressor", ["isal", "zlib"])
def test_write_png_of_many_bands_is_whole_and_the_same_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compressor: str,
    shape: tuple[int, ...],
    dtype: Any,
) -> None:
    if compressor == "isal":
        pytest.importorskip("isal", reason="isal is not installed")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    image = Image((Page(noise(*shape, dtype=dtype), noise(*shape[:2], dtype=dtype)),))
    data = by_us("PNG", image)
    assert data == by_us("PNG", image)
    _, page = opened(tmp_path / "a", data, "PNG")
    np.testing.assert_array_equal(page.interleaved, image.pages[0].interleaved)


def test_write_png_chooses_a_filter_that_suits() -> None:
    drawing = np.kron(noise(20, 20) > 127, np.ones((8, 8), bool)).astype(np.uint8) * 255
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (64, 256))
    chosen = [png._best_filter(Page(pixels)) for pixels in (noise(9, 9), drawing, ramp, ramp.T)]
    assert chosen[2:] == [2, 1]
    assert chosen[1] in (1, 2)
    assert png._best_filter(Page(smooth(256, 256).astype(np.uint8))) in (1, 2, 3)


MEMORY = """
import sys
from gpuconv.image_io import pillow
from gpuconv.image_io.types import PageSpec
from bench import machine
small, large, kind = sys.argv[1:]
with pillow.open_compressed(open(small, "rb"), kind) as image:
    warm = image.read()
with open(small + ".out", "wb") as file:
    pillow.write(file, kind, warm)
with pillow.open_compressed(open(large, "rb"), kind) as image:
    if not machine.restart_peak():
        sys.exit(3)
    held = machine.resident_bytes()
    read = image.read()
    print((machine.peak_bytes() - held) / image.peak_bytes)
machine.restart_peak()
held = machine.resident_bytes()
with open(large + ".out", "wb") as file:
    pillow.write(file, kind, read)
told = pillow.write_peak_bytes(kind, PageSpec.of(read.pages[0]), lossless=read.lossless)
print((machine.peak_bytes() - held) / told)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells no peak memory")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {"compress_level": 1}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("JPEG", "RGB", {"quality": 98, "subsampling": 0}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WebP", "RGB", {"quality": 50, "method": 0}),
        ("WebP", "RGBA", {"quality": 50, "method": 0}),
        ("WebP", "RGB", {"lossless": True, "method": 0, "quality": 0}),
    ],
)
def test_peak_bytes_is_enough(
    tmp_path: Path, kind: str, mode: str, options: dict[str, Any]
) -> None:
    for name, side in (("small", 32), ("large", 1500)):
        data = by_pillow(noise(side, side, 3), kind, mode, **options)
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large"), kind]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the kernel does not restart the peak")
    assert done.returncode == 0, done.stderr
    assert all(float(line) <= 1.1 for line in done.stdout.split()), done.stdout
