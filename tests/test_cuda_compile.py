"""Every kernel that a plan may ask for, compiled by NVRTC for GPUs that need not be there."""

from __future__ import annotations

import re
from functools import cache

import pytest

from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.launch import ANY, Variant
from gpuconv.backends.cuda.source import kernels_folder
from tests.nvrtc import ARCHITECTURES, compile_cuda, functions, machine_code, require_nvrtc

FILES = sorted({variant.file for variant in variants()})
PART = 12
"""Kernels compiled together: a test's share of the work."""

FEW = 2
"""Variants of a kernel that every run compiles; all of them are for slow runs."""

THREADS = 256
"""Threads of a block, at most: all their registers must fit a multiprocessor's 65,536."""

BASE = "sm_90"


def parts() -> list[tuple[str, tuple[Variant, ...]]]:
    """All variants, file by file, in parts."""
    cut = []
    for file in FILES:
        own = [v for v in variants() if v.file == file]
        cut += [(file, tuple(own[i : i + PART])) for i in range(0, len(own), PART)]
    return cut


def by_kernel(file: str) -> list[list[Variant]]:
    """The variants of a file, kernel by kernel."""
    kernels: dict[str, list[Variant]] = {}
    for variant in variants():
        if variant.file == file:
            kernels.setdefault(variant.kernel, []).append(variant)
    return list(kernels.values())


def samples(file: str) -> tuple[Variant, ...]:
    """One variant of each kernel of a file, of another element type each time."""
    return tuple(own[(7 * place) % len(own)] for place, own in enumerate(by_kernel(file)))


def few(file: str) -> tuple[Variant, ...]:
    """Some variants of each kernel of a file, the first and the last among them."""
    chosen = []
    for own in by_kernel(file):
        count = min(FEW, len(own))
        chosen += [own[place * (len(own) - 1) // max(1, count - 1)] for place in range(count)]
    return tuple(chosen)


@cache
def compiled(file, chosen, architecture):
    require_nvrtc()
    return compile_cuda(kernels_folder() / file, architecture, [v.name for v in chosen])


def check(file, chosen, architecture):
    """No spills, and no more registers than a block of threads may have."""
    for name, resources in compiled(file, chosen, architecture).resources.items():
        assert resources.spilled_bytes == 0, f"{name} spills on {architecture}: {resources}"
        assert resources.registers * THREADS <= 65536, f"{name} on {architecture}: {resources}"


def part_name(part):
    return f"{part[0]}-{part[1][0].name}".replace(" ", "")


@pytest.mark.parametrize("file", FILES)
def test_variants_of_every_kernel_compile_without_spills(file):
    check(file, few(file), BASE)


# The oldest, the one that is tuned for, and the newest; the others lie between them.
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(a, marks=[pytest.mark.slow] * (a not in ("sm_75", "sm_90", "sm_120")))
        for a in ARCHITECTURES
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_every_family_compiles_for_every_architecture(file, architecture):
    check(file, samples(file), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "chosen"), parts(), ids=map(part_name, parts()))
def test_every_variant_compiles_for_every_architecture(file, chosen, architecture):
    check(file, chosen, architecture)


def test_variants_are_told_apart():
    assert len(set(variants())) == len(variants())
    assert {v.file for v in variants()} == {p.name for p in kernels_folder().glob("*.cu")}


TILED = ("box.cu", "dense.cu", "morphology.cu", "pool.cu", "rank.cu", "separable.cu")
"""Families that read tiles of planes: 16 bytes a thread where rows allow."""

UNTILED = ("_down", "_across")
"""Kernels of windows too large for a tile."""


STRIPS = ("_strip", "_bytes")
"""Kernels that march down strips: 8 bytes a lane where arithmetic limits them, not memory."""


def narrow(file, chosen, widths):
    """Kernels without a load from memory of one of these widths in bits."""
    result = compiled(file, chosen, BASE)
    code = functions(machine_code(result.cubin))
    wide = re.compile(rf"LDG\.E(\.\w+)*\.({widths})\b")
    return [name for name, symbol in result.symbols.items() if not wide.search(code[symbol])]


@pytest.mark.parametrize("file", TILED)
def test_tiles_are_read_16_bytes_at_a_time(file):
    typed = [v for v in variants() if v.file == file and ANY not in v.arguments]
    tiled = [v for v in typed if not v.kernel.endswith((*UNTILED, *STRIPS))]
    chosen = tuple(v for v in tiled if v.arguments[0] in ("uint8", "float"))
    assert narrow(file, chosen, "128") == []


@pytest.mark.parametrize("file", FILES)
def test_strips_are_read_in_packs(file):
    chosen = tuple(v for v in samples(file) if v.kernel.endswith(STRIPS))
    assert not chosen or narrow(file, chosen, "64|128") == []
