"""What every worker of a run did, as a picture: `python -m bench.timeline REPORT.json OUT.svg`.

REPORT.json is what `gpuconv filter --report` wrote. A row a worker, a bar a stage of a file.

Exit status: 0; 2 if the report holds no timeline.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Of the stages in their order (Okabe and Ito, 2008)."""

ORDER = ("decode", "upload", "compute", "download", "encode")
WAIT, WAIT_COLOUR = "wait", "0.85"
"""The stage that is no work."""

NARROWEST_LABEL = 0.018
"""Share of the run that a bar must last to be numbered."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did with a file, in seconds since the run began."""

    file: int
    stage: str
    worker: str
    start: float
    stop: float


def spans_of(report: Mapping[str, Any]) -> list[Span]:
    """Every span of a report's timeline. Raises ValueError where there is none."""
    found = [
        Span(file + 1, stage, f"worker {worker + 1}", start, stop)
        for file, stage, worker, start, stop in report.get("timeline", ())
    ]
    if not found:
        raise ValueError("the report must hold a timeline, got none")
    return sorted(found, key=lambda span: (span.start, span.file))


def timeline(report: Mapping[str, Any], path: Path) -> None:
    """Draw a report's timeline as an SVG or PNG file.

    Raises
    ------
    ValueError : the report holds no timeline.
    """
    from matplotlib import rc_context

    figure = draw(spans_of(report), headline(report))
    with rc_context({"svg.hashsalt": "gpuconv"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def headline(report: Mapping[str, Any]) -> str:
    """What was done, and how fast."""
    images = report["counts"]["done"]
    text = f"gpuconv filter, {images} image{'s' * (images != 1)}"
    rate = report["megapixels"] / report["seconds"]
    text += f": {report['megapixels']:.0f} Mpixel in {report['seconds']:.2f} s, {rate:.0f} Mpixel/s"
    return f"{text}\n{report['pipeline']} on {report['backend']}"


def draw(spans: Sequence[Span], title: str) -> Any:
    """The figure: workers from top to bottom as they began."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    workers = sorted({span.worker for span in spans}, key=_natural)
    stages = sorted({span.stage for span in spans}, key=_place)
    colours = {stage: COLOURS[i % len(COLOURS)] for i, stage in enumerate(stages)}
    colours[WAIT] = WAIT_COLOUR
    end = max(span.stop for span in spans)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(12, 1.9 + 0.55 * len(workers)), facecolor="white", layout=layout)
    axes = figure.subplots()
    for stage in stages:
        chosen = [span for span in spans if span.stage == stage]
        axes.barh(
            [workers.index(span.worker) for span in chosen],
            [span.stop - span.start for span in chosen],
            left=[span.start for span in chosen],
            height=0.72,
            color=colours[stage],
            edgecolor="white",
            linewidth=0.6,
            label=_share(stage, spans),
        )
    for span in spans:
        if span.stop - span.start >= NARROWEST_LABEL * end:
            middle = (span.start + span.stop) / 2
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": "white"}
            axes.text(middle, workers.index(span.worker), str(span.file), **style)
    beside = axes.get_yaxis_transform()
    for row, worker in enumerate(workers):
        busy = busy_seconds([s for s in spans if s.worker == worker and s.stage != WAIT])
        axes.text(1.01, row, f"busy {busy / end:.0%}", transform=beside, va="center", fontsize=9)
    axes.set_yticks(range(len(workers)), workers)
    axes.set_ylim(len(workers) - 0.4, -0.6)
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds; a bar's number is its file's")
    axes.tick_params(length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(stages), frameon=False)
    figure.suptitle(title, fontsize=12)
    return figure


def busy_seconds(spans: Sequence[Span]) -> float:
    """Time that any of the spans covers."""
    total, reached = 0.0, 0.0
    for span in sorted(spans, key=lambda s: s.start):
        total += max(0.0, span.stop - max(span.start, reached))
        reached = max(reached, span.stop)
    return total


def _share(stage: str, spans: Sequence[Span]) -> str:
    """ "decode: 34% of the work, 1.25 s"."""
    seconds: Counter[str] = Counter()
    for span in spans:
        seconds[span.stage] += span.stop - span.start
    if stage == WAIT:
        return f"{stage}: {seconds[stage]:.2f} s"
    share = seconds[stage] / ((seconds.total() - seconds[WAIT]) or 1)
    return f"{stage}: {share:.0%} of the work, {seconds[stage]:.2f} s"


def _place(stage: str) -> tuple[int, str]:
    """Stages in the order of the flow, others behind by name, waiting last."""
    place = ORDER.index(stage) if stage in ORDER else len(ORDER) + (stage == WAIT)
    return place, stage


def _natural(worker: str) -> list[tuple[int, int, str]]:
    """ "worker 2" before "worker 10"."""
    parts = re.findall(r"\d+|\D+", worker)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a report."""
    parser = argparse.ArgumentParser("python -m bench.timeline", description=__doc__)
    parser.add_argument("report", type=Path, help="what --report wrote")
    parser.add_argument("picture", type=Path, help="the SVG or PNG file to write")
    options = parser.parse_args(argv)
    try:
        timeline(json.loads(options.report.read_text(encoding="utf-8")), options.picture)
    except (OSError, ValueError) as error:
        parser.error(f"{options.report}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
