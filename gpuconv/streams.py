"""Many images, or one that is larger than memory, through a pipeline from a source to a sink."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.arrays import (
    Array,
    Spec,
    describe,
    finish_output,
    on_device,
    output_view,
    to_numpy,
)
from gpuconv.backends import BackendLike, Lane, resolve
from gpuconv.backends.numpy.threads import get_num_threads
from gpuconv.dtypes import DType
from gpuconv.files import MOST_THREADS, PARTS_BYTES, FileFilter, Task, told, whole_bytes
from gpuconv.image_io import open_image
from gpuconv.image_io.types import Image, ImageError
from gpuconv.memory import default_limit
from gpuconv.pipeline import Pipeline, StepLike
from gpuconv.plan import check
from gpuconv.tiling import cut, trace
from gpuconv.workers import WAITING, Outcome, Stages, Stop, in_order

Sink = Any
"""A folder, `sink(index, result)`, or anything that takes `sink[index] = result`."""


def stream(
    pipeline: StepLike,
    source: Iterable[Any],
    sink: Sink,
    *,
    channel_axis: int | None = None,
    backend: BackendLike = None,
    device: int | None = None,
    jobs: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Pass images through a pipeline; decoding, copies, computing and encoding overlap.

    Each of `jobs` threads takes an image all the way. On CUDA each has a stream and pinned buffers
    of its own. `source` is read no further ahead than 2 * jobs images.

    Parameters
    ----------
    pipeline : a Pipeline, or a step as it takes them.
    source : any of these, also mixed, of any shapes and dtypes:
        arrays (..., H, W), or (..., H, W, C) with `channel_axis=-1`;
        functions without arguments that give such an array, called in the threads;
        paths of image files, whose colour channels are found by themselves.
    sink : a folder, where image files are written under their names, in any order; or a function
        `sink(index, result)`, or a list, dict or array that takes `sink[index] = result`. These
        are given one result at a time, in the order of the source: an array for an array, a
        `gpuconv.image_io.Image` for a file. What has failed is left out.
    device : number of the CUDA device; default CuPy's current one.
    jobs : threads; default one a processor, at most 16.
    memory_limit : bytes that all images at work may hold together; default a quarter of the
        machine's. Files that do not fit are filtered by parts where their formats allow it.
    progress : called with every outcome, in order, in the calling thread.

    Returns
    -------
    What became of every image, in order: `item`, `status` ("done" or "failed"), `reason`,
    `pixels`, `seconds` and seconds of each of its `stages`. An error costs one image alone.

    Raises
    ------
    ValueError : an argument is not as above.
    BackendUnavailableError : the backend named cannot run here.
    """
    steps = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    count = default_jobs() if jobs is None else check.integer("jobs", jobs, 1)
    if memory_limit is not None:
        memory_limit = int(check.number("memory_limit", memory_limit, minimum=0))
    several = hasattr(source, "__iter__") or hasattr(source, "__getitem__")
    if isinstance(source, (str, bytes, os.PathLike)) or not several:
        raise ValueError(f"source must be images one by one, such as a list, got {source!r:.80}")
    folder = Path(sink) if isinstance(sink, (str, os.PathLike)) else None
    if folder is None and not callable(sink) and not hasattr(sink, "__setitem__"):
        raise ValueError(f"sink must be a folder, a function or a container, got {sink!r:.80}")
    files = FileFilter(steps, backend=backend, device=device, memory_limit=memory_limit)
    ways = _Ways(files, channel_axis, folder)
    outcomes = []
    with closing(in_order(enumerate(source), ways, jobs=count, stop=files.stop)) as results:
        for (index, _), (outcome, result, held) in results:
            try:
                if result is not None:
                    outcome = _deliver(sink, index, result, outcome)
            finally:
                ways.budget.give(held)
            outcomes.append(outcome)
            if progress is not None:
                progress(outcome)
    return outcomes


def default_jobs() -> int:
    """Threads that take images from disk to disk: one a processor, at most 16."""
    return min(16, get_num_threads())


