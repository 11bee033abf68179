"""One source, two compilers: what the emulator runs, NVRTC compiles for every architecture."""

from __future__ import annotations

import itertools

import pytest

from tests.emulator.cases import KERNELS
from tests.nvrtc import (
    ARCHITECTURES,
    NvrtcError,
    compile_cuda,
    machine_code,
    require_nvrtc,
)
from tests.test_emulator import NAMES as FEATURES
from tests.test_emulator_faults import NAMES as FAULTS
from tests.test_emulator_numbers import NUMBERS, PRODUCTS


@pytest.fixture(autouse=True)
def _nvrtc():
    require_nvrtc()


FILES = {
    "features.cu": FEATURES,
    "broken.cu": FAULTS,
    "numbers.cu": NUMBERS,
    "tensor.cu": PRODUCTS,
}
SINCE_SM_80 = {"warp_reductions", "half_arithmetic<bfloat16>", *PRODUCTS}


CASES = [(f, a) for f, a in itertools.product(FILES, ARCHITECTURES) if f != "broken.cu"]
CASES += [("broken.cu", "sm_75"), ("broken.cu", "sm_90")]


@pytest.mark.parametrize(("file", "architecture"), CASES)
def test_emulated_kernels_compile_without_spills(file, architecture):
    names = FILES[file]
    if architecture == "sm_75":
        names = [name for name in names if name not in SINCE_SM_80]
    compiled = compile_cuda(KERNELS / file, architecture, names)
    assert "warning" not in compiled.log
    assert compiled.cubin.startswith(b"\x7fELF")
    assert list(compiled.resources) == names
    assert not any(resources.spilled_bytes for resources in compiled.resources.values())


def test_resources_are_those_of_the_kernel_asked_for():
    name = "filter3x3<float, 32, 8>"
    compiled = compile_cuda(KERNELS / "features.cu", "sm_90", [name])
    resources = compiled.resources[name]
    assert (
        0 <= resources.shared_bytes - 4 * 34 * 10 <= 1024
    )  # rounded up, or with the driver's part
    assert 8 <= resources.registers <= 64


def test_defines_reach_the_source():
    with pytest.raises(NvrtcError, match=r"(?s)features\.cu does not compile.*FACTOR=oops.*oops"):
        compile_cuda(KERNELS / "features.cu", "sm_90", ["instance<3, float>"], ["FACTOR=oops"])


def test_wrappers_become_the_instructions_that_they_are_named_for():
    compiled = compile_cuda(KERNELS / "tensor.cu", "sm_90", PRODUCTS)
    code = machine_code(compiled.cubin)
    for instruction in (
        *("HMMA.1688.F32.TF32", "HMMA.16816.F32 ", "HMMA.16816.F32.BF16"),
        *("IMMA.16832.S8.S8", "IMMA.16832.S8.U8", "LDSM.16.M88.4", "LDSM.16.MT88.2"),
        *("LDGSTS.E.BYPASS.128", "LDGSTS.E ", "LDGDEPBAR", "DEPBAR.LE"),
    ):
        assert instruction in code, instruction
    packs = compile_cuda(KERNELS / "numbers.cu", "sm_90", ["packs<float>", "packs<uint8>"])
    code = machine_code(packs.cubin)
    for instruction in ("LDG.E.128", "STG.E.128", "LDG.E ", "STG.E "):
        assert instruction in code, instruction
