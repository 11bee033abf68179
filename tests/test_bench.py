"""The benchmarks measure the right thing and refuse the wrong one. No timing is tested."""

import dataclasses
import json
import re
import sys
import threading

import numpy as np
import pytest

import gpuconv
from bench import cases, clock, compare, goals, machine, memory, peers, plot, results, run, table
from bench.peers.common import Call
from bench.peers.ours import GpuConv
from bench.truth import complaint, textbook
from tests import reference

BRIEF = run.Settings(rounds=3, budget_s=60.0, sample_s=0.0)
NAME = re.compile(r"[a-z0-9_]+/(u8|u16|f16|bf16|f32|f64)/\d+(x\d+){2,3}/[a-z0-9.-]+")
IMAGES = (2, 70, 90)
MAPS = (2, 8, 23, 30)

TINY = [
    cases.filter2d("u8", IMAGES, 5),
    cases.filter2d("f32", IMAGES, 4),
    cases.filter2d("u8", (2, 40, 50, 3), 3),
    cases.separable_filter2d("f32", IMAGES, 7),
    cases.gaussian_blur("u8", IMAGES, 1.5),
    cases.gaussian_blur("f32", IMAGES, 1.5),
    cases.sized("box_blur", "u8", IMAGES, 5),
    cases.sized("box_blur", "f32", IMAGES, 5),
    cases.sobel("u8", IMAGES),
    cases.sobel("f32", IMAGES),
    cases.sharpen("u8", IMAGES),
    cases.sized("median_blur", "u8", IMAGES, 3),
    cases.sized("median_blur", "u8", (2, 120, 130), 31),
    cases.sized("dilate", "u8", IMAGES, 5),
    *(cases.sized(f"morph_{name}", "u8", IMAGES, 5) for name in ("open", "close", "gradient")),
    cases.sized("erode", "f32", IMAGES, 5),
    cases.unsharp_mask("f32", IMAGES),
    cases.pipeline("u8", IMAGES, "clean"),
    cases.pipeline("f32", IMAGES, "edges"),
    cases.conv2d("f32", MAPS, 3, 6, stride=2),
    cases.conv2d("f32", MAPS, 3, 8, groups=8),
    cases.conv2d("bf16", MAPS, 3, 6),
    cases.pool2d("avg_pool2d", "bf16", MAPS, 3, 2),
    cases.conv2d("f32", (2, 23, 30, 8), 1, 6, layout="NHWC"),
    cases.pool2d("max_pool2d", "f32", (2, 3, 24, 30), 2, 2),
    cases.pool2d("max_pool2d", "f32", MAPS, 3, 2),
    cases.pool2d("avg_pool2d", "f32", (2, 3, 24, 30), 2, 2),
    cases.pool2d("avg_pool2d", "f32", MAPS, 3, 2),
    cases.filter2d("f32", IMAGES, 7, "tf32"),
]
CPU_PEERS = [name for name, peer in peers.PEERS.items() if peer.device == "cpu"]
GPU_PEERS = [name for name, peer in peers.PEERS.items() if peer.device == "cuda"]

tiny = pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def small_copy(monkeypatch):
    """A copy that takes no time to measure."""
    monkeypatch.setattr(clock, "COPY_BYTES", 1 << 16)


def drawn(case):
    """(arrays, plan) of a case."""
    arrays = case.make(np.random.default_rng(0))
    return arrays, case.plan(arrays)


def truth(case, arrays):
    """The whole result in textbook arithmetic, in the dtype that ours has."""
    return textbook(case, *arrays).astype(case.dtype)


def bench(case, *libraries):
    """Entries of a case measured with the first library as gpuconv."""
    ours, *others = libraries
    return run.measure(case, ours, others, clock.Copy("cpu"), BRIEF)[1]


class WithError(GpuConv):
    """gpuconv, but for one pixel of its results."""

    name = "scipy"

    def call(self, case, plan, arrays):
        right = super().call(case, plan, arrays)

        def wrong(*inputs, out):
            right.run(*inputs, out=out)
            out.flat[0] += 9
            return out

        return Call(wrong)


