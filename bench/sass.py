"""What the hot loop of a CUDA kernel costs, read from its machine code; no GPU is needed.

    python -m bench.sass kernels_cu/dense.cu 'dense_small<uint8, 3>' [--arch sm_90]
    ... --loop 2 | --loop HMMA | --loop body      another loop: by number, by what it holds; no loop
    ... --avoid REGEX                             blocks that the usual trip never enters
    ... --outputs N                               outputs of a thread and trip: limits an output
    ... --code                                    the instructions of the usual trip

The control flow graph of the kernel gives its loops. The hot loop is the one whose own blocks,
without loops inside it, hold most arithmetic; of loops that hold about the same, the one with the
fewest instructions for it (the interior beside the edges). A trip is the usual way through it: it
stays clear of calls, jump tables, divergence handlers and, where a loop reads or writes packs, of
element-wise accesses; it writes as much as any such way, stores nearly as much in shared memory,
does nearly as much arithmetic and loads at least half as much; of the ways left it is the shortest,
as what edges and rare requests need is added to the rest. Instructions under a predicate count:
they are issued.

The unit of costs is the clock of one multiprocessor for one warp and trip: bench/instructions.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from bench import nvrtc
from bench.flow import Block, Loop, blocks, loops, topological, whole
from bench.instructions import PIPE_NAMES, RATES, WARP, Instruction, costs

ARITHMETIC = re.compile(
    r"(FFMA2?|FMUL2?|FADD2?|H(FMA2|ADD2|MUL2|MNMX2|MMA)|IMMA|IDP|IMNMX|VIMNMX3?|VHMNMX|FMNMX3?|"
    r"D(FMA|ADD|MUL|MNMX|MMA))\b"
)
"""What a hot loop is known by. IMAD does not count: most of them make addresses or move numbers."""

GLOBAL = ("LDG", "STG", "LDGSTS", "LD", "ST")
NARROW_BYTES, WIDE_BYTES = 4, 16

NEVER = re.compile(r"(CALL|BRXU?|JMX)\b")
"""What a usual trip stays clear of."""

# ---------------------------------------------------------------- the usual trip


@dataclass(frozen=True)
class Trip:
    """The instructions of one way through a loop, and what they cost on `architecture`."""

    instructions: tuple[Instruction, ...]
    architecture: str

    @cached_property
    def opcodes(self) -> Counter[str]:
        """How many there are of each opcode, with its modifiers."""
        return Counter(i.opcode for i in self.instructions)

    @property
    def slots(self) -> int:
        """Warp instructions that are issued."""
        return len(self.instructions)

    @property
    def arithmetic(self) -> int:
        """Those that the work is made of."""
        return sum(map(_is_arithmetic, self.instructions))

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches a regular expression from its beginning."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode))

    def lanes(self, kind: str) -> int:
        """Instructions of a class of PIPES."""
        return sum(i.kind == kind for i in self.instructions)

    @cached_property
    def clocks(self) -> dict[str, float]:
        """Clocks of a multiprocessor that each pipe is busy for one warp; `issue` for slots."""
        spent = dict.fromkeys(("issue", *PIPE_NAMES), 0.0)
        for instruction in self.instructions:
            for pipe, clocks in costs(instruction, self.architecture).items():
                spent[pipe] += clocks
        return spent

    def limiter(self) -> tuple[str, float]:
        """The pipe that is busy longest, and how long."""
        return max(self.clocks.items(), key=lambda item: item[1])


def _is_arithmetic(instruction: Instruction) -> bool:
    moves = instruction.root == "HFMA2" and "-RZ, RZ" in instruction.operands
    return bool(ARITHMETIC.match(instruction.opcode)) and not moves


SHARES = {"arithmetic": 0.85, "stored": 0.85, "loaded": 0.5}
"""What a usual trip has at least of the most that ways through the loop have."""

OFF, WRITTEN = -1e9, 1e5
"""Worth of what is to be avoided and of a byte written, in instructions: they come first."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a block adds to a way through a loop.

    off : instructions that a usual trip stays clear of.
    written, stored, loaded : bytes of a lane, to memory, to shared memory and from memory.
    """

    off: int = 0
    arithmetic: int = 0
    written: int = 0
    stored: int = 0
    loaded: int = 0
    slots: int = 0

    def worth(self, weights: Mapping[str, float]) -> float:
        """In instructions saved; `weights` of the names of SHARES."""
        more = sum(weight * getattr(self, name) for name, weight in weights.items())
        return OFF * self.off + WRITTEN * self.written + more - self.slots


Through = Callable[[int, int | None], Step]
"""(block, the block after it or None) → what it adds."""


def usual_trip(
    graph: Sequence[Block], loop: Loop, architecture: str, avoid: str | None = None
) -> Trip:
    """The usual way through a loop, from its first block back to it (see the top of this file).

    Arithmetic and bytes are given just as much weight, beside instructions, as it takes until the
    best way has its share of each (Lagrange's multipliers).
    """
    own = [i for n in loop.own for i in graph[n].instructions]
    packs = any(i.root in GLOBAL and i.lane_bytes >= WIDE_BYTES for i in own)

    def off(instruction: Instruction) -> bool:
        narrow = packs and instruction.root in GLOBAL and instruction.lane_bytes < NARROW_BYTES
        unwanted = avoid is not None and re.search(avoid, instruction.text)
        return narrow or bool(unwanted) or bool(NEVER.match(instruction.opcode))

    @cache
    def through(n: int, after: int | None) -> Step:
        return _step(graph[n], after, off) if n in loop.own else Step()

    least = {
        name: share * _total(_best_way(graph, loop, through, {name: 1e2}), through, name)
        for name, share in SHARES.items()
    }
    weights = dict.fromkeys(SHARES, 0.0)
    for _ in range(60):
        way = _best_way(graph, loop, through, weights)
        lacking = [name for name in SHARES if _total(way, through, name) < least[name]]
        if not lacking:
            break
        for name in lacking:
            weights[name] = max(0.25, 1.25 * weights[name])
    chosen = [i for n, _ in way if n in loop.own for i in graph[n].instructions]
    return Trip(tuple(chosen), architecture)


def _step(block: Block, after: int | None, off: Callable[[Instruction], bool]) -> Step:
    """What a block adds to a way that goes on to block `after`.

    Where it ends in a branch under a predicate, what else stands under it is known to be done, or
    not to be.
    """
    last = block.instructions[-1]
    undone = None
    if last.root == "BRA" and last.predicate:
        falls = after == block.number + 1
        undone = last.predicate if falls else _opposite(last.predicate)
    done = [i for i in block.instructions if not i.predicate or i.predicate != undone]
    return Step(
        off=sum(map(off, done)),
        arithmetic=sum(map(_is_arithmetic, done)),
        written=sum(i.lane_bytes for i in done if i.root in ("STG", "ST")),
        stored=sum(i.lane_bytes for i in done if i.root in ("STS", "STSM")),
        loaded=sum(i.lane_bytes for i in done if i.root in ("LDG", "LD", "LDGSTS")),
        slots=len(block.instructions),
    )


def _opposite(predicate: str) -> str:
    return "@" + predicate[2:] if predicate[1] == "!" else "@!" + predicate[1:]


Way = list[tuple[int, int | None]]
"""Blocks, each with the one after it."""


def _total(way: Way, through: Through, name: str) -> int:
    return sum(getattr(through(*step), name) for step in way)


def _best_way(
    graph: Sequence[Block], loop: Loop, through: Through, weights: Mapping[str, float]
) -> Way:
    """The way through a loop that is worth most; it ends where it begins again, or leaves.

    Loops within are passed through once: their blocks add nothing.
    """
    order = topological(graph, loop)
    place = {n: at for at, n in enumerate(order)}
    ends = {n: loop.header for n in loop.members if loop.header in graph[n].following}
    leaves = {n: None for n in loop.members if not graph[n].following}
    best: dict[int, tuple[float, int | None]] = {loop.header: (0.0, None)}

    def worth(n: int, after: int | None) -> float:
        return best[n][0] + through(n, after).worth(weights)

    for n in order:
        for after in graph[n].following if n in best else ():
            if place.get(after, -1) > place[n]:
                value = worth(n, after)
                if after not in best or value > best[after][0]:
                    best[after] = value, n
    last = {n: worth(n, after) for n, after in (ends or leaves).items() if n in best}
    at: int | None = max(last, key=lambda n: last[n])
    after = (ends or leaves)[at]
    way: Way = []
    while at is not None:
        way.append((at, after))
        at, after = best[at][1], at
    return way[::-1]


ALIKE = 0.8
"""Loops with at least this share of the most arithmetic are of equal rank."""


def hot_loop(
    graph: Sequence[Block], architecture: str, pick: str | None = None, avoid: str | None = None
) -> tuple[Loop, Trip]:
    """The loop that counts, and its usual trip.

    `pick`: None for the rule above, "body" for the kernel without its loops, a number among
    `loops`, or a regular expression: the loop with most opcodes that match. Loops that can't be
    gone through without what is to be avoided are none of them.
    """
    found = loops(graph)
    if pick == "body" or (pick is None and not found):
        loop = whole(graph)
        return loop, usual_trip(graph, loop, architecture, avoid)
    if pick is not None and pick.isdigit():
        return found[int(pick)], usual_trip(graph, found[int(pick)], architecture, avoid)
    trips = [usual_trip(graph, loop, architecture, avoid) for loop in found]
    merits = [trip.count(pick) if pick else trip.arithmetic for trip in trips]
    if avoid is not None:
        met = [any(re.search(avoid, i.text) for i in trip.instructions) for trip in trips]
        merits = [0 if off else merit for off, merit in zip(met, merits, strict=True)]
    if not any(merits):
        if pick:
            raise ValueError(f"no loop holds {pick}")
        return found[0], trips[0]
    alike = [n for n, merit in enumerate(merits) if merit >= ALIKE * max(merits)]
    best = min(alike, key=lambda n: trips[n].slots / merits[n])
    return found[best], trips[best]


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: its graph, and what it takes of a multiprocessor."""

    name: str
    architecture: str
    graph: tuple[Block, ...]
    resources: nvrtc.Resources

    def trip(self, pick: str | None = None, avoid: str | None = None) -> Trip:
        """The usual trip of its hot loop."""
        return hot_loop(self.graph, self.architecture, pick, avoid)[1]

    def opcodes(self) -> Counter[str]:
        """Of the whole kernel."""
        return Counter(i.opcode for block in self.graph for i in block.instructions)


def kernels(path: Path, names: Sequence[str], architecture: str) -> dict[str, Kernel]:
    """Compile kernels of a file and take them apart.

    Raises
    ------
    nvrtc.MissingToolError : NVRTC, CUDA's headers or nvdisasm are not installed.
    nvrtc.NvrtcError : the file does not compile.
    """
    compiled = nvrtc.compile_cuda(path, architecture, names)
    code = nvrtc.functions(nvrtc.machine_code(compiled.cubin))
    return {
        name: Kernel(
            name,
            architecture,
            tuple(blocks(code[compiled.symbols[name]])),
            compiled.resources[name],
        )
        for name in names
    }


# ---------------------------------------------------------------- the command line


def table(trip: Trip, outputs: float) -> str:
    """What a trip costs, pipe by pipe."""
    lines = [f"{'pipe':9}{'clocks':>8}{'of issue':>10}{'outputs/clock/SM':>18}   instructions"]
    issue = trip.clocks["issue"]
    for pipe, clocks in trip.clocks.items():
        if not clocks:
            continue
        users = Counter(
            i.opcode
            for i in trip.instructions
            if pipe != "issue" and pipe in costs(i, trip.architecture)
        )
        named = ", ".join(f"{n} {opcode}" for opcode, n in users.most_common(8))
        if pipe == "issue":
            named = f"{trip.slots} slots, {trip.slots / outputs:.2f} an output"
        limit = WARP * outputs / clocks
        lines.append(f"{pipe:9}{clocks:8.2f}{clocks / issue:10.0%}{limit:18.2f}   {named}")
    control = Counter(i.opcode for i in trip.instructions if i.kind in ("control", "unknown"))
    lines.append("no pipe  " + ", ".join(f"{n} {opcode}" for opcode, n in control.most_common(12)))
    unknown = sorted({i.opcode for i in trip.instructions if i.kind == "unknown"})
    if unknown:
        lines.append("taken as alu, unknown: " + ", ".join(unknown))
    return "\n".join(lines)


def listing(kernel: Kernel, chosen: Loop, avoid: str | None) -> Iterator[str]:
    """A line a loop."""
    for number, loop in enumerate(loops(kernel.graph)):
        trip = usual_trip(kernel.graph, loop, kernel.architecture, avoid)
        first = kernel.graph[loop.header].instructions[0].address
        held = sum(len(kernel.graph[n].instructions) for n in loop.own)
        memory = Counter(i.opcode for i in trip.instructions if i.kind == "memory")
        named = ", ".join(f"{n} {opcode}" for opcode, n in memory.most_common(5))
        mark = "*" if loop == chosen else " "
        yield (
            f"{mark}{number:3}  at {first:05x}  {held:5} instructions, usual trip {trip.slots:5}, "
            f"arithmetic {trip.arithmetic:5}   {named}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a kernel's loops and what its hot loop costs."""
    parser = argparse.ArgumentParser("python -m bench.sass", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="a .cu file")
    parser.add_argument("kernel", help="as C++ writes it: 'dense_small<uint8, 3>'")
    parser.add_argument("--arch", default="sm_90", choices=RATES)
    parser.add_argument("--loop", metavar="N|REGEX|body", help="another loop than the usual rule's")
    parser.add_argument("--avoid", metavar="REGEX", help="instructions that no usual trip meets")
    parser.add_argument("--outputs", type=float, default=1, help="of a thread and trip")
    parser.add_argument("--code", action="store_true", help="print the trip's instructions")
    options = parser.parse_args(argv)
    try:
        kernel = kernels(options.file, [options.kernel], options.arch)[options.kernel]
        loop, trip = hot_loop(kernel.graph, options.arch, options.loop, options.avoid)
    except (nvrtc.MissingToolError, nvrtc.NvrtcError, OSError, ValueError, IndexError) as error:
        parser.error(str(error))
    if options.code:
        print(*(i.text for i in trip.instructions), sep="\n")
    whole_code = kernel.opcodes()
    local = sum(n for opcode, n in whole_code.items() if re.match("LDL|STL", opcode))
    print(
        f"{kernel.name} on {options.arch}: {kernel.resources.registers} registers, "
        f"{kernel.resources.shared_bytes} bytes of static shared memory, "
        f"{kernel.resources.spilled_bytes} spilled, {local} local accesses, "
        f"{sum(whole_code.values())} instructions\n"
    )
    print(*listing(kernel, loop, options.avoid), sep="\n")
    print(f"\nOne warp, one trip of the usual way ({trip.arithmetic} arithmetic):\n")
    print(table(trip, options.outputs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
