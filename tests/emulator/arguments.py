"""Arguments of a launch: held against the kernel's signature, laid out in memory, copied back.

A checked launch gives the kernel copies of its arrays that lie apart from each other, each placed
as CuPy would place it: the allocation that it is a view of starts at a multiple of 512 bytes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tests.emulator.runtime import GlobalArray

ALIGNMENT = 512
STRUCT_ALIGNMENT = 128
GAP = 4096
"""Bytes between two arrays: an overrun must not land in the next."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a kernel takes.

    kind           p pointer, c pointer to const, i u f number, s struct
    bytes          of the value itself
    element_bytes  of what a pointer points to; 0 for void
    to_number      whether that is a plain number
    """

    kind: str
    bytes: int
    element_bytes: int = 0
    to_number: bool = False

    def takes(self, array: np.ndarray) -> bool:
        """Whether an array's elements are what this pointer points to, or make it up."""
        if self.to_number:
            return array.itemsize == self.element_bytes
        return self.element_bytes % array.itemsize == 0


@dataclass(slots=True)
class Arguments:
    """The arguments of one launch, ready for the runtime."""

    pointers: ctypes.Array[ctypes.c_void_p]
    arrays: dict[int, np.ndarray]
    regions: list[GlobalArray] = field(default_factory=list)
    copies: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)

    def set(self, number: int, value: bytes) -> None:
        """Let parameter `number` have these bytes, aligned as any struct may need it."""
        buffer = ctypes.create_string_buffer(len(value) + STRUCT_ALIGNMENT)
        address = ctypes.addressof(buffer)
        address += -address % STRUCT_ALIGNMENT
        ctypes.memmove(address, value, len(value))
        self.keep.append(buffer)
        self.pointers[number] = address

    def set_pointer(self, number: int, address: int) -> None:
        """Let parameter `number` point to `address`."""
        self.set(number, address.to_bytes(ctypes.sizeof(ctypes.c_void_p), sys.byteorder))

    def copy_back(self) -> None:
        """Give the callers' arrays what the kernel wrote."""
        for array, copy in self.copies:
            array[...] = copy


def pack(values: Sequence[Any], signature: Sequence[Parameter], checked: bool) -> Arguments:
    """Lay out `values` for a kernel.

    Raises
    ------
    TypeError : their number, or the kind or size of one, is not the kernel's.
    ValueError : a read-only array for a parameter that is written through.
    """
    if len(values) != len(signature):
        raise TypeError(f"args must be {len(signature)} values, got {len(values)}")
    result = Arguments((ctypes.c_void_p * max(1, len(values)))(), {})
    for number, (value, parameter) in enumerate(zip(values, signature, strict=True)):
        if parameter.kind not in "pc":
            result.set(number, _by_value(number, value, parameter))
        elif isinstance(value, np.ndarray):
            if parameter.kind == "p" and not value.flags.writeable:
                raise ValueError(f"args[{number}] must be writable: its parameter is not const")
            result.arrays[number] = value
            if not parameter.takes(value):
                raise TypeError(
                    f"args[{number}] must be an array of {parameter.element_bytes}-byte elements,"
                    f" got {value.dtype}"
                )
            result.set_pointer(number, value.ctypes.data)
        elif value is None or (isinstance(value, (int, np.integer)) and value == 0):
            result.set_pointer(number, 0)
        else:
            raise TypeError(f"args[{number}] must be an array, got {type(value).__name__}")
    if checked:
        _move_apart(result, signature)
    return result


def _by_value(number: int, value: Any, parameter: Parameter) -> bytes:
    """A number, or a struct given as bytes, a structured scalar or an array of one element."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        data, kind = bytes(value), "s"
    elif isinstance(value, (bool, int, float, np.generic, np.ndarray)):
        array = np.asarray(value)
        if array.size != 1:
            raise TypeError(f"args[{number}] must be one value, got an array of {array.shape}")
        data, kind = array.tobytes(), {"V": "s", "b": "u"}.get(array.dtype.kind, array.dtype.kind)
    else:
        raise TypeError(f"args[{number}] must be a number or a struct, got {type(value).__name__}")
    fits = parameter.kind == "s" or kind == parameter.kind or {kind, parameter.kind} == {"i", "u"}
    if not fits or len(data) != parameter.bytes:
        names = {"i": "integer", "u": "integer", "f": "float", "s": "struct"}
        raise TypeError(
            f"args[{number}] must be a {names[parameter.kind]} of {parameter.bytes} bytes, got"
            f" {value!r:.60} of {len(data)} bytes"
        )
    return data


def _owner_address(array: np.ndarray) -> int:
    """Where the allocation starts that `array` is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return min(byte_bounds(array)[0], array.ctypes.data)


def _groups(arrays: dict[int, np.ndarray]) -> list[tuple[int, int, list[int]]]:
    """(first byte, end, numbers) of each set of arrays that overlap, and of each other array."""
    spans = sorted((*byte_bounds(array), number) for number, array in arrays.items())
    groups: list[tuple[int, int, list[int]]] = []
    for low, high, number in spans:
        if arrays[number].size == 0:
            high = low
        if groups and low < groups[-1][1]:
            first, end, numbers = groups[-1]
            groups[-1] = (first, max(end, high), [*numbers, number])
        else:
            groups.append((low, high, [number]))
    return groups


def _move_apart(arguments: Arguments, signature: Sequence[Parameter]) -> None:
    """Copy the arrays into a buffer of their own, with gaps, and tell the checker their bounds."""
    groups = _groups(arguments.arrays)
    total = sum(high - low + GAP + 2 * ALIGNMENT for low, high, _ in groups)
    buffer = np.empty(total + ALIGNMENT + GAP, np.uint8)
    arguments.keep.append(buffer)
    place = buffer.ctypes.data
    for low, high, numbers in groups:
        owner = _owner_address(arguments.arrays[numbers[0]])
        # As far behind a multiple of 512 as the group lies behind its allocation's start; an
        # allocation that is not aligned itself (a file in memory, say) stays so.
        wanted = (owner % 16 + low - owner) % ALIGNMENT
        place += GAP
        place += (wanted - place) % ALIGNMENT
        ctypes.memmove(place, low, high - low)
        offset = place - buffer.ctypes.data
        covered = False
        for number in numbers:
            array = arguments.arrays[number]
            start = offset + array.ctypes.data - low
            moved = np.ndarray(array.shape, array.dtype, buffer, start, array.strides)
            arguments.set_pointer(number, place + array.ctypes.data - low)
            if signature[number].kind == "p":
                arguments.copies.append((array, moved))
            covered |= array.nbytes == high - low
        arguments.regions.append(
            GlobalArray(
                address=place,
                bytes=high - low,
                element_bytes=min(arguments.arrays[n].itemsize for n in numbers),
                argument=numbers[0],
                read_only=all(signature[n].kind == "c" for n in numbers),
                valid=None if covered else _valid_bytes(arguments, numbers, low, high),
            )
        )
        place += high - low


def _valid_bytes(arguments: Arguments, numbers: Sequence[int], low: int, high: int) -> int:
    """The address of a mask: 1 for each byte that belongs to an element of one of the arrays."""
    mask = np.zeros(high - low, np.uint8)
    for number in numbers:
        array = arguments.arrays[number]
        shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
        np.ndarray(shape, np.uint8, mask, array.ctypes.data - low, strides)[...] = 1
    arguments.keep.append(mask)
    return mask.ctypes.data