class OursWithError(WithError):
    name = "gpuconv"


class Raising(GpuConv):
    name = "opencv"

    def call(self, case, plan, arrays):
        raise RuntimeError("no such\nluck")


# ---------------------------------------------------------------- cases


def test_names_of_cases_are_unique_and_of_one_form():
    everything = [case for members in cases.SETS.values() for case in members()]
    for case in everything:
        assert NAME.fullmatch(case.name), case.name
        twins = [other for other in everything if other.name == case.name]
        assert all(other.arguments == case.arguments for other in twins)
    names = [case.name for case in cases.catalogue()]
    assert len(names) == len(set(names))


def test_names_of_cases_are_stable():
    """Results files refer to them."""
    quick = {case.name for case in cases.select("quick")}
    assert {
        "gaussian_blur/u8/1x512x1024/sigma3",
        "filter2d/f32/1x512x1024/k7",
        "dilate/u8/1x512x1024/15x15",
        "conv2d/f32/2x64x56x56/3x3-64",
        "conv2d/f32/2x128x56x56/3x3-depthwise",
        "max_pool2d/f32/2x64x112x112/2x2-s2",
    } <= quick


def test_select_takes_a_set_and_a_pattern():
    assert {c.operation for c in cases.select("quick", "*/u8/*/3x3")} == {"median_blur", "dilate"}
    assert all("gpu" in case.tags for case in cases.select("gpu"))
    assert cases.select("quick", "nothing*") == []


def test_every_case_has_a_plan_with_bytes(monkeypatch):
    flat = lambda rng, shape, dtype: np.broadcast_to(np.zeros((), dtype), shape)  # noqa: E731
    monkeypatch.setattr(cases, "noise", flat)
    for case in cases.catalogue():
        arrays, plan = drawn(case)
        assert plan.min_bytes >= arrays[0].size * arrays[0].itemsize
        assert plan.flops > 0


def test_large_noise_repeats_a_block(monkeypatch):
    monkeypatch.setattr(cases, "BLOCK", 32)
    small, large = (
        cases.noise(np.random.default_rng(3), shape, "float32") for shape in ((31,), (5, 40))
    )
    np.testing.assert_array_equal(large, np.resize(small, (5, 40)))
    assert not np.array_equal(large[0], large[1])


def test_the_gpu_set_holds_the_shapes_of_the_goals():
    shapes = {c.shape for c in cases.select("gpu", "gaussian_blur/u8/*")}
    assert {(1, 2160, 3840), (8, 2160, 3840), (64, 2160, 3840), (1, 16384, 16384)} <= shapes


# ---------------------------------------------------------------- truth


@tiny
def test_truth_accepts_the_textbook(case):
    arrays, plan = drawn(case)
    assert complaint(case, plan, arrays, truth(case, arrays)) is None


@tiny
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_truth_sees_an_error_in_a_corner(case, place):
    arrays, plan = drawn(case)
    result = truth(case, arrays)
    result.flat[place] = result.flat[place] // 2 + 60
    assert "instead of" in complaint(case, plan, arrays, result)


