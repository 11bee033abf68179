"""How fast a GPU could run a case, predicted from machine code: no GPU is needed, none is measured.

    python -m bench.roofline [--arch sm_90 | --device H100] [--filter 'filter2d/f32/8x*']
    python -m bench.roofline --kernels              what the kernels of these cases take of a GPU
    python -m bench.roofline --goals                the cases that DESIGN.md section 7 is about
    python -m bench.roofline --arithmetic           how each limit comes about, case by case
    python -m bench.roofline --readme               a table for the README

For each case of the gpu set that filters or pools images, the CUDA backend is asked for its
launches, with arrays that take no memory. Each launch is limited by

    memory   input once and output once, at the speed of a copy
    L2       what the launch reads, halos and all, and writes
    issue    warp instructions over the four that a multiprocessor issues a clock
    pipes    fma, imad, half, alu, fp64, xu, tensor, lsu, uniform: see bench/sass.py
    latency  rounds of loads that resident warps wait for (Little's law)

and the slowest of them is the prediction: nothing is added for what does not overlap, so a kernel
reaches less. How often a launch goes through a kernel's loops is told by bench/work.py.
"""

from __future__ import annotations

import argparse
import math
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np

from bench import nvrtc, results, sass
from bench.cases import FULL, Case, Scale, gpu_group
from bench.results import OURS
from bench.table import as_markdown, as_text, short
from bench.work import WORK, Part, Work, warps
from gpuconv.backends.cuda.families import FAMILIES
from gpuconv.backends.cuda.launch import Launch, Variant
from gpuconv.backends.cuda.source import kernels_folder
from gpuconv.plan import ChainPlan, MorphPlan

# ---------------------------------------------------------------- devices


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


# ---------------------------------------------------------------- what the backend launches


