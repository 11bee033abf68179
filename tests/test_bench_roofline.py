"""bench.roofline: launches without memory, limits that add up, a table that is well formed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from bench import asked, nvrtc, prediction, roofline, sets
from bench.devices import DEVICES, device_of
from bench.machine import ROOT
from bench.results import Line
from bench.work import WORK, Part, Work, warps
from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.launch import Launch, Variant
from tests.nvrtc import require_nvrtc

H200, *_ = (d for d in DEVICES if d.name == "H200")
POOL = "max_pool2d/f32/8x1x2160x3840/2x2-s2"

NOT_MODELLED: set[str] = set()
"""Kernels that cases of the gpu set launch and that have no line in WORK: no goal is about them."""


def chosen(name):
    (case,) = roofline.cases(name)
    return case


@pytest.fixture(scope="module")
def launched():
    """(case, its launches) of eight images: those that most is said of."""
    wanted = [case for case in roofline.cases() if case.shape[0] == 8]
    return [(case, asked.ask(case).launches) for case in wanted]


def test_arrays_without_memory_look_like_fresh_ones():
    array = asked.without_memory((64, 2160, 3840, 3), "float32")
    assert array.shape == (64, 2160, 3840, 3)
    assert array.flags.c_contiguous
    assert array.dtype == np.float32
    assert array.ctypes.data % 512 == 0


def test_every_case_has_launches_and_its_bytes(launched):
    assert len(launched) > 60
    for case, launches in launched:
        assert launches, case.name
        assert all(isinstance(launch, Launch) for launch in launches)
    found = asked.ask(chosen(POOL))
    assert (found.read, found.written) == (8 * 2160 * 3840 * 4, 8 * 1080 * 1920 * 4)


def test_kernels_without_a_line_are_known(launched):
    missing = {x.variant.kernel for _, launches in launched for x in launches} - set(WORK)
    assert missing == NOT_MODELLED


def test_lines_are_of_kernels_that_there_are():
    assert set(WORK) <= {variant.kernel for variant in variants()}


def test_work_is_well_formed(launched):
    for case, launches in launched:
        for launch in launches:
            if launch.variant.kernel not in WORK:
                continue
            work = WORK[launch.variant.kernel](launch)
            told = f"{case.name}: {launch.variant}"
            assert work.parts, told
            assert all(part.trips > 0 for part in work.parts), told
            assert 1 <= work.reads < 16, told
            assert work.ahead >= 0, told
            # Lanes make at most some hundred results a trip.
            made = math.prod(case.shape) / len(launches) / work.parts[0].trips / 32
            assert 0.001 < made < 512, told


def test_occupancy_is_what_registers_threads_and_shared_memory_allow():
    variant = Variant("a.cu", "kernel", ())

    def held(registers, threads, shared=0, blocks=10_000, device=H200):
        launch = Launch(variant, (blocks, 1, 1), (32, threads // 32, 1), (), shared)
        resources = nvrtc.Resources(registers, 0, 0, 0)
        return prediction.occupancy(launch, resources, device)

    assert (held(32, 256).warps, held(32, 256).limit) == (64, "registers")
    assert held(40, 256).warps == 48
    assert held(65, 256).blocks == 3
    assert held(255, 128).blocks == 2
    assert (held(24, 256, 47 * 1024).blocks, held(24, 256, 47 * 1024).limit) == (4, "shared memory")
    assert (held(16, 32).blocks, held(16, 32).limit) == (32, "blocks")
    assert held(32, 256, blocks=132 * 4).waves == 0.5
    ada = next(d for d in DEVICES if d.name == "L4")
    assert held(32, 256, device=ada).warps == 48


def test_limits_add_up():
    require_nvrtc()
    case = chosen(POOL)
    found = prediction.predict(case, H200)
    (launch,), (limits,) = found.launches, found.limits
    work = WORK[launch.variant.kernel](launch)
    read, written = found.read, found.written
    assert limits.seconds["memory"] == pytest.approx((read + written) / 4.3e12)
    assert found.floor_seconds == pytest.approx(limits.seconds["memory"])
    slots = 0.0
    for part in work.parts:
        trip = prediction.trip_of(limits.kernel, part)
        slots += part.trips / (trip.count(part.per) if part.per else 1) * trip.slots
    assert limits.slots == pytest.approx(slots)
    assert limits.seconds["issue"] == pytest.approx(slots / 4 / (132 * 1.98e9))
    assert found.seconds == max(limits.seconds.values())
    assert 0 < found.share <= 1
    assert found.rate(found.seconds) == pytest.approx(8 * 2160 * 3840 / found.seconds / 1e9)


def test_latency_is_hidden_by_resident_warps_and_by_reading_ahead():
    require_nvrtc()
    found = prediction.predict(chosen(POOL), H200)
    (launch,), (limits,) = found.launches, found.limits
    resident = min(132 * limits.occupancy.warps, warps(launch))

    def latency(ahead):
        work = Work((Part(1e6),), ahead=ahead)
        return prediction.launch_limits(launch, work, 1, 1, H200).seconds["latency"]

    own = prediction.trip_of(limits.kernel, Part(1.0)).slots / 1.98e9
    assert latency(0) == pytest.approx(1e6 / resident * (650e-9 + own))
    assert latency(2) == pytest.approx(1e6 / resident * max(650e-9 / 2, own))


def test_a_loop_that_is_not_what_it_is_taken_for_is_told(monkeypatch):
    require_nvrtc()
    work = Work((Part(1.0, per="HMMA"),))
    monkeypatch.setitem(WORK, "pool_small", lambda launch: work)
    with pytest.raises(prediction.ModelError, match=r"pool_small.*holds no HMMA"):
        prediction.predict(chosen(POOL), H200)


def test_a_small_grid_leaves_processors_idle():
    require_nvrtc()
    found = prediction.predict(chosen(POOL), H200)
    (launch,), (limits,) = found.launches, found.limits
    work = WORK[launch.variant.kernel](launch)
    few = replace(launch, grid=(66, 1, 1))
    slower = prediction.launch_limits(few, work, found.read, found.written, H200)
    assert slower.seconds["issue"] == pytest.approx(2 * limits.seconds["issue"])
    assert slower.seconds["latency"] > 2 * limits.seconds["latency"]


SECTION_7 = {
    "filter2d/u8/8x2160x3840/k3": "85%",
    "filter2d/f16/8x2160x3840/k3": "85%",
    "filter2d/f32/8x2160x3840/k7": "85%",
    "filter2d/u8/8x2160x3840/k15-tensor": "300 Gpx/s",
    "filter2d/f16/8x2160x3840/k31-tensor": "100 Gpx/s",
    "gaussian_blur/u8/8x2160x3840/sigma1": "85%",
    "separable_filter2d/f32/8x2160x3840/k31": "70%",
    "box_blur/f16/8x2160x3840/15x15": "85%",
    "sobel/u8/8x2160x3840/magnitude": "85%",
    "median_blur/u8/8x2160x3840/3x3": "700 Gpx/s",
    "median_blur/u8/8x2160x3840/5x5": "200 Gpx/s",
    "median_blur/u8/8x2160x3840/7x7": "90.0 Gpx/s",
    "median_blur/u8/8x2160x3840/15x15": "15.0 Gpx/s",
    "median_blur/u8/8x2160x3840/31x31": "3.00 Gpx/s",
    "dilate/u8/8x2160x3840/31x31": "70%",
    "max_pool2d/u8/8x1x2160x3840/9x9-s1": "85%",
    "avg_pool2d/f32/64x112x112x64/3x3-s2-nhwc": "85%",
}
"""A case of each line of DESIGN.md section 7 that is about filters and pools."""


@pytest.mark.parametrize("name", SECTION_7)
def test_goals_are_those_of_the_contract(name):
    goal = roofline.goal_of(chosen(name))
    assert goal is not None
    assert goal.told() == SECTION_7[name]


def line(name, device, ms):
    """A result of gpuconv's."""
    return Line(
        *(name, [1], "float32", "gpuconv", "cuda", "ok", "", "", 1, 1, 1, 1),
        *({"median": ms}, 1.0, 1.0, 1.0, 1.0, 0, None, 1, device, None, {}, None, None, ""),
    )