def test_truth_sees_an_error_inside_every_patch_size():
    """Also where the image is smaller than a patch, and windows reach all over it."""
    for shape in ((1, 5, 6), (3, 40, 41), (1, 200, 300)):
        case = cases.sized("median_blur", "u8", shape, 5)
        arrays, plan = drawn(case)
        result = truth(case, arrays)
        assert complaint(case, plan, arrays, result) is None
        result[shape[0] // 2, shape[1] // 2, shape[2] // 2] ^= 128
        assert complaint(case, plan, arrays, result) is not None


def test_truth_refuses_nan_and_another_dtype_or_shape():
    case = cases.sobel("f32", IMAGES)
    arrays, plan = drawn(case)
    result = truth(case, arrays)
    assert "dtype float64" in complaint(case, plan, arrays, result.astype(np.float64))
    assert "shape" in complaint(case, plan, arrays, result[0])
    assert "nan" in complaint(case, plan, arrays, np.full_like(result, np.nan))


def test_truth_does_not_hold_another_border_against_a_peer():
    case = cases.sized("median_blur", "u8", IMAGES, 3)
    arrays, plan = drawn(case)
    other = reference.median_blur(arrays[0], 3, border="constant")
    assert complaint(case, plan, arrays, other, peer=True) is not None
    assert complaint(case, plan, arrays, other, peer=True, border=False) is None


# ---------------------------------------------------------------- runner


@tiny
def test_run_times_right_results(case):
    (line,) = run.run([case], "numpy", [], BRIEF, 2)
    assert (line.status, line.reason) == ("ok", "")
    assert 0 < line.times_ms["p10"] <= line.times_ms["median"] <= line.times_ms["p90"]
    assert line.ratio == 1


def test_run_writes_a_line_with_every_field(tmp_path):
    case = TINY[0]
    path = tmp_path / "new.jsonl"
    lines = run.run([case], "numpy", [], BRIEF, 2, path)
    values = json.loads(path.read_text())
    optional = {"driver", "commit", "dirty"}  # no GPU; no checkout
    if sys.platform != "linux":
        optional |= {"peak_extra_bytes", "load"}
    assert {key for key, value in values.items() if value is None} <= optional
    assert values.keys() == {field.name for field in dataclasses.fields(results.Line)}
    assert values["name"] == case.name
    assert values["shape"] == [2, 70, 90]
    assert values["min_bytes"] == 2 * 2 * 70 * 90
    assert values["implementation"] == "gpuconv"
    assert values["backend"] == "numpy"
    assert values["versions"]["numpy"] == np.__version__
    assert results.read(path) == lines


def test_a_folder_gets_one_file_a_device(tmp_path):
    assert results.destination(tmp_path, "AMD EPYC (2 CPUs)").name == "amd-epyc-2-cpus.jsonl"
    assert results.destination(tmp_path / "x.jsonl", "any").name == "x.jsonl"


def test_a_wrong_result_is_told_and_not_timed():
    case = cases.gaussian_blur("u8", IMAGES, 1)
    entries = bench(case, OursWithError(), GpuConv())
    assert [e.status for e in entries] == ["wrong"]
    assert entries[0].samples == []
    assert "instead of" in entries[0].reason


def test_a_peer_that_is_wrong_or_fails_spoils_only_its_own_column():
    case = cases.gaussian_blur("u8", IMAGES, 1)
    ours, wrong, failed = bench(case, GpuConv(), WithError(), Raising())
    assert (ours.status, wrong.status, failed.status) == ("ok", "wrong", "failed")
    assert failed.reason == "RuntimeError: no such"
    assert len(ours.samples) == 3
    assert wrong.samples == failed.samples == []


def test_a_wrong_result_makes_the_exit_status_1(monkeypatch, capsys):
    monkeypatch.setattr(run, "OURS", {"numpy": OursWithError})
    monkeypatch.setattr(run, "select", lambda tag, pattern: [TINY[4]])
    assert run.main(["--quick", "--backend", "numpy", "--peers", "none"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "instead of" in printed


def test_the_command_line_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr(run, "select", lambda tag, pattern: [TINY[4]])
    command = ["--quick", "--backend", "numpy", "--peers", "none", "--rounds", "1"]
    assert run.main(command) == 0
    printed = capsys.readouterr()
    assert "gaussian_blur/u8/2x70x90/sigma1.5" in printed.out
    assert "of copy" in printed.out
    assert "[1/1] gaussian_blur" in printed.err


def test_the_command_line_lists_cases(capsys):
    assert run.main(["--quick", "--backend", "numpy", "--list", "--cases", "sobel*"]) == 0
    assert capsys.readouterr().out.split() == [
        "sobel/u8/1x512x1024/magnitude",
        "sobel/f32/1x512x1024/magnitude",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cases", "nothing*"], "--cases must match a case of the set 'quick', got 'nothing*'"),
        (["--peers", "scipy,matlab"], "--peers must name some of"),
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["--threads", "2,0"], "must be at least 1, got 0"),
    ],
)
def test_the_command_line_refuses(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--quick", "--backend", "numpy", *arguments])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_several_numbers_of_threads_are_measured_one_after_another(monkeypatch, tmp_path, capsys):
    told = []

    class Listening(GpuConv):
        name = "scipy"

        def start(self, threads):
            told.append(threads)

    monkeypatch.setitem(peers.PEERS, "scipy", Listening)
    monkeypatch.setattr(run, "select", lambda tag, pattern: [TINY[4]])
    monkeypatch.setattr(run, "_with_threads", lambda threads, argv: None)
    path = tmp_path / "new.jsonl"
    command = ["--quick", "--backend", "numpy", "--peers", "scipy", "--rounds", "1"]
    assert run.main([*command, "--threads", "3,2,3", "--output", str(path)]) == 0
    assert [line.threads for line in results.read(path)] == [3, 3, 2, 2]
    assert told == [3, 3, 2]  # found, then measured twice
    assert gpuconv.get_num_threads() == 2
    printed = capsys.readouterr().out
    assert printed.index(", 3 threads, ") < printed.index(", 2 threads, ")


def test_the_process_has_room_for_the_greatest_number_of_threads(monkeypatch):
    class Replaced(Exception):
        pass

    def replace(path, command, environment):
        raise Replaced(command, environment)

    monkeypatch.setattr(run.os, "execve", replace)
    arguments = ["--quick", "--backend", "numpy", "--threads", "1,77"]
    with pytest.raises(Replaced) as replaced:
        run.main(arguments)
    command, environment = replaced.value.args
    assert command[1:] == ["-m", "bench.run", *arguments]
    assert {environment[key] for key in machine.THREAD_VARIABLES} == {"77"}


# ---------------------------------------------------------------- peers


@pytest.mark.parametrize("name", CPU_PEERS)
def test_peer_agrees_wherever_it_can_do_a_case(name):
    found, missing = peers.find([name], threads=2)
    if missing:
        pytest.skip(missing[name])
    ours = GpuConv()
    done = 0
    for case in TINY:
        _, theirs = bench(case, ours, *found)
        assert theirs.status in ("ok", "unsupported"), f"{case.name}: {theirs.reason}"
        done += theirs.status == "ok"
    assert done >= 3


def test_a_peer_that_is_not_installed_is_skipped_with_a_reason(monkeypatch, capsys):
    monkeypatch.setattr(peers.PEERS["scipy"], "modules", ("no_such_package.ndimage",))
    found, missing = peers.find(["scipy"], threads=1)
    assert found == []
    assert missing == {"scipy": "no_such_package.ndimage is not installed"}
    monkeypatch.setattr(run, "select", lambda tag, pattern: [TINY[4]])
    assert run.main(["--quick", "--backend", "numpy", "--peers", "scipy", "--rounds", "1"]) == 0
    assert "scipy skipped: no_such_package.ndimage is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("name", GPU_PEERS)
def test_gpu_peers_are_skipped_without_a_gpu(name, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found, missing = peers.find([name], threads=1)
    if found:
        pytest.skip("a GPU is at hand")
    assert re.search("not installed|no CUDA device", missing[name])


# ---------------------------------------------------------------- compare and table


@pytest.fixture(scope="module")
def line():
    """A line of results as a run writes it."""
    (line,) = run.run([TINY[4]], "numpy", [], BRIEF, 2)
    return line


def at(line, milliseconds, **changes):
    """The line with times of ±2 %."""
    times = {
        "median": milliseconds,
        "p10": 0.98 * milliseconds,
        "p90": 1.02 * milliseconds,
    }
    return dataclasses.replace(line, times_ms=times, **changes)


def compared(tmp_path, old, new, *arguments):
    """Exit status of `bench.compare` over two files of these lines."""
    files = []
    for name, lines in (("old", old), ("new", new)):
        files.append(tmp_path / f"{name}.jsonl")
        results.append(files[-1], lines)
    return compare.main([*map(str, files), *arguments])


@pytest.mark.parametrize(
    ("milliseconds", "verdict", "status"),
    [(15, "slower", 1), (10.7, "slower", 0), (10.1, "unchanged", 0), (5, "faster", 0)],
)
def test_compare_tells_changes_beyond_the_noise(
    line, tmp_path, capsys, milliseconds, verdict, status
):
    assert compared(tmp_path, [at(line, 10)], [at(line, milliseconds)]) == status
    assert f"1 {verdict}" in capsys.readouterr().out


def test_compare_has_a_tolerance_and_takes_the_latest_line(line, tmp_path):
    old, new = [at(line, 99), at(line, 10)], [at(line, 15)]
    assert compared(tmp_path, old, new, "--tolerance", "0.6") == 0


def test_compare_tells_a_case_that_is_right_no_more(line, tmp_path, capsys):
    broken = dataclasses.replace(line, status="wrong", times_ms=None)
    assert compared(tmp_path, [line], [broken]) == 1
    assert "1 wrong" in capsys.readouterr().out


def test_compare_refuses_files_of_other_devices_and_other_text(line, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        compared(tmp_path, [line], [at(line, 10, device="another")])
    assert stopped.value.code == 2
    text = tmp_path / "text.jsonl"
    text.write_text("no JSON\n")
    with pytest.raises(SystemExit):
        compare.main([str(text), str(text)])
    assert "text.jsonl:1 is no line of results" in capsys.readouterr().err


def test_table_has_a_row_a_case_and_a_column_a_peer(line, tmp_path, capsys):
    peer = at(line, 20, implementation="scipy", ratio=2.0)
    opencv = dataclasses.replace(line, implementation="opencv", status="unsupported", ratio=None)
    path = tmp_path / "some.jsonl"
    other = dataclasses.replace(line, name="sobel/u8/2x70x90/magnitude", implementation="opencv")
    idle = dataclasses.replace(opencv, implementation="torch")
    results.append(path, [at(line, 10), peer, opencv, idle, other])
    assert table.main([str(path), "--markdown"]) == 0
    header, _, row, _ = capsys.readouterr().out.strip().splitlines()[-4:]
    assert header.split(" | ")[-2:] == ["scipy", "opencv |"]
    assert row.startswith("| gaussian_blur/u8/2x70x90/sigma1.5 | 10.0 |")
    assert row.endswith("| 2.00x | - |")
    assert table.main([str(path), "--cases", "sobel*", "none", "--threads", str(line.threads)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("sobel/u8/2x70x90/magnitude")
    assert table.main([str(path), "--threads", str(line.threads + 1)]) == 0
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- goals


def named(line, name, implementation="opencv", **changes):
    """The line as one of a case of the cpu set."""
    (case,) = cases.select("cpu", name)
    return dataclasses.replace(
        line, name=name, shape=list(case.shape), implementation=implementation, **changes
    )


def goal(part):
    """The goal whose claim holds this text."""
    (found,) = (goal for goal in goals.GOALS if part in goal.claim)
    return found


def test_every_goal_is_about_cases_of_the_cpu_set():
    for each in goals.GOALS:
        assert any(map(each.covers, cases.select("cpu"))), each.claim


def test_goals_are_about_their_sizes_alone():
    sizes = {
        part: {case.shape for case in cases.select("cpu") if goal(part).covers(case)}
        for part in ("K = 11 within 1.5×", "≥ 12× morphology")
    }
    four, sixteen = cases.MEGAPIXELS[4], cases.MEGAPIXELS[16]
    assert sizes["K = 11 within 1.5×"] == {four, sixteen}
    assert sizes["≥ 12× morphology"] == {*cases.MEGAPIXELS.values(), (1, 1536, 2048, 3)}
    assert not any(goal("≥ 12× morphology").covers(case) for case in cases.select("quick"))


@pytest.mark.parametrize(
    ("ratio", "row"),
    [
        (1 / 1.8, ["1", "0.556x", "0.556x", "met"]),
        (0.55, ["1", "0.550x", "0.550x", "MISSED"]),
        (None, ["0", "", "", "not measured"]),
    ],
)
def test_a_goal_beside_a_peer_has_a_least_ratio(line, ratio, row):
    peer = named(line, "filter2d/f32/1x2048x2048/k3", ratio=ratio)
    found = goals.outcome(goal("K = 3, 5, 7"), [peer, named(line, peer.name, "scipy", ratio=9.0)])
    assert found.row()[1:5] == row


def test_a_goal_is_as_good_as_its_worst_case(line):
    lines = [
        named(line, f"filter2d/f32/1x{side}x{side}/k3", ratio=ratio)
        for side, ratio in ((2048, 0.5), (4096, 2.5))
    ]
    found = goals.outcome(goal("K = 3, 5, 7"), lines)
    assert found.row()[1:] == ["2", "0.500x", "1.50x", "MISSED", "filter2d/f32/1x2048x2048/k3"]
    assert found.misses == ["filter2d/f32/1x2048x2048/k3"]


def test_a_goal_of_the_median_lets_a_case_fall_behind(line):
    names = ("filter2d/f32/1x2048x2048/k3", "filter2d/f32/1x2048x2048/k5")
    few, many = (
        [named(line, name, "scipy", ratio=r) for name, r in zip(names, ratios, strict=True)]
        for ratios in ((4, 19), (4, 21))
    )
    assert [goals.outcome(goal("median over"), lines).met for lines in (few, many)] == [False, True]
    assert goals.outcome(goal("median over"), many).misses == []


def test_a_case_that_gpuconv_gets_wrong_is_a_miss(line):
    wrong = named(line, "filter2d/f32/1x2048x2048/k3", "gpuconv", status="wrong", ratio=None)
    for part in ("K = 3, 5, 7", "median over", "a thread"):
        found = goals.outcome(goal(part), [wrong])
        assert found.row()[1:5] == ["1", "not right", "", "MISSED"]
        assert found.misses == [wrong.name]


def test_goals_of_memory_are_a_thread_for_images_and_in_all_for_layers(line):
    image, layer = "filter2d/f32/1x2048x2048/k3", "conv2d/f32/8x64x56x56/3x3-64"
    for part, name, mib, met in (
        ("a thread", image, 8, True),
        ("a thread", image, 9, False),
        ("for CNN", layer, 32, True),
        ("for CNN", layer, 33, False),
    ):
        own = named(line, name, "gpuconv", peak_extra_bytes=mib << 20, threads=2)
        assert goals.outcome(goal(part), [own]).met is met


def test_goals_prints_a_row_a_goal_and_the_cases_that_miss(line, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    results.append(
        path,
        [
            named(line, "filter2d/f32/1x2048x2048/k3", "gpuconv"),
            named(line, "filter2d/f32/1x2048x2048/k3", ratio=0.25),
        ],
    )
    assert goals.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert all(goal.claim in printed for goal in goals.GOALS)
    assert "within 1.8× (limit 0.556x)\n     0.250x  filter2d/f32/1x2048x2048/k3\n" in printed


@pytest.mark.parametrize("program", ["goals", "plot"])
def test_goals_and_plot_refuse_other_text_and_other_threads(line, tmp_path, capsys, program):
    picture = [str(tmp_path / "picture.svg")] * (program == "plot")
    text, empty = tmp_path / "text.jsonl", tmp_path / "some.jsonl"
    text.write_text("no JSON\n")
    results.append(empty, [line])
    for path, reason in ((text, "no line of results"), (empty, "3 threads"), ("none", "none")):
        with pytest.raises(SystemExit) as stopped:
            {"goals": goals, "plot": plot}[program].main([str(path), *picture, "--threads", "3"])
        assert stopped.value.code == 2
        assert reason in capsys.readouterr().err


# ---------------------------------------------------------------- plot


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("filter2d/u8/1x2048x2048/k15", "15×15"),
        ("gaussian_blur/f32/1x2048x2048/sigma10", "σ = 10"),
        ("sobel/u8/1x2048x2048/magnitude", "uint8"),
        ("median_blur/u8/1x2048x2048/3x3", "3×3"),
        ("conv2d/f32/8x3x224x224/7x7-64-s2", "7×7 stride 2, 3×224×224 → 64"),
        ("conv2d/f32/8x64x56x56/3x3-64", "3×3, 64×56×56 → 64"),
        ("conv2d/f32/8x128x56x56/3x3-depthwise", "3×3 depthwise, 128×56×56"),
        ("avg_pool2d/f32/1x1x2048x2048/4x4-s4", "4×4 stride 4, 1×2048×2048"),
    ],
)
def test_rows_of_the_plot_are_told_to_a_reader(name, label):
    (case,) = cases.select("cpu", name)
    assert plot.label(case) == label


def test_every_family_of_the_plot_has_cases():
    for _, *patterns in (family for column in plot.COLUMNS for family in column):
        assert all(cases.select("cpu", pattern) for pattern in patterns)


def test_plot_draws_a_mark_a_peer_and_tells_where(line):
    pytest.importorskip("matplotlib")
    names = ("filter2d/f32/1x2048x2048/k3", "conv2d/f32/8x64x56x56/3x3-64")
    lines = [
        *(named(line, name, "gpuconv") for name in names),
        named(line, names[0], "opencv", ratio=0.5),
        named(line, names[1], "torch", ratio=2.0),
        named(line, names[1], "onnxruntime", status="unsupported", ratio=None),
    ]
    columns = [plot.column_rows(column, lines) for column in plot.COLUMNS]
    assert [[row.label for row in rows] for rows in columns] == [
        ["Dense kernel, float32", "3×3"],
        ["Convolution layer, float32", "3×3, 64×56×56 → 64"],
    ]
    figure = plot.draw(columns, "this machine, 2 threads, commit abc")
    assert "this machine, 2 threads, commit abc" in figure.get_suptitle()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["OpenCV", "PyTorch"]
    marks = [axes.get_lines()[-1] for axes in figure.axes]
    assert [mark.get_xydata().tolist() for mark in marks] == [[[0.5, 1]], [[2, 1]]]


def test_plot_writes_the_same_file_for_the_same_results_of_one_device(line, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "some.jsonl"
    name = "filter2d/f32/1x2048x2048/k3"
    results.append(path, [named(line, name, "gpuconv"), named(line, name, ratio=0.5)])
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        assert plot.main([str(path), str(picture)]) == 0
    one, two = (picture.read_bytes() for picture in pictures)
    assert b"<svg" in one
    assert one == two
    results.append(path, [named(line, name, ratio=0.5, device="another")])
    with pytest.raises(SystemExit) as stopped:
        plot.main([str(path), str(pictures[0])])
    assert stopped.value.code == 2
    assert "must be of one device, got" in capsys.readouterr().err


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/clear_refs")
def test_extra_bytes_are_what_a_call_holds_at_its_peak():
    extra = GpuConv().extra_bytes(lambda: np.ones(16 << 20, np.uint8))
    assert 15 << 20 <= extra < 24 << 20  # Linux counts pages by processor, and sums now and then
    assert GpuConv().extra_bytes(lambda: None) < 4 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/clear_refs")
def test_extra_bytes_of_gpuconv_hold_what_a_thread_keeps_between_calls():
    kept = threading.local()

    def work():
        if not hasattr(kept, "block"):
            kept.block = np.ones(16 << 20, np.uint8)

    work()
    assert GpuConv().extra_bytes(work) >= 15 << 20


def test_memory_measures_each_filter_in_a_fresh_process(capsys):
    assert memory.main(["--size", "300"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(memory.FILTERS)
    assert all("MiB beyond input and output" in text and "  ok  " in text for text in printed)


def test_memory_tells_what_is_over_the_limit(monkeypatch, capsys):
    monkeypatch.setattr(memory, "LIMIT_BYTES", 0)
    monkeypatch.setattr(memory, "FILTERS", {"median_blur size=3": None})
    assert memory.main(["--size", "300"]) == 1
    assert "OVER THE LIMIT" in capsys.readouterr().out


def test_commit_of_the_checkout_is_known_or_none():
    known = machine.commit()
    assert known["commit"] is None or re.fullmatch("[0-9a-f]{40}", known["commit"])
