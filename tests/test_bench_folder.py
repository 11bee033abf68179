"""The folder benchmark compares like with like and tells what it found. No timing is tested."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from bench import folder, folder_loops, photographs, timeline

pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

SIDE = 48


def saved(path, pixels, **options):
    """The path, with the pixels in it."""
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


def photo(number=0):
    return photographs.photograph(number, SIDE, 64)


def report():
    """What a run of two workers over three files tells."""
    spans = [
        *([0, "decode", 1, 0.0, 0.2], [0, "compute", 1, 0.2, 0.5]),
        *([1, "decode", 9, 0.1, 0.3], [1, "wait", 9, 0.3, 0.4], [1, "encode", 9, 0.4, 0.5]),
        *([2, "odd", 1, 0.6, 1.0],),
    ]
    totals = {"counts": {"done": 3}, "megapixels": 36.0, "seconds": 1.2}
    return {"timeline": spans, **totals, "pipeline": "sobel", "backend": "numpy"}


# ---------------------------------------------------------------- photographs


def test_photographs_are_the_same_again_and_differ_by_number():
    assert photo().shape == (SIDE, 64, 3)
    assert photo().dtype == np.uint8
    np.testing.assert_array_equal(photo(5), photo(5))
    kinds = {photo(number).tobytes() for number in range(16)}
    assert len(kinds) == 16


@pytest.mark.parametrize("kind", photographs.FORMATS)
def test_make_folder_writes_the_format_once(tmp_path, kind):
    paths = photographs.make_folder(tmp_path, kind, 2, 0.003)
    assert [path.name for path in paths] == [f"000.{kind}", f"001.{kind}"]
    written = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[kind]
    with PIL.Image.open(paths[1]) as picture:
        assert (picture.format, picture.mode, picture.size) == (written, "RGB", (64, 47))
    times = [path.stat().st_mtime_ns for path in paths]
    assert photographs.make_folder(tmp_path, kind, 2, 0.003) == paths
    assert [path.stat().st_mtime_ns for path in paths] == times


# ---------------------------------------------------------------- loops


def test_parsed_operation():
    assert folder_loops.parsed("gaussian_blur:sigma=3") == ("gaussian_blur", {"sigma": 3.0})
    assert folder_loops.parsed("median_blur") == ("median_blur", {})


@pytest.mark.parametrize("loop", ["opencv", "opencv-threads", "skimage"])
@pytest.mark.parametrize("kind", photographs.FORMATS)
def test_loop_filters_every_image(tmp_path, loop, kind):
    if folder_loops.missing(loop):
        pytest.skip(str(folder_loops.missing(loop)))
    photographs.make_folder(tmp_path / "in", kind, 3, 0.003)
    command = [loop, str(tmp_path / "in"), str(tmp_path / "out"), "gaussian_blur:sigma=2"]
    assert folder_loops.main(command) == 0
    for path in folder.images_of(tmp_path / "in"):
        before, after = (folder._pixels(p) for p in (path, tmp_path / "out" / path.name))
        assert before.shape == after.shape
        assert after.std() < before.std()


def test_missing_tells_why():
    assert folder_loops.missing("opencv-threads") is None
    assert set(folder_loops.NEEDS) == {loop.partition("-")[0] for loop in folder_loops.LOOPS}


# ---------------------------------------------------------------- checks


def test_complaint_is_none_about_a_level_and_tells_of_two(tmp_path):
    pixels = np.minimum(photo(), np.uint8(250))
    first = saved(tmp_path / "a.png", pixels)
    near = saved(tmp_path / "b.png", pixels + (pixels[..., :1] % 2))
    far = saved(tmp_path / "c.png", pixels + np.uint8(2) * (pixels == pixels.min()))
    assert folder.differ(first, first) == (0, 99.0)
    assert folder.complaint(near, first) is None
    assert folder.complaint(far, first) == "c.png is 2 levels off"


def test_complaint_tells_of_another_quality_sampling_or_size(tmp_path):
    first = saved(tmp_path / "a.jpg", photo(), quality=95, subsampling=0)
    assert folder.complaint(first, first) is None
    for name, options in (("q.jpg", {"quality": 90, "subsampling": 0}), ("s.jpg", {"quality": 95})):
        other = saved(tmp_path / name, photo(), **options)
        assert folder.complaint(other, first).startswith(f"{name} is {{'format': 'JPEG'")
    blurred = saved(tmp_path / "b.jpg", photo(1), quality=95, subsampling=0)
    assert "PSNR" in folder.complaint(blurred, first)


def test_judge_marks_ours_wrong_where_a_file_is_missing(tmp_path):
    for name in ("gpuconv", "opencv"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name / "a.png", photo())
    entries = [
        folder.Contender(name, tmp_path, tmp_path / name, [], 2) for name in ("gpuconv", "opencv")
    ]
    folder.judge(entries)
    assert [entry.status for entry in entries] == ["wrong", "ok"]
    assert entries[0].reason == "1 of 2 images were written"


# ---------------------------------------------------------------- the whole


def test_main_measures_and_writes_lines(tmp_path, capsys):
    lines = tmp_path / "lines.jsonl"
    arguments = ["--images", "2", "--megapixels", "0.01", "--rounds", "1", "--format", "jpg"]
    arguments += ["--loops", "opencv,opencv-processes", "-o", str(lines)]
    assert folder.main([*arguments, "--folder", str(tmp_path)]) == 0
    found = [folder.Line(**json.loads(text)) for text in lines.read_text().splitlines()]
    assert [line.implementation for line in found] == ["gpuconv", "opencv", "opencv-processes"]
    for line in found:
        assert line.name == "folder/gaussian_blur:sigma=3/jpg/2x0.01Mpixel"
        assert (line.status, line.images, line.rounds) == ("ok", 2, 1)
        assert line.megapixels_per_s > 0
        assert line.cpu_s > 0
        assert line.output_bytes > 0
        assert line.psnr_db >= folder.LEAST_PSNR
    assert found[0].ratio == 1
    assert found[0].versions["opencv"] != "unknown"
    assert "times opencv" in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


def test_main_refuses_an_unknown_loop(capsys):
    with pytest.raises(SystemExit) as caught:
        folder.main(["--loops", "magic"])
    assert caught.value.code == 2
    assert "--loops must name some of opencv" in capsys.readouterr().err


def test_contender_that_fails_tells_its_last_line(tmp_path):
    entry = folder.Contender(
        "x", tmp_path, tmp_path / "x", [folder.sys.executable, "-c", "raise OSError('no luck')"], 1
    )
    entry.try_out()
    assert (entry.status, entry.reason) == ("failed", "OSError: no luck")


def test_slow_loops_count_by_the_pixel(tmp_path):
    entries = [
        folder.Contender(name, tmp_path, tmp_path, [], images, samples=[2.0], cpu_samples=[3.0])
        for name, images in (("gpuconv", 8), ("skimage", 4))
    ]
    facts = dict.fromkeys(("threads", "device", "driver", "versions", "commit", "dirty", "date"))
    found = folder.lines_of("n", entries, 1e6, None, {**facts, "backend": "numpy", "load": None})
    assert [line.ratio for line in found] == [1, 2]
    assert [line.megapixels_per_s for line in found] == [4, 2]
    assert folder.rows(found)[2][1:4] == ["4.00", "6.00", "2.00"]
    opencv = replace(found[1], implementation="opencv-threads")
    assert folder.verdict([found[0], opencv]) == (
        "gpuconv does 4.0 Mpixel/s, 2.00 times opencv-threads"
    )


# ---------------------------------------------------------------- timeline


def test_spans_are_in_the_order_of_their_beginnings():
    spans = timeline.spans_of(report())
    assert spans[0] == timeline.Span(1, "decode", "worker 2", 0.0, 0.2)
    assert [span.file for span in spans] == [1, 2, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="the report must hold a timeline, got none"):
        timeline.spans_of({"files": [{}]})


def test_busy_seconds_counts_what_overlaps_once():
    spans = [timeline.Span(1, "x", "w", *pair) for pair in ((0, 2), (1, 3), (5, 6))]
    assert timeline.busy_seconds(spans) == 4


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_timeline_draws_the_same_picture_again(tmp_path, suffix):
    path, again = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    source = tmp_path / "report.json"
    source.write_text(json.dumps(report()))
    assert timeline.main([str(source), str(path)]) == 0
    timeline.timeline(report(), again)
    assert path.read_bytes() == again.read_bytes()


def test_timeline_tells_workers_stages_and_speed():
    figure = timeline.draw(timeline.spans_of(report()), timeline.headline(report()))
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["worker 2", "worker 10"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.partition(":")[0] for label in labels] == [
        *("decode", "compute", "encode", "odd", "wait")
    ]
    assert labels[0] == "decode: 33% of the work, 0.40 s"
    assert labels[-1] == "wait: 0.10 s"
    assert [text.get_text() for text in axes.texts[-2:]] == ["busy 90%", "busy 30%"]
    assert figure.get_suptitle() == (
        "gpuconv filter, 3 images: 36 Mpixel in 1.20 s, 30 Mpixel/s\nsobel on numpy"
    )
