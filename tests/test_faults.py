"""Runs of the command line that are lied to, hindered and starved."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuconv import cli, tiling
from gpuconv.image_io import Image, Page, open_image, read_image, write_image
from gpuconv.pipeline import Pipeline
from tests.image_files import Pixels, photo, save
from tests.processes import contents, here, leftovers, reasons_of, report_of, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and files")

STEPS = ["--op", "gaussian_blur:sigma=2", "--op", "median_blur:size=3"]
ENDINGS = ("png", "jpg", "tif", "npy", "webp")


# Lied to


def png(height: int, width: int, data: bytes = b"") -> bytes:
    """A PNG file of 8-bit grey that says it is so large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + crc(name + content)

    def crc(content: bytes) -> bytes:
        return struct.pack(">I", zlib.crc32(content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bombs(folder: Path) -> None:
    """Small files that say they are huge."""
    import tifffile

    folder.mkdir()
    (folder / "large.png").write_bytes(png(60_000, 60_000, bytes(60_001 * 1000)))
    (folder / "largest.png").write_bytes(png(2**31 - 1, 2**31 - 1))
    (folder / "fits.png").write_bytes(png(8000, 8000))
    for name, size in (("large.jpg", (65500, 65500)), ("fits.jpg", (3000, 9000))):
        data = save(folder / name, photo(40, 50)).read_bytes()
        at = data.index(struct.pack(">HH", 40, 50))
        (folder / name).write_bytes(data[:at] + struct.pack(">HH", *size) + data[at + 4 :])
    vp8x = b"VP8X" + struct.pack("<IB3x", 10, 0) + b"\xff\xff\xff" + b"\xff\xff\xff"
    vp8l = b"VP8L" + struct.pack("<IBI", 5, 0x2F, (16383 - 1) << 14 | (16383 - 1)) + b"\0"
    for name, content in (("large.webp", vp8x), ("fits.webp", vp8l)):
        head = b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP"
        (folder / name).write_bytes(head + content)
    for name, size in (("strips.tif", 2**31 - 1), ("large.tif", 60_000), ("fits.tif", 9000)):
        tifffile.imwrite(folder / name, np.zeros((10, 10), np.uint8), compression="zlib")
        data = bytearray((folder / name).read_bytes())
        for tag in (256, 257, 278):  # width, height, rows in a strip
            entries = [struct.pack("<HHI", tag, kind, 1) for kind in (3, 4)]
            at = next(data.index(entry) for entry in entries if entry in data)
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, size)
        (folder / name).write_bytes(data)
    magic = b"\x93NUMPY\x01\x00"
    for name, shape in (("large.npy", "(4294967296, 4294967296)"), ("many.npy", "(9, 9, 9, 9, 9)")):
        head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        (folder / name).write_bytes(
            magic + struct.pack("<H", len(head)) + head.encode() + bytes(99)
        )
    for ending in ENDINGS:
        (folder / f"empty.{ending}").touch()


def test_filter_headers_that_lie_cost_no_memory(tmp_path: Path) -> None:
    bombs(tmp_path / "in")
    save(tmp_path / "in" / "good.png", photo(30, 40))
    limit, report = 256 << 20, tmp_path / "report.json"
    little = run("filter", tmp_path / "in" / "good.png", "-o", tmp_path / "o.png", *STEPS)
    line = ["filter", tmp_path / "in", "-o", tmp_path / "out", "--report", report, *STEPS]
    ended = run(*line, "--memory-limit", limit)
    assert ended.status == 1
    told = reasons_of(report)
    assert ended.err.count("\n") == len(told)
    assert "Traceback" not in ended.err
    done = set(contents(tmp_path / "out"))
    assert {"good.png"} <= done <= {"good.png", "fits.jpg"}  # libjpeg fills up what is missing
    assert set(told) == set(os.listdir(tmp_path / "in")) - done
    assert all(told[f"empty.{ending}"].endswith("the file is empty") for ending in ENDINGS)
    assert ended.peak_bytes - little.peak_bytes < limit + (64 << 20)


@pytest.fixture
def nobody() -> Iterator[dict[str, Any]]:
    """Options for a process that permissions bind, even where root runs these tests."""
    if os.geteuid():
        yield {}
        return
    import ctypes

    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    new_user = 0x10000000
    if unshare is None or subprocess.call(["unshare", "-U", "true"], stderr=subprocess.DEVNULL):
        pytest.skip("root cannot give up its powers here")
    yield {"preexec_fn": lambda: unshare(new_user)}


def test_filter_without_permissions(tmp_path: Path, nobody: dict[str, Any]) -> None:
    for name in ("a", "b", "c", "sub/d", "locked/e", "locked/f"):
        save(tmp_path / "in" / f"{name}.png", photo(20, 30))
    (tmp_path / "in" / "b.png").chmod(0)
    (tmp_path / "in" / "locked").chmod(0)
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub").chmod(0o555)
    report = tmp_path / "report.json"
    line = ["filter", tmp_path / "in", "-r", "-o", tmp_path / "out", "--op", "sobel"]
    try:
        ended = run(*line, "--report", report, **nobody)
        (tmp_path / "out").chmod(0o555)
        refused = run(*line, "--overwrite", **nobody)
    finally:
        for path in ("in/locked", "out", "out/sub"):
            (tmp_path / path).chmod(0o755)
    assert ended.status == 1
    assert reasons_of(report) == {
        "b.png": "cannot be read: Permission denied",
        "locked": "cannot be read: Permission denied",
        "d.png": "cannot be written: Permission denied",
    }
    assert set(contents(tmp_path / "out")) == {"a.png", "c.png"}
    assert refused.status == 2
    assert refused.err.startswith(f"gpuconv: OUT {tmp_path / 'out'} cannot be written: Permission")
    assert refused.err.count("\n") == 1


def test_filter_onto_a_full_disk(tmp_path: Path) -> None:
    """Files may not grow beyond a size: what that is told by is another number, no other way."""
    most = 60_000
    save(tmp_path / "in" / "a.png", photo(20, 30))
    for ending in ENDINGS:
        save(tmp_path / "in" / f"large.{ending}", photo(300, 400, dtype=np.uint8))
    report = tmp_path / "report.json"
    ended = run(
        *("filter", tmp_path / "in", "-o", tmp_path / "out", "--op", "sobel"),
        *("--report", report),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    told = reasons_of(report)
    assert ended.status == 1
    assert {f"large.{ending}" for ending in ("png", "tif", "npy")} <= set(told)
    assert set(told.values()) == {"cannot be written: File too large"}
    assert set(contents(tmp_path / "out")) == set(os.listdir(tmp_path / "in")) - set(told)
    assert leftovers(tmp_path) == []


def test_filter_onto_a_disk_that_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], stderr=subprocess.DEVNULL
    ):
        pytest.skip("needs the right to mount a file system")
    try:
        for i in range(8):
            save(tmp_path / "in" / f"{i}.npy", photo(200, 200))
        line = ["filter", tmp_path / "in", "-o", disk / "out", "--op", "sobel", "-q"]
        ended = run(*line, "--report", disk / "report.json")
        assert ended.status == 1
        told = ended.err.splitlines()
        assert all("cannot be written: No space left on device" in line for line in told)
        whole = contents(disk / "out")  # as many as fit, beside those that were begun
        assert 1 <= len(whole) <= 3
        for name in whole:
            assert read_image(disk / "out" / name).pixels == 200 * 200
        assert leftovers(disk) == []
    finally:
        subprocess.call(["umount", disk])


