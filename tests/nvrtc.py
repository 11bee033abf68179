"""NVRTC of bench/nvrtc.py for tests: where a wheel is missing they skip, with the reason."""

from __future__ import annotations

import pytest

from bench import nvrtc
from bench.nvrtc import ARCHITECTURES, NvrtcError, compile_cuda, functions

__all__ = [
    "ARCHITECTURES",
    "NvrtcError",
    "compile_cuda",
    "functions",
    "machine_code",
    "require_nvrtc",
]


def require_nvrtc() -> None:
    """Skip the running test where NVRTC or CUDA's headers are not installed."""
    try:
        nvrtc.require_nvrtc()
    except nvrtc.MissingToolError as missing:
        pytest.skip(str(missing))


def machine_code(cubin: bytes) -> str:
    """The SASS of a cubin; skips the test without nvdisasm."""
    try:
        return nvrtc.machine_code(cubin)
    except nvrtc.MissingToolError as missing:
        pytest.skip(str(missing))
