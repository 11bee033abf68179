"""Which image files a run filters, to where, and which of them a former run has done."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuconv.files import Task
from gpuconv.image_io import format_of
from gpuconv.image_io.types import FORMATS
from gpuconv.journal import Journal
from gpuconv.workers import Outcome

UNSUPPORTED = (".gif", ".bmp", ".heic", ".avif", ".jp2", ".jxl", ".pgm", ".ppm", ".pdf", ".npz")
"""Suffixes that surely mean a file, and one that cannot be written."""


class UsageError(ValueError):
    """The run cannot start; the message says what is wrong and what to do."""


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
    if "" in inputs:
        raise UsageError("INPUT must not be empty; name a file, a folder or a quoted glob")
    found = _unique(pair for text in inputs for pair in _expand(text, out, recursive))
    one_file = len(inputs) == 1 and len(found) == 1 and _is_image(Path(inputs[0]))
    if format_of(out) and _is_image(out):
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
        tasks = [_task(one, out, suffix) for one in found]
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


def _unique(found: Iterable[_Found]) -> list[_Found]:
    """Without what was named before, however it was written."""
    unique: dict[tuple[str, Path], _Found] = {}
    for one in found:
        unique.setdefault((os.path.abspath(one.path), one.relative), one)
    return list(unique.values())


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
        if not _is_image(path):
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
        if format_of(match) and _is_image(match):
            yield _Found(match, Path(match.name))


def _is_image(path: Path) -> bool:
    """Whether a path stands for one image by its kind: a Zarr array is a folder."""
    return not os.path.isdir(path) or format_of(path) == "Zarr"


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
        if _is_image(path):
            if format_of(path):
                yield _Found(path, path.relative_to(root))
        elif recursive and path.resolve() != out:
            yield from _walk(path, root, out, recursive, (*above, here))


def _check_collisions(tasks: Sequence[Task]) -> None:
    writers: dict[str, Path] = {}
    inputs = {identity for task in tasks if (identity := _identity(task.input))}
    used = [task for task in tasks if not task.refused]
    folders = {_identity(task.input) for task in used if os.path.isdir(task.input)} - {None}
    for task in used:
        key = os.path.normcase(os.path.abspath(task.output))
        if key in writers:
            raise UsageError(
                f"{writers[key]} and {task.input} would both write {task.output}; "
                "filter them into different folders"
            )
        writers[key] = task.input
        if folders and any(_identity(above) in folders for above in task.output.parents):
            raise UsageError(f"OUT must not lie inside of an input, got {task.output}")
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
