"""What the hot loops of the fast kernels may cost on sm_90, read from their machine code.

    "kernel<arguments>": Budget("file.cu", 16, COPY["uint8"] * 0.85, slots=18, registers=64),

`python -m bench.sass FILE 'kernel<arguments>' --outputs N` prints what a kernel costs now.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest

from bench import nvrtc, sass
from bench.devices import DEVICES, REGISTER_UNIT, REGISTERS
from bench.instructions import WARP
from bench.work import WORK
from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.source import kernels_folder
from tests.nvrtc import ARCHITECTURES

BASE = "sm_90"

H200 = next(d for d in DEVICES if d.name == "H200")

COPY = {
    dtype: H200.copy_gb_s * 1e9 / (2 * itemsize) / H200.clocks
    for dtype, itemsize in (("uint8", 1), ("uint16", 2), ("float16", 2), ("float", 4))
}
"""Elements read and written a clock and multiprocessor at the speed of a copy: 8.2, 4.1, 2.1."""


def copied(types: str, moved: int) -> float:
    """Results a clock and multiprocessor, for each of which a copy moves so many elements."""
    return 2 * COPY[types.partition(",")[0]] / moved


@dataclass(frozen=True)
class Budget:
    """Limits of one kernel.

    file        of kernels_cu
    outputs     results of a lane for each store (`per`) of a trip through the hot loop, halo lanes
                and rows taken off; the compiler may have unrolled the loop
    rate        every pipe, issue among them, must allow so many results a clock and multiprocessor
    slots       issue slots a result, at most
    registers   of a thread, at most; with `threads` of a block they say how many warps are resident
    warps       resident on a multiprocessor, at least
    present     opcodes that the usual trip must hold, as regular expressions
    pick, avoid the loop and what its usual trip stays clear of: see bench/sass.py
    """

    file: str
    outputs: float
    rate: float
    slots: float
    registers: int
    warps: int = 16
    threads: int = 256
    present: tuple[str, ...] = (r"LDG\.E(\.\w+)*\.128", r"STG\.E(\.\w+)*\.128")
    pick: str | None = None
    avoid: str | None = None
    per: str | None = "STG"


TENSOR: dict[str, Any] = {
    **{"warps": 12, "threads": 128, "pick": "HMMA", "per": None},
    "present": (r"HMMA\.16816\.F32", r"LDS\.64"),
}
"""Of the loop over weights on tensor cores."""

PACKS = (r"LDG\.E\.128", r"STG\.E\.128")
BYTES = (r"LDG\.E\.64", r"STG\.E\.64", r"IDP\.2A", r"LDS\.128|LDS$", "F2IP")
"""What the kernels of bytes are built on."""

BUDGETS: dict[str, Budget] = {
    # Two rows a trip of 8 columns, or of 4 of float32; the rate is a copy's of what a window takes.
    **{
        f"pool_small<{operation}<{types}>, {window}>": Budget(
            *("pool_small.cu", windows, copied(types, moved), slots, registers),
            warps=warps,
            present=(rf"LDG\.E\.{read}", rf"STG\.E{wrote}"),
        )
        for operation, types, window, moved, windows, slots, registers, warps, read, wrote in (
            ("Extreme", "uint8", "2, 2, 0", 5, 4, 15, 40, 48, 64, "$"),
            ("Extreme", "uint8", "3, 2, 1", 5, 4, 20, 48, 40, 64, "$"),
            ("Extreme", "uint8", "3, 1, 1", 2, 8, 9, 64, 32, 64, r"\.64"),
            ("Mean", "uint8, int32", "2, 2, 0", 5, 4, 28, 48, 40, 64, "$"),
            ("Mean", "uint8, int32", "3, 2, 1", 5, 4, 32, 64, 32, 64, "$"),
            ("Mean", "uint8, int32", "3, 1, 1", 2, 8, 15.5, 80, 24, 64, r"\.64"),
            ("Extreme", "uint16", "3, 2, 1", 5, 4, 23, 64, 32, 128, r"\.64"),
            ("Extreme", "float16", "2, 2, 0", 5, 4, 18, 48, 40, 128, r"\.64"),
            ("Extreme", "float16", "3, 2, 1", 5, 4, 23, 64, 32, 128, r"\.64"),
            ("Extreme", "float16", "3, 1, 1", 2, 8, 10, 80, 24, 128, r"\.128"),
            ("Mean", "float16, float", "3, 2, 1", 5, 4, 36, 64, 32, 128, r"\.64"),
            ("Mean", "float16, float", "3, 1, 1", 2, 8, 19, 80, 24, 128, r"\.128"),
            ("Extreme", "float", "2, 2, 0", 5, 2, 28, 64, 32, 128, r"\.64"),
            ("Extreme", "float", "3, 2, 1", 5, 2, 39, 64, 32, 128, r"\.64"),
            ("Mean", "float, float", "3, 2, 1", 5, 2, 52, 64, 32, 128, r"\.64"),
            ("Mean", "float, float", "3, 1, 1", 2, 4, 24, 80, 24, 128, r"\.128"),
        )
    },
    # Two windows across and 16 bytes of channels: 10 loads a trip before anything is reduced.
    **{
        f"pool_columns<{operation}<{types}>, 3, 2, 1>": Budget(
            *("pool_small.cu", channels, copied(types, 5), slots, 96), warps=16
        )
        for operation, types, channels, slots in (
            ("Extreme", "uint8", 16, 10),
            ("Mean", "uint8, int32", 16, 17),
            ("Extreme", "float16", 8, 18),
            ("Mean", "float16, float", 8, 29),
            ("Extreme", "float", 4, 33),
            ("Mean", "float, float", 4, 34),
        )
    },
    # Two rows of 16 bytes a lane; rows above and below a strip, and strips at an edge, come atop.
    **{
        f"dense_strip<{arguments}>": Budget(
            *("dense.cu", outputs, goal * COPY[arguments.partition(",")[0]], slots, registers),
            threads=128,
            warps=warps,
        )
        for arguments, outputs, goal, slots, registers, warps in (
            ("uint8, float, 3, 1", 32, 1.1, 13.5, 96, 20),
            ("uint8, float, 3, 2", 32, 1.1, 13.5, 120, 16),
            ("uint8, float, 3, 3", 32, 1.05, 14.2, 120, 16),
            ("uint16, float, 3, 1", 16, 1.5, 17, 80, 24),
            ("uint16, double, 3, 1", 8, 1.5, 18, 96, 20),
            ("float16, float, 3, 1", 16, 1.5, 16, 80, 24),
            ("float16, float, 5, 1", 16, 0.95, 32, 96, 20),
            ("float, float, 3, 1", 8, 3, 18, 64, 32),
            ("float, float, 5, 1", 8, 1.5, 36, 80, 24),
            ("float, float, 7, 1", 8, 1, 61, 96, 20),
            ("float, float, 7, 4", 8, 0.95, 65, 160, 12),
        )
    },
    # One row of 4 floats a lane: 82 % of the instructions are multiply-adds.
    "dense_strip<float, float, 15, 1>": Budget(
        *("dense.cu", 4, 0.45, 280, 128), threads=128, warps=16
    ),
    # 32 products of a slab with 16 kernel rows: a third of 15x15 for 2 x 256 results of a warp.
    "toeplitz_roll<uint8, 16>": Budget(*("toeplitz.cu", 16 / 3, 3.2, 16, 168), **TENSOR),
    "toeplitz_roll<float16, 16>": Budget(*("toeplitz.cu", 16 / 3, 3.2, 14, 168), **TENSOR),
    # With 32 kernel rows: a fifth of 31x31 for 2 x 128 results.
    "toeplitz_roll<uint8, 32>": Budget(*("toeplitz.cu", 8 / 5, 0.96, 60, 168), **TENSOR),
    "toeplitz_roll<float16, 32>": Budget(*("toeplitz.cu", 8 / 5, 0.96, 56, 168), **TENSOR),
    # 16 rows of 128 bytes of a warp a trip; one more copy and one more product a window's tile.
    **{
        f"separable_tensor<uint8, {tiles}>": Budget(
            *("separable_tensor.cu", 64, rate, slots, registers),
            **{"warps": warps, "threads": 128, "pick": "HMMA", "per": None},
            present=(r"LDGSTS", r"LDSM\.16\.MT88", r"IMMA\.16832", r"HMMA\.16816", r"STG\.E\.128"),
        )
        for tiles, rate, slots, registers, warps in (
            ("2, 2", 11, 11.5, 102, 20),
            ("2, 3", 9, 13, 128, 16),
            ("2, 4", 7.4, 14.5, 128, 16),
            ("3, 3", 7.2, 15, 128, 16),
            ("2, 5", 6.1, 16, 168, 12),
            ("3, 7", 3.7, 21, 216, 8),
        )
    },
    **{
        f"separable_tensor<float16, {tiles}>": Budget(
            *("separable_tensor.cu", 32, rate, slots, registers),
            **{"warps": warps, "threads": 128, "pick": "HMMA", "per": None},
            present=(r"LDGSTS\.E\.BYPASS\.128", r"LDSM\.16\.MT88\.4", r"STS\.64", r"STG\.E\.128"),
        )
        for tiles, rate, slots, registers, warps in (
            ("2, 2", 7.2, 18, 120, 16),
            ("2, 3", 5.3, 21, 160, 12),
            ("2, 4", 4.2, 24.5, 160, 12),
            ("3, 3", 4.4, 23, 160, 12),
            ("3, 7", 2.2, 36, 248, 8),
        )
    },
    # Medians of rows of 16 bytes a lane; keys of 16 bits are compared in pairs.
    **{
        f"median_strip<{arguments}>": Budget(
            *("rank_strip.cu", outputs, goal * COPY[dtype], slots, registers),
            threads=128,
            warps=warps,
            present=(r"LDG\.E\.128", r"STG\.E\.128", compare),
        )
        for arguments, dtype, outputs, goal, slots, registers, warps, compare in (
            ("uint8, 1", "uint8", 16, 0.65, 13, 120, 16, r"VIMNMX3\.U16x2"),
            ("uint8, 3", "uint8", 16, 0.6, 14.5, 144, 12, r"VIMNMX3\.U16x2"),
            ("uint16, 1", "uint16", 8, 1.1, 18, 96, 20, r"VIMNMX3\.U16x2"),
            ("uint32, 1", "float", 4, 1, 39, 96, 20, r"VIMNMX3\.U32"),
        )
    },
    # Squares of 4 x 4 medians a lane, a row a store: more than half of all compares.
    **{
        f"median<{arguments}>": Budget(
            *("rank.cu", outputs, rate, slots, registers),
            threads=128,
            warps=warps,
            present=(compare, "STG"),
        )
        for arguments, outputs, rate, slots, registers, warps, compare in (
            ("5, uint8", 4, 1.6, 48, 128, 16, r"VIMNMX\.U16x2"),
            ("7, uint8", 4, 0.85, 85, 200, 8, r"VIMNMX\.U16x2"),
            ("5, uint32", 4, 0.85, 92, 168, 12, r"VIMNMX\.U32"),
            ("7, uint32", 4, 0.44, 165, 200, 8, r"VIMNMX\.U32"),
        )
    },
    # Pixels of a window exchanged, four a trip: 15 for a median of 15x15, at 128 / 22 a clock.
    **{
        name: Budget(
            *("rank_large.cu", 4, rate, slots, 80),
            threads=32,
            pick="LDS",
            per=None,
            present=("LDS", "STS"),
        )
        for name, rate, slots in (
            ("rank_counts<4>", 4.3, 23),
            ("rank_counts<2>", 4.3, 23),
            ("rank_bits<uint16, uint16>", 3.2, 30),
            ("rank_bits<uint32, uint32>", 3.2, 30),
        )
    },
    # Eight entries through three rounds of a merge.
    "rank_sort<uint16>": Budget(
        *("rank_large.cu", 8, 5, 13, 64),
        pick="LDS",
        per=None,
        present=("LDS", "STS", r"VIMNMX\.U32"),
    ),
    "rank_sort<uint32>": Budget(
        *("rank_large.cu", 8, 4, 19, 72),
        pick=r"LDS\.64",
        per=None,
        present=(r"LDS\.64", r"STS\.64"),
    ),
    # Of a block's 128 threads, as many as neighbours need make no results. Of a result of bytes K
    # are FMAs, (K + 1) / 2 dot products and 2 for rounding.
    **{
        f"separable_{name}, 1>": Budget(
            *("separable_strip.cu", outputs, rate, slots, registers, warps, 128),
            present=present,
            pick="STG",
        )
        for name, outputs, rate, slots, registers, warps, present in (
            ("bytes<3", 7.87, COPY["uint8"], 10.5, 128, 16, BYTES),
            ("bytes<7", 7.87, COPY["uint8"] * 0.9, 17, 128, 16, BYTES),
            ("bytes<9", 7.87, 6.2, 20, 128, 16, BYTES),
            ("bytes<15", 7.87, 4.1, 30.5, 128, 16, BYTES),
            ("strip<float, float, 7", 3.93, COPY["float"], 18, 128, 16, PACKS),
            ("strip<float, float, 15", 3.87, COPY["float"], 35.5, 128, 16, PACKS),
            ("strip<float, float, 31", 3.75, COPY["float"] * 0.8, 73.5, 168, 12, PACKS),
            ("strip<float16, float, 7", 7.87, COPY["float16"], 18, 128, 16, PACKS),
            # 31 of them FMAs and a conversion; rows that strips share, and warps at an edge, take
            # three more.
            ("strip<float16, float, 15", 7.87, COPY["float16"] * 0.88, 35, 168, 12, PACKS),
        )
    },
    # Sums along H alone: 7 DFMAs and two to round, 64 a clock. Those along W are a loop within.
    "separable_strip<uint16, double, 7, 1>": Budget(
        *("separable_strip.cu", 3.93, 6.9, 15, 128, 16, 128),
        present=(BYTES[0], "DFMA"),
        per="LDG",
    ),
    "gradient_strip<uint8, 1>": Budget(
        *("gradient_strip.cu", 16, COPY["uint8"] * 0.85, 16, 96, 20, 128)
    ),
    "gradient_strip<uint16, 1>": Budget(
        *("gradient_strip.cu", 8, COPY["uint16"] * 0.85, 31, 96, 20, 128)
    ),
    "gradient_strip<float16, 1>": Budget(
        *("gradient_strip.cu", 8, COPY["float16"] * 0.85, 20.5, 96, 20, 128)
    ),
    "gradient_strip<float, 1>": Budget(
        *("gradient_strip.cu", 4, COPY["float"] * 0.85, 45, 96, 20, 128)
    ),
    # Gradients of a tile in a chain, four rows of four neighbours a trip.
    **{
        f"chain<{dtype}, 1>": Budget(
            *("chain.cu", 16, rate, slots, 80, 24),
            pick="MUFU",
            per=None,
            present=(r"LDS\.128", r"STS\.128"),
        )
        for dtype, rate, slots in (
            *(("uint8", 6, 19), ("uint16", 3.8, 33), ("float16", 5.5, 22.5), ("float", 3, 41)),
        )
    },
    # Two steps of a lane's 16 bytes; rows above a strip and strips at edges come atop.
    **{
        f"morph_small<Boxes::{arguments}>": Budget(
            *("morph_small.cu", outputs, goal * COPY[dtype], slots, registers),
            threads=128,
            warps=warps,
            present=(r"LDG\.E\.128", r"STG\.E\.128", compare),
        )
        for arguments, dtype, outputs, goal, slots, registers, warps, compare in (
            ("Twice, 3, 1, uint8", "uint8", 16, 1.6, 6, 104, 16, r"VIMNMX3\.U16x2"),
            ("Twice, 5, 1, uint8", "uint8", 16, 1.15, 8, 152, 12, r"VIMNMX3\.U16x2"),
            ("Twice, 5, 3, uint8", "uint8", 16, 0.8, 11, 216, 8, r"VIMNMX3\.U16x2"),
            ("Range, 3, 1, uint8", "uint8", 16, 1.7, 6.2, 96, 20, r"VIMNMX3\.U16x2"),
            ("Range, 5, 1, uint8", "uint8", 16, 1.3, 7.7, 128, 16, r"VIMNMX3\.U16x2"),
            ("Twice, 5, 1, uint16", "uint16", 8, 1.6, 12, 120, 16, r"VIMNMX3\.U16x2"),
            ("Twice, 5, 1, float16", "float16", 8, 1.6, 12, 120, 16, r"VHMNMX"),
            ("Twice, 3, 1, float", "float", 4, 2.2, 17.5, 96, 20, r"FMNMX\.NAN"),
            ("Twice, 5, 1, float", "float", 4, 1.4, 27, 128, 16, r"FMNMX\.NAN"),
        )
    },
    # Of the 32 lanes those at either end write nothing: one to four, of three channels three.
    **{
        f"morph_blocks<Boxes::{arguments}>": Budget(
            *("morph_blocks.cu", outputs, goal * COPY[dtype], slots, registers),
            threads=64,
            warps=warps,
            present=(r"LDG\.E\.128", r"STG\.E\.128", r"LDS\.128", r"STS\.128", compare),
        )
        for arguments, dtype, outputs, goal, slots, registers, warps, compare in (
            ("Twice, 7, 1, uint8", "uint8", 15, 1.05, 11.8, 176, 8, r"VIMNMX3?\.U16x2"),
            ("Twice, 11, 1, uint8", "uint8", 15, 0.95, 13.8, 216, 8, r"VIMNMX3?\.U16x2"),
            ("Twice, 15, 1, uint8", "uint8", 15, 1.07, 12.2, 208, 8, r"VIMNMX3\.U16x2"),
            ("Range, 15, 1, uint8", "uint8", 15, 1, 12.5, 208, 8, r"VIMNMX3\.U16x2"),
            ("Twice, 15, 3, uint8", "uint8", 13, 0.83, 15.5, 224, 8, r"VIMNMX3\.U16x2"),
            ("Range, 15, 3, uint8", "uint8", 14, 0.86, 14.3, 240, 8, r"VIMNMX3\.U16x2"),
            ("Twice, 15, 1, uint16", "uint16", 7, 1.6, 15, 152, 12, r"VIMNMX3\.U16x2"),
            ("Twice, 15, 1, float", "float", 3, 1.35, 34, 152, 12, r"FMNMX\.NAN"),
            ("Range, 15, 1, float", "float", 3.5, 1.75, 28, 152, 12, r"FMNMX\.NAN"),
        )
    },
    # Four rows a trip of 8 elements of a lane, or of 4 of float32; 7 % of the lanes only hand over.
    **{
        f"{name}_lanes<{width}, {dtype}>": Budget(
            *("window_lanes.cu", 7.4 * elements / 8, goal * COPY[dtype], slots, registers),
            warps=warps,
            threads=128,
            present=(r"LDG\.E\.(64|128)", r"STG\.E\.(64|128)", r"SHFL\.DOWN", *more),
            pick="STG",
        )
        for name, width, dtype, elements, goal, slots, registers, warps, more in (
            ("extreme", 5, "uint8", 8, 1.1, 11.5, 112, 16, (r"VIMNMX3\.U16x2",)),
            ("extreme", 9, "uint8", 8, 1.2, 11, 112, 16, (r"VIMNMX3\.U16x2",)),
            ("extreme", 15, "uint8", 8, 1.05, 12.2, 112, 16, (r"VIMNMX3\.U16x2",)),
            ("extreme", 9, "float16", 8, 2.1, 12, 112, 16, ("HMNMX2",)),
            ("extreme", 9, "float", 4, 2.1, 24, 80, 24, ("FMNMX",)),
            ("mean", 5, "uint8", 8, 1.2, 12.8, 96, 20, ("FFMA",)),
            ("mean", 15, "uint8", 8, 1.1, 13.4, 96, 20, ("FFMA",)),
            ("mean", 9, "float16", 8, 1.7, 18.5, 128, 16, ()),
            ("mean", 9, "float", 4, 2.4, 21.8, 80, 24, ()),
        )
    },
    # The same of channels, an eighth of the threads beside; cells that all windows share come atop.
    **{
        f"{name}_channels<{dtype}>": Budget(
            *("window_channels.cu", 7 * elements / 8, goal * COPY[dtype], slots, registers),
            warps=warps,
            present=(r"LDG\.E\.(64|128)", r"STG\.E\.(64|128)", r"LDS\.128", r"STS\.128"),
            pick="STG",
        )
        for name, dtype, elements, goal, slots, registers, warps in (
            ("extreme", "uint8", 8, 1.2, 11.6, 64, 32),
            ("extreme", "float16", 8, 2.2, 11.7, 80, 24),
            ("extreme", "float", 4, 2.1, 25.2, 80, 24),
            ("mean", "uint8", 8, 1.25, 12.1, 64, 32),
            ("mean", "float16", 8, 1.45, 18.8, 128, 16),
            ("mean", "float", 4, 2.2, 22, 80, 24),
        )
    },
    # A strip that copies nothing from its own elements; two rows of 8 pixels across at once.
    **{
        name: Budget(
            *(file, 8, goal * COPY[dtype], slots, registers),
            warps=warps,
            present=(rf"LDG\.E(\.\w+)*\.{width}", rf"STG\.E(\.\w+)*\.{width}", *more),
            pick="STG",
            avoid=r"LDS\.(64|128)",
        )
        for name, file, dtype, goal, slots, registers, warps, width, more in (
            (
                *("morph_strip<1, Rows::Short, uint8, false>", "morphology.cu", "uint8"),
                *(0.95, 15.5, 80, 24, 64, (r"VIMNMX3\.U16x2",)),
            ),
            (
                *("morph_strip<1, Rows::Long, uint8, false>", "morphology.cu", "uint8"),
                *(0.85, 18, 80, 24, 64, (r"VIMNMX\.U16x2",)),
            ),
            (
                *("morph_strip<1, Rows::Long, uint16, true>", "morphology.cu", "float16"),
                *(0.9, 26.5, 128, 16, 128, (r"VIMNMX\.U16x2",)),
            ),
            ("box_strip<Rows::Short, uint8, true>", "box.cu", "uint8", 0.83, 19, 80, 24, 64, ()),
            ("box_strip<Rows::Long, uint8, true>", "box.cu", "uint8", 0.83, 19, 80, 24, 64, ()),
        )
    },
}
"""A line a kernel. Rates are those that the goals of DESIGN.md section 7 need on an H200."""


def resident_warps(registers: int, threads: int) -> int:
    """Warps of a multiprocessor whose registers fit it, in whole blocks."""
    warp = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    own = -(-threads // WARP)
    return min(REGISTERS // warp // 4 * 4 // own * own, H200.threads // WARP)


def kernel(name: str, architecture: str) -> sass.Kernel:
    path = kernels_folder() / BUDGETS[name].file
    try:
        return sass.kernels(path, [name], architecture)[name]
    except nvrtc.MissingToolError as missing:
        pytest.skip(str(missing))


def excesses(found: sass.Kernel, budget: Budget) -> list[str]:
    """What a kernel takes beyond its budget, a line each."""
    trip, told = found.trip(budget.pick, budget.avoid), []
    outputs = budget.outputs * (trip.count(budget.per) if budget.per else 1)
    for pipe, clocks in trip.clocks.items():
        rate = WARP * outputs / clocks if clocks else math.inf
        if rate < budget.rate:
            told.append(f"{pipe} allows {rate:.2f} results a clock, not {budget.rate:.2f}")
    slots = trip.slots / outputs
    if slots > budget.slots:
        told.append(f"{slots:.1f} issue slots a result, not {budget.slots:g}")
    told += [f"no {one} in the usual trip" for one in budget.present if not trip.count(one)]
    registers = found.resources.registers
    if registers > budget.registers:
        told.append(f"{registers} registers, not {budget.registers}")
    if resident_warps(registers, budget.threads) < budget.warps:
        told.append(f"{resident_warps(registers, budget.threads)} warps, not {budget.warps}")
    return told + local_accesses(found)


def local_accesses(found: sass.Kernel) -> list[str]:
    """Loads and stores of spilled or indexed registers, wherever they stand."""
    return [opcode for opcode in found.opcodes() if re.match("LDL|STL", opcode)]


def by_kernel():
    """All names; of a kernel the first is for every run, the others for slow ones."""
    first = {name.partition("<")[0]: name for name in reversed(BUDGETS)}
    for name in BUDGETS:
        slow = name != first[name.partition("<")[0]]
        yield pytest.param(name, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("name", list(by_kernel()))
def test_hot_loops_stay_within_their_budget(name):
    assert excesses(kernel(name, BASE), BUDGETS[name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", BUDGETS)
def test_no_architecture_needs_local_memory(name, architecture):
    assert local_accesses(kernel(name, architecture)) == []


def test_budgets_are_of_kernels_that_plans_may_ask_for():
    known = {variant.name: variant for variant in variants()}
    assert [name for name in BUDGETS if name not in known] == []
    assert [n for n, budget in BUDGETS.items() if known[n].file != budget.file] == []
    assert [n for n in BUDGETS if known[n].kernel not in WORK] == []


def test_a_budget_can_be_exceeded():
    name = "pool_small<Extreme<float>, 2, 2, 0>"
    tight = Budget("pool_small.cu", 1, 9.0, 1, 16, 64, present=("HMMA",))
    told = " ".join(excesses(kernel(name, BASE), tight))
    for part in ("issue allows", "alu allows", "issue slots", "no HMMA", "registers", "warps"):
        assert part in told
