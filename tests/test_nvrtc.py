"""One source, two compilers: what the emulator runs, NVRTC compiles for every architecture."""

from __future__ import annotations

import pytest

from tests.emulator.cases import KERNELS
from tests.nvrtc import ARCHITECTURES, NvrtcError, compile_cuda, require_nvrtc
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
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
