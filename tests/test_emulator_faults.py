"""Every check of the emulator: it catches the kernel that it is there for, and spares its twin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from tests.emulator import EmulatorLauncher, KernelError, Kind
from tests.emulator.cases import KERNELS, marked_lines

pytestmark = pytest.mark.emulator

FILE = "broken.cu"
RNG = np.random.default_rng(3)
ROW = RNG.integers(-50, 51, 256).astype(np.float32)
BYTES = RNG.integers(0, 256, 1000).astype(np.uint8)
WORDS = RNG.integers(0, 2**16, 128).astype(np.uint16)


@dataclass(frozen=True)
class Fault:
    """A kernel, how it is launched, and what the emulator must say of it."""

    name: str
    kind: Kind
    says: str
    inputs: tuple = (ROW,)
    output: tuple = ("float32", 256)
    numbers: tuple = ()
    grid: int = 1
    block: int = 64
    shared_bytes: int = 0

    def run(self, kernel):
        """Launch on a fresh output and give it back."""
        output = np.zeros(self.output[1], self.output[0])
        arguments = (*self.inputs, output, *self.numbers)
        kernel((self.grid,), (self.block,), arguments, shared_mem=self.shared_bytes)
        return output


Rounds = partial(Fault, numbers=(np.int32(4),))
Counted = partial(Fault, numbers=(np.int32(100),), grid=2, inputs=(ROW[:100],))
FAULTS = [
    Fault("missing_barrier", Kind.race, "race (read after write) on shared array part", grid=4),
    Rounds("write_after_read", Kind.race, "race (write after read) on shared array part"),
    Rounds("double_buffer", Kind.race, "race (write after read) on shared array buffers"),
    Counted(
        "global_read",
        Kind.out_of_bounds,
        "out of bounds: 4-byte read 0 bytes after the end of argument 0 (float32, 100)",
    ),
    Counted(
        "global_write",
        Kind.out_of_bounds,
        "out of bounds: 4-byte write 0 bytes after the end of argument 1 (float32, 100)",
        output=("float32", 100),
    ),
    Fault(
        "shared_write",
        Kind.out_of_bounds,
        "4-byte write 0 bytes after the end of shared array row of 256 bytes",
    ),
    Fault(
        "dynamic_read",
        Kind.out_of_bounds,
        "4-byte read 0 bytes after the end of shared array row of 256 bytes",
        shared_bytes=256,
    ),
    Fault("uninitialised", Kind.uninitialised, "4-byte read of shared array part"),
    Fault(
        "histogram",
        Kind.race,
        "race (read after write) on shared array bins",
        inputs=(BYTES,),
        output=("int32", 16),
        numbers=(np.int32(1000),),
    ),
    Fault(
        "block_overlap",
        Kind.race,
        "race (write after write) on argument 0",
        inputs=(),
        grid=4,
        block=32,
    ),
    Fault("missing_syncwarp", Kind.race, "race (read after write) on shared array part"),
    Fault("divergent_shuffle", Kind.missing_in_warp, "divergent __shfl_xor_sync"),
    Fault("absent_lane", Kind.absent_lane, "__shfl_sync", block=32),
    Fault("not_in_mask", Kind.not_in_mask, "not in its own mask 0x7fffffff"),
    Fault("divergent_barrier", Kind.divergent_barrier, "divergent __syncthreads"),
    Fault("skipped_barrier", Kind.missing_at_barrier, "thread (5,0,0) has returned"),
    Counted("early_return", Kind.missing_at_barrier, "thread (36,0,0) has returned"),
    Fault("misaligned", Kind.misaligned, "misaligned: 16-byte read of argument 0", block=16),
    Fault("write_to_const", Kind.write_to_const, "argument 0 (float32, 256), whose parameter"),
    Fault(
        "wrong_pitch",
        Kind.out_of_bounds,
        "4-byte read between the elements of argument 0 (float32, 8×20)",
        inputs=(ROW.reshape(8, 32)[:, :20],),
        numbers=(np.int32(32),),
        grid=8,
        block=20,
    ),
    Rounds("missing_wait", Kind.copy_in_flight, "copy in flight: 4-byte read of shared array part"),
    Rounds("copy_overtakes", Kind.race, "race (write after read) on shared array part"),
    Fault("partial_syncwarp", Kind.race, "race (read after write) on shared array", block=32),
    Fault("atomic_beside_read", Kind.race, "race (atomic after read) on shared array counter"),
    Fault("block_sum", Kind.race, "on argument 1 (float32, 256)", grid=4),
    Fault("misaligned_pack", Kind.misaligned, "(scalar.cuh:", block=16),
    Fault("copy_not_awaited", Kind.copy_not_awaited, "copy not awaited: the cp.async"),
    Fault(
        "matrix_rows",
        Kind.out_of_bounds,
        "16-byte read 0 bytes after the end of shared array tile",
        inputs=(WORDS,),
        output=("uint32", 32),
        block=32,
    ),
    Fault(
        "matrix_alignment",
        Kind.misaligned,
        "misaligned: 16-byte",
        inputs=(WORDS,),
        output=("uint32", 32),
        block=32,
    ),
]
CONFLICTS = {
    "missing_barrier",
    "write_after_read",
    "double_buffer",
    "missing_syncwarp",
    "divergent_shuffle",
    "divergent_barrier",
    "missing_wait",
    "copy_overtakes",
    "partial_syncwarp",
    "atomic_beside_read",
}
"""Faults between two lines; the others lie in one."""

NAMES = [
    f"{name}<{broken}>"
    for name in [*(fault.name for fault in FAULTS), "bank_conflict", "uncoalesced"]
    for broken in ("false", "true")
]
SIGNALS = ["division_by_zero<true>", "wild_pointer<true>"]


@pytest.fixture(scope="module")
def checked():
    """All kernels in a check build, by name."""
    launcher = EmulatorLauncher(checked=True, folder=KERNELS)
    return dict(zip(NAMES, launcher.kernels(FILE, NAMES), strict=True))


@pytest.fixture(scope="module")
def counted():
    """The kernels whose fault is slowness, in a count build."""
    names = [name for name in NAMES if name.startswith(("bank_conflict", "uncoalesced"))]
    launcher = EmulatorLauncher(counted=True, folder=KERNELS)
    return dict(zip(names, launcher.kernels(FILE, names), strict=True))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_broken_kernel_is_caught_with_its_line(checked, fault, order):
    kernel = checked[f"{fault.name}<true>"].using(order=order, seed=7)
    with pytest.raises(KernelError) as caught:
        fault.run(kernel)
    lines = marked_lines(FILE)
    here = lines[fault.name, False]
    other = lines[fault.name, True] if fault.name in CONFLICTS else None
    expected = {here, other} - {None}
    found = [f for f in caught.value.findings if f.kind is fault.kind]
    assert found, caught.value
    assert {f.line.file for f in found} == {FILE}
    assert any({f.line.line} | ({f.other.line} - {0}) == expected for f in found), caught.value
    if order == "forward":
        assert any(fault.says in f.text and f.line.line == here for f in found), caught.value


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_correct_twin_gives_no_report_and_one_answer(checked, fault):
    kernel = checked[f"{fault.name}<false>"]
    first = fault.run(kernel)
    assert np.isfinite(first).all()
    for order, poison in [("reverse", 0xFF), ("random", 0x3B)]:
        again = fault.run(kernel.using(order=order, seed=5, poison=poison))
        np.testing.assert_array_equal(again, first)


BARRIERS = ("__syncthreads();", "__syncwarp(half);")
USERS = {  # of barriers in features.cu: threads, shared memory, outputs
    "warp_exchange": (64, 0, 64),
    "block_sums<float>": (64, 256, 4),
    "filter3x3<float, 32, 8>": (256, 0, 256),
}


def barriers_of(name):
    """Where in features.cu the barriers of a kernel stand."""
    text = (KERNELS / "features.cu").read_text()
    start = text.index(f" {name.partition('<')[0]}(")
    end = text.index("\n}\n", start)
    return [m.span() for m in re.finditer("|".join(map(re.escape, BARRIERS)), text)
            if start < m.start() < end]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name in USERS for i in range(len(barriers_of(name)))]
)
def test_every_barrier_that_is_deleted_is_missed(tmp_path, name, number):
    text = (KERNELS / "features.cu").read_text()
    begin, end = barriers_of(name)[number]
    (tmp_path / "features.cu").write_text(text[:begin] + ";" + text[end:])
    kernel = EmulatorLauncher(checked=True, folder=tmp_path).kernel("features.cu", name)
    threads, shared_bytes, outputs = USERS[name]
    output = np.zeros(outputs, np.float32)
    arguments = (ROW, output)
    block = (threads,)
    if name.startswith("filter3x3"):
        size = np.array([(16, 16)], "i4,i4")
        arguments, block = (ROW, ROW[:9], output, size, np.int32(0)), (32, 8)
    with pytest.raises(KernelError) as caught:
        kernel((4 if outputs == 4 else 1,), block, arguments, shared_mem=shared_bytes)
    assert Kind.race in {f.kind for f in caught.value.findings}


def test_reports_read_as_promised(checked):
    race = FAULTS[0]
    with pytest.raises(KernelError) as caught:
        race.run(checked["missing_barrier<true>"])
    lines = marked_lines(FILE)
    here, other = lines["missing_barrier", False], lines["missing_barrier", True]
    assert (
        f"race (read after write) on shared array part at {FILE}:{here} by thread (32,0,0)"
        f" and thread (31,0,0) at {FILE}:{other} [element 31, block (0,0,0)]"
    ) in str(caught.value)
    assert str(caught.value).startswith("kernel missing_barrier<true>:")


def test_race_between_blocks_names_both(checked):
    fault = next(f for f in FAULTS if f.name == "block_overlap")
    with pytest.raises(KernelError, match=r"thread \(0,0,0\) of block \(1,0,0\) and thread"):
        fault.run(checked["block_overlap<true>"])


def test_stopped_launch_leaves_the_emulator_usable(checked):
    by_name = {fault.name: fault for fault in FAULTS}
    for broken in ("divergent_barrier", "global_write", "divergent_shuffle"):
        with pytest.raises(KernelError):
            by_name[broken].run(checked[f"{broken}<true>"])
        by_name["missing_barrier"].run(checked["missing_barrier<false>"])


@pytest.mark.parametrize("name", ["division_by_zero", "wild_pointer"])
def test_signal_in_a_plain_build_is_a_report(name):
    kernel = EmulatorLauncher(folder=KERNELS).kernels(FILE, SIGNALS)[SIGNALS.index(f"{name}<true>")]
    line = marked_lines(FILE)[name, False]
    says = {"division_by_zero": "division by zero", "wild_pointer": "segmentation fault"}[name]
    number = {"division_by_zero": np.int32(0), "wild_pointer": np.int64(1 << 40)}[name]
    dtype = {"division_by_zero": np.int32, "wild_pointer": np.float32}[name]
    with pytest.raises(
        KernelError, match=rf"{says} at {FILE}:{line} by thread \(0,0,0\)"
    ) as caught:
        kernel((1,), (32,), (np.zeros(32, dtype), number))
    assert caught.value.findings[0].kind is Kind.crashed


@pytest.mark.parametrize(
    ("name", "space", "access", "broken", "correct"),
    [
        ("bank_conflict", "shared", "read", 32, 1),
        ("uncoalesced", "global", "write", 32, 4),
    ],
)
def test_counters_tell_bad_access(counted, name, space, access, broken, correct):
    for is_broken, expected in [("true", broken), ("false", correct)]:
        kernel = counted[f"{name}<{is_broken}>"]
        tile = np.arange(1024, dtype=np.float32).reshape(32, 32)
        out = np.zeros_like(tile)
        kernel((1,), (32, 32), (tile, out))
        is_copy = name == "uncoalesced" and is_broken == "false"  # the others transpose
        np.testing.assert_array_equal(out, tile if is_copy else tile.T)
        rows = [r for r in kernel.counts if (r.space, r.access) == (space, access)]
        assert [r.per_request for r in rows] == [expected]
        assert [r.excess for r in rows] == [expected / correct]
        assert [r.requests for r in rows] == [32]
        if is_broken == "true":
            assert rows[0].line.line == marked_lines(FILE)[name, False]
            assert rows[0].line.file == FILE
