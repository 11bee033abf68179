"""A round on a GPU, rehearsed without one: parts, budgets, crashes, and what is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from bench import machine, round, run, sanitized, sets, supervise

PYTHON = sys.executable


def told(folder, name="round"):
    """The lines of a file of results."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def rehearse(folder, part, *arguments):
    """The exit status of a part, and what round.jsonl tells of it."""
    status = round.main(["--part", str(part), "--rehearse", "--out", str(folder), *arguments])
    return status, told(folder)


# ---------------------------------------------------------------- supervised processes

JOBS = """
import os, sys, time
from bench import supervise
for name in supervise.jobs():
    if name.startswith("late"):
        sys.exit(0)
    supervise.announce(supervise.BEGIN, name)
    print("at", name)
    if name.startswith("crash"):
        os._exit(9)
    if name.startswith("hang"):
        time.sleep(60)
    supervise.announce(supervise.END, name)
    if name.startswith("lost"):
        sys.exit(1)
"""


def supervised(names, code=JOBS, patience_s=20.0, until=None):
    """(what `done` was told, what was left) of jobs by name."""
    seen = []
    until = time.time() + 60 if until is None else until
    command = (PYTHON, "-u", "-c", code)
    left = supervise.supervise(names, command, until, patience_s, lambda *told: seen.append(told))
    return seen, left


def test_a_crash_or_a_hang_costs_one_job():
    names = ["a", "crash", "b", "hang", "c", "lost", "d"]
    seen, left = supervised(names, patience_s=2.0)
    assert left == []
    how = {"crash": "crashed", "hang": "hung"}
    assert [(name, end) for name, end, _ in seen] == [(n, how.get(n, "ended")) for n in names]
    assert seen[1][2] == ["at crash", "the process ended with status 9"]
    assert seen[0][2] == ["at a"]


def test_what_is_late_is_left():
    seen, left = supervised(["a", "late", "b"])
    assert [name for name, *_ in seen] == ["a"]
    assert left == ["late", "b"]
    assert supervised(["a"], until=time.time() - 1) == ([], ["a"])


def test_a_process_that_cannot_start_is_told_once():
    seen, left = supervised(["a", "b"], "raise SystemExit('no luck')")
    assert seen == [("", "crashed", ["no luck", "the process ended with status 1"])]
    assert left == ["a", "b"]


# ---------------------------------------------------------------- parts


def test_parts_are_listed_with_their_cases(capsys):
    assert round.main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(" ")] == [
        "1 correctness, 420 s",
        "2 sanitizer, 150 s",
        "3 filters, 200 s",
        "4 sizes, 170 s",
        "5 pools, 120 s",
        "6 convolutions, 120 s",
        "7 peers, 320 s",
    ]
    for shape in ("1x2160x3840", "8x2160x3840", "64x2160x3840", "1x16384x16384"):
        for case in ("median_blur/u8/{}/31x31", "filter2d/f16/{}/k15", "box_blur/f32/{}/15x15"):
            assert "  " + case.format(shape) in printed
    assert "  the engine's tests on the device" in "\n".join(printed)


@pytest.mark.parametrize("group", sets.GPU_GROUPS)
def test_groups_have_the_same_operations_at_any_scale(group):
    full, tiny = sets.gpu_group(group), sets.gpu_group(group, sets.TINY)
    for kind in (lambda c: c.operation, lambda c: c.dtype, lambda c: len(c.shape)):
        assert {*map(kind, full)} == {*map(kind, tiny)}
    assert max(case.shape[0] for case in tiny) == 2
    assert len(tiny) > len(full) / 2


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        *((3, "gaussian_blur/*"), (3, "pipeline/*"), (4, "median_blur/*/3x3")),
        *((5, "*/f16/2x*-s2"), (6, "*-depthwise*"), (7, "box_blur/*")),
    ],
)
def test_speed_parts_are_rehearsed(part, pattern, tmp_path, capsys):
    status, events = rehearse(tmp_path, part, "--cases", pattern)
    assert status == 0
    assert [e["event"] for e in events if e["event"] != "missing"] == ["began", "step", "ended"]
    name = events[0]["part"]
    lines = told(tmp_path, name)
    ours = [line for line in lines if line["implementation"] == "gpuconv"]
    wanted = [n for n in round.names_of(name, rehearse=True) if round.fnmatchcase(n, pattern)]
    assert [line["name"] for line in ours] == wanted
    assert all(line["status"] == "ok" and line["copy_share"] for line in ours)
    assert (len(lines) > len(ours)) == (name == "peers")
    assert ours[0]["name"] in capsys.readouterr().out


