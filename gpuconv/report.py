"""What a run of `gpuconv filter` tells: while it goes, at its end, and as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from gpuconv.image_io import replacing
from gpuconv.workers import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text


def say(text: str) -> None:
    """Print on stdout; nothing more once nobody reads it (`gpuconv ops | head`)."""
    with suppress(BrokenPipeError):
        _print(text, sys.stdout)


def mention(text: str) -> None:
    """Print a line on stdout if that can be done."""
    with suppress(OSError):
        _print(_one_line(text), sys.stdout)


def complain(text: str) -> None:
    """Print a line on stderr if that can be done."""
    with suppress(OSError):
        _print(_one_line(f"gpuconv: {text}"), sys.stderr)


def _one_line(text: str) -> str:
    """Names of files may hold line ends, codes that steer terminals, and bytes that are no text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _print(text: str, file: TextIO | None) -> None:
    if file is None:  # it was closed before this process began
        return
    try:
        file.write(text.encode(file.encoding, "backslashreplace").decode(file.encoding) + "\n")
        file.flush()
    except OSError:  # nobody reads it, or the disk is full: what is written later is lost, too
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
        raise


class Teller(Protocol):
    """Shows the progress of a run. Used as a context manager."""

    def __enter__(self) -> Teller: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def tell(self, outcome: Outcome) -> None:
        """One image is through."""


def teller(total: int, *, quiet: bool) -> Teller:
    """A progress bar on a terminal, plain lines elsewhere, nothing if `quiet`."""
    if quiet:
        return Silence()
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bar(total) if terminal else Lines(total)


class Silence:
    """Tells nothing."""

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def tell(self, outcome: Outcome) -> None:
        """Nothing."""


class Lines(Silence):
    """One line an image, on stdout."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0

    def tell(self, outcome: Outcome) -> None:
        """`[ 3/10] photos/cat.png -> out/cat.png  0.12 s`"""
        self._count += 1
        total = str(self._total)
        place = f"[{str(self._count).rjust(len(total))}/{total}] {outcome.item.input}"
        if outcome.status == "done":
            mention(f"{place} -> {outcome.item.output}  {outcome.seconds:.2f} s")
        else:
            mention(f"{place}  {outcome.status.upper()}")


class Bar:
    """A progress bar on stderr: files, megapixels a second, time left."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text as RichText

        class Speed(ProgressColumn):
            """Megapixels a second since the start."""

            def render(self, task: Task) -> Text:
                elapsed = task.elapsed or 0.0
                rate = task.fields["pixels"] / 1e6 / elapsed if elapsed else 0.0
                return RichText(f"{rate:.1f} MP/s", style="progress.data.speed")

        self._progress: Progress = Progress(
            TextColumn("filtering"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images"),
            Speed(),
            TimeRemainingColumn(),
            TextColumn("left{task.fields[failed]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("filtering", total=total, pixels=0, failed="")
        self._pixels = 0
        self._failed = 0

    def __enter__(self) -> Teller:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def tell(self, outcome: Outcome) -> None:
        """Move the bar by one image."""
        self._pixels += outcome.pixels
        self._failed += outcome.status == "failed"
        self._progress.update(
            self._task,
            advance=1,
            pixels=self._pixels,
            failed=f", {self._failed} failed" if self._failed else "",
        )


class Run:
    """The outcomes of a run and what they add up to."""

    def __init__(self, backend: str, pipeline: str, skipped: Sequence[Outcome], total: int) -> None:
        self.outcomes = list(skipped)
        self._backend = backend
        self._pipeline = pipeline
        self._total = total
        self._start = time.perf_counter()

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that failed, in order."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]

    def as_dict(self) -> dict[str, Any]:
        """The report."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        seconds = time.perf_counter() - self._start
        stages: Counter[str] = Counter()
        for outcome in self.outcomes:
            stages.update(outcome.stages)
        megapixels = sum(outcome.pixels for outcome in self.outcomes) / 1e6
        return {
            "counts": {
                "total": self._total,
                "done": counts["done"],
                "failed": counts["failed"],
                "skipped": counts["skipped"],
                "interrupted": self._total - len(self.outcomes),
            },
            "seconds": round(seconds, 6),
            "megapixels": round(megapixels, 6),
            "megapixels_per_second": round(megapixels / seconds, 3) if seconds else 0.0,
            "backend": self._backend,
            "pipeline": self._pipeline,
            "stages": {stage: round(spent, 6) for stage, spent in stages.items()},
            "files": [
                {
                    "input": str(outcome.item.input),
                    "output": str(outcome.item.output),
                    "status": outcome.status,
                    "reason": outcome.reason or None,
                    "seconds": round(outcome.seconds, 6),
                }
                for outcome in self.outcomes
            ],
            "timeline": self._timeline(),
        }

    def _timeline(self) -> list[list[Any]]:
        """[number of the file, stage, thread, start, stop], in seconds since the run began."""
        threads: dict[int, int] = {}
        return [
            [
                number,
                span.stage,
                threads.setdefault(span.thread, len(threads)),
                round(span.start - self._start, 6),
                round(span.stop - self._start, 6),
            ]
            for number, outcome in enumerate(self.outcomes)
            for span in outcome.spans
        ]

    def write(self, path: Path) -> None:
        """The report as a JSON file, whole or not at all; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write((json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def summary(self) -> str:
        """One line: `9 of 10 images filtered in 3.2 s (12.3 megapixels/s on numpy), 1 failed`."""
        told = self.as_dict()
        counts = told["counts"]
        line = (
            f"{counts['done']} of {counts['total']} images filtered in {told['seconds']:.1f} s "
            f"({told['megapixels_per_second']:.1f} megapixels/s on {self._backend})"
        )
        for status, words in (("skipped", "already done"), ("failed", "failed")):
            if counts[status]:
                line += f", {counts[status]} {words}"
        return line
