"""Launches are prepared once: a later call over arrays laid out alike only puts its arrays in.

A family decides by a plan and by how arrays lie, never by where or by what they hold. So it is
asked about stand-ins, arrays that lie alike but nowhere, and what it answers holds for every call
whose arrays have the same `layout`. Addresses of the stand-ins tell which argument of a launch is
a view of which array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.backends.cuda.launch import (
    ALIGNMENT,
    DeviceArray,
    Family,
    Launch,
    Launcher,
    Place,
    address,
)
from gpuconv.dtypes import DType
from gpuconv.plan import Plan

MOST_LAYOUTS = 64
"""Layouts of arrays that a plan's launches are kept for; then all are forgotten."""

MOST_LAUNCHES = 64
"""Of a call: more, over planes that no stride reaches, are made anew each time."""

APART = 48
"""Stand-ins lie 2^48 bytes from each other, at no rounder addresses than the arrays may have."""

Layout = tuple[Any, ...]


def layout(array: DeviceArray) -> Layout:
    """All of an array that launches may depend on."""
    return array.shape, array.strides, array.dtype, address(array) % ALIGNMENT


@dataclass(frozen=True, slots=True)
class Step:
    """A launch that is ready, the scratch that it is the first to use, and that it is the last to.

    scratch : (number among the call's arrays, shape, dtype) of each.
    """

    ready: Any
    scratch: tuple[tuple[int, tuple[int, ...], DType], ...]
    last: tuple[int, ...]


class StandIn(np.ndarray[Any, Any]):
    """An array of a call that is prepared. There is nothing where it lies."""


class _Nowhere:
    """Where a stand-in lies, told as NumPy can read it; never followed."""

    def __init__(self, number: int, laid: Layout) -> None:
        shape, strides, dtype, rest = laid
        self.__array_interface__ = {
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{dtype.itemsize}",
            "data": (_begin(number) + rest, False),
            "version": 3,
        }


def _begin(number: int) -> int:
    return (number + 1 << APART) + ALIGNMENT


def _stand_in(number: int, laid: Layout) -> npt.NDArray[Any]:
    return np.asarray(_Nowhere(number, laid)).view(StandIn).view(laid[2])


@dataclass(frozen=True, slots=True)
class _Constant:
    """Small weights that stay on the device."""

    values: npt.NDArray[Any]


class _Workspace:
    """The launcher that a family is given: what it gives lies nowhere."""

    def __init__(self, laid: Sequence[Layout], launcher: Launcher) -> None:
        self.laid = list(laid)
        self._launcher = launcher
        self.scratch: dict[int, tuple[tuple[int, ...], DType]] = {}

    def empty(self, shape: Sequence[int], dtype: DType) -> npt.NDArray[Any]:
        """A stand-in for scratch, which a device begins at a multiple of 256 bytes."""
        shape, number, strides = tuple(shape), len(self.laid), [dtype.itemsize]
        for size in shape[:0:-1]:
            strides.insert(0, strides[0] * size)
        self.laid.append((shape, tuple(strides), dtype, 0))
        self.scratch[number] = shape, dtype
        return _stand_in(number, self.laid[-1])

    @property
    def tensor_cores(self) -> bool:
        """Whether the launcher's device has them."""
        return self._launcher.tensor_cores

    def constant(self, array: npt.NDArray[Any]) -> _Constant:
        """The array, for the launcher."""
        return _Constant(array)

    def placed(self, argument: Any) -> Any:
        """The place of a stand-in's view; other arguments as they are."""
        if not isinstance(argument, StandIn):
            return argument
        at = address(argument)
        number = (at + (1 << APART - 1) >> APART) - 1
        offset = at - _begin(number) - self.laid[number][3]
        return Place(number, offset, argument.shape, argument.strides, argument.dtype)


def prepare(
    family: Family,
    plan: Plan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> tuple[Step, ...] | None:
    """The launches of a call, in their order; None where they are too many to keep."""
    workspace: Any = _Workspace([layout(array) for array in (*inputs, *outputs)], launcher)
    stand_ins = [_stand_in(number, laid) for number, laid in enumerate(workspace.laid)]
    made = family(plan, stand_ins[: len(inputs)], stand_ins[len(inputs) :], workspace)
    launches = list(islice(made, MOST_LAUNCHES + 1))
    if len(launches) > MOST_LAUNCHES:
        return None
    placed = [tuple(map(workspace.placed, launch.arguments)) for launch in launches]
    used = [{a.array for a in arguments if isinstance(a, Place)} for arguments in placed]
    steps = []
    for turn, (launch, arguments) in enumerate(zip(launches, placed, strict=True)):
        before, after = set().union(*used[:turn]), set().union(*used[turn + 1 :])
        scratch = sorted(used[turn] & workspace.scratch.keys())
        steps.append(
            Step(
                launcher.ready(_with_constants(launch, arguments, launcher), plan),
                tuple((n, *workspace.scratch[n]) for n in scratch if n not in before),
                tuple(n for n in scratch if n not in after),
            )
        )
    return tuple(steps)


def _with_constants(launch: Launch, arguments: tuple[Any, ...], launcher: Launcher) -> Launch:
    """The launch with places for its arrays, and constants on the device."""
    given = (launcher.constant(a.values) if isinstance(a, _Constant) else a for a in arguments)
    return replace(launch, arguments=tuple(given))


def carry_out(
    steps: Sequence[Step], plan: Plan, arrays: list[DeviceArray | None], launcher: Launcher
) -> None:
    """Launch what is prepared over `arrays`, inputs before outputs.

    Scratch is the call's own: calls on other streams have theirs.
    """
    for step in steps:
        for number, shape, dtype in step.scratch:
            arrays.extend([None] * (number + 1 - len(arrays)))
            arrays[number] = launcher.empty(shape, dtype)
        launcher.launch(step.ready, arrays, plan)
        for number in step.last:
            arrays[number] = None
