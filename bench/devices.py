"""GPUs that predictions are made for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU. `copy_gb_s` counts bytes read and written; `source` tells where it is from."""

    name: str
    architecture: str
    processors: int
    ghz: float
    copy_gb_s: float
    source: str
    threads: int = 2048
    blocks: int = 32
    shared_bytes: int = 228 * 1024

    @property
    def clocks(self) -> float:
        """Clocks of all multiprocessors together, a second."""
        return self.processors * self.ghz * 1e9

    @property
    def l2_gb_s(self) -> float:
        """Assumed: multiprocessors together read 24 bytes a clock each, as an H100 is told to."""
        return 24 * self.clocks / 1e9


SMALL_SM = {"threads": 1536, "blocks": 24, "shared_bytes": 100 * 1024}
"""Multiprocessors of GPUs that are no data centre's first choice."""

DEVICES = (
    Device("H200", "sm_90", 132, 1.98, 4300, "measured"),
    Device("H100", "sm_90", 132, 1.98, 3000, "measured"),
    Device("A100", "sm_80", 108, 1.41, 1750, "datasheet 2039, 86 %", shared_bytes=164 * 1024),
    Device("T4", "sm_75", 40, 1.59, 270, "datasheet 320, 85 %", 1024, 16, 64 * 1024),
    Device("A10", "sm_86", 72, 1.695, 510, "datasheet 600, 85 %", 1536, 16, 100 * 1024),
    Device("L4", "sm_89", 58, 2.04, 255, "datasheet 300, 85 %", **SMALL_SM),
    Device("B200", "sm_100", 148, 1.965, 6800, "datasheet 8000, 85 %"),
    Device("RTX PRO 6000", "sm_120", 188, 2.6, 1520, "datasheet 1792, 85 %", **SMALL_SM),
)
"""The first of an architecture is the one that `--arch` means."""

LATENCY_S = 650e-9
"""From a load to its data in memory, under load: 600 to 700 ns on an H100."""

CACHE_LATENCY_S = 20e-9
"""The same from the L1 cache: about 40 clocks."""

REGISTERS, REGISTER_UNIT = 65536, 256
"""Of a multiprocessor; what a warp takes is a multiple of the second."""

SYSTEM_SHARED_BYTES = 1024
"""Of every block since sm_80."""


def device_of(name: str | None, architecture: str) -> Device:
    """A device by name, or the first of an architecture."""
    if name is None:
        return next(d for d in DEVICES if d.architecture == architecture)
    return next(d for d in DEVICES if d.name == name)