class _Asked:
    """A backend that asks the CUDA families for launches and notes them; also their launcher."""

    name = "asked"
    chains = True
    tensor_cores = True

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.traffic: list[tuple[int, int]] = []

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def adopt(self, argument: str, array: Any) -> Any:
        return array

    def empty(self, shape: Any, dtype: Any) -> Any:
        """As a backend: (spec, like); as a launcher: (shape, dtype)."""
        spec = (shape.shape, shape.dtype) if hasattr(shape, "dtype") else (shape, dtype)
        return without_memory(*spec)

    def owns(self, array: Any) -> bool:
        return True

    def device(self, array: Any) -> int:
        return 0

    def constant(self, array: Any) -> Any:
        return array

    def run(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        found = list(FAMILIES[type(plan)](plan, inputs, outputs, self))  # type: ignore[arg-type]
        self.launches += found
        if isinstance(plan, ChainPlan):  # what passes hand on to each other lies in memory
            self.traffic += [(x.arguments[0].nbytes, x.arguments[1].nbytes) for x in found]
            return
        read, written = (sum(int(a.nbytes) for a in arrays) for arrays in (inputs[:1], outputs))
        own = len(found)
        if isinstance(plan, MorphPlan) and not plan.gradient and own > 1:
            own //= len(plan.steps)  # what steps hand on lies in memory
        self.traffic += [(read // own, written // own)] * len(found)


@cache
def _pages(size: int) -> mmap.mmap:
    """Addresses without memory behind them: it comes when they are written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def without_memory(shape: Sequence[int], dtype: Any) -> Any:
    """Zeros that take no memory, aligned like a device's; all of one size share their place."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(_pages(size), np.uint8).view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the CUDA backend launches for a case whose arrays are contiguous.

    traffic : bytes read and written by each launch, unless its Work knows better.
    read, written : bytes of a call that reads and writes everything once.
    """

    launches: tuple[Launch, ...]
    traffic: tuple[tuple[int, int], ...]
    read: int
    written: int


def ask(case: Case) -> Asked:
    """The launches of a case."""
    backend = _Asked()
    image = without_memory(case.shape, case.dtype)
    result = case.run(image, *case.weights(np.random.default_rng(0)), backend=backend)
    return Asked(tuple(backend.launches), tuple(backend.traffic), image.nbytes, result.nbytes)


# ---------------------------------------------------------------- predictions


class ModelError(LookupError):
    """A kernel's machine code is not what its line in WORK takes it for."""


@dataclass(frozen=True)
class Occupancy:
    """What fits a multiprocessor, and what of that a launch fills."""

    blocks: int
    warps: int
    limit: str
    waves: float
    """Blocks of the launch over those that run at once."""


def occupancy(launch: Launch, resources: nvrtc.Resources, device: Device) -> Occupancy:
    """Blocks and warps that a multiprocessor holds at once."""
    threads = math.prod(launch.block)
    own_warps = -(-threads // sass.WARP)
    warp_registers = -(-resources.registers * sass.WARP // REGISTER_UNIT) * REGISTER_UNIT
    shared = launch.shared_bytes + resources.shared_bytes
    shared += SYSTEM_SHARED_BYTES * (device.architecture != "sm_75")
    # Registers are handed out by the four quarters of a multiprocessor.
    room = {
        "registers": REGISTERS // warp_registers // 4 * 4 // own_warps,
        "shared memory": device.shared_bytes // shared if shared else device.blocks,
        "threads": device.threads // (own_warps * sass.WARP),
        "blocks": device.blocks,
    }
    limit = min(room, key=lambda name: room[name])
    held = room[limit]
    waves = math.prod(launch.grid) / max(1, held * device.processors)
    return Occupancy(held, held * own_warps, limit, waves)


@dataclass(frozen=True)
class LaunchLimits:
    """Seconds that a launch takes at least, by what limits it."""

    variant: Variant
    kernel: sass.Kernel
    occupancy: Occupancy
    seconds: dict[str, float]
    slots: float
    """Issue slots of all warps together."""
    in_flight: float
    """Bytes on their way to a multiprocessor at a time."""

    @property
    def limiter(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


@cache
def _kernel(variant: Variant, architecture: str) -> sass.Kernel:
    """Compile a kernel."""
    path = kernels_folder() / variant.file
    return sass.kernels(path, [variant.name], architecture)[variant.name]


def _trip(kernel: sass.Kernel, part: Part) -> sass.Trip:
    """The usual trip through the loop of a part."""
    graph, architecture = kernel.graph, kernel.architecture
    if part.holds:
        ways = [sass.usual_trip(graph, loop, architecture, None) for loop in sass.loops(graph)]
        found = [way for way in ways if all(way.count(name) == n for name, n in part.holds)]
        if not found:
            raise ModelError(f"{kernel.name}: no loop holds {part.holds}")
        return max(found, key=lambda way: way.slots)
    if part.pick not in ("around", "edge", "edge inner"):
        return kernel.trip(part.pick, part.avoid)
    hot, trip = sass.hot_loop(graph, architecture, None, part.avoid)
    loops = sass.loops(graph)
    if part.pick == "around":
        outer = [loop for loop in loops if hot.members < loop.members]
        if not outer:
            return sass.Trip((), architecture)
        return sass.usual_trip(graph, outer[0], architecture, part.avoid)
    trips = {loop: sass.usual_trip(graph, loop, architecture, part.avoid) for loop in loops}
    apart = [loop for loop in loops if not hot.members <= loop.members]
    edges = [loop for loop in apart if _alike(trips[loop], trip)]
    if not edges:
        return trip if part.pick == "edge" else sass.Trip((), architecture)
    edge = max(edges, key=lambda loop: trips[loop].slots)
    if part.pick == "edge":
        return trips[edge]
    inner = [trips[loop] for loop in loops if loop.members < edge.members]
    return max(inner, key=lambda trip: trip.slots, default=sass.Trip((), architecture))


def _alike(trip: sass.Trip, hot: sass.Trip) -> bool:
    """Whether a loop does for each row that it writes about what the hot loop does."""
    own, hots = trip.count("STG"), hot.count("STG")
    return bool(own and hots) and 0.8 <= trip.arithmetic / own / (hot.arithmetic / hots) <= 1.3


def launch_limits(
    launch: Launch, work: Work, read: int, written: int, device: Device
) -> LaunchLimits:
    """The limits of one launch that reads and writes so many bytes."""
    kernel = _kernel(launch.variant, device.architecture)
    room = occupancy(launch, kernel.resources, device)
    all_warps = warps(launch)
    resident = min(device.processors * room.warps, all_warps)
    # A grid of fewer blocks than there are multiprocessors leaves some idle.
    clocks = device.clocks * min(1.0, math.prod(launch.grid) / device.processors)
    seconds = {
        "memory": (read + written) / device.copy_gb_s / 1e9,
        "L2": (read * work.reads + written) / device.l2_gb_s / 1e9,
    }
    slots = waiting = flying = 0.0
    for part in work.parts:
        trip = _trip(kernel, part)
        rows = trip.count(part.per) if part.per else 1
        if not rows:
            raise ModelError(f"{launch.variant}: the loop of {part} holds no {part.per}")
        trips, ahead = part.trips / rows, 0.0 if part.cached else work.ahead / rows
        slots += trips * trip.slots
        for pipe, spent in trip.clocks.items():
            seconds[pipe] = seconds.get(pipe, 0.0) + trips * spent / clocks
        loaded = sum(i.lane_bytes for i in trip.instructions if i.root in ("LDG", "LDGSTS"))
        own = trip.slots / (device.ghz * 1e9)
        wait = CACHE_LATENCY_S if part.cached else LATENCY_S
        each = max(wait / ahead, own) if ahead and loaded else own + wait * bool(loaded)
        waiting += trips / all_warps * each
        if not part.cached:
            flying = max(flying, loaded * sass.WARP * max(1.0, ahead))
    seconds["latency"] = waiting * all_warps / max(1, resident)
    in_flight = flying * resident / device.processors
    return LaunchLimits(launch.variant, kernel, room, seconds, slots, in_flight)


@dataclass(frozen=True)
class Prediction:
    """A case on a device."""

    case: Case
    device: Device
    read: int
    written: int
    launches: tuple[Launch, ...]
    limits: tuple[LaunchLimits, ...]
    """Empty where a kernel has no line in WORK."""
    measured_ms: float | None = None

    @property
    def elements(self) -> int:
        """Of the input."""
        return math.prod(self.case.shape)

    @property
    def floor_seconds(self) -> float:
        """Input and output once at the speed of a copy."""
        return (self.read + self.written) / self.device.copy_gb_s / 1e9

    @property
    def seconds(self) -> float | None:
        """The slowest limit of each launch, one after the other."""
        if not self.limits:
            return None
        return sum(max(one.seconds.values()) for one in self.limits)

    @property
    def share(self) -> float | None:
        """Of the speed of a copy."""
        return None if self.seconds is None else self.floor_seconds / self.seconds

    def rate(self, seconds: float | None) -> float | None:
        """Gpx/s: thousands of millions of input elements a second."""
        return self.elements / seconds / 1e9 if seconds else None

    @property
    def kernels(self) -> str:
        """What is launched."""
        counted: dict[str, int] = {}
        for launch in self.launches:
            counted[launch.variant.name] = counted.get(launch.variant.name, 0) + 1
        return ", ".join(f"{n} × {name}" if n > 1 else name for name, n in counted.items())


def predict(case: Case, device: Device, lines: Iterable[results.Line] = ()) -> Prediction:
    """The limits of a case, and what was measured of it on such a device."""
    asked = ask(case)
    limits: list[LaunchLimits] = []
    if all(launch.variant.kernel in WORK for launch in asked.launches):
        for launch, traffic in zip(asked.launches, asked.traffic, strict=True):
            work = WORK[launch.variant.kernel](launch)
            limits.append(launch_limits(launch, work, *(work.traffic or traffic), device))
    measured = [
        line.times_ms["median"]
        for line in lines
        if line.name == case.name
        and line.implementation == OURS
        and line.times_ms
        and device.name in line.device
    ]
    return Prediction(
        *(case, device, asked.read, asked.written, asked.launches, tuple(limits)),
        measured[-1] if measured else None,
    )


# ---------------------------------------------------------------- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """What DESIGN.md section 7 asks of cases: a share of a copy's speed, or Gpx/s on an H200."""

    patterns: tuple[str, ...]
    share: float | None = None
    gpx: float | None = None

    def covers(self, case: Case) -> bool:
        """Whether it is about this case."""
        return any(fnmatchcase(case.name, pattern) for pattern in self.patterns)

    def told(self) -> str:
        """For a column."""
        return f"{self.share:.0%}" if self.share is not None else f"{short(self.gpx)} Gpx/s"

    def met(self, found: Prediction) -> bool | None:
        """Whether the prediction reaches it; None where nobody can tell."""
        if self.share is not None:
            return None if found.share is None else found.share >= self.share
        rate = found.rate(found.seconds)
        if rate is None or self.gpx is None or found.device.name != "H200":
            return None
        return rate >= self.gpx


COPIED = ("u8", "f16", "f32")
"""Dtypes of section 7's floors."""

GOALS = (
    Goal(("filter2d/*/k3", "sharpen/*"), 0.85),
    Goal(("filter2d/f32/*/k5", "filter2d/f32/*/k7"), 0.85),
    Goal(("filter2d/u8/*/k15-tensor", "filter2d/f16/*/k15-tensor"), gpx=300),
    Goal(("filter2d/u8/*/k31-tensor", "filter2d/f16/*/k31-tensor"), gpx=100),
    *(Goal((f"{name}/{dtype}/*",), 0.85) for name in ("sobel", "box_blur") for dtype in COPIED),
    Goal(tuple(f"gaussian_blur/{dtype}/*/sigma1" for dtype in COPIED), 0.85),
    Goal(("gaussian_blur/u8/*/sigma1-tensor", "separable_filter2d/u8/*-tensor"), 0.85),
    *(
        Goal(tuple(f"separable_filter2d/{dtype}/*/k{k}" for dtype in COPIED), 0.85)
        for k in (3, 5, 7, 9, 11, 13, 15)
    ),
    Goal(("separable_filter2d/f32/*/k31", "gaussian_blur/f32/*/sigma3"), 0.70),
    *(
        Goal((f"median_blur/u8/*/{k}x{k}",), gpx=gpx)
        for k, gpx in ((3, 700), (5, 200), (7, 90), (15, 15), (31, 3), (75, 1))
    ),
    *(
        Goal((f"median_blur/u16/*/{k}x{k}", f"median_blur/f32/*/{k}x{k}"), gpx=gpx / 3)
        for k, gpx in ((15, 15), (31, 3), (75, 1))
    ),
    Goal(("dilate/*", "erode/*"), 0.70),
    Goal(("morph_open/*", "morph_close/*", "morph_gradient/*"), 0.60),
    Goal(("max_pool2d/*", "avg_pool2d/*"), 0.85),
)
"""Of filters and pools: section 7, and for medians of 75×75 and of other dtypes issue 6. Two steps
of morphology in a launch shall be well above two launches, which reach 35 to 47 %."""


def goal_of(case: Case) -> Goal | None:
    """The goal that a case has, if any."""
    return next((goal for goal in GOALS if goal.covers(case)), None)


# ---------------------------------------------------------------- the command line

GROUPS = ("filters", "pools")
HEADER = ["case", "floor", "Gpx/s", "of copy", "limit", "goal", "", "measured", "kernel"]


def cases(pattern: str = "*", scale: Scale = FULL) -> list[Case]:
    """Filters and pools of images, once each, in the order of the gpu set."""
    found = {case.name: case for group in GROUPS for case in gpu_group(group, scale)}
    return [case for name, case in found.items() if fnmatchcase(name, pattern)]


def row(found: Prediction) -> list[str]:
    """A row of the table."""
    goal = goal_of(found.case)
    met = goal.met(found) if goal else None
    verdict = "" if goal is None else {True: "reached", False: "MISSED", None: "?"}[met]
    kernel, limiter = f"not modelled: {found.kernels}", ""
    if found.limits:
        slowest = max(found.limits, key=lambda one: max(one.seconds.values()))
        kernel, limiter = found.kernels, slowest.limiter
    measured = found.rate(found.measured_ms / 1e3) if found.measured_ms else None
    return [
        found.case.name,
        short(found.rate(found.floor_seconds)),
        short(found.rate(found.seconds)),
        "" if found.share is None else f"{found.share:.0%}",
        limiter,
        goal.told() if goal else "",
        verdict,
        short(measured),
        kernel,
    ]


def arithmetic(found: Prediction) -> Iterator[str]:
    """How each limit of a case comes about, a line a limit."""
    device = found.device
    moved = f"{found.read / 1e6:.1f} + {found.written / 1e6:.1f} MB"
    floor = short(found.rate(found.floor_seconds))
    yield (
        f"{found.case.name}: {moved} at {device.copy_gb_s:g} GB/s ({device.source}) "
        f"take {found.floor_seconds * 1e6:.1f} µs: {floor} Gpx/s"
    )
    for launch, one in zip(found.launches, found.limits, strict=False):
        room, resources = one.occupancy, one.kernel.resources
        yield (
            f"  {one.variant.name}: {math.prod(launch.grid)} blocks of {math.prod(launch.block)}, "
            f"{resources.registers} registers, "
            f"{launch.shared_bytes + resources.shared_bytes} bytes shared: {room.blocks} blocks = "
            f"{room.warps} warps an SM ({room.limit}), {room.waves:.2f} waves"
        )
        yield (
            f"    {one.slots * sass.WARP / found.elements:.2f} issue slots an element; "
            f"{one.in_flight / 1024:.1f} KB of loads in flight an SM, "
            f"{_wanted(found) / 1024:.1f} KB wanted at this speed"
        )
        for name, seconds in sorted(one.seconds.items(), key=lambda item: -item[1]):
            if seconds < max(one.seconds.values()) / 20:
                continue
            a_clock = found.elements / seconds / device.clocks
            yield (
                f"    {name:8} {seconds * 1e6:9.1f} µs  {short(found.rate(seconds)):>6} Gpx/s  "
                f"{a_clock:6.2f} elements a clock and SM"
            )
    if not found.limits:
        yield f"  not modelled: {found.kernels}"


def _wanted(found: Prediction) -> float:
    """Little's law: bytes a multiprocessor must have asked for, to read at the predicted speed."""
    assert found.seconds is not None
    return found.read / found.seconds * LATENCY_S / found.device.processors


def kernel_rows(found: Iterable[Prediction]) -> list[list[str]]:
    """The header and a row a kernel: what it takes of a multiprocessor."""
    rows = {}
    for prediction in found:
        for launch, one in zip(prediction.launches, prediction.limits, strict=False):
            resources = one.kernel.resources
            rows[one.variant.name] = [
                one.variant.name,
                str(resources.registers),
                str(launch.shared_bytes + resources.shared_bytes),
                f"{one.occupancy.warps} ({one.occupancy.limit})",
                f"{one.slots * sass.WARP / prediction.elements:.1f}",
                f"{one.in_flight / 1024:.1f}",
            ]
    header = ["kernel", "registers", "shared", "warps an SM", "slots an element", "KB in flight"]
    return [header, *rows.values()]


README_CASES = (
    *("filter2d/*/8x2160x3840/*", "separable_filter2d/*/8x2160x3840/*"),
    *("gaussian_blur/*/8x2160x3840/*", "box_blur/*/8x2160x3840/*", "sobel/*/8x2160x3840/*"),
    *("median_blur/*/8x2160x3840/*", "dilate/*/8x2160x3840/*", "*_pool2d/*/8x1x2160x3840/*"),
    *("morph_open/*/8x2160x3840*", "morph_gradient/*/8x2160x3840*"),
)


README_MARKS = "<!-- bench.roofline --readme -->", "<!-- end -->"


def readme(device: Device) -> str:
    """The text of the README: a prediction, and called so."""
    chosen = [c for c in cases() if any(fnmatchcase(c.name, p) for p in README_CASES)]
    table = [[*HEADER[:6], "predicted"]]
    table += [row(predict(case, device))[:7] for case in chosen if goal_of(case)]
    begin, end = README_MARKS
    text = (
        f"Predicted from machine code for one {device.name}, not measured: the slowest of memory, "
        "L2, issue slots, pipes and latency, for 8 images of 3840×2160. `floor` is a copy of input "
        "and output; Gpx/s are thousands of millions of input elements a second. A kernel reaches "
        "less than its limits."
    )
    return f"{begin}\n{text}\n\n{as_markdown(table)}\n{end}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or the arithmetic of a few cases."""
    parser = argparse.ArgumentParser(
        "python -m bench.roofline", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--arch", default="sm_90", choices=list(dict.fromkeys(d.architecture for d in DEVICES))
    )
    parser.add_argument(
        "--device", choices=[d.name for d in DEVICES], help="default: the first of --arch"
    )
    parser.add_argument("--filter", default="*", metavar="GLOB", help="of cases' names")
    parser.add_argument("--arithmetic", action="store_true", help="how each limit comes about")
    parser.add_argument("--kernels", action="store_true", help="a row a kernel instead")
    parser.add_argument("--goals", action="store_true", help="cases that have a goal alone")
    parser.add_argument("--readme", action="store_true", help="the README's table")
    options = parser.parse_args(argv)
    device = device_of(options.device, options.arch)
    chosen = [case for case in cases(options.filter) if goal_of(case) or not options.goals]
    if not chosen:
        parser.error(f"--filter must match a case of the gpu set, got {options.filter!r}")
    try:
        if options.readme:
            print(readme(device), end="")
            return 0
        lines = [
            line for path in sorted(results.FOLDER.glob("*.jsonl")) for line in results.read(path)
        ]
        found = [predict(case, device, lines) for case in chosen]
    except (nvrtc.MissingToolError, nvrtc.NvrtcError, LookupError, ValueError) as error:
        parser.error(str(error))
    print(
        f"{device.name}: {device.architecture}, {device.processors} SMs at {device.ghz:g} GHz, "
        f"copy {device.copy_gb_s:g} GB/s ({device.source}). Predictions, not measurements.\n"
    )
    if options.kernels:
        print(as_text(kernel_rows(found)))
        return 0
    print(as_text([HEADER, *map(row, found)]))
    if options.arithmetic:
        print()
        for prediction in found:
            print(*arithmetic(prediction), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