def test_peers_that_are_missing_are_told_with_the_reason(tmp_path, monkeypatch):
    task = round.Round("peers", tmp_path, time.time() + 60, rehearse=True)
    monkeypatch.setattr(round, "_peers", lambda task: ["no such peer"])
    monkeypatch.setitem(round.PEERS, "no such peer", type("Absent", (Absent,), {}))
    monkeypatch.setattr(supervise, "jobs", list)
    assert round.measure(task) == 0
    (missing,) = told(tmp_path)
    assert missing["reason"] == "no_such_module is not installed"


class Absent(run.Library):
    name, packages, modules = "absent", (), ("no_such_module",)


def test_peers_on_a_gpu_are_those_of_the_device_and_opencv(tmp_path):
    task = round.Round("peers", tmp_path, 0.0, rehearse=False)
    names = {"cupy", "cucim", "torch-cuda", "kornia", "torchvision", "opencv"}
    assert set(round._peers(task)) == names


def test_a_part_whose_time_is_over_lists_what_it_left_out(tmp_path):
    status, events = rehearse(tmp_path, 6, "--seconds", "0")
    left = next(e for e in events if e["event"] == "left out")
    assert left["cases"] == round.names_of("convolutions", rehearse=True)
    assert status == 0
    _, events = rehearse(tmp_path / "more", 2, "--seconds", "0", "--cases", "conv*")
    lists = [e["left_out"] for e in events if e["event"] == "step"]
    assert [len(names) for names in lists] == [
        sum(n.startswith("conv") for n in round.names_of("sanitizer", rehearse=True))
    ] * 2


def test_a_failing_part_leaves_a_line_and_no_traceback(tmp_path, monkeypatch):
    def broken(task):
        raise RuntimeError("no luck")

    monkeypatch.setitem(round.PARTS, "pools", broken)
    status, events = rehearse(tmp_path, 5)
    assert status == 1
    assert [e["event"] for e in events] == ["began", "failed", "ended"]
    assert "no luck" in events[1]["reason"]


def test_a_device_that_is_not_there_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ["--part", "6", "--out", str(tmp_path), "--cases", "*3x3-128"]
    if round.OURS["cuda"]().missing() is None:
        pytest.skip("a GPU is at hand")
    assert round.main(arguments) == 1
    crashed = next(e for e in told(tmp_path) if e["event"] == "crashed")
    assert "gpuconv can't be used here" in crashed["printed"][0]


def test_the_command_line_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OUT", raising=False)
    for arguments in (["--part", "3"], ["--out", "x"], ["--part", "8"]):
        with pytest.raises(SystemExit) as stopped:
            round.main(arguments)
        assert stopped.value.code == 2
    with pytest.raises(SystemExit):
        round.main(["--part", "3", "--out", str(tmp_path), "--cases", "nothing*"])
    assert "--cases must match a case of part 3, got 'nothing*'" in capsys.readouterr().err


def test_all_parts_fit_the_lease():
    assert len({*round.PARTS, "round"}) <= 8  # files
    assert max(round.SECONDS.values()) <= 500
    assert sum(round.SECONDS.values()) <= 25 * 60


# ---------------------------------------------------------------- sanitizer


