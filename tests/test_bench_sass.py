"""bench.sass: loops, usual trips and costs, of machine code written here and of kernels."""

from __future__ import annotations

import pytest

from bench import flow, instructions, sass
from gpuconv.backends.cuda.source import kernels_folder
from tests.emulator.cases import KERNELS
from tests.nvrtc import require_nvrtc


def assembled(text: str) -> list[flow.Block]:
    """Blocks of lines "opcode operands" and "label:", as nvdisasm would write them."""
    lines, address = [], 0
    for line in text.strip().splitlines():
        line = line.strip()
        if line.endswith(":"):
            lines.append(line)
        else:
            lines.append(f"        /*{address:04x}*/                   {line} ;")
            address += 16
    return flow.blocks("\n".join(lines))


NEST = """
    MOV R1, c[0x0][0x28]
    @P0 EXIT
.L_x_0:
    LDG.E.128 R4, desc[UR8][R2.64]
    IMAD.WIDE R2, R5, R6, R2
.L_x_1:
    FFMA R8, R4, R9, R8
    FFMA R8, R5, R9, R8
    FADD R8, R8, R7
    @P1 BRA `(.L_x_1)
    ISETP.GE.AND P2, PT, R0, R3, PT
    @!P2 BRA `(.L_x_2)
    LDG.E.U8 R10, desc[UR8][R2.64]
    FFMA R8, R10, R9, R8
    CALL.REL.NOINC `(.L_x_9)
.L_x_2:
    STG.E.128 desc[UR8][R2.64], R8
    @P0 BRA `(.L_x_0)
    EXIT
.L_x_9:
    RET.REL.NODEC R2 `(kernel)
"""


def test_loops_are_found_the_innermost_first():
    graph = assembled(NEST)
    inner, outer = flow.loops(graph)
    assert inner.members == inner.own
    assert inner.members < outer.members
    assert outer.own == outer.members - inner.members
    held = [i.opcode for n in sorted(inner.members) for i in graph[n].instructions]
    assert held == ["FFMA", "FFMA", "FADD", "BRA"]
    assert not any(i.root in ("MOV", "RET") for n in outer.members for i in graph[n].instructions)


def test_the_hot_loop_holds_most_arithmetic():
    loop, trip = sass.hot_loop(assembled(NEST), "sm_90")
    assert trip.opcodes == {"FFMA": 2, "FADD": 1, "BRA": 1}
    assert trip.slots == 4
    assert trip.arithmetic == 3
    assert len(loop.members) == 1


def test_usual_trips_leave_out_inner_loops_and_what_edges_need():
    graph = assembled(NEST)
    _, trip = sass.hot_loop(graph, "sm_90", "1")
    assert trip.opcodes == {
        **{"LDG.E.128": 1, "IMAD.WIDE": 1, "ISETP.GE.AND": 1, "BRA": 2, "STG.E.128": 1}
    }
    # Without loads of packs beside it, an element-wise load is as good as any.
    plain = assembled(NEST.replace(".128", "").replace("CALL.REL.NOINC `(.L_x_9)", "NOP"))
    assert sass.hot_loop(plain, "sm_90", "1")[1].count("LDG.E.U8") == 1
    assert sass.hot_loop(plain, "sm_90", "1", avoid="LDG.E.U8")[1].count("LDG.E.U8") == 0


def test_a_loop_is_picked_by_number_by_content_or_left_for_the_body():
    graph = assembled(NEST)
    assert sass.hot_loop(graph, "sm_90", "STG")[0] == flow.loops(graph)[1]
    body = sass.hot_loop(graph, "sm_90", "body")[1]
    assert body.opcodes == {"MOV": 1, "EXIT": 2}
    with pytest.raises(ValueError, match="no loop holds HMMA"):
        sass.hot_loop(graph, "sm_90", "HMMA")


STORES = """
.L_x_0:
    FMUL R8, R4, R9
    @!P5 STG.E.64 desc[UR8][R2.64], R8
    @!P5 BRA `(.L_x_1)
    @!P0 STG.E desc[UR8][R2.64], R8
    @!P1 STG.E desc[UR8][R2.64+0x4], R9
    @!P2 STG.E desc[UR8][R2.64+0x8], R9
    @!P3 STG.E desc[UR8][R2.64+0xc], R9
.L_x_1:
    @P4 BRA `(.L_x_0)
    EXIT
"""


def test_a_branch_tells_what_was_done_under_its_predicate():
    # The element-wise stores write more bytes, but not in a row of whole packs.
    wide = STORES.replace(".64 desc", ".128 desc").replace("STG.E desc", "STG.E.U8 desc")
    _, trip = sass.hot_loop(assembled(wide), "sm_90")
    assert trip.opcodes == {"FMUL": 1, "STG.E.128": 1, "BRA": 2}
    # Four words beside one of two: a trip takes the way that moves most, never both in full.
    _, trip = sass.hot_loop(assembled(STORES), "sm_90")
    assert trip.count(r"STG\.E$") == 4
    fewer = "\n".join(
        line for line in STORES.splitlines() if "0x8" not in line and "0xc" not in line
    )
    _, trip = sass.hot_loop(assembled(fewer), "sm_90")
    assert trip.opcodes == {"FMUL": 1, "STG.E.64": 1, "BRA": 2}


