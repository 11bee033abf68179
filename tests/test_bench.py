"""The benchmarks measure the right thing and refuse the wrong one. No timing is tested."""

import dataclasses
import json
import re
import sys
import threading

import numpy as np
import pytest

import gpuconv
from bench import cases, clock, machine, memory, peers, results, run, sets
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
    everything = [case for members in sets.SETS.values() for case in members()]
    for case in everything:
        assert NAME.fullmatch(case.name), case.name
        twins = [other for other in everything if other.name == case.name]
        assert all(other.arguments == case.arguments for other in twins)
    names = [case.name for case in sets.catalogue()]
    assert len(names) == len(set(names))


def test_names_of_cases_are_stable():
    """Results files refer to them."""
    quick = {case.name for case in sets.select("quick")}
    assert {
        "gaussian_blur/u8/1x512x1024/sigma3",
        "filter2d/f32/1x512x1024/k7",
        "dilate/u8/1x512x1024/15x15",
        "conv2d/f32/2x64x56x56/3x3-64",
        "conv2d/f32/2x128x56x56/3x3-depthwise",
        "max_pool2d/f32/2x64x112x112/2x2-s2",
    } <= quick


def test_select_takes_a_set_and_a_pattern():
    assert {c.operation for c in sets.select("quick", "*/u8/*/3x3")} == {"median_blur", "dilate"}
    assert all("gpu" in case.tags for case in sets.select("gpu"))
    assert sets.select("quick", "nothing*") == []


def test_every_case_has_a_plan_with_bytes(monkeypatch):
    flat = lambda rng, shape, dtype: np.broadcast_to(np.zeros((), dtype), shape)  # noqa: E731
    monkeypatch.setattr(cases, "noise", flat)
    for case in sets.catalogue():
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
    shapes = {c.shape for c in sets.select("gpu", "gaussian_blur/u8/*")}
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
