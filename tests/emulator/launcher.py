"""Launches CUDA kernels on the CPU, called as CuPy's RawKernel is called."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gpuconv.backends.cuda.source import kernels_folder
from tests.emulator import runtime
from tests.emulator.arguments import Parameter, pack
from tests.emulator.build import compiler, kernel_library
from tests.emulator.counters import AccessCount, access_counts
from tests.emulator.reports import KernelError, findings

SHARED_LIMIT = 227 * 1024
"""Shared memory of a block, static and dynamic, on sm_90."""


class EmulatorUnavailableError(RuntimeError):
    """This machine lacks what the emulator needs."""


def require_compiler() -> None:
    """Where there is no g++: skip the running test with that reason, or raise outside of tests."""
    if compiler() is not None:
        return
    reason = "no g++ on this machine (Linux): the emulator compiles CUDA source with it"
    if "pytest" in sys.modules:
        sys.modules["pytest"].skip(reason)
    raise EmulatorUnavailableError(reason)


@dataclass(frozen=True, slots=True)
class Settings:
    """How kernels run.

    order, seed   turns of threads and blocks: "forward", "reverse" or "random"
    poison        the byte that fills shared memory before each block
    early_copies  cp.async copies when issued as well as when waited for
    """

    order: str = "forward"
    seed: int = 0
    poison: int = 0xFF
    early_copies: bool = False


class EmulatorLauncher:
    """Gives out kernels that run on the CPU, and counts their launches by name.

    checked    the check build: watches every access and raises KernelError on faults
    counted    the count build: checks as well, and fills in `EmulatedKernel.counts`; slow
    folder     where .cu files are, beside the project's own kernels and headers
    settings   fields of Settings
    """

    def __init__(
        self,
        *,
        checked: bool = False,
        counted: bool = False,
        folder: Path | None = None,
        **settings: Any,
    ) -> None:
        require_compiler()
        self.settings = Settings(**settings)
        self.build = "counted" if counted else "checked" if checked else "plain"
        self.folder = folder or kernels_folder()
        self.launches: Counter[str] = Counter()

    def kernel(self, file: str, name: str, defines: Sequence[str] = ()) -> EmulatedKernel:
        """The kernel `name`, as C++ writes it ("filter2d<float, 3>"), of `file`."""
        return self.kernels(file, [name], defines)[0]

    def kernels(
        self, file: str, names: Sequence[str], defines: Sequence[str] = ()
    ) -> list[EmulatedKernel]:
        """Several kernels of one file, compiled together."""
        library = kernel_library(self.folder, file, tuple(names), tuple(defines), self.build)
        return [EmulatedKernel(self, library, i, name) for i, name in enumerate(names)]


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


class EmulatedKernel:
    """A kernel ready to launch.

    counts         the memory requests of its last launch in a count build
    shared_bytes   what a block of its last launch took, static and dynamic
    """

    def __init__(self, launcher: EmulatorLauncher, path: Path, number: int, name: str) -> None:
        library = _loaded(path)
        self.launcher = launcher
        self.settings = launcher.settings
        self.name = name
        self.counts: list[AccessCount] = []
        self.shared_bytes = 0
        self._body = ctypes.cast(getattr(library, f"kernel_{number}"), ctypes.c_void_p).value
        tell = getattr(library, f"signature_{number}")
        tell.restype = ctypes.POINTER(runtime.Parameter)
        self.signature = []
        for parameter in tell():
            if parameter.kind == b"\0":
                break
            kind, to_number = parameter.kind.decode(), bool(parameter.to_number)
            self.signature.append(
                Parameter(kind, parameter.bytes, parameter.element_bytes, to_number)
            )

    def using(self, **settings: Any) -> EmulatedKernel:
        """The same kernel under other settings."""
        other = copy(self)
        other.settings = replace(self.settings, **settings)
        return other

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0
    ) -> None:
        """Run the kernel over `grid` blocks of `block` threads (x, y, z; what is missing is 1).

        Raises
        ------
        KernelError : the kernel did what it must not.
        TypeError, ValueError : an argument does not fit, or the geometry is none of CUDA's.
        """
        settings, checked = self.settings, self.launcher.build != "plain"
        sizes = [_three("grid", grid), _three("block", block)]
        if sizes[1][0] * sizes[1][1] * sizes[1][2] > 1024:
            raise ValueError(f"block must have at most 1024 threads, got {tuple(block)}")
        if max(sizes[0][1:]) > 65535:
            raise ValueError(f"grid must have at most 65535 blocks in y and z, got {tuple(grid)}")
        arguments = pack(args, self.signature, checked)
        regions = (runtime.GlobalArray * max(1, len(arguments.regions)))(*arguments.regions)
        wanted = runtime.Launch(
            grid=sizes[0],
            block=sizes[1],
            dynamic_bytes=shared_mem,
            shared_limit=SHARED_LIMIT,
            order=runtime.Order[settings.order],
            poison=settings.poison,
            seed=settings.seed,
            early_copies=settings.early_copies,
            checked=checked,
            counted=self.launcher.build == "counted",
            array_count=len(arguments.regions),
            arrays=regions,
        )
        with runtime.launch_lock:
            reports, counts = runtime.launch(wanted, self._body, arguments.pointers)
        arguments.copy_back()
        self.launcher.launches[self.name.partition("<")[0]] += 1
        self.shared_bytes = wanted.shared_bytes
        self.counts = access_counts(counts)
        if reports:
            raise KernelError(self.name, findings(reports, arguments.arrays))


def _three(argument: str, sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*map(int, sizes), 1, 1, 1)[:3]
    if len(sizes) > 3 or min(x, y, z) < 1:
        raise ValueError(f"{argument} must be one to three sizes of at least 1, got {sizes}")
    return x, y, z
