"""Damaged image files of every format: each is filtered or fails with a reason, alone."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from gpuconv.image_io import read_image
from tests.processes import contents, leftovers, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="reads /proc")

LIMIT = 256 << 20
BESIDES = 64 << 20
"""What the limit does not count."""

HEADER = 600
"""Bytes at the start of a file that are damaged more often."""


def seeds() -> dict[str, bytes]:
    """A sound file of every kind that is read; the suffix names the format."""
    import tifffile

    rng = np.random.default_rng(5)
    y, x = np.mgrid[:70, :90]
    soft = (128 + 90 * np.sin(y / 9) * np.cos(x / 7))[..., None] + rng.normal(0, 9, (70, 90, 3))
    color = soft.clip(0, 255).astype(np.uint8)
    grey, deep = color[..., 0], color.astype(np.uint16) * 257
    found: dict[str, bytes] = {}

    def pillow(name: str, pixels: Any, mode: str = "RGB", **options: Any) -> None:
        picture = PIL.Image.fromarray(pixels)
        picture = picture if picture.mode == mode else picture.convert(mode)
        buffer = io.BytesIO()
        endings = {"jpg": "JPEG", "png": "PNG", "webp": "WebP"}
        picture.save(buffer, endings[name.rpartition(".")[2]], **options)
        found[name] = buffer.getvalue()

    def tiff(name: str, pixels: Any, **options: Any) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        found[name] = buffer.getvalue()

    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    profile = bytes(range(256)) * 3
    pillow("rgb.png", color, icc_profile=profile, exif=exif, dpi=(300, 300))
    pillow("alpha.png", np.dstack([color, grey]), "RGBA")
    pillow("palette.png", color, "P", transparency=3)
    pillow("bits.png", grey, "1")
    found["interlaced.png"] = interlaced(color)
    pillow("baseline.jpg", color, exif=exif, icc_profile=profile)
    pillow("progressive.jpg", color, progressive=True, restart_marker_blocks=4)
    pillow("grey.jpg", grey, "L")
    pillow("cmyk.jpg", color, "CMYK")
    pillow("lossy.webp", color, exif=exif)
    pillow("lossless.webp", np.dstack([color, grey]), "RGBA", lossless=True)
    pillow("alpha.webp", np.dstack([color, grey]), "RGBA", icc_profile=profile)
    tiff("strips.tif", color, rowsperstrip=9)
    tiff("deep.tif", deep, rowsperstrip=16, byteorder=">")
    tiff("tiles.tif", color, tile=(32, 48))
    tiff("big.tif", color, tile=(16, 16), bigtiff=True, compression="zlib", predictor=True)
    tiff("lzw.tif", deep, compression="lzw", predictor=True, resolution=(72, 72))
    tiff("deflate.tif", grey, compression="zlib", rowsperstrip=20)
    tiff("jpeg.tif", color, compression="jpeg", tile=(32, 32))
    tiff("float.tif", soft[..., 0].astype(np.float32), compression="zstd", predictor=True)
    tiff("planes.tif", color.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    tiff("pages.tif", np.stack([grey] * 4), compression="packbits", photometric="minisblack")
    tiff("bilevel.tif", grey > 128, photometric="minisblack")
    for name, pixels in (("colour", color), ("real", soft), ("fortran", np.asfortranarray(grey))):
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        found[f"{name}.npy"] = buffer.getvalue()
    return found


def interlaced(pixels: Any) -> bytes:
    """An Adam7 PNG, which Pillow does not write."""
    import struct
    import zlib

    rows = b""
    for y, x, dy, dx in (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[y::dy, x::dx])

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed, missing, doubled or somewhere else."""
    kind = rng.choice(
        ("flip", "flip", "flip", "head", "head", "cut", "splice", "double", "numbers")
    )
    found = bytearray(data)
    size = len(data)
    if kind in ("flip", "head"):
        for _ in range(rng.randint(1, 20)):
            end = min(size, HEADER) if kind == "head" or rng.random() < 0.3 else size
            found[rng.randrange(end)] = rng.choice((rng.randrange(256), 0, 255, 127, 128))
    elif kind == "numbers":  # sizes and offsets that are too large
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(size, HEADER))
            found[at : at + 4] = rng.choice(
                (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\0\1\0\0")
            )
    elif kind == "cut":
        del found[rng.randrange(size) :]
    else:
        start, length = rng.randrange(size), rng.randint(1, max(1, size // 4))
        block = found[start : start + length]
        if kind == "splice":
            del found[start : start + length]
        at = rng.randrange(len(found) + 1)
        found[at:at] = block
    return bytes(found)


def cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents: cuts at every KiB first, then damages of all seeds in turn."""
    rng, sound = random.Random(seed), seeds()
    cuts = [(n, at) for n, data in sound.items() for at in range(0, len(data), 1024)]
    rng.shuffle(cuts)
    for i, (name, at) in enumerate(cuts[: count * 2 // 5]):
        yield f"{i:04}-cut{at}-{name}", sound[name][:at]
    names = list(sound)
    for i in range(min(len(cuts), count * 2 // 5), count):
        name = names[i % len(names)]
        yield f"{i:04}-{name}", damaged(sound[name], rng)


def damage_zarr(folder: Path, count: int, seed: int) -> None:
    """Zarr arrays of which one file is damaged."""
    zarr = pytest.importorskip("zarr", reason="needs Zarr")
    rng = random.Random(seed)
    for i in range(count):
        path = folder / f"z{i:03}.zarr"
        version = 2 + i % 2
        zarr.save_array(str(path), np.arange(900, dtype="u2").reshape(30, 30), zarr_format=version)
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != ".zattrs")
        victim = rng.choice(files)
        victim.write_bytes(damaged(victim.read_bytes(), rng))


def test_seeds_are_sound(tmp_path: Path) -> None:
    for name, data in seeds().items():
        (tmp_path / name).write_bytes(data)
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("count", "batch"), [(60, 60), pytest.param(1000, 250, marks=pytest.mark.slow)]
)
def test_filter_of_damaged_files_is_done_or_tells_why_not(
    tmp_path: Path, count: int, batch: int
) -> None:
    one = tmp_path / "one.tif"
    one.write_bytes(seeds()["lzw.tif"])
    steps = ["--op", "gaussian_blur:sigma=1", "--memory-limit", LIMIT, "--jobs", 4]
    little = run("filter", one, "-o", tmp_path / "two.tif", *steps)
    assert little.status == 0, little.err
    found = list(cases(count - count // 20, seed=count))
    peaks = []
    for start in range(0, len(found), batch):
        folder, out, report = (tmp_path / name for name in ("in", "out", "report.json"))
        folder.mkdir()
        for name, data in found[start : start + batch]:
            (folder / name).write_bytes(data)
        damage_zarr(folder, batch // 20, seed=start)
        line = ["filter", folder, "-o", out, "--report", report, *steps]
        ended = run(*line, "--tile", 32, "-q") if start == batch else run(*line, "-q")
        told = json.loads(report.read_text())
        assert ended.status == 1, ended.err
        failed = {Path(f["input"]).name: f["reason"] for f in told["files"] if f["reason"]}
        lines = ended.err.splitlines()
        noise = [x for x in lines if not x.startswith(f"gpuconv: failed: {folder}/")]
        assert noise == []
        assert len(lines) == len(failed)
        assert all(reason.isprintable() and len(reason) < 400 for reason in failed.values())
        names = {path.name for path in folder.iterdir()}
        assert {Path(f["input"]).name for f in told["files"]} == names
        done = {Path(f["output"]).name for f in told["files"] if f["status"] == "done"}
        assert done == names - set(failed)
        assert {name.split("/")[0] for name in contents(out)} == done
        assert leftovers(out) == []
        for name in done:
            read_image(out / name, memory_limit=LIMIT)
        peaks.append(ended.peak_bytes - little.peak_bytes)
        for path in (folder, out):
            shutil.rmtree(path, ignore_errors=True)
    assert max(peaks) < LIMIT + BESIDES
