"""The speed goals of issue 4 against a results file: `python -m bench.goals FILE.jsonl`.

A goal is met where every case of the file that it covers is within its limit, or the median of
them where it says so. A case counts where the peer can do it. One that gpuconv itself gets wrong is
a miss.

Exit status: 0 whatever is met; 2 if the file holds no results of this number of threads.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bench.results import OURS, Line, latest, read
from bench.table import as_text, counted, origin, short

LINEAR = ("filter2d/*", "separable_filter2d/*", "gaussian_blur/*", "sharpen/*")
MORPHOLOGY = ("dilate/*", "erode/*")
FILTERS = (*LINEAR, *MORPHOLOGY, "box_blur/*", "median_blur/*", "sobel/*")
POOLS = ("max_pool2d/*", "avg_pool2d/*")


@dataclass(frozen=True, slots=True)
class Goal:
    """A claim about the cases whose names match `patterns`, in images of `megapixels`.

    `limit` is the least ratio of the peer's time to gpuconv's. Where the peer is gpuconv itself, it
    is the most MiB beyond input and output, and `a_thread` whether each thread may take as much.
    `of_median`: the median of the cases counts, not each. `stretch`: hoped for rather than asked.
    """

    claim: str
    peer: str
    patterns: tuple[str, ...]
    limit: float
    megapixels: tuple[float, float] = (0, math.inf)
    of_median: bool = False
    a_thread: bool = False
    stretch: bool = False

    @property
    def of_memory(self) -> bool:
        """Whether less is better."""
        return self.peer == OURS

    def covers(self, line: Line) -> bool:
        """Whether the claim is about this case."""
        least, most = self.megapixels
        named = any(fnmatchcase(line.name, pattern) for pattern in self.patterns)
        return named and least <= math.prod(line.shape[:3]) / 2**20 <= most

    def value(self, line: Line) -> float | None:
        """What a line of the peer reached; None where it has no such value."""
        if not self.of_memory:
            return line.ratio
        extra = line.peak_extra_bytes
        return None if extra is None else extra / 2**20 / (line.threads if self.a_thread else 1)

    def meets(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return value <= self.limit if self.of_memory else value >= self.limit

    def told(self, value: float) -> str:
        """A value with its unit."""
        return short(value) + (" MiB" if self.of_memory else "x")


SCIPY, OPENCV = (1, math.inf), (4, 16)
"""Megapixels of the images that the goals beside these libraries are about."""

GOALS = (
    Goal("SciPy: ≥ 7× for dense and separable filters", "scipy", LINEAR, 7, SCIPY),
    Goal("SciPy: median over cases ≥ 12×", "scipy", LINEAR, 12, SCIPY, of_median=True),
    Goal("SciPy: ≥ 12× morphology", "scipy", MORPHOLOGY, 12, SCIPY),
    Goal(
        "SciPy: ≥ 35× median 3×3 and 5×5 uint8",
        "scipy",
        ("median_blur/u8/*/3x3", "median_blur/u8/*/5x5"),
        35,
        SCIPY,
    ),
    Goal(
        "OpenCV: float32 dense K = 3, 5, 7 within 1.8×",
        "opencv",
        ("filter2d/f32/*/k3", "filter2d/f32/*/k5", "filter2d/f32/*/k7"),
        1 / 1.8,
        OPENCV,
    ),
    Goal("OpenCV: K = 11 within 1.5×", "opencv", ("filter2d/f32/*/k11",), 1 / 1.5, OPENCV),
    Goal("OpenCV: K = 15 ahead", "opencv", ("filter2d/f32/*/k15",), 1, OPENCV),
    Goal(
        "OpenCV: separable ≥ 7 taps level or ahead",
        "opencv",
        ("separable_filter2d/*/k7", "separable_filter2d/*/k[1-9][0-9]"),
        1,
        OPENCV,
    ),
    Goal(
        "OpenCV: separable ≥ 15 taps at least 1.4× faster",
        "opencv",
        ("separable_filter2d/*/k1[5-9]", "separable_filter2d/*/k[2-9][0-9]"),
        1.4,
        OPENCV,
    ),
    Goal(
        "OpenCV: Gaussian σ ≥ 3 at least 1.4× faster",
        "opencv",
        ("gaussian_blur/*/sigma3", "gaussian_blur/*/sigma10"),
        1.4,
        OPENCV,
    ),
    Goal("OpenCV: Sobel magnitude at least 1.6× faster", "opencv", ("sobel/*",), 1.6, OPENCV),
    Goal("OpenCV: uint8 K = 11 within 1.1×", "opencv", ("filter2d/u8/*/k11",), 1 / 1.1, OPENCV),
    Goal(
        "OpenCV: uint8 K ≥ 15 ahead",
        "opencv",
        ("filter2d/u8/*/k1[5-9]", "filter2d/u8/*/k[2-9][0-9]"),
        1,
        OPENCV,
    ),
    Goal("OpenCV: dilate 15×15 within 1.7×", "opencv", ("dilate/*/15x15",), 1 / 1.7, OPENCV),
    Goal(
        "OpenCV: uint8 3×3 within 1.4×",
        "opencv",
        ("filter2d/u8/*/k3",),
        1 / 1.4,
        OPENCV,
        stretch=True,
    ),
    Goal(
        "OpenCV: median uint8 within 3×",
        "opencv",
        ("median_blur/u8/*",),
        1 / 3,
        OPENCV,
        stretch=True,
    ),
    Goal(
        "PyTorch: 3×3 64→64 and 256→256 within 1.4×",
        "torch",
        ("conv2d/f32/*x64x56x56/3x3-64", "conv2d/f32/*/3x3-256"),
        1 / 1.4,
    ),
    Goal("PyTorch: 7×7 stride 2 ahead", "torch", ("conv2d/f32/*/7x7-*-s2",), 1),
    Goal("PyTorch: 1×1 ahead", "torch", ("conv2d/f32/*/1x1-*",), 1),
    Goal("PyTorch: depthwise within 1.3×", "torch", ("conv2d/f32/*-depthwise",), 1 / 1.3),
    Goal("PyTorch: max-pool at least 4× faster", "torch", ("max_pool2d/*",), 4),
    Goal("skimage block_reduce at least 10×", "skimage", POOLS, 10),
    Goal("peak extra memory ≤ 4 MiB a thread for image filters", OURS, FILTERS, 4, a_thread=True),
    Goal("peak extra memory ≤ 32 MiB for CNN layers", OURS, ("conv2d/*", *POOLS), 32),
)
"""What "Done when" of the issue asks, in its order. No dtype named: all that the peer takes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a file says of a goal: a value a case, None where gpuconv's own result is not right."""

    goal: Goal
    values: dict[str, float | None]

    @property
    def worst(self) -> str:
        """The case that is furthest from the limit on its wrong side."""

        def merit(name: str) -> float:
            value = self.values[name]
            if value is None:
                return -math.inf
            return -value if self.goal.of_memory else value

        return min(self.values, key=merit)

    @property
    def median(self) -> float | None:
        """Of the values that there are."""
        known = [value for value in self.values.values() if value is not None]
        return statistics.median(known) if known else None

    @property
    def misses(self) -> list[str]:
        """The cases that keep a goal from being met by all."""
        return [
            name
            for name, value in self.values.items()
            if value is None or not (self.goal.of_median or self.goal.meets(value))
        ]

    @property
    def met(self) -> bool:
        """Whether the file, which holds such a case, meets the goal."""
        if self.misses or self.median is None:
            return False
        return not self.goal.of_median or self.goal.meets(self.median)

    def told(self, name: str) -> str:
        """The value of a case."""
        value = self.values[name]
        return "not right" if value is None else self.goal.told(value)

    def row(self) -> list[str]:
        """A row of the table."""
        if not self.values:
            return [self.goal.claim, "0", "", "", "not measured", ""]
        middle = "" if self.median is None else self.goal.told(self.median)
        verdict = "met" if self.met else "MISSED"
        verdict += " (stretch)" * self.goal.stretch
        worst = self.told(self.worst)
        return [self.goal.claim, str(len(self.values)), worst, middle, verdict, self.worst]


