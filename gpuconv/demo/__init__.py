"""The whole story of convolution and pooling, drawn on real photographs: `gpuconv demo`.

Needs the extras image and plot. The rooms: draw → photos → coins → chapters → sheet.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from matplotlib.figure import Figure

from gpuconv.backends import resolve
from gpuconv.demo.chapters import CHAPTERS
from gpuconv.demo.photos import photograph_path
from gpuconv.demo.sheet import contact_sheet
from gpuconv.files import FileFilter
from gpuconv.image_io import ImageError, replacing
from gpuconv.jobs import plan_tasks
from gpuconv.pipeline import Pipeline
from gpuconv.report import say

FILTERED = {
    "blur": Pipeline("gaussian_blur:sigma=3"),
    "edge": Pipeline("filter2d:kernel=edge"),
    "emboss": Pipeline("filter2d:kernel=emboss"),
    "sharpen": Pipeline("sharpen"),
}
"""Folder → what is done to the photographs in it."""

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")


def run_demo(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every chapter and the contact sheet into `folder`, and filter a few photographs.

    Prints what it makes and which backend computes it.

    Returns
    -------
    The files made.

    Raises
    ------
    ImageError : a file cannot be written.
    """
    start = time.perf_counter()
    out = Path(folder)
    say(f"gpuconv demo, computed on {resolve(None, []).name}")
    made = [_save(chapter(), out / f"{title}.png") for title, chapter in CHAPTERS.items()]
    made += filter_photographs(out / "filtered")
    made.append(_save(contact_sheet(), out / "contact-sheet.png"))
    seconds = time.perf_counter() - start
    say(f"{len(made)} files in {seconds:.1f} s; the last one shows everything on one page.")
    return made


def filter_photographs(folder: Path) -> list[Path]:
    """Photographs through the same code as `gpuconv filter`: one folder an operation."""
    made = []
    inputs = [str(photograph_path(name)) for name in PHOTOGRAPHS]
    for name, pipeline in FILTERED.items():
        for outcome in map(FileFilter(pipeline), plan_tasks(inputs, folder / name)):
            if outcome.status != "done":
                raise ImageError(outcome.item.output, outcome.reason)
            made.append(outcome.item.output)
        say(f"  {folder / name}: {', '.join(PHOTOGRAPHS)} through {pipeline}")
    return made


def _save(figure: Figure, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=figure.dpi)
    except OSError as error:
        raise ImageError(path, f"cannot be written: {os.strerror(error.errno or 0)}") from error
    say(f"  {path}")
    return path
