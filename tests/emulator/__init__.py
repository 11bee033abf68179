"""Runs the project's CUDA kernels on the CPU and watches them.

    launcher = EmulatorLauncher(checked=True)            # False: about ten times faster, unwatched
    kernel = launcher.kernel("filter.cu", "filter2d<float, 3>", ["TILE=32"])
    kernel((4, 4), (32, 8), (image, output, np.int32(7)), shared_mem=1024)      # or KernelError
    kernel.using(order="random", seed=1, poison=0x3B)(...)               # must change nothing
    launcher.launches["filter2d"]                                                # 2

With EmulatorLauncher(counted=True), `kernel.counts` tells for each line the wavefronts and sectors
that a warp's requests took. Not modelled: reordering by the memory model (fences order
nothing, and two blocks of a launch never wait for each other), occupancy, textures, clusters, TMA,
wgmma; a memcpy in a kernel is not watched.

backend.py    EmulatorBackend: gpuconv's CUDA backend on the emulator
launcher.py   EmulatorLauncher: kernels called as CuPy's RawKernel
arguments.py  NumPy arrays, numbers and structs into the memory of a launch
reports.py    faults as sentences; places.py: code addresses to lines; counters.py: requests
runtime.py    the structures shared with C++; build.py: g++ and the cache of libraries
cuda/         C++: device.hpp and below stand in for CUDA's headers, the rest is the runtime
kernels/      small kernels, correct and broken, that prove the emulator
"""

from tests.emulator.backend import EmulatorBackend
from tests.emulator.counters import AccessCount
from tests.emulator.launcher import EmulatedKernel, EmulatorLauncher, require_compiler
from tests.emulator.reports import Finding, KernelError, Kind

__all__ = [
    "AccessCount",
    "EmulatedKernel",
    "EmulatorBackend",
    "EmulatorLauncher",
    "Finding",
    "KernelError",
    "Kind",
    "require_compiler",
]