HEADER = ["goal", "cases", "worst", "median", "", "worst case"]


def outcome(goal: Goal, lines: Sequence[Line]) -> Outcome:
    """A goal beside the lines of one device and number of threads."""
    values: dict[str, float | None] = {}
    for line in filter(goal.covers, lines):
        if line.implementation == OURS and line.status != "ok":
            values[line.name] = None
        elif line.implementation == goal.peer and goal.value(line) is not None:
            values[line.name] = goal.value(line)
    return Outcome(goal, values)


def report(lines: Sequence[Line]) -> str:
    """The table of all goals, then what misses them."""
    outcomes = [outcome(goal, lines) for goal in GOALS]
    parts = [as_text([HEADER, *(found.row() for found in outcomes)])]
    for found in outcomes:
        if found.misses:
            limit = found.goal.told(found.goal.limit)
            rows = [f"  {found.told(name):>9}  {name}" for name in found.misses]
            parts.append("\n".join([f"{found.goal.claim} (limit {limit})", *rows]))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a report for each device in a file."""
    parser = argparse.ArgumentParser("python -m bench.goals", description=__doc__)
    parser.add_argument("file", type=Path, help="a file of JSON lines")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="default: 2")
    options = parser.parse_args(argv)
    try:
        lines = [line for line in latest(read(options.file)) if line.threads == options.threads]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not lines:
        parser.error(f"{options.file} must hold results of {counted(options.threads)}, got none")
    for device in dict.fromkeys(line.device for line in lines):
        chosen = [line for line in lines if line.device == device]
        print(origin(chosen[0]), report(chosen), sep="\n\n", end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