def test_filter_telling_onto_a_full_disk(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo(20, 30))
    with open("/dev/full", "w") as full:
        ended = run(
            "filter", tmp_path / "a.png", "-o", tmp_path / "b", "--op", "sobel", stdout=full
        )
        assert (ended.status, ended.err) == (0, "")
        told = run("ops", stdout=full)
        assert (told.status, told.err) == (2, "gpuconv: No space left on device\n")
    for closed in (1, 2):
        line = ["filter", tmp_path / "a.png", "-o", tmp_path / f"c{closed}", "--op", "sobel"]
        pipes: dict[str, Any] = {"stdout": None, "stderr": None}
        ended = run(*line, **pipes, preexec_fn=lambda closed=closed: os.close(closed))
        assert ended.status == 0
        assert set(contents(tmp_path / f"c{closed}")) == {"a.png"}
        read_image(tmp_path / f"c{closed}" / "a.png")


def test_filter_names_that_nobody_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        *("line\nend.png", "\x1b[31mred.png", "-o.png", "a b;c.png", "[x].png", "*.png"),
        *("tab\t.png", "ü.png", os.fsdecode(b"caf\xe9.png"), f"{'x' * 251}.png", "…" * 83 + ".png"),
    ]
    for name in names:
        save(tmp_path / "in" / name, photo(9, 9))
    (tmp_path / "in" / "bad\n\x1b[31m.png").write_bytes(b"no")
    (tmp_path / "in" / os.fsdecode(b"bad\xe9.png")).write_bytes(b"no")
    report = tmp_path / "report.json"
    line = ["filter", tmp_path / "in", "-o", tmp_path / "out", "--op", "sobel", "--report", report]
    assert here(*line) == 1
    assert set(contents(tmp_path / "out")) == set(names)
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 2
    assert "bad\\n\\x1b[31m.png: cannot be decoded" in shown.err
    assert "bad\\udce9.png: cannot be decoded" in shown.err
    assert shown.out.count("\n") == len(names) + 3
    assert "\x1b" not in shown.out + shown.err
    assert {Path(f["input"]).name for f in json.loads(report.read_text())["files"]} == {
        *names,
        "bad\n\x1b[31m.png",
        os.fsdecode(b"bad\xe9.png"),
    }
    assert here(*line, "--resume") == 1
    assert report_of(report)[0]["skipped"] == len(names)
    assert here(*line[:1], tmp_path / "in" / "[x].png", "-o", tmp_path / "o.png", *line[4:6]) == 0
    longer = [*line[:3], tmp_path / "longer", *line[4:6], "--format", "tiff", "--report", report]
    assert here(*longer) == 1
    assert "File name too long" in {*reasons_of(report).values()}.pop() + capsys.readouterr().err


