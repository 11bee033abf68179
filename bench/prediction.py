"""How fast a GPU could run a case at most: every launch, by everything that limits it.

    memory   input once and output once, at the speed of a copy
    L2       what the launch reads, halos and all, and writes
    issue    warp instructions over the four that a multiprocessor issues a clock
    pipes    fma, imad, half, alu, fp64, xu, tensor, lsu, uniform: see bench/instructions.py
    latency  rounds of loads that resident warps wait for (Little's law)

How often a launch goes through a kernel's loops is told by bench/work.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from bench import flow, nvrtc, results, sass
from bench.asked import ask
from bench.cases import Case
from bench.devices import (
    CACHE_LATENCY_S,
    LATENCY_S,
    REGISTER_UNIT,
    REGISTERS,
    SYSTEM_SHARED_BYTES,
    Device,
)
from bench.instructions import WARP
from bench.results import OURS
from bench.work import WORK, Part, Work, warps
from gpuconv.backends.cuda.launch import Launch, Variant
from gpuconv.backends.cuda.source import kernels_folder


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
    own_warps = -(-threads // WARP)
    warp_registers = -(-resources.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    shared = launch.shared_bytes + resources.shared_bytes
    shared += SYSTEM_SHARED_BYTES * (device.architecture != "sm_75")
    # Registers are handed out by the four quarters of a multiprocessor.
    room = {
        "registers": REGISTERS // warp_registers // 4 * 4 // own_warps,
        "shared memory": device.shared_bytes // shared if shared else device.blocks,
        "threads": device.threads // (own_warps * WARP),
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
def compiled(variant: Variant, architecture: str) -> sass.Kernel:
    """Compile a kernel."""
    path = kernels_folder() / variant.file
    return sass.kernels(path, [variant.name], architecture)[variant.name]


def trip_of(kernel: sass.Kernel, part: Part) -> sass.Trip:
    """The usual trip through the loop of a part."""
    graph, architecture = kernel.graph, kernel.architecture
    if part.holds:
        ways = [sass.usual_trip(graph, loop, architecture, None) for loop in flow.loops(graph)]
        found = [way for way in ways if all(way.count(name) == n for name, n in part.holds)]
        if not found:
            raise ModelError(f"{kernel.name}: no loop holds {part.holds}")
        return max(found, key=lambda way: way.slots)
    if part.pick not in ("around", "edge", "edge inner"):
        return kernel.trip(part.pick, part.avoid)
    hot, trip = sass.hot_loop(graph, architecture, None, part.avoid)
    loops = flow.loops(graph)
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
    kernel = compiled(launch.variant, device.architecture)
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
        trip = trip_of(kernel, part)
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
            flying = max(flying, loaded * WARP * max(1.0, ahead))
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
