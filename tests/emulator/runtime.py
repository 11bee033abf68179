"""The structures that cross from Python into the emulator's runtime and back. Twin: launch.hpp."""

from __future__ import annotations

import ctypes
import threading
from enum import IntEnum

from tests.emulator.build import runtime_library

Three = ctypes.c_uint32 * 3

launch_lock = threading.Lock()
"""The runtime has one set of fibers: one launch at a time in a process."""


class Order(IntEnum):
    """In which order the threads of a block, and the blocks of a grid, take their turns."""

    forward = 0
    reverse = 1
    random = 2


class GlobalArray(ctypes.Structure):
    """An array that the kernel may touch."""

    _fields_ = [
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("element_bytes", ctypes.c_uint32),
        ("argument", ctypes.c_int32),
        ("read_only", ctypes.c_int32),
        ("valid", ctypes.c_void_p),
    ]


class Launch(ctypes.Structure):
    """One launch: what is wanted, and behind that what came of it."""

    _fields_ = [
        ("grid", Three),
        ("block", Three),
        ("dynamic_bytes", ctypes.c_uint32),
        ("shared_limit", ctypes.c_uint32),
        ("order", ctypes.c_int32),
        ("poison", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("early_copies", ctypes.c_int32),
        ("checked", ctypes.c_int32),
        ("counted", ctypes.c_int32),
        ("array_count", ctypes.c_uint32),
        ("arrays", ctypes.POINTER(GlobalArray)),
        ("shared_bytes", ctypes.c_uint32),
        ("report_count", ctypes.c_uint32),
        ("count_count", ctypes.c_uint64),
        ("switches", ctypes.c_uint64),
    ]


class Place(ctypes.Structure):
    """A code address, or a line of the source."""

    _fields_ = [("code", ctypes.c_uint64), ("file", ctypes.c_char_p), ("line", ctypes.c_int64)]


class Actor(ctypes.Structure):
    """A thread, where it is or was, and what it did there."""

    _fields_ = [
        ("place", Place),
        ("thread", Three),
        ("block", Three),
        ("access", ctypes.c_int32),
        ("activity", ctypes.c_int32),
    ]


class Report(ctypes.Structure):
    """Something that went wrong."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("argument", ctypes.c_int32),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("array_bytes", ctypes.c_uint64),
        ("element_bytes", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("name", ctypes.c_char * 44),
        ("here", Actor),
        ("there", Actor),
    ]


class Count(ctypes.Structure):
    """The requests that warps made from one place in the code."""

    _fields_ = [
        ("code", ctypes.c_uint64),
        ("shared", ctypes.c_int32),
        ("access", ctypes.c_int32),
        ("bytes", ctypes.c_uint64),
        ("requests", ctypes.c_uint64),
        ("transactions", ctypes.c_uint64),
        ("ideal", ctypes.c_uint64),
    ]


class Parameter(ctypes.Structure):
    """One parameter of a kernel; see export.hpp."""

    _fields_ = [
        ("kind", ctypes.c_char),
        ("to_number", ctypes.c_uint8),
        ("bytes", ctypes.c_uint32),
        ("element_bytes", ctypes.c_uint32),
    ]


def launch(
    wanted: Launch, body: int, arguments: ctypes.Array[ctypes.c_void_p]
) -> tuple[list[Report], list[Count]]:
    """Run a kernel's body over a grid. The caller holds `launch_lock`."""
    library = runtime_library()
    library.emulator_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    library.emulator_reports.restype = ctypes.POINTER(Report)
    library.emulator_counts.restype = ctypes.POINTER(Count)
    found = library.emulator_launch(ctypes.addressof(wanted), body, ctypes.addressof(arguments))
    reports, counts = library.emulator_reports(), library.emulator_counts()
    total = wanted.count_count if wanted.counted else 0
    return (
        [Report.from_buffer_copy(reports[i]) for i in range(found)],
        [Count.from_buffer_copy(counts[i]) for i in range(total)],
    )


def library_of(code: int) -> tuple[str, int] | None:
    """The file of the library that holds a code address, and where it was loaded."""
    library = runtime_library()
    library.emulator_library.argtypes = [ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    library.emulator_library.restype = ctypes.c_char_p
    base = ctypes.c_uint64()
    path = library.emulator_library(code, ctypes.byref(base))
    return (path.decode(), base.value) if path else None