def test_filter_what_changes_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "gone", "folder", "pipe", "cut", "other", "link", "taken", "z"):
        save(folder / f"{name}.png", photo(30, 40))
    plan = cli.choose_work

    def disturb(*arguments: Any, **options: Any) -> Any:
        planned = plan(*arguments, **options)
        for name in ("gone", "folder", "pipe", "link"):
            (folder / f"{name}.png").unlink()
        (folder / "folder.png").mkdir()
        os.mkfifo(folder / "pipe.png")
        (folder / "link.png").symlink_to("gone.png")
        data = (folder / "cut.png").read_bytes()
        (folder / "cut.png").write_bytes(data[: len(data) // 2])
        save(folder / "other.png", photo(50, 60))
        (out / "taken.png").mkdir(parents=True)
        (out / "taken.png" / "mine").touch()
        return planned

    monkeypatch.setattr(cli, "choose_work", disturb)
    report = tmp_path / "report.json"
    assert here("filter", folder, "-o", out, "--report", report, "--jobs", 1, "--op", "sobel") == 1
    assert reasons_of(report) == {
        "gone.png": "cannot be read: No such file or directory",
        "link.png": "cannot be read: No such file or directory",
        "folder.png": "cannot be read: Is a directory",
        "pipe.png": "cannot be read: not a regular file",
        "cut.png": "cannot be decoded: the file is truncated",
        "taken.png": "cannot be written: Is a directory",
    }
    assert set(contents(out)) == {"a.png", "other.png", "z.png", "taken.png/mine"}
    assert leftovers(out) == []


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_filter_file_that_shrinks_under_a_reader(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / f"a.{ending}", tiling.Chain.compute
    write_image(path, Image((Page(photo(300, 200)),), compressed=False))

    def compute(chain: Any, rows: range, *arguments: Any) -> Any:
        if rows.start > 100:
            os.truncate(path, 9000)
        return read(chain, rows, *arguments)

    monkeypatch.setattr(tiling.Chain, "compute", compute)
    report = tmp_path / "report.json"
    line = ["filter", path, "-o", tmp_path / "out", "--tile", 64, "--op", "sobel"]
    assert here(*line, "--report", report) == 1
    assert "truncated" in reasons_of(report)[path.name]
    assert contents(tmp_path / "out") == {}


def test_filter_outputs_have_ordinary_permissions_and_replace_links(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", photo(20, 30))
    save(tmp_path / "in" / "b.zarr", photo(20, 30))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere.png").write_bytes(b"mine")
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "elsewhere.png")
    line = ["filter", tmp_path / "in", "-o", tmp_path / "out", "--op", "sobel"]
    before = os.umask(0o027)
    try:
        assert here(*line) == 2
        assert here(*line, "--overwrite") == 0
    finally:
        os.umask(before)
    assert not (tmp_path / "out" / "a.png").is_symlink()
    assert (tmp_path / "out" / "a.png").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out" / "b.zarr").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "elsewhere.png").read_bytes() == b"mine"


@pytest.mark.parametrize("count", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_filter_of_thousands_with_few_descriptors(tmp_path: Path, count: int) -> None:
    data = save(tmp_path / "a.png", photo(8, 9)).read_bytes()
    (tmp_path / "in").mkdir()
    for i in range(count):
        (tmp_path / "in" / f"{i}.png").write_bytes(data if i % 10 else data[:50])
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))}
    line = ["filter", tmp_path / "in", "-o", tmp_path / "out", "--op", "sobel", "--jobs", 16]
    ended = run(*line, "-q", **few)
    assert ended.status == 1
    assert set(contents(tmp_path / "out")) == {f"{i}.png" for i in range(count) if i % 10}
    assert {line.rpartition(": ")[2] for line in ended.err.splitlines()} == {
        "the file is truncated"
    }
    little = run("filter", tmp_path / "a.png", "-o", tmp_path / "b.png", "--op", "sobel")
    assert ended.peak_bytes - little.peak_bytes < (32 << 20) + count * 8000


def test_filter_names_one_input_many_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "a.png", photo(9, 9))
    save(tmp_path / "in" / "b.zarr", photo(9, 9))
    names = ["in", "in/a.png", "./in/a.png", "in/../in/a.png", "in/*.png"]
    inputs = [os.path.join(tmp_path, name) for name in names]
    assert here("filter", *inputs, "-o", tmp_path / "out", "--op", "sobel") == 0
    assert "2 of 2 images filtered" in capsys.readouterr().out
    assert here("filter", "", "-o", tmp_path / "o", "--op", "sobel") == 2
    assert here("filter", inputs[0], "-o", "", "--op", "sobel") == 2
    inside = tmp_path / "in" / "b.zarr" / "out"
    assert here("filter", tmp_path / "in" / "b.zarr", "-o", inside, "--op", "sobel") == 2
    assert here("filter", *inputs, "-o", tmp_path / ("x" * 300), "--op", "sobel") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert "INPUT must not be empty" in told[0]
    assert "OUT must not be empty" in told[1]
    assert "OUT must not lie inside of an input" in told[2]
    assert told[3].endswith("File name too long")
    assert not inside.exists()


