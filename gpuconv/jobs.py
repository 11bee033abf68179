"""Filter many image files: which, to where, what is already done, and the running of it.

While one image is computed, the next are decoded and the previous encoded, in a few threads;
images are computed in order and only a few are in memory at once.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuconv.image_io import format_of, read_image, write_image
from gpuconv.image_io.types import FORMATS, Image, ImageError, Page, Pixels
from gpuconv.journal import Journal
from gpuconv.pipeline import Pipeline
from gpuconv.pool import adaptive_avg_pool2d

UNSUPPORTED = (".gif", ".bmp", ".heic", ".avif", ".jp2", ".jxl", ".pgm", ".ppm", ".npy", ".pdf")
"""Suffixes that surely mean a file, and one that cannot be written."""


class UsageError(ValueError):
    """The run cannot start; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Task:
    """One image file to filter. `refused` is the reason where that cannot even be tried."""

    input: Path
    output: Path
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: "done", "failed" (with the reason) or "skipped"."""

    task: Task
    status: str
    reason: str = ""
    seconds: float = 0.0
    pixels: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The outcome as the report holds it."""
        return {
            "input": str(self.task.input),
            "output": str(self.task.output),
            "status": self.status,
            "reason": self.reason or None,
            "seconds": round(self.seconds, 6),
        }


def plan_tasks(
    inputs: Sequence[str], out: Path, *, recursive: bool = False, suffix: str | None = None
) -> list[Task]:
    """Find every image of `inputs` and name its output. Nothing is written.

    Parameters
    ----------
    inputs : files, folders or glob patterns.
    out : a folder, or a file name if there is one input file.
    recursive : look below the folders, too.
    suffix : of every output, such as ".png"; None keeps each input's.

    Raises
    ------
    UsageError : an input does not exist, no image was found, two inputs would write one output,
        or an output would overwrite an input.
    """
    found = [pair for text in inputs for pair in _expand(text, out, recursive)]
    one_file = len(inputs) == 1 and len(found) == 1 and not os.path.isdir(inputs[0])
    if format_of(out) and not out.is_dir():
        if not one_file:
            raise UsageError(
                f"OUT must be a folder for more than one input file, got {out}; name a folder"
            )
        if suffix and suffix != out.suffix.lower():
            raise UsageError(f"--format {suffix[1:]} and the name {out} must agree; drop one")
        tasks = [Task(found[0].path, out, found[0].refused)]
    else:
        unsupported = out.suffix.lower() in UNSUPPORTED and not out.is_dir()
        if unsupported or (out.exists() and not out.is_dir()):
            raise UsageError(f"OUT must be a folder or end in {', '.join(FORMATS)}, got {out}")
        tasks = [_task(one, out, suffix) for one in dict.fromkeys(found)]
    if not tasks:
        hint = "; -r looks in the folders below, too"
        hint = hint if not recursive and any(map(os.path.isdir, inputs)) else ""
        raise UsageError(f"no image was found in {', '.join(inputs)}{hint}")
    _check_collisions(tasks)
    return tasks


@dataclass(frozen=True, slots=True)
class _Found:
    """An input file, its path below OUT, and why it is refused, if it is."""

    path: Path
    relative: Path
    refused: str = ""


def _task(found: _Found, out: Path, suffix: str | None) -> Task:
    relative = found.relative.with_suffix(suffix) if suffix else found.relative
    refused = found.refused
    if not refused and format_of(relative) is None:
        refused = f"its name does not end in {', '.join(FORMATS)}; choose one with --format"
    return Task(found.path, out / relative, refused)


def _expand(text: str, out: Path, recursive: bool) -> Iterator[_Found]:
    """The files that one INPUT stands for."""
    path = Path(text)
    if os.path.lexists(path):
        if os.path.isdir(path):
            yield from _walk(path, path, out.resolve(), recursive, ())
        else:
            yield _Found(path, Path(path.name))
        return
    if not glob.has_magic(text):
        raise UsageError(f"INPUT {text} does not exist; name a file, a folder or a quoted glob")
    names = sorted(glob.glob(text, recursive=True))
    if not names:
        raise UsageError(f"INPUT {text} matches no file")
    for match in map(Path, names):
        if not os.path.isdir(match) and format_of(match):
            yield _Found(match, Path(match.name))


def _walk(
    folder: Path, root: Path, out: Path, recursive: bool, above: tuple[tuple[int, int], ...]
) -> Iterator[_Found]:
    """Images of a folder in the order of their names; hidden names and OUT itself are passed."""
    try:
        status = folder.stat()
        names = sorted(os.listdir(folder))
    except OSError as error:
        reason = f"cannot be read: {os.strerror(error.errno or 0)}"
        yield _Found(folder, folder.relative_to(root), reason)
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield _Found(folder, folder.relative_to(root), "cannot be read: a link that loops")
        return
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            if recursive and path.resolve() != out:
                yield from _walk(path, root, out, recursive, (*above, here))
        elif format_of(path):
            yield _Found(path, path.relative_to(root))


