"""The control flow graph of a kernel's machine code, and its loops."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.instructions import Instruction


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions that run one after the other, and the numbers of the blocks that may follow."""

    number: int
    instructions: tuple[Instruction, ...]
    following: tuple[int, ...]


LINE = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:\{\s*)?(?P<predicate>@!?U?P\w+)?\s*"
    r"(?P<opcode>[A-Z][\w.]*)\s*(?P<operands>.*?)\s*;"
)
LABEL = re.compile(r"^(\.L_x_\d+|\$?[\w$.]+):\s*$")
TARGET = re.compile(r"`\(([^)]+)\)")
TARGETS = re.compile(r'BRANCH_TARGETS\s+([^"]+)"')
LEAVES = ("EXIT", "RET", "KILL")
JUMPS = ("BRA", "BRX", "BRXU", "JMP", "JMX")


def blocks(code: str) -> list[Block]:
    """The control flow graph of a kernel's SASS; block 0 is its entry."""
    instructions, labels, jumps = _parsed(code)
    starts = {0, *labels.values()}
    starts |= {at + 1 for at, i in enumerate(instructions) if i.root in (*JUMPS, *LEAVES)}
    edges = sorted(s for s in starts if s < len(instructions))
    number = {start: n for n, start in enumerate(edges)}
    found = []
    for n, start in enumerate(edges):
        end = edges[n + 1] if n + 1 < len(edges) else len(instructions)
        last = instructions[end - 1]
        following = [number[labels[t]] for t in jumps.get(end - 1, ()) if labels.get(t) in number]
        if last.opcode.startswith("BRA.DIV"):  # lanes that have come apart: never in these kernels
            following = []
        # A jump may have a condition among its operands as well: "@P0 BRA P1, ...".
        conditional = last.predicate or re.match(r"!?U?P\d", last.operands)
        goes_on = last.root not in (*JUMPS, *LEAVES) or conditional
        if (goes_on or last.opcode.startswith("BRA.DIV")) and n + 1 < len(edges):
            following.append(n + 1)
        found.append(Block(n, tuple(instructions[start:end]), tuple(dict.fromkeys(following))))
    return found


def _parsed(
    code: str,
) -> tuple[list[Instruction], dict[str, int], dict[int, list[str]]]:
    """Instructions, the place of each label, and the labels that each jump may go to."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    jumps: dict[int, list[str]] = {}
    for line in code.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := LINE.match(line):
            one = Instruction(
                int(found["address"], 16),
                found["predicate"] or "",
                found["opcode"],
                found["operands"],
            )
            if one.root in JUMPS:
                several = TARGETS.search(line)
                names = several[1].split(",") if several else TARGET.findall(line)
                jumps[len(instructions)] = [name.strip() for name in names]
            instructions.append(one)
    return instructions, labels, jumps


# ---------------------------------------------------------------- loops


@dataclass(frozen=True, slots=True)
class Loop:
    """A natural loop: the block it begins with, all its blocks, and those of no loop within it."""

    header: int
    members: frozenset[int]
    own: frozenset[int]


def loops(graph: Sequence[Block]) -> list[Loop]:
    """All loops, the innermost first."""
    dominators = _dominators(graph)
    before: dict[int, set[int]] = {block.number: set() for block in graph}
    for block in graph:
        for after in block.following:
            before[after].add(block.number)
    bodies: dict[int, set[int]] = {}
    for block in graph:
        for header in block.following:
            if header not in dominators.get(block.number, ()):
                continue
            body, wanted = bodies.setdefault(header, {header}), [block.number]
            while wanted:
                at = wanted.pop()
                if at not in body and at in dominators:
                    body.add(at)
                    wanted.extend(before[at])
    found = []
    for header, body in sorted(bodies.items(), key=lambda item: (len(item[1]), item[0])):
        inner = [other for h, other in bodies.items() if h != header and other < body]
        found.append(Loop(header, frozenset(body), frozenset(body.difference(*inner))))
    return found


def whole(graph: Sequence[Block]) -> Loop:
    """The kernel itself, from its entry to its end, as if it were a loop."""
    inner = set().union(*(loop.members for loop in loops(graph)))
    members = frozenset(_dominators(graph))
    return Loop(0, members, members - inner)


def _dominators(graph: Sequence[Block]) -> dict[int, set[int]]:
    """The blocks that every way from the entry to a block passes; none for blocks out of reach."""
    reached, wanted = {0}, [0]
    while wanted:
        new = set(graph[wanted.pop()].following) - reached
        reached |= new
        wanted.extend(new)
    before: dict[int, set[int]] = {n: set() for n in reached}
    for n in reached:
        for after in graph[n].following:
            before[after].add(n)
    found = {n: set(reached) for n in reached}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for n in sorted(reached - {0}):
            new = {n} | set.intersection(*(found[p] for p in before[n]))
            if new != found[n]:
                found[n], changed = new, True
    return found


def topological(graph: Sequence[Block], loop: Loop) -> list[int]:
    """A loop's blocks, each after those that lead to it, back edges aside."""
    done: list[int] = []
    seen = {loop.header}
    stack: list[tuple[int, Iterator[int]]] = [(loop.header, iter(graph[loop.header].following))]
    while stack:
        n, rest = stack[-1]
        after = next((a for a in rest if a in loop.members and a not in seen), None)
        if after is None:
            done.append(n)
            stack.pop()
        else:
            seen.add(after)
            stack.append((after, iter(graph[after].following)))
    return done[::-1]
