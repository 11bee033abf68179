"""Instructions of NVIDIA's machine code: which pipe takes each, and for how long.

Each takes a slot of the four that a multiprocessor issues a clock, and its pipe for a while. The
unit is the clock of one multiprocessor for one warp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WARP = 32
ISSUE = 4
"""Warp instructions that a multiprocessor issues a clock, on every architecture since sm_70."""

SHARED_BYTES_A_CLOCK = 128

RATES: dict[str, dict[str, float]] = {
    "sm_75": {"fma": 64, "imad": 64, "half": 64, "alu": 64, "fp64": 2, "xu": 16, "tensor": 512},
    "sm_80": {"fma": 64, "imad": 64, "half": 128, "alu": 64, "fp64": 32, "xu": 16, "tensor": 1024},
    "sm_86": {"fma": 128, "imad": 64, "half": 64, "alu": 64, "fp64": 2, "xu": 16, "tensor": 512},
    "sm_89": {"fma": 128, "imad": 64, "half": 64, "alu": 64, "fp64": 2, "xu": 16, "tensor": 512},
    "sm_90": {"fma": 128, "imad": 64, "half": 128, "alu": 64, "fp64": 64, "xu": 16, "tensor": 1290},
    "sm_100": {
        **{"fma": 128, "imad": 64, "half": 128, "alu": 64, "fp64": 64, "xu": 16},
        "tensor": 1024,
    },
    "sm_120": {"fma": 128, "imad": 64, "half": 64, "alu": 64, "fp64": 2, "xu": 16, "tensor": 512},
}
"""Lanes a clock and multiprocessor; `tensor` counts multiply-adds of float16 with float32 sums.

Up to sm_90 the CUDA C++ Programming Guide's table of arithmetic throughput; `half` is half of its
16-bit results, as an instruction makes two. Assumed: sm_100 and sm_120 like sm_90 and sm_89; tensor
cores by datasheet, where `mma.sync` reaches 63 % of wgmma's 2048 on sm_90 (GPU_LIMITS.md) and half
of sm_90's on sm_100.
"""

HALF_ON_FMA = ("sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Where both halves of the fma pipe take a half2 instruction together (NVIDIA's developer forum,
thread 302018); elsewhere it has a pipe of its own."""

UNIFORM = 64.0
"""Assumed: the uniform pipe takes a warp's instruction in two clocks of a scheduler."""

PIPES: dict[str, tuple[str, ...]] = {
    "fp32": ("FFMA", "FMUL", "FADD", "FSWZADD", "FFMA32I", "FMUL32I", "FADD32I"),
    "fp32 pairs": ("FFMA2", "FMUL2", "FADD2"),
    "imad": ("IMAD", "IDP", "IDP4A", "IMUL"),
    "half": ("HFMA2", "HADD2", "HMUL2", "HFMA2_32I", "HADD2_32I", "HMUL2_32I"),
    "alu": (
        *("IADD3", "IADD", "VIADD", "LOP3", "LOP", "SHF", "SHL", "SHR", "LEA", "PRMT", "SEL"),
        *("FSEL", "ISETP", "FSETP", "HSETP2", "FMNMX", "FMNMX3", "IMNMX", "VIMNMX", "VIMNMX3"),
        *("VIADDMNMX", "VHMNMX", "HMNMX2", "HSET2", "FSET", "MOV", "PLOP3", "P2R", "R2P", "BMSK"),
        *("SGXT", "IABS", "VABSDIFF", "VABSDIFF4", "I2IP", "F2FP", "I2FP", "F2IP", "LOP32I"),
        *("IADD32I", "MOV32I", "VOTE", "CS2R", "FCHK", "SEL", "ICMP", "ISCADD", "HSET", "I2I"),
        *("VOTEU", "UPRMT", "IADD2", "CREDUX"),
    ),
    "fp64": ("DFMA", "DADD", "DMUL", "DSETP", "DMNMX"),
    "xu": ("MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV", "REDUX"),
    "tensor": ("HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA"),
    "memory": (
        *("LDG", "STG", "LD", "ST", "LDS", "STS", "LDSM", "STSM", "LDL", "STL", "LDGSTS", "SHFL"),
        *("ATOM", "ATOMG", "ATOMS", "RED", "REDG", "MOVM", "LDTM", "STTM"),
    ),
    "control": (
        *("BRA", "BRX", "BRXU", "JMP", "JMX", "EXIT", "CALL", "RET", "BSSY", "BSYNC", "BREAK"),
        *("BAR", "WARPSYNC", "NOP", "YIELD", "NANOSLEEP", "DEPBAR", "LDGDEPBAR", "MEMBAR"),
        *("ERRBAR", "CCTL", "BMOV", "S2R", "KILL", "BPT", "B2R", "RPCMOV", "LEPC", "MATCH"),
        *("ACQBULK", "ENDCOLLECTIVE", "SYNCS", "FENCE", "ARRIVES", "PREEXIT", "CCTLL"),
    ),
    "uniform": ("R2UR", "S2UR", "LDC", "LDCU", "ULDC", "PRMTU"),
}
"""Opcodes by what takes them; any other that begins with U is uniform. Conversions between float
and 32-bit integers are xu's; the packing ones (F2FP, I2FP, I2IP, F2IP) are assumed to be alu's."""