def _check_collisions(tasks: Sequence[Task]) -> None:
    writers: dict[str, Path] = {}
    inputs = {identity for task in tasks if (identity := _identity(task.input))}
    for task in tasks:
        if task.refused:
            continue
        key = os.path.normcase(os.path.abspath(task.output))
        if key in writers:
            raise UsageError(
                f"{writers[key]} and {task.input} would both write {task.output}; "
                "filter them into different folders"
            )
        writers[key] = task.input
        if _identity(task.output) in inputs:
            raise UsageError(
                f"OUT must not overwrite an input, got {task.output}; choose another folder"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of an existing file: the same whatever links lead to it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def choose_work(
    tasks: Sequence[Task],
    journal: Journal | None,
    fingerprint: str,
    *,
    resume: bool,
    overwrite: bool,
) -> tuple[list[Task], list[Outcome]]:
    """Which tasks are left to do, and which a former run has done.

    Raises
    ------
    UsageError : outputs exist and neither option says what to do with them, or they were made by
        another pipeline.
    """
    existing = [task for task in tasks if not task.refused and os.path.lexists(task.output)]
    if overwrite or not existing:
        return list(tasks), []
    first = existing[0].output
    more = f" and {len(existing) - 1} more outputs exist" if existing[1:] else " exists"
    if not resume:
        raise UsageError(f"{first}{more}; --overwrite replaces, --resume continues a former run")
    done = []
    for task in existing:
        made_by = None if journal is None else journal.made_by(task.output)
        if journal is None or made_by is None:
            raise UsageError(
                f"--resume finds no record of which pipeline made {task.output}; use --overwrite"
            )
        if made_by != fingerprint:
            raise UsageError(
                f"--resume must use the pipeline that made {task.output}, got another one; "
                "use --overwrite or another folder"
            )
        if journal.is_whole(task.output):
            done.append(task)
    skipped = set(done)
    return [t for t in tasks if t not in skipped], [Outcome(t, "skipped") for t in done]


def filter_image(image: Image, pipeline: Pipeline, *, backend: Any = None) -> Image:
    """Every page through the pipeline, exactly as the library would be called.

    Colour is filtered with channel_axis=-1. Alpha is not filtered; where the size changes it
    follows by area mean.
    """
    pages = tuple(_filter_page(page, pipeline, backend) for page in image.pages)
    return replace(image, pages=pages)


def _filter_page(page: Page, pipeline: Pipeline, backend: Any) -> Page:
    axis = None if page.color.ndim == 2 else -1
    color: Pixels = pipeline(page.color, channel_axis=axis, backend=backend)
    alpha = page.alpha
    if alpha is None:
        return Page(color)
    size = color.shape[:2]
    if alpha.shape != size:
        alpha = adaptive_avg_pool2d(alpha[None], size, backend=backend)[0]
    if alpha.dtype != color.dtype:
        raise ValueError(f"alpha is {alpha.dtype} and the result is {color.dtype}; drop out_dtype")
    return Page(color, alpha)


def run_tasks(
    tasks: Sequence[Task],
    pipeline: Pipeline,
    *,
    backend: Any = None,
    jobs: int = 2,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Filter every task's file, one outcome a task, in order.

    A file that fails costs that file alone. At most `jobs` images are decoded ahead of the one
    that is computed, and at most `jobs` wait to be encoded. `on_done` is called in this thread.
    """
    outcomes: list[Outcome] = []
    ahead: deque[tuple[Task, Future[tuple[Image, float]]]] = deque()
    behind: deque[tuple[Outcome, Future[float] | None]] = deque()
    waiting = iter(tasks)

    def settle() -> None:
        outcome, writing = behind.popleft()
        if writing is not None:
            try:
                outcome = replace(outcome, seconds=outcome.seconds + writing.result())
            except ImageError as error:
                outcome = replace(outcome, status="failed", reason=error.reason)
        outcomes.append(outcome)
        on_done(outcome)

    with _pool(jobs) as threads:
        while True:
            while len(ahead) <= jobs and (task := next(waiting, None)) is not None:
                ahead.append((task, threads.submit(_read, task)))
            if not ahead:
                break
            task, reading = ahead.popleft()
            outcome, result = _compute(task, reading, pipeline, backend)
            del reading
            writing = None if result is None else threads.submit(_write, task, result)
            behind.append((outcome, writing))
            while len(behind) > jobs or (behind and _is_settled(behind[0][1])):
                settle()
        while behind:
            settle()
    return outcomes


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what has not begun when the block is interrupted."""
    threads = ThreadPoolExecutor(jobs, thread_name_prefix="gpuconv")
    try:
        yield threads
    except BaseException:
        threads.shutdown(wait=True, cancel_futures=True)
        raise
    threads.shutdown(wait=True)


def _is_settled(writing: Future[float] | None) -> bool:
    return writing is None or writing.done()


def _read(task: Task) -> tuple[Image, float]:
    start = time.perf_counter()
    if task.refused:
        raise ImageError(task.input, task.refused)
    image = read_image(task.input)
    return image, time.perf_counter() - start


def _write(task: Task, image: Image) -> float:
    start = time.perf_counter()
    try:
        task.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ImageError(task.output, f"cannot be written: {reason}") from error
    write_image(task.output, image)
    return time.perf_counter() - start


def _compute(
    task: Task, reading: Future[tuple[Image, float]], pipeline: Pipeline, backend: Any
) -> tuple[Outcome, Image | None]:
    """Wait for the pixels and filter them. No image where that failed."""
    try:
        image, seconds = reading.result()
    except ImageError as error:
        return Outcome(task, "failed", error.reason), None
    start = time.perf_counter()
    try:
        result = filter_image(image, pipeline, backend=backend)
    except Exception as error:  # whatever this image provokes, the others go on
        reason = " ".join(str(error).split()) or type(error).__name__
        return Outcome(task, "failed", f"cannot be filtered: {reason}", seconds), None
    seconds += time.perf_counter() - start
    return Outcome(task, "done", "", seconds, image.pixels), result
