"""CuPy: the device, its memory and its compiler. The only room that imports it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec


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
    return Status(True, devices=devices)


class CupyLauncher:
    """Runs launches on CuPy's current device and stream."""