def test_calls_are_sanitized(tmp_path, monkeypatch):
    status, events = rehearse(tmp_path, 2, "--cases", "*median*")
    assert status == 0
    lines = told(tmp_path, "sanitizer")
    assert {line["tool"] for line in lines} == {"memcheck", "racecheck"}
    assert {line["status"] for line in lines} == {"ok"}
    assert events[1]["outcomes"] == {"ok": len(lines) // 2}


def test_a_missing_sanitizer_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(round, "_find_sanitizer", lambda: None)
    assert round.main(["--part", "2", "--out", str(tmp_path), "--cases", "conv3d"]) == 0
    (skipped,) = [e for e in told(tmp_path) if e["event"] == "skipped"]
    assert "compute-sanitizer is not on this machine" in skipped["reason"]


TOOL = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
while [ "$1" != "application-only" ]; do shift; done
shift
"$@" | sed "s/^@begin conv3d$/&\\n========= Invalid __global__ read of size 4 bytes/"
echo "========= ERROR SUMMARY: 1 error"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_findings_belong_to_the_call_that_runs(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setattr(round, "_find_sanitizer", lambda: str(tool))
    monkeypatch.setattr(round.Round, "backend", "numpy")
    assert round.main(["--part", "2", "--out", str(tmp_path), "--cases", "*3d"]) == 1
    found = {(x["tool"], x["call"]): x for x in told(tmp_path, "sanitizer")}
    assert found["memcheck", "conv3d"]["status"] == "failed"
    assert "Invalid __global__ read" in found["memcheck", "conv3d"]["reason"]
    assert found["racecheck", "max_pool3d"] == {
        "tool": "racecheck",
        "call": "max_pool3d",
        "status": "ok",
        "reason": "",
    }


def test_calls_come_in_turns_of_their_kinds():
    names = list(sanitized.calls())
    kinds = [name.partition(",")[0] for name in names]
    first = len(set(kinds))
    assert len(set(kinds[:first])) == first
    assert list(sanitized.calls(5)) == names[:5]


# ---------------------------------------------------------------- correctness

TESTS = """
import pytest
def test_right(): pass
@pytest.mark.parametrize("name", ["a b", "c"])
def test_wrong(name): assert name == "c"
def test_skipped(): pytest.skip("no reason")
"""


def pytest_lines(tmp_path, *arguments):
    """Outcomes by test as the plugin writes them, with what it says was collected."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    lines, collected = tmp_path / "lines.jsonl", tmp_path / "collected.json"
    command = [
        *(PYTHON, "-m", "pytest", "-q", "-p", "bench.pytest_lines", "--lines", str(lines)),
        *("--collected", str(collected), "--continue-on-collection-errors"),
        *("-c", "/dev/null", "--rootdir", str(tmp_path), *arguments, str(tmp_path)),
    ]
    subprocess.run(command, cwd=machine.ROOT, capture_output=True)
    found = {line["test"].partition("::")[2]: line for line in told(tmp_path, "lines")}
    return found, json.loads(collected.read_text())


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_every_test_leaves_a_line(tmp_path, workers):
    if workers:
        pytest.importorskip("xdist")
    found, collected = pytest_lines(tmp_path, *workers)
    assert {name: line["outcome"] for name, line in found.items()} == {
        "": "failed",
        "test_right": "passed",
        "test_wrong[a b]": "failed",
        "test_wrong[c]": "passed",
        "test_skipped": "skipped",
    }
    assert "no_such_module" in found[""]["reason"]
    assert "assert 'a b' == 'c'" in found["test_wrong[a b]"]["reason"]
    assert "no reason" in found["test_skipped"]["reason"]
    assert len(collected) == 4


def test_tests_after_the_time_are_left_out(tmp_path):
    found, _ = pytest_lines(tmp_path, "--until", "0")
    assert {x["outcome"] for name, x in found.items() if name} == {"left out"}


def test_correctness_is_rehearsed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        round,
        "REHEARSED_STEPS",
        {
            "some": (0.5, ["tests/test_window.py"]),
            "nothing in time": (0.0, ["tests/test_border.py"]),
        },
    )
    monkeypatch.setattr(round, "find_spec", lambda name: None)
    status, events = rehearse(tmp_path, 1, "--seconds", "60")
    assert status == 0
    assert [e["event"] for e in events] == ["began", "step", "step", "left out", "ended"]
    _, some, none, left, _ = events
    assert set(some["outcomes"]) == {"passed"}
    assert none["outcomes"] == {"left out": left["count"]}
    lines = told(tmp_path, "correctness")
    assert len(lines) == some["outcomes"]["passed"] + left["count"]
    assert all(name.startswith("tests/test_border.py::") for name in left["tests"])


def test_tests_that_outlast_their_time_are_killed_and_listed(tmp_path, monkeypatch):
    (tmp_path / "test_slow.py").write_text(SLOW)
    steps = {"slow": (1.0, ["-p", "no:xdist", "-p", "no:randomly", str(tmp_path)])}
    monkeypatch.setattr(round, "REHEARSED_STEPS", steps)
    monkeypatch.setattr(round, "find_spec", lambda name: None)
    monkeypatch.setattr(supervise, "GRACE_S", 1.0)
    start = time.time()
    status, events = rehearse(tmp_path, 1, "--seconds", "3")
    assert time.time() - start < 30
    assert status == 1
    assert events[1]["status"] == "killed"
    assert events[1]["outcomes"] == {"passed": 1}
    assert [name.partition("::")[2] for name in events[2]["tests"]] == ["test_slow", "test_after"]


SLOW = """
import time
def test_quick(): pass
def test_slow(): time.sleep(60)
def test_after(): pass
"""


# ---------------------------------------------------------------- what it needs


def test_import_needs_no_cupy():
    code = "import bench.round, bench.sanitized, sys; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([PYTHON, "-c", code], cwd=machine.ROOT).returncode == 0


def test_a_failure_while_timing_ends_one_implementation():
    class Weak(run.Library):
        name, packages, modules = "weak", (), ()

        def __init__(self):
            self.calls = 0

        def seconds(self, work):
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("illegal address")
            return 1e-3

    entry, other = run.Entry(Weak()), run.Entry(Weak())
    other.library.calls = -100

    class Copies:
        def sample(self):
            return 1.0

    run._rounds([entry, other], Copies(), run.Settings(5, 9.0, 0.0))
    assert (entry.status, entry.reason) == ("failed", "RuntimeError: illegal address")
    assert entry.samples == []
    assert (other.status, len(other.samples)) == ("ok", 5)