CLASS_OF = {opcode: name for name, opcodes in PIPES.items() for opcode in opcodes}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of SASS: predicate ("" or "@!P0"), opcode with its modifiers, operands."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def root(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.partition(".")[0]

    @property
    def kind(self) -> str:
        """The class of PIPES; "unknown" where none has it."""
        known = CLASS_OF.get(self.root)
        return known or ("uniform" if self.root.startswith("U") else "unknown")

    @property
    def lane_bytes(self) -> int:
        """Bytes that a lane moves; 0 of what moves none."""
        if self.kind != "memory":
            return 0
        modifiers = self.opcode.split(".")[1:]
        if self.root in ("LDSM", "STSM"):
            return 4 * int(modifiers[-1]) if modifiers[-1].isdigit() else 4
        widths = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
        return next((widths[m] for m in modifiers if m in widths), 4)

    @property
    def text(self) -> str:
        """As nvdisasm has it."""
        return f"{self.address:05x}  {self.predicate:5} {self.opcode} {self.operands}".rstrip()


PIPE_NAMES = ("fma", "imad", "half", "alu", "fp64", "xu", "tensor", "lsu", "uniform")


def costs(instruction: Instruction, architecture: str) -> dict[str, float]:
    """Clocks of a multiprocessor that an instruction of one warp keeps each pipe busy."""
    rates, kind = RATES[architecture], instruction.kind
    spent = {"issue": 1 / ISSUE}
    if kind == "fp32":
        spent["fma"] = WARP / rates["fma"]
    elif kind == "fp32 pairs":
        spent["fma"] = 2 * WARP / rates["fma"]
    elif kind == "imad":
        spent |= {"imad": WARP / rates["imad"], "fma": WARP / rates["fma"]}
    elif kind == "half":
        spent["fma" if architecture in HALF_ON_FMA else "half"] = WARP / rates["half"]
    elif kind == "tensor":
        spent["tensor"] = _products(instruction) / rates["tensor"]
    elif kind == "memory":
        # A clock a request at least; shared memory and the first cache move 128 bytes a clock.
        spent["lsu"] = max(1.0, WARP * instruction.lane_bytes / SHARED_BYTES_A_CLOCK)
    elif kind == "uniform":
        spent["uniform"] = WARP / UNIFORM
    elif kind == "unknown":
        spent["alu"] = WARP / rates["alu"]
    elif kind != "control":
        spent[kind] = WARP / rates[kind]
    return spent


def _products(instruction: Instruction) -> float:
    """Multiply-adds of a tensor-core instruction, in those of float16: 8-bit ones count half."""
    shape = next((m for m in instruction.opcode.split(".") if re.fullmatch(r"\d{3,5}", m)), "16816")
    parts = re.fullmatch(r"(16|8)(8)(\d+)", shape)
    assert parts is not None, instruction.opcode
    m, n, k = map(int, parts.groups())
    relative = {"HMMA": 2 if "TF32" in instruction.opcode else 1, "IMMA": 0.5, "DMMA": 16}
    return m * n * k * relative.get(instruction.root, 0.5)
