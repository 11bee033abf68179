"""What the command line says: help, wrong usage, what is missing, and commands that only tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.explain import EXAMPLE_IMAGE, built_in_example, explain
from tests.image_files import folder_of_photos, noise, save
from tests.processes import Running, here

BLUR = ["--op", "gaussian_blur:sigma=1.5"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of_photos(tmp_path / "photos")


USAGE = {
    "": "Usage: gpuconv",
    "filtre": "No such command 'filtre'",
    "filter": "Missing argument 'INPUT...' (see gpuconv filter --help)",
    "filter {in} --op sobel": "Missing option '-o' / '--out' (see gpuconv filter --help)",
    "filter {in} -o {out}": "Missing option '--op' (see gpuconv filter --help)",
    "filter {in} -o {out} --op": "Option '--op' requires an argument",
    "filter {in} -o {out} --op sobell": "--op sobell: an operation must be one that `gpuconv ops` "
    "lists (did you mean sobel?), got 'sobell' (see gpuconv filter --help)",
    "filter {in} -o {out} --op sobel --op erode:size=0": "--op erode:size=0: size must be at least "
    "1, got 0 (see gpuconv filter --help)",
    "filter {in} -o {out} --op sobel --resum": "No such option '--resum'.",
    "filter {in} -o {out} --op sobel --resume --overwrite": "--resume and --overwrite exclude each "
    "other; drop one (see gpuconv filter --help)",
    "filter {in} -o {out} --op sobel --format gif": "--format must be one of png, jpg, jpeg, jpe, "
    "jfif, webp, tif, tiff, npy, zarr, got gif (see gpuconv filter --help)",
    "filter {in} -o {out} --op sobel --jobs 0": "Invalid value for '--jobs': 0 is not in the range",
    "filter {in} -o {out} --op sobel --backend gpu": "Invalid value for '--backend': 'gpu' is not",
    "filter {in} -o {out} --op sobel --report {in}": "--report must name a file in a writeable ",
    "filter {in} -o {out} --op sobel --report {in}/a.png/x.json": "--report must name a file in a ",
    "filter {in}/no.png -o {out} --op sobel": "INPUT {in}/no.png does not exist; name a file, a "
    "folder or a quoted glob",
    "filter {in}/x* -o {out} --op sobel": "INPUT {in}/x* matches no file",
    "filter {in}/su* -o {out} --op sobel": "no image was found in {in}/su*\n",
    "filter {in}/empty -o {out} --op sobel": "no image was found in {in}/empty; -r looks in the ",
    "filter {in} -o {out}.png --op sobel": "OUT must be a folder for more than one input file, got "
    "{out}.png; name a folder",
    "filter {in}/a.png -o {out}.gif --op sobel": "OUT must be a folder or end in .png, .jpg, ",
    "filter {in}/a.png -o {in}/notes.txt --op sobel": "OUT must be a folder or end in .png, .jpg, ",
    "filter {in}/a.png -o {out}.png --format tif --op sobel": "--format tif and the name {out}.png "
    "must agree; drop one",
    "filter {in} -o {out} --op sobel --device 0 --backend numpy": "--device is for the cuda "
    "backend, not numpy (see gpuconv filter --help)",
    "filter {in} -o {out} --op sobel --memory-limit lots": "--memory-limit must be an amount of "
    "memory such as 512MiB or 4GiB, got lots",
    "filter {in} -o {out} --op sobel --memory-limit 0": "--memory-limit must be an amount of ",
    "filter {in} -o {out} --op sobel --tile 0": "Invalid value for '--tile': 0 is not in the ",
    "filter {in} -o {out} --op sobel --workers 0": "Invalid value for '--workers': 0 is not in ",
    "filter {in} -o {out} --op sobel --workers 2 --scheduler tcp://h:1": "--workers and "
    "--scheduler exclude each other; drop one",
    "filter {in} -o {out} --op sobel --workers 2 --device 0": "--device must not be given with ",
    "filter {in} -o {out} --op sobel --preview {out}.jpg": "--preview must end in .png, got {out}",
    "filter {in} -o {out} --op sobel --preview {in}/a.png": "--preview must not be one of the ",
    "filter {in} -o {out} --op filter2d:kernel=[0,-1,0": "--op filter2d:kernel=[0,-1,0: brackets "
    "must be closed, got kernel=[0,-1,0; quote the operation, as the shell ends a command at ';'",
    "ops nosuch": "NAME must be one that `gpuconv ops` lists (box_blur, ",
    "explain {in}/a.png": "--kernel must be given with IMAGE, such as --kernel sharpen",
    "explain --kernel edge": "IMAGE must be given with --kernel and --at",
    "explain {in}/no.png --kernel edge": "IMAGE {in}/no.png does not exist",
    "explain {in}/a.png --kernel edgy": "kernel must be rows such as [0,-1,0;-1,5,-1;0,-1,0] or ",
    "explain {in}/a.png --kernel 1,2;3": "kernel must have rows of one length, got 1,2;3",
    "explain {in}/a.png --kernel edge --at 99,0": "at must lie inside the output 18x28, got 99,0",
    "explain {in}/a.png --kernel edge --at 1": "at must be (y, x), got 1",
    "explain {in}/a.png --kernel edge --padding some": "padding must be ",
    "explain {in}/a.png --kernel edge --padding -1": "padding must be at least 0, got -1",
}


@pytest.mark.parametrize("line", list(USAGE))
def test_main_tells_wrong_usage_in_one_line(
    line: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "empty").mkdir()
    places = {"in": photos, "out": tmp_path / "out"}
    before = sorted(tmp_path.rglob("*"))
    status = here(*(word.format(**places) for word in line.split()))
    shown = capsys.readouterr()
    if not line:
        assert status == 0
        assert shown.out.startswith(USAGE[line])
        return
    assert status == 2
    assert shown.out == ""
    assert shown.err.startswith("gpuconv: " + USAGE[line].format(**places))
    assert shown.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_main_backend_that_is_not_there_is_refused_at_once(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {b["name"]: b for b in gpuconv.info()["backends"]}
    if found["cuda"]["available"]:
        pytest.skip("a CUDA device is usable here")
    arguments = ["filter", photos, "-o", tmp_path / "out", *BLUR]
    assert here(*arguments, "--backend", "cuda") == 2
    assert capsys.readouterr().err.startswith("gpuconv: backend 'cuda' is not available: ")
    monkeypatch.setenv("GPUCONV_BACKEND", "gpu")
    assert here(*arguments) == 2
    assert "GPUCONV_BACKEND must be one of auto, cuda, numpy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert here(*arguments, "--backend", "numpy") == 0


def test_main_missing_extra_says_what_to_install(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert here("filter", photos, "-o", tmp_path / "out", *BLUR) == 2
    assert capsys.readouterr().err == (
        "gpuconv: gpuconv filter needs tifffile, which is not installed: "
        "pip install 'gpuconv[image]'\n"
    )
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tifffile")
    assert here("demo", tmp_path / "out") == 2
    assert "needs matplotlib, which is not installed" in capsys.readouterr().err


def test_main_reader_that_goes_away_is_no_error() -> None:
    process = Running("ops", "--json").process
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_ops_lists_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("ops") == 0
    text = capsys.readouterr().out
    assert "gaussian_blur: Blur with a Gaussian bell." in text
    assert "    sigma (required)" in text
    assert "    border=reflect" in text
    assert here("ops", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in listed} >= {*filters.__all__, "max_pool2d"}
    assert here("ops", "sobel", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["sobel"]


def test_info_tells_what_auto_picks_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("info", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == gpuconv.info()
    assert here("info") == 0
    text = capsys.readouterr().out
    assert f"auto picks {told['auto']['backend']}: {told['auto']['why']}" in text


def test_help_has_an_example_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("filter", "ops", "info", "explain", "demo"):
        assert here(name, "--help") == 0
        text = capsys.readouterr().out
        assert f"  gpuconv {name}" in text
        assert max(map(len, text.splitlines())) <= 80


def test_explain_built_in_example_is_320(capsys: pytest.CaptureFixture[str]) -> None:
    assert here("explain") == 0
    text = capsys.readouterr().out
    assert text == built_in_example() + "\n"
    assert "0*0 + 0*-1 + 0*0 + 0*-1 + 105*5 + 102*-1 + 0*0 + 103*-1 + 99*0 = 320\n" in text
    assert "320 is above the range 0 to 255 and saturates to 255" in text
    kernel = gpuconv.kernels.sharpen.astype(np.int64)[None, None]
    whole = gpuconv.conv2d(EXAMPLE_IMAGE.astype(np.int64)[None], kernel, padding=1)[0]
    assert whole[0, 0] == 320
    for row in whole:
        assert "  ".join(str(v).rjust(3) for v in row) in text


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2, "same", "full"])
@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (4, 1)])
def test_explain_gives_what_conv2d_computes(
    shape: tuple[int, int], padding: Any, stride: int
) -> None:
    pixels = noise(7, 8, 3)
    whole_numbers = np.random.default_rng(1).integers(-9, 9, shape)
    for kernel, number in ((whole_numbers, np.int64), (whole_numbers / 7, np.float64)):
        maps = np.moveaxis(pixels, -1, 0)[:, None].astype(number)
        weights = kernel.astype(number)[None, None]
        expected = gpuconv.conv2d(maps, weights, stride=stride, padding=padding)[:, 0]
        for y in range(expected.shape[1]):
            for x in range(expected.shape[2]):
                told = explain(pixels, kernel, at=(y, x), stride=stride, padding=padding)
                np.testing.assert_allclose(told.results, expected[:, y, x], rtol=1e-12, atol=1e-9)
                for patch, result in zip(told.patches, told.results, strict=True):
                    assert np.sum(patch * kernel) == pytest.approx(result, abs=1e-9)
    assert told.sums()[0].count("*") == shape[0] * shape[1]


def test_explain_image_tells_every_channel_and_the_rounding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros((5, 5, 3), np.uint8)
    pixels[2, 2] = (1, 3, 200)
    save(tmp_path / "a.png", pixels)
    line = ["explain", tmp_path / "a.png", "--kernel", "0.5,0;0,2", "--at", "2,2"]
    assert here(*line) == 0
    text = capsys.readouterr().out
    assert "Output pixel (y 2, x 2) reads rows 2 to 3 and columns 2 to 3 of the image." in text
    assert "1*0.5 + 0*0 + 0*0 + 0*2 = 0.5\n" in text
    assert "0.5 rounds (half to even) to 0.\n" in text
    assert "1.5 rounds (half to even) to 2.\n" in text
    assert "As a pixel of a uint8 image: 100, as it is." in text
    assert here(*line[:3], "0,-1;0,2", "--at", "2,1", "--padding", "same") == 0
    assert "-1 is below the range 0 to 255 and saturates to 0." in capsys.readouterr().out


def test_explain_bad_image_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").touch()
    assert here("explain", tmp_path / "a.png", "--kernel", "edge") == 1
    assert capsys.readouterr().err == (
        f"gpuconv: {tmp_path / 'a.png'}: cannot be decoded: the file is empty\n"
    )


def test_cli_without_click_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; import gpuconv.cli"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert found.stderr == (
        "gpuconv: the command line needs click, which is not installed: "
        "pip install 'gpuconv[image]'\n"
    )


def test_import_gpuconv_needs_no_extra() -> None:
    code = (
        "import sys, gpuconv; print(sorted({'PIL', 'click', 'rich', 'tifffile'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
