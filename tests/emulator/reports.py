"""What the runtime found, as sentences with file, line and threads."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np

from tests.emulator.places import UNKNOWN, Line, lines
from tests.emulator.runtime import Actor, Report


class Kind(Enum):
    """What can go wrong, in the order of reports.hpp."""

    race = 0
    out_of_bounds = 1
    uninitialised = 2
    copy_in_flight = 3
    misaligned = 4
    write_to_const = 5
    other_stack = 6
    divergent_barrier = 7
    missing_at_barrier = 8
    divergent_warp = 9
    missing_in_warp = 10
    not_in_mask = 11
    absent_lane = 12
    copy_not_awaited = 13
    too_many_barriers = 14
    shared_too_large = 15
    crashed = 16


class Activity(IntEnum):
    """What a thread was doing, in the order of reports.hpp."""

    running = 0
    at_barrier = 1
    in_warp = 2
    returned = 3


ACCESSES = ("read", "write", "atomic")
SHARED = -1


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a kernel. `other` is the second line of a conflict."""

    kind: Kind
    line: Line
    other: Line
    text: str

    def __str__(self) -> str:
        return self.text


class KernelError(RuntimeError):
    """A kernel did what it must not; `findings` tells each fault once."""

    def __init__(self, kernel: str, findings: Sequence[Finding]) -> None:
        super().__init__("\n  ".join([f"kernel {kernel}:", *map(str, findings)]))
        self.findings = tuple(findings)


def findings(reports: Sequence[Report], arrays: dict[int, np.ndarray]) -> list[Finding]:
    """Each fault once, by what and where. `arrays`: the arguments by number."""
    codes = [actor.place.code for report in reports for actor in (report.here, report.there)]
    where = lines(code for code in codes if code)
    result: dict[object, Finding] = {}
    for report in reports:
        here, there = (_line(actor, where) for actor in (report.here, report.there))
        kind = Kind(report.kind)
        key = (kind, report.argument, report.name, here, there)
        if key not in result:
            result[key] = Finding(kind, here, there, _sentence(kind, report, here, there, arrays))
    return list(result.values())


def _line(actor: Actor, where: dict[int, Line]) -> Line:
    """The debug information's answer, or what the source itself told."""
    found = where.get(actor.place.code, UNKNOWN)
    if found is UNKNOWN and actor.place.file:
        return Line(actor.place.file.decode().rpartition("/")[2], actor.place.line)
    return found


def _sentence(
    kind: Kind, report: Report, here: Line, there: Line, arrays: dict[int, np.ndarray]
) -> str:
    me, other = report.here, report.there
    by = f"at {here} by thread {_axes(me.thread)}"
    block = f"block {_axes(me.block)}"
    array = _array(report, arrays)
    access = f"{report.bytes}-byte {ACCESSES[me.access]}"
    name = report.name.decode()
    doing = {
        Activity.running: "is elsewhere",
        Activity.at_barrier: f"waits at __syncthreads at {there}",
        Activity.in_warp: f"waits in a warp operation at {there}",
        Activity.returned: "has returned",
    }[Activity(other.activity)]
    thread_there = f"thread {_axes(other.thread)}"
    match kind:
        case Kind.race:
            same_block = tuple(me.block) == tuple(other.block)
            what = f"race ({ACCESSES[me.access]} after {ACCESSES[other.access]}) on {array} {by}"
            if same_block:
                return f"{what} and {thread_there} at {there} [{_element(report, arrays)}, {block}]"
            return (
                f"{what} of {block} and {thread_there} of block {_axes(other.block)} at {there}"
                f" [{_element(report, arrays)}]"
            )
        case Kind.out_of_bounds:
            return f"out of bounds: {access} {_distance(report, array)} {by}, {block}"
        case Kind.uninitialised:
            return f"uninitialised: {access} of {array} {by} [{_element(report, arrays)}, {block}]"
        case Kind.copy_in_flight:
            return (
                f"copy in flight: {access} of {array} {by}, before the cp.async of {thread_there}"
                f" at {there} was waited for [{_element(report, arrays)}, {block}]"
            )
        case Kind.misaligned:
            return f"misaligned: {access} of {array} {by} [{_element(report, arrays)}, {block}]"
        case Kind.write_to_const:
            return f"write to const: {access} of {array}, whose parameter points to const, {by}"
        case Kind.other_stack:
            return f"out of bounds: {access} of another thread's local memory {by}, {block}"
        case Kind.divergent_barrier:
            return (
                f"divergent __syncthreads {by} and {thread_there} at {there}: one barrier for all"
                f" threads of the block [{block}]"
            )
        case Kind.missing_at_barrier:
            return f"divergent __syncthreads {by}: {thread_there} {doing} [{block}]"
        case Kind.divergent_warp:
            return f"divergent {name} {by}: {thread_there} is at {there} [{block}]"
        case Kind.missing_in_warp:
            mask = f"{report.mask:#010x}"
            return f"divergent {name} (mask {mask}) {by}: {thread_there} {doing} [{block}]"
        case Kind.not_in_mask:
            return f"{name} {by}, which is not in its own mask {report.mask:#010x} [{block}]"
        case Kind.absent_lane:
            return f"{name} {by} reads a lane that does not exist or is not in the mask [{block}]"
        case Kind.copy_not_awaited:
            return (
                f"copy not awaited: the cp.async {by} is under way when the kernel ends [{block}]"
            )
        case Kind.too_many_barriers:
            return "more barriers in a block than the checker can count (65,535)"
        case Kind.shared_too_large:
            return (
                f"shared memory: {report.bytes} bytes a block with {name},"
                f" at most {report.array_bytes} are there"
            )
        case Kind.crashed:
            what = "division by zero" if report.bytes == signal.SIGFPE else "segmentation fault"
            return f"{what} {by}, {block}; the check build may tell more"


def _axes(numbers: Sequence[int]) -> str:
    return "({},{},{})".format(*numbers)


def _array(report: Report, arrays: dict[int, np.ndarray]) -> str:
    if report.argument == SHARED:
        return f"shared array {report.name.decode()}"
    if report.argument in arrays:
        array = arrays[report.argument]
        shape = "×".join(map(str, array.shape))
        return f"argument {report.argument} ({array.dtype}, {shape})"
    return "memory that is no argument"


def _element(report: Report, arrays: dict[int, np.ndarray]) -> str:
    """Which element: its number in a shared array, its index in an argument, or its byte."""
    array = arrays.get(report.argument)
    if report.argument == SHARED:
        return f"element {report.offset // report.element_bytes}"
    if array is None or not array.flags.c_contiguous:
        return f"byte {report.offset}"
    index = np.unravel_index(report.offset // array.itemsize, array.shape)
    return f"element ({','.join(str(int(i)) for i in index)})"


def _distance(report: Report, array: str) -> str:
    """Where an access lies that is not inside its array."""
    end, size = report.offset + report.bytes, report.array_bytes
    if report.argument != SHARED and array.startswith("memory"):
        return f"of {array}, address {report.offset % 2**64:#x},"
    if report.offset < 0:
        return f"{-report.offset} bytes before the start of {array} of {size} bytes"
    if report.offset >= size:
        return f"{report.offset - size} bytes after the end of {array} of {size} bytes"
    if end > size:
        return f"across the end of {array} of {size} bytes"
    return f"between the elements of {array}"