# Starved


BESIDES = 64 << 20
"""What a memory limit does not count."""


def largest(path: Path, side: int) -> None:
    """A grey image of side x side pixels in which rows and columns can be told apart."""
    import tifffile

    row = (np.arange(side) * 7 % 251).astype(np.uint8)

    def band(y: int, rows: int) -> Pixels:
        return (row[None] + (np.arange(y, y + rows) * 13 % 241).astype(np.uint8)[:, None]) % 253

    bands = (band(y, min(1000, side - y)) for y in range(0, side, 1000))
    kind = {"shape": (side, side), "dtype": np.uint8}
    if path.name == "tiles.tif":
        tifffile.imwrite(
            path,
            (
                np.pad(t, ((0, 512 - t.shape[0]), (0, 512 - t.shape[1])))
                for y in range(0, side, 512)
                for whole in [band(y, min(512, side - y))]
                for t in (whole[:, x : x + 512] for x in range(0, side, 512))
            ),
            tile=(512, 512),
            compression="zlib",
            compressionargs={"level": 1},
            **kind,
        )
    elif path.suffix == ".tif":
        tifffile.imwrite(path, (b for b in bands), rowsperstrip=1000, **kind)
    else:
        import zarr

        if path.suffix == ".npy":
            array = np.lib.format.open_memmap(path, "w+", **kind)
        else:
            array = zarr.create_array(str(path), chunks=(1024, 1024), **kind)
        for i, b in enumerate(bands):
            array[1000 * i : 1000 * i + len(b)] = b


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strips.tif", "tiles.tif", "a.npy", "a.zarr"])
def test_filter_400_megapixels_in_half_a_gigabyte(tmp_path: Path, name: str) -> None:
    side, limit = 20_000, 512 << 20
    path, out = tmp_path / name, tmp_path / "out" / name
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="needs Zarr")
    largest(path, side)
    save(tmp_path / f"one{path.suffix}", photo(1, 1))
    steps = ["--op", "gaussian_blur:sigma=2", "--op", "sharpen", "--op", "median_blur:size=3"]
    little = run("filter", tmp_path / f"one{path.suffix}", "-o", tmp_path / "one", *steps)
    ended = run("filter", path, "-o", tmp_path / "out", "--memory-limit", limit, *steps)
    assert (ended.status, ended.err) == (0, "")
    print(name, (ended.peak_bytes - little.peak_bytes) >> 20, "MiB", ended.out.splitlines()[-1])
    assert ended.peak_bytes - little.peak_bytes < limit + BESIDES
    pipeline = Pipeline(*steps[1::2])
    with open_image(path) as before, open_image(out) as after:
        for y, x in ((0, 0), (997, 491), (9_980, 11_000), (side - 600, side - 600)):
            halo = 20
            rows = range(max(0, y - halo), min(side, y + 600 + halo))
            columns = range(max(0, x - halo), min(side, x + 600 + halo))
            part = pipeline(before.read_part(0, rows, columns).color)
            found = after.read_part(0, range(y, y + 600), range(x, x + 600)).color
            expected = part[y - rows.start :, x - columns.start :][:600, :600]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *(("png", "rgb"), ("jpg", "rgb"), ("webp", "rgb"), ("npy", "rgb"), ("tif", "deep")),
        *(("png", "alpha"), ("tif", "alpha"), ("png", "deep")),
    ],
)
def test_filter_many_large_images_within_a_limit(tmp_path: Path, ending: str, kind: str) -> None:
    limit = (300 if ending != "webp" else 1400) << 20
    size = (4000, 6000) if kind == "rgb" else (3000, 4000)
    pixels = photo(*size, dtype=np.uint16 if kind == "deep" else np.uint8)
    first = tmp_path / "in" / f"0.{ending}"
    save(first, pixels, pixels[..., 0] if kind == "alpha" else None)
    for i in range(1, 6):
        shutil.copyfile(first, tmp_path / "in" / f"{i}.{ending}")
    one = save(tmp_path / f"one.{ending}", photo(1, 1))
    little = run("filter", one, "-o", tmp_path / "one", *STEPS)
    line = ["filter", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 8, *STEPS]
    ended = run(*line, "--memory-limit", limit)
    print(ending, kind, (ended.peak_bytes - little.peak_bytes) >> 20, ended.out.splitlines()[-1])
    assert (ended.status, ended.err) == (0, "")
    assert ended.peak_bytes - little.peak_bytes < limit + BESIDES
