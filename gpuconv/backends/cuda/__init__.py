"""The CUDA backend's place: whether it can run here, and if not, why and what to do.

The kernels themselves are not part of this version; `status` says so last, after everything else
that a machine would need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from gpuconv.arrays import Spec
from gpuconv.errors import BackendUnavailableError
from gpuconv.plan import Plan


@dataclass(frozen=True, slots=True)
class Status:
    """Whether CUDA can be used; if not, the reason and the remedy."""

    available: bool
    reason: str = ""
    remedy: str = ""
    devices: tuple[str, ...] = ()


@cache
def probe() -> Status:
    """Look for CuPy, a driver and a device. Looked up once a process."""
    if find_spec("cupy") is None:
        return Status(
            False, "CuPy is not installed", "install it with: pip install 'gpuconv[cuda12]'"
        )
    try:
        import cupy

        usable = bool(cupy.is_available())
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Status(
            False,
            f"CuPy cannot be imported ({first})",
            "reinstall it with: pip install --force-reinstall 'gpuconv[cuda12]'",
        )
    if not usable:
        return Status(
            False,
            "CuPy finds no CUDA driver or no device",
            "install an NVIDIA driver (nvidia-smi must list a device) or use backend='numpy'",
        )
    devices = tuple(
        cupy.cuda.runtime.getDeviceProperties(i)["name"].decode()
        for i in range(cupy.cuda.runtime.getDeviceCount())
    )
    return Status(
        False,
        "this version of gpuconv has no CUDA kernels",
        "use backend='numpy', or a later version",
        devices,
    )


class CudaBackend:
    """Runs plans as CUDA kernels; refuses with a reason where it cannot."""

    name = "cuda"

    def status(self) -> Status:
        """Whether this machine can run it."""
        return probe()

    def require(self) -> None:
        """Raise BackendUnavailableError unless this machine can run it."""
        status = self.status()
        if not status.available:
            raise BackendUnavailableError(self.name, status.reason, status.remedy)

    def empty(self, spec: Spec) -> Any:
        """An array for a result."""
        self.require()

    def run(self, plan: Plan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Fill `outputs` from `inputs`."""
        self.require()