def test_measured_figures_stand_beside_predictions(tmp_path, monkeypatch, capsys):
    require_nvrtc()
    lines = [line(POOL, "NVIDIA H200", 0.1), line(POOL, "NVIDIA A100", 9.9)]
    (tmp_path / "some.jsonl").write_text("\n".join(json.dumps(asdict(x)) for x in lines))
    monkeypatch.setattr(roofline.results, "FOLDER", tmp_path)
    assert roofline.main(["--filter", POOL, "--arithmetic"]) == 0
    printed = capsys.readouterr().out
    (row,) = (text.split() for text in printed.splitlines() if text.startswith(POOL + " "))
    assert "664" in row
    assert "Predictions, not measurements" in printed
    assert "issue slots an element" in printed
    assert "KB wanted at this speed" in printed
    assert roofline.main(["--filter", POOL, "--kernels"]) == 0
    assert "pool_small<Extreme<float>, 2, 2, 0>" in capsys.readouterr().out


def test_goals_in_gpx_are_judged_on_an_h200_alone():
    case = chosen("median_blur/u8/8x2160x3840/3x3")
    goal = roofline.goal_of(case)
    found = prediction.Prediction(case, H200, 1, 1, (), ())
    assert goal.met(found) is None
    h100 = device_of("H100", "sm_90")
    assert goal.met(replace(found, device=h100)) is None
    assert device_of(None, "sm_90") == H200


