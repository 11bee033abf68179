"""Runs the project's CUDA kernels on the CPU and watches them.

launcher.py   what tests use: EmulatorLauncher, kernels called as CuPy's RawKernel
arguments.py  NumPy arrays, numbers and structs into the memory of a launch
reports.py    faults as sentences; places.py: code addresses to lines; counters.py: requests
runtime.py    the structures shared with C++; build.py: g++ and the cache of libraries
cuda/         C++: device.hpp and below stand in for CUDA's headers, the rest is the runtime
kernels/      small kernels, correct and broken, that prove the emulator
"""

from tests.emulator.counters import AccessCount
from tests.emulator.launcher import EmulatedKernel, EmulatorLauncher, require_compiler
from tests.emulator.reports import Finding, KernelError, Kind

__all__ = [
    "AccessCount",
    "EmulatedKernel",
    "EmulatorLauncher",
    "Finding",
    "KernelError",
    "Kind",
    "require_compiler",
]