def test_jumps_of_every_kind_are_followed():
    graph = assembled(
        """
        @P0 BRA P1, `(.L_x_2)
        BRA.U UP0, `(.L_x_2)
        BRA.DIV UR4, `(.L_x_3)
        BRX R38 -0xfb0  (*"BRANCH_TARGETS .L_x_1,.L_x_2"*)
    .L_x_1:
        BRA `(.L_x_2)
    .L_x_2:
        EXIT
    .L_x_3:
        BRA `(.L_x_1)
    """
    )
    followed = [block.following for block in graph]
    assert followed == [(5, 1), (5, 2), (3,), (4, 5), (5,), (), (4,)]


def instruction(text: str) -> instructions.Instruction:
    ((block,), *_) = [assembled(text)]
    return block.instructions[0]


@pytest.mark.parametrize(
    ("text", "architecture", "clocks"),
    [
        ("FFMA.FTZ R0, R1, R2, R3", "sm_90", {"fma": 0.25}),
        ("FFMA R0, R1, R2, R3", "sm_80", {"fma": 0.5}),
        ("FFMA2 R0, R2, R4, R6", "sm_100", {"fma": 0.5}),
        ("IMAD.MOV.U32 R0, RZ, RZ, R1", "sm_90", {"imad": 0.5, "fma": 0.25}),
        ("IMAD R0, R1, R2, R3", "sm_75", {"imad": 0.5, "fma": 0.5}),
        ("HFMA2 R0, R1, R2, R3", "sm_90", {"fma": 0.25}),
        ("HFMA2 R0, R1, R2, R3", "sm_86", {"fma": 0.5}),
        ("HFMA2 R0, R1, R2, R3", "sm_80", {"half": 0.25}),
        ("VIMNMX.U16x2 R0, R1, R2, PT", "sm_90", {"alu": 0.5}),
        ("DFMA R0, R2, R4, R6", "sm_90", {"fp64": 0.5}),
        ("DFMA R0, R2, R4, R6", "sm_89", {"fp64": 16}),
        ("I2F.U8 R0, R1", "sm_90", {"xu": 2}),
        ("LDS.128 R0, [R4]", "sm_90", {"lsu": 4}),
        ("LDS.U8 R0, [R4]", "sm_90", {"lsu": 1}),
        ("LDG.E.64 R0, desc[UR4][R4.64]", "sm_90", {"lsu": 2}),
        ("SHFL.DOWN PT, R0, R1, 0x1, 0x1f", "sm_90", {"lsu": 1}),
        ("LDSM.16.M88.4 R0, [R4]", "sm_90", {"lsu": 4}),
        ("LDSM.16.MT88.2 R0, [R4]", "sm_90", {"lsu": 2}),
        ("HMMA.16816.F32 R0, R4, R8, R0", "sm_80", {"tensor": 2}),
        ("HMMA.1688.F32.TF32 R0, R4, R8, R0", "sm_80", {"tensor": 2}),
        ("IMMA.16832.U8.S8 R0, R4, R8, R0", "sm_80", {"tensor": 2}),
        ("IMMA.8816.U8.S8 R0, R4, R8, R0", "sm_75", {"tensor": 1}),
        ("ULDC.64 UR4, c[0x0][0x210]", "sm_90", {"uniform": 0.5}),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "sm_90", {}),
    ],
)
def test_instructions_take_their_pipes(text, architecture, clocks):
    assert instructions.costs(instruction(text), architecture) == {"issue": 0.25, **clocks}


def test_what_only_moves_is_no_arithmetic():
    trip = sass.Trip(
        tuple(
            map(
                instruction,
                (
                    *("HFMA2.MMA R20, -RZ, RZ, 0, 0", "IMAD.MOV.U32 R0, RZ, RZ, R1"),
                    *("VIADDMNMX R0, R1, 0x1, R2, PT", "HFMA2 R0, R1, R2, R3"),
                ),
            )
        ),
        "sm_90",
    )
    assert trip.arithmetic == 1
    assert trip.clocks["issue"] == 1
    assert trip.limiter() == ("issue", 1)


SMALL = "filter3x3<float, 32, 8>"


def test_a_compiled_kernel_is_counted(capsys):
    require_nvrtc()
    path = KERNELS / "features.cu"
    kernel = sass.kernels(path, [SMALL], "sm_90")[SMALL]
    body = kernel.trip("body")
    assert body.count("STG") == 1
    assert sum(kernel.opcodes().values()) >= body.slots
    assert kernel.trip("body").count("FFMA|FMUL") == 9
    assert sass.main([str(path), SMALL, "--loop", "body", "--outputs", "1", "--code"]) == 0
    printed = capsys.readouterr().out
    assert "registers" in printed
    assert "an output" in printed
    assert "unknown" not in printed


def test_what_does_not_compile_is_told(capsys):
    require_nvrtc()
    with pytest.raises(SystemExit):
        sass.main([str(kernels_folder() / "box.cu"), "no_such_kernel<int>"])
    assert "box.cu does not compile" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", [a for a in instructions.RATES if a != "sm_90"])
def test_opcodes_of_every_architecture_are_known(architecture):
    require_nvrtc()
    path, name = kernels_folder() / "dense.cu", "dense_any<float, float, float, float, 1>"
    kernel = sass.kernels(path, [name], architecture)[name]
    held = (i for block in kernel.graph for i in block.instructions)
    assert {i.opcode for i in held if i.kind == "unknown"} == set()
