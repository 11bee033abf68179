"""What the runner needs of a library, gpuconv or peer, to do a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from bench import clock, machine
from bench.cases import Arrays, Case


class UnsupportedError(Exception):
    """A library has no such operation; the message says why."""


def as_is(result: Any) -> Any:
    """A result that means what ours means."""
    return result


@dataclass(frozen=True, slots=True)
class Call:
    """How a library does a case.

    `run(*arrays, out=...)` returns the result. `out` is an array to fill where `fills_out`, else
    None. `ours` turns the result into our units. Where `same_border` is False the library can't be
    told our border, and only the inside of its result is compared.
    """

    run: Callable[..., Any]
    fills_out: bool = True
    ours: Callable[[Any], Any] = as_is
    same_border: bool = True
    note: str = ""


class Library:
    """A library that does some of the cases: a method named after the operation returns a Call.

    Each is called as its fast user would: inputs in its own form already, the output allocated
    before where it takes one, its threads set to the number that all get.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    lacks: ClassVar[tuple[str, ...]] = ()
    """Dtypes that it does not take."""
    device = "cpu"

    def missing(self) -> str | None:
        """Why it can't be used here, or None."""
        for module in self.modules:
            if find_spec(module.partition(".")[0]) is None:
                return f"{module} is not installed"
        return None

    def start(self, threads: int) -> None:
        """Import it and set its threads."""

    def version(self) -> str:
        """Of the package."""
        return machine.version(*self.packages)

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        """Its way to do a case, or an UnsupportedError."""
        if case.dtype.name in self.lacks:
            raise UnsupportedError(f"takes no {case.dtype}")
        method: Callable[[Case], Call] | None = getattr(self, case.operation, None)
        if method is None:
            raise UnsupportedError(f"has no {case.operation}")
        return method(case)

    def load(self, array: Any) -> Any:
        """A host array in the library's form."""
        return array

    def empty(self, spec: Any) -> Any:
        """An output to fill, its memory touched."""
        return np.full(spec.shape, 1, spec.dtype)

    def fetch(self, result: Any) -> Any:
        """A result as a host array."""
        return np.asarray(result)

    def seconds(self, work: Callable[[], None]) -> float:
        """Time of `work`."""
        return clock.SECONDS[self.device](work)

    def extra_bytes(self, work: Callable[[], Any]) -> int | None:
        """The most memory held during `work` beyond what was held before; None if unknown."""
        if not machine.restart_peak():
            return None
        before = machine.resident_bytes()
        work()
        return max(0, machine.peak_bytes() - before)


def pair(value: Any) -> tuple[Any, Any]:
    """(y, x) from one value or two."""
    y, x = value if isinstance(value, (tuple, list)) else (value, value)
    return y, x


def on_axes(case: Case, value: Any, neutral: Any) -> tuple[Any, ...]:
    """One value an axis of the images: `value` along H and W, `neutral` along the others."""
    last = (neutral,) * ("channel_axis" in case.arguments)
    return (neutral,) * (len(case.shape) - 2 - len(last)) + pair(value) + last


def height_axis(case: Case) -> int:
    """The axis of H, counted from the end."""
    return -3 if "channel_axis" in case.arguments else -2


def gaussian_radius(sigma: float, truncate: float = 4.0) -> int:
    """Pixels on each side of the middle."""
    return int(truncate * sigma + 0.5)


def gaussian_taps(sigma: float) -> Any:
    """The normalised bell."""
    radius = gaussian_radius(sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


def sharpening(amount: float) -> Any:
    """The 3×3 kernel of `sharpen`."""
    a = amount
    return np.array([[0, -a, 0], [-a, 1 + 4 * a, -a], [0, -a, 0]])


SMOOTH, DERIVE = (1, 2, 1), (-1, 0, 1)
"""The factors of a Sobel kernel."""