def _deliver(sink: Any, index: int, result: Any, outcome: Outcome) -> Outcome:
    try:
        if callable(sink):
            sink(index, result)
        else:
            sink[index] = result
    except Exception as error:  # a full disk, a wrong shape: the others go on
        return replace(outcome, status="failed", reason=f"the sink refused it: {told(error)}")
    return outcome


class _Turns:
    """Lets numbered threads through one after another, each when the one before is through."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, number: int, stop: Stop) -> Iterator[None]:
        """The turn of `number`: waits for it, and ends it with the block."""
        with self._changed:
            while self._next != number:
                self._changed.wait(0.1)
                stop.check()
        try:
            yield
        finally:
            with self._changed:
                self._next += 1
                self._changed.notify_all()


class _Ways:
    """The way of each item: called by the threads with (index, item).

    Memory is taken in the order of the items, and given back once a result is delivered: so no
    image waits for memory that a later one holds.
    """

    def __init__(self, files: FileFilter, channel_axis: int | None, folder: Path | None) -> None:
        self.budget = files.budget
        self._files = files
        self._axis = channel_axis
        self._folder = folder
        self._turns = _Turns()
        self._names: dict[str, int] = {}
        self._largest = 0

    def __call__(self, numbered: tuple[int, Any]) -> tuple[Outcome, Any, int]:
        """(outcome, result for the sink if any, bytes that it holds)."""
        index, item = numbered
        stages, held = Stages(), 0
        is_file = isinstance(item, (str, os.PathLike))
        try:
            if is_file and self._folder is not None:
                with self._turns.of(index, self._files.stop):
                    task = self._task(index, Path(item))
                return self._files(task), None, 0
            with ExitStack() as stack:
                with self._turns.of(index, self._files.stop), stages.at("decode"):
                    load, need = self._prepare(item, is_file, stack)
                    with stages.at(WAITING):
                        held = self.budget.take(need)
                self._files.stop.check()
                with self._files.lane() as lane:
                    with stages.at("decode"):
                        given = load()
                    if load is item:
                        held = self._correct(held, given)
                    with stages.at("compute"):
                        result, pixels = self._compute(given, is_file, lane)
        except Exception as error:  # whatever this image provokes, the others go on
            reason = error.reason if isinstance(error, ImageError) else told(error)
            self.budget.give(held)
            return Outcome(item, "failed", reason, spans=stages.spans), None, 0
        return Outcome(item, "done", "", pixels, stages.spans), result, held

    def _task(self, index: int, path: Path) -> Task:
        assert self._folder is not None
        output, refused = self._folder / path.name, ""
        if self._names.setdefault(path.name, index) != index:
            refused = f"another image is called {path.name}, too"
        elif output.exists() and path.exists() and output.samefile(path):
            refused = f"an output must not overwrite its input {path}"
        return Task(path, output, refused)

    def _prepare(self, item: Any, is_file: bool, stack: ExitStack) -> tuple[Callable[[], Any], int]:
        """What gives the pixels, and the memory that the image will need."""
        if is_file:
            source = stack.enter_context(open_image(item))
            ways = [self._files.way(spec) for spec in source.header.pages]
            need = whole_bytes(source, "NPY", ways)
            self._files.check_fits(item, need, "pass a folder as sink, which takes it by parts")
            return source.read, need
        if self._folder is not None:
            raise TypeError(f"a folder takes image files, got {type(item).__name__}")
        if callable(item):
            if self._largest:
                return item, self._largest
            item = item()  # the first one alone: it tells how large they are
            self._largest = _array_bytes(item)
        return (lambda: item), _array_bytes(item)

    def _correct(self, held: int, given: Array) -> int:
        """What is held for an array whose size was not known before.

        It was taken to be as large as the largest so far. A larger one is not waited for: later
        images may hold what is missing.
        """
        need = _array_bytes(given)
        self._largest = max(self._largest, need)
        self.budget.give(held - need)
        return need

    def _compute(self, given: Any, is_file: bool, lane: Lane) -> tuple[Array | Image, int]:
        if is_file:
            return self._files.image(given, lane), given.pixels
        result = self._files.run(given, self._axis, lane)
        size = given.shape[-3:-1] if self._axis is not None else given.shape[-2:]
        return result, int(size[0]) * int(size[1])


def _array_bytes(array: Array) -> int:
    """What an array in a stream needs with its results, by estimate."""
    spec = describe("source", array)
    return 3 * int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize


def apply_tiled(
    pipeline: StepLike,
    source: Any,
    out: Any = None,
    *,
    channel_axis: int | None = None,
    backend: BackendLike = None,
    device: int | None = None,
    memory_limit: int | None = None,
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Pass one image larger than memory through a pipeline, tile by tile.

    The result is that of the whole image: bit for bit for integers.

    Parameters
    ----------
    pipeline : a Pipeline, a step, or a function that passes its array through gpuconv's filters,
        2-D convolutions and pools, such as `lambda x: conv2d_pool2d(x, weight)`.
    source : anything with `shape` and `dtype` that is sliced like an array: a NumPy memory map, a
        Zarr or HDF5 array, a PyTorch tensor; (..., H, W), or (..., H, W, C) with
        `channel_axis=-1`.
    out : takes `out[..., rows, :] = band` (or with channels, `out[..., rows, :, :]`), from top to
        bottom; None makes a NumPy array.
    memory_limit : bytes that tiles may hold at a time; default a quarter of the machine's.
    tile : most rows and columns of a tile.
    progress : called with (rows done, rows in all).

    Returns
    -------
    `out`, or the new array.

    Raises
    ------
    NotTileableError : the pipeline does more than gpuconv's operations, or a single pixel of the
        result needs more than the limit.
    ValueError : `out` has another shape or dtype than the result, or lies where the source does.
    """
    if not (hasattr(source, "shape") and hasattr(source, "dtype")):
        raise TypeError(f"source must be an array, got {type(source).__name__}")
    if callable(pipeline) and not isinstance(pipeline, Pipeline):
        function: Callable[..., Any] = pipeline
    else:
        function = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    dtype: DType = (
        np.dtype(source.dtype)
        if not hasattr(source, "__dlpack__")
        else (describe("source", source).dtype)
    )
    keywords: dict[str, Any] = {} if channel_axis is None else {"channel_axis": channel_axis}
    chain = trace(function, source.shape, dtype, **keywords)
    target = _target(out, chain.output, source)
    limit = default_limit() if memory_limit is None else memory_limit
    limit = min(int(check.number("memory_limit", limit, minimum=0)), 4 * PARTS_BYTES)
    threads = min(MOST_THREADS, get_num_threads())
    rows, columns = chain.tile(limit // (2 * threads))
    if tile is not None:
        most = check.integer("tile", tile, 1)
        rows, columns = min(rows, most), min(columns, most)
    chosen, (y, x) = resolve(backend, []), chain.axes

    def place(ndim: int, rows: range, columns: range) -> tuple[Any, ...]:
        index: list[Any] = [slice(None)] * ndim
        index[y], index[x] = (slice(r.start, r.stop) for r in (rows, columns))
        return tuple(index)

    def band(rows: range) -> Any:
        with chosen.lane(device) as lane:

            def read(rows: range, columns: range) -> Any:
                part = source[place(len(source.shape), rows, columns)]
                return part if on_device(part) else lane.upload(to_numpy("source", part))

            tiles = [
                lane.download(chain.compute(rows, part, read, chosen))
                for part in cut(chain.size[1], columns)
            ]
        return tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=x)

    bands = in_order(cut(chain.size[0], rows), band, jobs=threads)
    with closing(bands):
        for found, pixels in bands:
            target[place(len(chain.output.shape), found, range(chain.size[1]))] = pixels
            if progress is not None:
                progress(found.stop, chain.size[0])
    if out is None:
        return target
    finish_output(out, target)
    return out


def _target(out: Any, result: Spec, source: Any) -> Any:
    """What takes the bands of a result: `out`, which must fit; of arrays in memory NumPy's view."""
    if out is None:
        return np.empty(result.shape, result.dtype)
    in_memory = hasattr(out, "__dlpack__")
    target = output_view(out) if in_memory else out
    apart = in_memory and hasattr(source, "__dlpack__")
    check.check_out(target, result, [("source", source)] if apart else [])
    return target
