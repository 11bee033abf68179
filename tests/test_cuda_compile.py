"""Every kernel that a plan may ask for, compiled by NVRTC for GPUs that need not be there."""

from __future__ import annotations

import re
from functools import cache

import pytest

from gpuconv.backends.cuda.families import variants
from gpuconv.backends.cuda.launch import ANY, Variant
from gpuconv.backends.cuda.source import kernels_folder
from tests.nvrtc import ARCHITECTURES, compile_cuda, machine_code, require_nvrtc

FILES = sorted({variant.file for variant in variants()})
PART = 12
"""Kernels compiled together: a test's share of the work."""

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


def samples(file: str) -> tuple[Variant, ...]:
    """One variant of each kernel of a file, of another element type each time."""
    kernels: dict[str, list[Variant]] = {}
    for variant in variants():
        if variant.file == file:
            kernels.setdefault(variant.kernel, []).append(variant)
    return tuple(own[(7 * place) % len(own)] for place, own in enumerate(kernels.values()))


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


@pytest.mark.parametrize(("file", "chosen"), parts(), ids=map(part_name, parts()))
def test_every_variant_compiles_without_spills(file, chosen):
    check(file, chosen, BASE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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


def functions(assembly: str) -> dict[str, str]:
    """The machine code of each kernel by its symbol."""
    found = re.split(r"^\.text\.(\w+):$", assembly, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


TILED = ("box.cu", "dense.cu", "morphology.cu", "pool.cu", "rank.cu", "separable.cu")
"""Families that read tiles of planes: 16 bytes a thread where rows allow."""

UNTILED = ("_down", "_across")
"""Kernels of windows too large for a tile."""


@pytest.mark.parametrize("file", TILED)
def test_tiles_are_read_16_bytes_at_a_time(file):
    typed = [v for v in variants() if v.file == file and ANY not in v.arguments]
    tiled = [v for v in typed if not v.kernel.endswith(UNTILED)]
    chosen = tuple(v for v in tiled if v.arguments[0] in ("uint8", "float"))
    result = compiled(file, chosen, BASE)
    code = functions(machine_code(result.cubin))
    narrow = [n for n, symbol in result.symbols.items() if "LDG.E.128" not in code[symbol]]
    assert narrow == []
