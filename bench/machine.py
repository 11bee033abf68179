"""Where a benchmark runs: device, commit, threads, and how much memory this process holds."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def cpu_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def load() -> float | None:
    """Processes that wanted a processor in the minute before this was first asked, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """The processor's name and the number of processors at hand."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor() or platform.machine()
    return f"{name.strip()} ({cpu_count()} CPUs)"


def device(backend: str) -> dict[str, Any]:
    """`device` and `driver` of a results line."""
    if backend != "cuda":
        return {"device": cpu_name(), "driver": None}
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    version = cupy.cuda.runtime.driverGetVersion()
    return {
        "device": properties["name"].decode(),
        "driver": f"CUDA {version // 1000}.{version % 1000 // 10}",
    }


def device_works(backend: str) -> bool:
    """Whether it takes more work; after a kernel that went astray it takes none in this process."""
    if backend != "cuda":
        return True
    try:
        import cupy
    except ImportError:
        return True
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except cupy.cuda.runtime.CUDARuntimeError:
        return False
    return True


def slug(name: str) -> str:
    """A device's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def version(*packages: str) -> str:
    """The version of the first of `packages` that is installed."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def commit() -> dict[str, Any]:
    """`commit` and `dirty` (changes other than results) of the checkout; None where it is none."""
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!bench/results")
    return {"commit": head, "dirty": None if head is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def settle_allocator() -> bool:
    """Let malloc keep what is freed, as it does in a process that has worked for a while.

    glibc maps large blocks afresh until it has seen such blocks freed, and then raises two
    thresholds, up to the values set here. Without this, a call that needs scratch memory takes up
    to five times as long, or not, depending on which library ran before it.
    """
    return _malloc_keeps(blocks=32 << 20, freed=64 << 20)


def unsettle_allocator() -> bool:
    """Let malloc keep no large block, until `settle_allocator`.

    What a thread's end has freed stays resident otherwise, and a call that reuses it would seem to
    need none.
    """
    return _malloc_keeps(blocks=128 << 10, freed=128 << 10)


def _malloc_keeps(blocks: int, freed: int) -> bool:
    """Set the bytes from which glibc maps a block by itself, and those it keeps at a heap's end."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(m_mmap_threshold, blocks) and mallopt(m_trim_threshold, freed))


def resident_bytes() -> int:
    """Memory that this process holds now. Linux only."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process has held, since `restart_peak` if that was called.

    Linux keeps VmHWM an address space; ru_maxrss would hand a parent's peak down to its children.
    """
    if sys.platform == "linux":
        return _status("VmHWM")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def restart_peak() -> bool:
    """Let `peak_bytes` start again from what is held now; False where the system cannot.

    Freed memory goes back to the system first, or a call that reuses it would seem to need none.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return False
    return True


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return int(found.group(1)) * 1024