def test_a_filter_that_matches_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        roofline.main(["--filter", "no_such_case"])
    assert "--filter must match" in capsys.readouterr().err


def test_scale_makes_the_same_cases_small():
    assert len(roofline.cases(scale=sets.TINY)) >= 60


def test_a_loop_is_found_by_what_it_holds():
    require_nvrtc()
    kernel = prediction.compiled(Variant("chain.cu", "chain", ("float", "1")), "sm_90")
    both = Part(1, holds=(("STS", 2), ("FFMA", 2 * 4 * 9)))
    assert prediction.trip_of(kernel, both).count("STS") == 2
    with pytest.raises(prediction.ModelError, match="no loop holds"):
        prediction.trip_of(kernel, replace(both, holds=(("STS", 2), ("FFMA", 1))))


def test_a_chain_moves_what_its_launches_do():
    require_nvrtc()
    found = prediction.predict(chosen("pipeline/f32/8x2160x3840/edges"), H200)
    assert [launch.variant.kernel for launch in found.launches] == ["chain"]
    (limits,) = found.limits
    assert limits.seconds["memory"] == pytest.approx(found.floor_seconds)
    assert limits.seconds["L2"] * H200.l2_gb_s > limits.seconds["memory"] * H200.copy_gb_s
    # The estimate by which the plan has chosen, without its share of a launch.
    assert limits.slots * 32 / found.elements == pytest.approx(100, rel=0.15)


@pytest.mark.slow
def test_the_readme_holds_the_table_as_it_is_generated():
    require_nvrtc()
    text, (begin, end) = (ROOT / "README.md").read_text(), roofline.README_MARKS
    if begin in text:
        start = text.index(begin)
        stop = text.index(end, start) + len(end)
        assert text[start:stop] == roofline.readme(H200).strip()
    else:
        assert "bench.roofline --readme" not in text


@pytest.mark.slow
def test_every_kernel_of_every_case_is_predicted():
    require_nvrtc()
    for case in roofline.cases():
        found = prediction.predict(case, H200)
        modelled = all(x.variant.kernel in WORK for x in found.launches)
        assert bool(found.limits) == modelled
        if modelled:
            assert 0 < found.share <= 1, case.name
