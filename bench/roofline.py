"""How fast a GPU could run a case, predicted from machine code: no GPU is needed, none is measured.

    python -m bench.roofline [--arch sm_90 | --device H100] [--filter 'filter2d/f32/8x*']
    python -m bench.roofline --kernels              what the kernels of these cases take of a GPU
    python -m bench.roofline --goals                the cases that DESIGN.md section 7 is about
    python -m bench.roofline --arithmetic           how each limit comes about, case by case
    python -m bench.roofline --readme               a table for the README

For each case of the gpu set that filters or pools images, the CUDA backend is asked for its
launches. The slowest of what limits each of them (see bench/prediction.py) is the prediction:
nothing is added for what does not overlap, so a kernel reaches less.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench import nvrtc, results
from bench.cases import Case
from bench.devices import DEVICES, LATENCY_S, Device, device_of
from bench.instructions import WARP
from bench.prediction import Prediction, predict
from bench.sets import FULL, Scale, gpu_group
from bench.table import as_markdown, as_text, short

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
    Goal(("gaussian_blur/*/sigma1-tensor", "separable_filter2d/*-tensor"), 0.85),
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
            f"    {one.slots * WARP / found.elements:.2f} issue slots an element; "
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
                f"{one.slots * WARP / prediction.elements:.1f}",
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
