"""The command line as a user meets it: pixels, names, formats, messages and exit statuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.image_io import Image, Page, read_image, write_image
from gpuconv.journal import NAME as JOURNAL
from gpuconv.journal import Journal
from gpuconv.pipeline import Pipeline
from tests.image_files import folder_of_photos, load, noise, save
from tests.processes import Running, contents, here

BLUR = ["--op", "gaussian_blur:sigma=1.5"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of_photos(tmp_path / "photos")


def test_filter_gives_the_pixels_of_the_library(tmp_path: Path) -> None:
    color, deep, real = noise(20, 30, 3), noise(20, 31, dtype=np.uint16), noise(8, 9, dtype="f4")
    save(tmp_path / "in" / "a.png", color)
    save(tmp_path / "in" / "b.png", deep)
    save(tmp_path / "in" / "c.tif", real)
    save(tmp_path / "in" / "d.tif", noise(8, 9, dtype=np.int16))
    operations = ["--op", "gaussian_blur:sigma=1.5", "--op", "filter2d:kernel=edge"]
    assert here("filter", tmp_path / "in", "-o", tmp_path / "out", *operations, "-q") == 0
    for name, pixels, axis in (
        ("a.png", color, -1),
        ("b.png", deep, None),
        ("c.tif", real, None),
        ("d.tif", noise(8, 9, dtype=np.int16), None),
    ):
        expected = filters.gaussian_blur(pixels, 1.5, channel_axis=axis)
        expected = filters.filter2d(expected, gpuconv.kernels.edge, channel_axis=axis)
        result = load(tmp_path / "out" / name)
        assert result.dtype == pixels.dtype
        np.testing.assert_array_equal(result, expected)


def test_filter_folder_keeps_relative_names_and_formats(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert here("filter", photos, "-o", out, "-r", *BLUR) == 1
    assert set(contents(out)) == {"a.png", "b.tif", "sub/c.PNG", "sub/deep/d.webp"}
    assert read_image(out / "sub/deep/d.webp").format == "WebP"
    assert here("filter", photos, "-o", tmp_path / "flat", *BLUR) == 0
    assert set(contents(tmp_path / "flat")) == {"a.png", "b.tif"}


def test_filter_named_and_globbed_files_keep_their_base_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert here("filter", photos / "sub/c.PNG", f"{photos}/*", "-o", out, *BLUR) == 0
    assert set(contents(out)) == {"c.PNG", "a.png", "b.tif"}
    recursive = tmp_path / "recursive"
    assert here("filter", f"{photos}/**/*.png", "-o", recursive, *BLUR) == 0
    assert set(contents(recursive)) == {"a.png"}


def test_filter_one_file_to_one_file(photos: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "blurred.tif"
    assert here("filter", photos / "a.png", "-o", target, *BLUR) == 0
    np.testing.assert_array_equal(
        load(target), filters.gaussian_blur(load(photos / "a.png"), 1.5, channel_axis=-1)
    )
    assert list(target.parent.iterdir()) == [target]


def test_filter_format_changes_every_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert here("filter", photos, "-r", "-o", out, "--format", "TIF", *BLUR) == 1
    assert set(contents(out)) == {"a.tif", "b.tif", "sub/c.tif", "sub/deep/d.tif"}
    assert load(out / "b.tif").dtype == np.uint16


def test_filter_carries_alpha_unfiltered(tmp_path: Path) -> None:
    color, alpha = noise(20, 30, 3), noise(20, 30, seed=1)
    save(tmp_path / "a.png", color, alpha)
    save(tmp_path / "b.png", color[..., 0], alpha)
    assert here("filter", f"{tmp_path}/*.png", "-o", tmp_path / "out", *BLUR) == 0
    for name, pixels, axis in (("a.png", color, -1), ("b.png", color[..., 0], None)):
        (page,) = read_image(tmp_path / "out" / name).pages
        assert page.alpha is not None
        np.testing.assert_array_equal(page.alpha, alpha)
        expected = filters.gaussian_blur(pixels, 1.5, channel_axis=axis)
        np.testing.assert_array_equal(page.color, expected)


def test_filter_alpha_follows_the_size_by_area_mean(tmp_path: Path) -> None:
    alpha = noise(20, 30, seed=1)
    save(tmp_path / "a.png", noise(20, 30, 3), alpha)
    pool = ["--op", "max_pool2d:kernel_size=(4,3)"]
    assert here("filter", tmp_path / "a.png", "-o", tmp_path / "b.png", *pool) == 0
    (page,) = read_image(tmp_path / "b.png").pages
    assert page.color.shape == (5, 10, 3)
    means = alpha.reshape(5, 4, 10, 3).mean(axis=(1, 3))
    assert page.alpha is not None
    np.testing.assert_array_equal(page.alpha, np.rint(means))


def test_filter_every_page_of_a_tiff(tmp_path: Path) -> None:
    pages = (Page(noise(20, 30)), Page(noise(7, 9, 3)))
    write_image(tmp_path / "a.tif", Image(pages))
    assert here("filter", tmp_path / "a.tif", "-o", tmp_path / "b.tif", *BLUR) == 0
    first, second = read_image(tmp_path / "b.tif").pages
    np.testing.assert_array_equal(first.color, filters.gaussian_blur(pages[0].color, 1.5))
    expected = filters.gaussian_blur(pages[1].color, 1.5, channel_axis=-1)
    np.testing.assert_array_equal(second.color, expected)


def test_filter_keeps_metadata_and_turns_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    pixels = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None], 16, axis=0)
    picture = PIL.Image.fromarray(np.stack([pixels] * 3, axis=2))
    picture.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif, dpi=(300, 300))
    assert here("filter", tmp_path / "a.jpg", "-o", tmp_path / "b.jpg", *BLUR) == 0
    with PIL.Image.open(tmp_path / "b.jpg") as written:
        assert written.size == (16, 24)
        assert written.getexif()[0x010F] == "Camera"
        assert written.getexif()[0x0112] == 1
        assert written.info["dpi"] == pytest.approx((300, 300))


def test_filter_one_bad_image_costs_that_image_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    save(photos / "alpha.webp", noise(4, 4, 3), noise(4, 4))
    (photos / "loop.png").symlink_to("loop.png")
    os.mkfifo(photos / "pipe.png")
    (out / "sub" / "c.PNG.tmp").mkdir(parents=True)
    out_of_the_way = out / "b.tif"
    out_of_the_way.mkdir()
    (out_of_the_way / "full").touch()
    status = here("filter", photos, "-r", "-o", out, "--report", report, "--overwrite", *BLUR)
    assert status == 1
    told = json.loads(report.read_text())
    reasons = {Path(f["input"]).name: f["reason"] for f in told["files"] if f["reason"]}
    assert reasons == {
        "b.tif": "cannot be written: Is a directory",
        "broken.jpg": "cannot be decoded: not a PNG, JPEG, WebP, TIFF or NPY image",
        "loop.png": "cannot be read: Too many levels of symbolic links",
        "pipe.png": "cannot be read: not a regular file",
    }
    assert set(contents(out)) >= {"a.png", "alpha.webp", "sub/c.PNG", "sub/deep/d.webp"}
    shown = capsys.readouterr()
    for name, reason in reasons.items():
        line = next(line for line in shown.err.splitlines() if f"{name}: " in line)
        assert line.startswith("gpuconv: failed: ")
        assert line.endswith(reason)
    assert "4 of 8 images filtered" in shown.out
    assert not [name for name in contents(out) if ".gpuconv-" in name]


def test_filter_result_that_the_format_cannot_hold_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", noise(8, 9, 3))
    save(tmp_path / "b.png", noise(8, 9), noise(8, 9))
    save(tmp_path / "c.png", noise(8, 9, dtype=np.uint16))
    signed = ["--op", "sobel:axis=0,out_dtype=int16"]
    assert here("filter", tmp_path / "a.png", "-o", tmp_path / "out", *signed) == 1
    assert "a.png: PNG cannot hold int16 pixels; write TIFF\n" in capsys.readouterr().err
    assert here("filter", tmp_path / "a.png", "-o", tmp_path / "a.tif", *signed) == 0
    assert load(tmp_path / "a.tif").dtype == np.int16
    for name, reason in (("b", "an alpha channel"), ("c", "uint16 pixels")):
        target = tmp_path / f"{name}.jpg"
        assert here("filter", tmp_path / f"{name}.png", "-o", target, *BLUR) == 1
        assert f"JPEG cannot hold {reason}" in capsys.readouterr().err
        assert not target.exists()


def test_filter_operation_that_fails_on_one_image_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "in" / "large.png", noise(20, 20))
    save(tmp_path / "in" / "small.png", noise(4, 20))
    pool = ["--op", "avg_pool2d:kernel_size=8"]
    assert here("filter", tmp_path / "in", "-o", tmp_path / "out", *pool) == 1
    assert set(contents(tmp_path / "out")) == {"large.png"}
    assert "small.png: cannot be filtered: " in capsys.readouterr().err


def test_filter_existing_output_stops_the_run_before_it_starts(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.tif").write_bytes(b"mine")
    assert here("filter", photos, "-o", out, *BLUR) == 2
    assert set(contents(out)) == {"b.tif"}
    assert capsys.readouterr().err == (
        f"gpuconv: {out / 'b.tif'} exists; --overwrite replaces, --resume continues a former run\n"
    )
    assert here("filter", photos, "-o", out, "--resume", *BLUR) == 2
    assert "finds no record of which pipeline made" in capsys.readouterr().err
    assert (out / "b.tif").read_bytes() == b"mine"
    assert here("filter", photos, "-o", out, "--overwrite", *BLUR) == 0
    assert load(out / "b.tif").dtype == np.uint16


def test_filter_resume_does_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert here("filter", photos, "-o", out, *BLUR) == 0
    (out / "a.png").unlink()
    before = (out / "b.tif").stat().st_mtime_ns
    (photos / "sub" / "broken.jpg").unlink()
    assert here("filter", photos, "-r", "-o", out, "--resume", "--report", report, *BLUR) == 0
    told = json.loads(report.read_text())
    status = {Path(f["input"]).name: f["status"] for f in told["files"]}
    assert status == {"a.png": "done", "b.tif": "skipped", "c.PNG": "done", "d.webp": "done"}
    assert told["counts"] == {"total": 4, "done": 3, "failed": 0, "skipped": 1, "interrupted": 0}
    assert (out / "b.tif").stat().st_mtime_ns == before
    assert here("filter", photos, "-r", "-o", out, "--resume", *BLUR) == 0


def test_filter_resume_with_another_pipeline_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert here("filter", photos, "-o", out, *BLUR) == 0
    (out / "a.png").unlink()
    assert here("filter", photos, "-o", out, "--resume", "--op", "gaussian_blur:sigma=9") == 2
    assert "--resume must use the pipeline that made" in capsys.readouterr().err
    assert set(contents(out)) == {"b.tif"}
    same = ["--op", " gaussian_blur: sigma=1.5 "]
    assert here("filter", photos, "-o", out, "--resume", *same) == 0


def test_filter_resume_redoes_what_an_overwriting_run_had_not_reached(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", noise(9, 9))
    save(tmp_path / "in" / "b.png", noise(9, 9, seed=1))
    out, pipeline = tmp_path / "out", Pipeline("sobel")
    assert here("filter", tmp_path / "in", "-o", out, *BLUR) == 0
    journal = Journal(out)  # as a run of `sobel --overwrite` leaves it, killed after a.png
    journal.begin([out / "a.png", out / "b.png"], pipeline.fingerprint)
    save(out / "a.png", filters.sobel(noise(9, 9)))
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"output": "b.p')
    assert here("filter", tmp_path / "in", "-o", out, "--resume", "--op", "sobel") == 0
    np.testing.assert_array_equal(load(out / "b.png"), filters.sobel(noise(9, 9, seed=1)))


def test_filter_refuses_two_inputs_for_one_output(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(photos / "sub" / "a.png", noise(4, 4))
    out = tmp_path / "out"
    assert here("filter", photos / "a.png", photos / "sub" / "a.png", "-o", out, *BLUR) == 2
    assert "would both write" in capsys.readouterr().err
    save(photos / "a.tif", noise(4, 4))
    assert here("filter", photos, "-o", out, "--format", "png", *BLUR) == 2
    assert not out.exists()
    assert here("filter", photos / "a.png", photos / "a.png", "-o", out, *BLUR) == 0


def test_filter_never_overwrites_an_input(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (photos / "a.png").read_bytes()
    link = tmp_path / "link"
    link.symlink_to(photos)
    (tmp_path / "a-link.png").symlink_to(photos / "a.png")
    os.link(photos / "a.png", tmp_path / "a-hard.png")
    for inputs, out in (
        ([photos], photos),
        ([photos], link),
        ([photos / "a.png"], photos / "a.png"),
        ([tmp_path / "a-link.png"], photos / "a.png"),
        ([photos / "a.png"], tmp_path / "a-hard.png"),
    ):
        assert here("filter", *inputs, "-o", out, "--overwrite", *BLUR) == 2
        assert "OUT must not overwrite an input" in capsys.readouterr().err
    report = ["--report", photos / "a.png"]
    assert here("filter", photos / "a.png", "-o", tmp_path / "out", *report, *BLUR) == 2
    assert (photos / "a.png").read_bytes() == before
    assert not (photos / JOURNAL).exists()


def test_filter_out_below_the_input_is_not_searched(photos: Path) -> None:
    out = photos / "out"
    (photos / "sub" / "broken.jpg").unlink()
    assert here("filter", photos, "-r", "-o", out, *BLUR) == 0
    first = set(contents(out))
    assert here("filter", photos, "-r", "-o", out, "--overwrite", *BLUR) == 0
    assert set(contents(out)) == first


def test_filter_folder_link_that_loops_is_a_failure(photos: Path, tmp_path: Path) -> None:
    (photos / "sub" / "broken.jpg").unlink()
    (photos / "sub" / "again").symlink_to(photos)
    report = tmp_path / "report.json"
    assert here("filter", photos, "-r", "-o", tmp_path / "out", "--report", report, *BLUR) == 1
    failed = [f for f in json.loads(report.read_text())["files"] if f["status"] == "failed"]
    assert [f["reason"] for f in failed] == ["cannot be read: a link that loops"]
    assert set(contents(tmp_path / "out")) == {"a.png", "b.tif", "sub/c.PNG", "sub/deep/d.webp"}


def test_filter_report_adds_up(photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert here("filter", photos, "-o", tmp_path / "out", "--report", report, *BLUR) == 0
    told = json.loads(report.read_text())
    assert set(told) == {
        "counts",
        "seconds",
        "megapixels",
        "megapixels_per_second",
        "backend",
        "pipeline",
        "stages",
        "files",
        "timeline",
    }
    assert told["backend"] == "numpy"
    assert told["pipeline"] == "gaussian_blur:sigma=1.5"
    assert told["megapixels"] == pytest.approx((20 * 30 + 20 * 31) / 1e6, abs=1e-6)
    assert told["seconds"] > 0
    assert [set(f) for f in told["files"]] == [
        {"input", "output", "status", "reason", "seconds"}
    ] * 2
    assert set(told["stages"]) == {"decode", "compute", "encode"}
    spent = sum(f["seconds"] for f in told["files"])
    assert sum(told["stages"].values()) == pytest.approx(spent, abs=1e-5)  # as they are rounded
    for number, stage, thread, start, stop in told["timeline"]:
        assert number in (0, 1)
        assert stage in told["stages"]
        assert thread >= 0
        assert 0 < start < stop < told["seconds"]
    assert told["files"][0]["input"] == str(photos / "a.png")
    assert told["files"][0]["output"] == str(tmp_path / "out" / "a.png")


def test_filter_report_may_lie_in_the_new_output_folder(photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "out" / "told" / "report.json"
    assert here("filter", photos, "-o", tmp_path / "out", "--report", report, *BLUR) == 0
    assert json.loads(report.read_text())["counts"]["done"] == 2


def test_filter_name_that_is_no_text_is_no_obstacle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    save(tmp_path / "in" / name, noise(4, 4))
    report = tmp_path / "report.json"
    assert here("filter", tmp_path / "in", "-o", tmp_path / "out", "--report", report, *BLUR) == 0
    assert (tmp_path / "out" / name).exists()
    assert json.loads(report.read_text())["files"][0]["output"].endswith(name)
    assert "caf" in capsys.readouterr().out


def test_filter_resume_into_one_file_needs_a_record(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["filter", photos / "a.png", "-o", tmp_path / "one" / "b.png", *BLUR]
    assert here(*line) == 0
    assert here(*line, "--resume") == 2
    assert "finds no record" in capsys.readouterr().err
    (tmp_path / "one" / "b.png").unlink()
    assert here(*line, "--resume") == 0
    assert here(*line, "--resume") == 0
    assert ", 1 already done" in capsys.readouterr().out


def test_filter_quiet_tells_failures_only(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("filter", photos, "-q", "-o", tmp_path / "out", *BLUR) == 0
    assert capsys.readouterr() == ("", "")
    assert here("filter", photos, "-r", "-q", "-o", tmp_path / "two", *BLUR) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1


def test_filter_without_a_terminal_tells_one_line_an_image(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("filter", photos, "-o", tmp_path / "out", *BLUR) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"[1/2] {photos / 'a.png'} -> {tmp_path / 'out' / 'a.png'}  ")
    assert second.startswith("[2/2] ")
    assert last.startswith("2 of 2 images filtered in ")
    assert last.endswith(" megapixels/s on numpy)")


@pytest.mark.parametrize("count", [1, 3])
def test_filter_results_come_in_order_whatever_the_jobs(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [300, 5, 200, 5, 5, 100, 5]
    for i, size in enumerate(sizes):
        save(tmp_path / "in" / f"{i}.png", noise(size, size))
    assert here("filter", tmp_path / "in", "-o", tmp_path / "out", "--jobs", count, *BLUR) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert [line.split()[1][-5:] for line in lines] == [f"{i}.png" for i in range(len(sizes))]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_filter_interrupted_leaves_whole_files_and_resumes(
    tmp_path: Path, how: signal.Signals
) -> None:
    pixels = noise(400, 400, 3)
    for i in range(40):
        save(tmp_path / "in" / f"{i:02}.png", pixels)
    out, slow = tmp_path / "out", ["--op", "gaussian_blur:sigma=4", "--op", "median_blur:size=7"]
    arguments = ["filter", tmp_path / "in", "-o", out, "--jobs", "2", *slow]
    report = tmp_path / "report.json"
    process = Running(*arguments, "--report", report).process
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert errors == "gpuconv: interrupted; --resume goes on from here\n"
        assert json.loads(report.read_text())["counts"]["interrupted"] > 0
        assert not list(out.glob("*.tmp"))
    done = sorted(out.glob("*.png"))
    assert 1 <= len(done) < 40
    expected = Pipeline("gaussian_blur:sigma=4", "median_blur:size=7")(pixels, channel_axis=-1)
    for path in done:
        np.testing.assert_array_equal(load(path), expected)
    for extra in sorted((tmp_path / "in").glob("*.png"))[len(done) + 4 :]:
        extra.unlink()
    assert here(*arguments, "--resume") == 0
    assert len(list(out.glob("*.png"))) == len(done) + 4


def test_filter_on_a_terminal_draws_a_bar(photos: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="the platform has no pseudo-terminals")
    parent, child = pty.openpty()
    process = Running("filter", photos, "-o", tmp_path / "out", *BLUR, stderr=child).process
    os.close(child)
    out, _ = process.communicate(timeout=30)
    shown = b""
    try:
        while chunk := os.read(parent, 4096):
            shown += chunk
    except OSError:
        pass  # Linux ends a terminal that nobody holds with EIO
    os.close(parent)
    assert process.returncode == 0
    assert out.startswith("2 of 2 images filtered")
    assert "2/2" in shown.decode()
    assert "MP/s" in shown.decode()


# Parts, memory, previews, Zarr, workers


@pytest.mark.parametrize("ending", ["tif", "npy", "zarr"])
@pytest.mark.parametrize(
    "steps",
    [
        ["gaussian_blur:sigma=2,border=wrap", "max_pool2d:kernel_size=3"],
        ["sobel", "median_blur:size=5", "avg_pool2d:kernel_size=(2,3),stride=2"],
        ["adaptive_avg_pool2d:output_size=(13,17)"],
    ],
)
def test_filter_tiles_give_the_same_bits(tmp_path: Path, ending: str, steps: list[str]) -> None:
    color, alpha = noise(50, 70, 3), noise(50, 70, seed=1)
    inputs = tmp_path / "in"
    save(inputs / f"colour.{ending}", color)
    save(inputs / f"alpha.{ending}", color, alpha)
    save(inputs / f"deep.{ending}", noise(40, 37, dtype=np.uint16))
    write_image(inputs / f"pages.{ending}", Image((Page(color), Page(color[::-1].copy()))))
    line = ["filter", inputs, *(word for step in steps for word in ("--op", step))]
    assert here(*line, "-o", tmp_path / "whole") == 0
    for tile in (9, 16, 1000):
        assert here(*line, "-o", tmp_path / f"tiles{tile}", "--tile", tile) == 0
        for path in sorted(inputs.iterdir()):
            expected = read_image(tmp_path / "whole" / path.name).pages
            found = read_image(tmp_path / f"tiles{tile}" / path.name).pages
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one.color, other.color)
                assert (one.alpha is None) == (other.alpha is None)
                if one.alpha is not None:
                    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_filter_memory_limit_costs_what_cannot_be_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = noise(900, 1000, 3)
    for name in ("a.png", "b.tif", "c.npy"):
        save(tmp_path / "in" / name, pixels)
    save(tmp_path / "in" / "small.png", noise(9, 9))
    out = tmp_path / "out"
    assert here("filter", tmp_path / "in", "-o", out, "--memory-limit", "4MiB", *BLUR) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gpuconv: failed: {tmp_path}/in/a.png: needs about ")
    assert line.endswith(
        " in memory, more than the limit of 4.0 MiB; this PNG cannot be read by parts; use TIFF, "
        ".npy or Zarr, or raise the memory limit"
    )
    expected = filters.gaussian_blur(pixels, 1.5, channel_axis=-1)
    for name in ("b.tif", "c.npy"):
        np.testing.assert_array_equal(load(out / name), expected)
    narrow = ["filter", tmp_path / "in" / "b.tif", "-o", tmp_path / "d.png", *BLUR]
    assert here(*narrow, "--memory-limit", "4MiB") == 1
    assert "PNG cannot be written by parts; use TIFF, .npy or Zarr" in capsys.readouterr().err


def test_filter_preview_shows_the_first_image_that_was_filtered(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, out = tmp_path / "shown" / "preview.png", tmp_path / "out"
    assert here("filter", photos, "-o", out, "--preview", picture, *BLUR) == 0
    assert read_image(picture).pages[0].color.shape[2] == 3
    before = picture.read_bytes()
    assert here("filter", photos, "-o", out, "--preview", picture, "--resume", *BLUR) == 0
    assert picture.read_bytes() == before
    broken = photos / "sub" / "broken.jpg"
    assert here("filter", broken, "-o", out, "--preview", tmp_path / "none.png", *BLUR) == 1
    assert capsys.readouterr().err.endswith("gpuconv: no preview: no image was filtered\n")
    assert not (tmp_path / "none.png").exists()


def test_filter_zarr_arrays_are_images_like_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr = pytest.importorskip("zarr", reason="needs Zarr")
    color = noise(20, 30, 3)
    save(tmp_path / "in" / "a.zarr", color)
    save(tmp_path / "in" / "b.png", color)
    expected = filters.gaussian_blur(color, 1.5, channel_axis=-1)
    out, one = tmp_path / "out", tmp_path / "one.zarr"
    assert here("filter", tmp_path / "in", "-o", out, *BLUR) == 0
    assert here("filter", tmp_path / "in", "-o", tmp_path / "all", "--format", "zarr", *BLUR) == 0
    assert here("filter", tmp_path / "in", "-o", tmp_path / "npy", "--format", "npy", *BLUR) == 0
    assert here("filter", tmp_path / "in" / "b.png", "-o", one, *BLUR) == 0
    for path in (out / "a.zarr", out / "b.png", tmp_path / "all" / "b.zarr", one):
        np.testing.assert_array_equal(load(path), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "npy" / "a.npy"), expected)
    np.testing.assert_array_equal(zarr.open_array(str(one), mode="r")[:], expected)
    again = ["filter", tmp_path / "in" / "b.png", "-o", one, "--op", "sobel"]
    assert here(*again) == 2
    assert here(*again, "--overwrite") == 0
    np.testing.assert_array_equal(load(one), filters.sobel(color, channel_axis=-1))
    assert here("filter", tmp_path / "in", "-o", out, "--resume", *BLUR) == 0
    assert ", 2 already done" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.tmp"))


def test_filter_zarr_group_asks_for_one_of_its_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr = pytest.importorskip("zarr", reason="needs Zarr")
    group = zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    for name in ("left", "right"):
        group.create_array(name, data=noise(9, 12, seed=len(name)))
    assert here("filter", tmp_path / "group.zarr" / "left", "-o", tmp_path / "one.tif", *BLUR) == 0
    expected = filters.gaussian_blur(noise(9, 12, seed=4), 1.5)
    np.testing.assert_array_equal(load(tmp_path / "one.tif"), expected)
    assert here("filter", tmp_path / "group.zarr", "-o", tmp_path / "out", *BLUR) == 1
    told = capsys.readouterr().err
    assert f"is a Zarr group: name one of its arrays, such as {tmp_path}/group.zarr/left" in told


def test_filter_with_no_scheduler_there_writes_nothing(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clusters = pytest.importorskip("gpuconv.clusters")
    pytest.importorskip("distributed", reason="needs Dask")
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.3)
    for address, reason in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9; start one with: "),
        ("nonsense", "no Dask scheduler answers at nonsense "),
    ):
        line = ["filter", photos, "-o", tmp_path / "out", "--scheduler", address, *BLUR]
        assert here(*line) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"gpuconv: {reason}")
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_filter_workers_write_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs Dask")
    save(photos / "e.zarr", noise(30, 40, 3))
    alone, several = tmp_path / "alone", tmp_path / "several"
    report = tmp_path / "report.json"
    assert here("filter", photos, "-r", "-o", alone, *BLUR) == 1
    line = ["filter", photos, "-r", "-o", several, "--workers", 2, *BLUR]
    process = Running(*line, "--report", report).process
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    broken = photos / "sub" / "broken.jpg"
    assert errors.startswith(f"gpuconv: failed: {broken}: cannot be decoded: not a PNG")
    assert errors.count("\n") == 1
    assert contents(several) == contents(alone)
    told = json.loads(report.read_text())
    assert told["counts"] == {"total": 6, "done": 5, "failed": 1, "skipped": 0, "interrupted": 0}
    assert told["backend"] == gpuconv.info()["auto"]["backend"]
    assert here(*line, "--resume") == 1
