"""One image file from disk to disk through a pipeline: whole, or by parts where memory is short."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv.backends import Backend, Lane, resolve
from gpuconv.backends.numpy.threads import get_num_threads, set_num_threads
from gpuconv.errors import DeviceMemoryError, NotTileableError
from gpuconv.image_io import (
    format_of,
    misfit,
    open_image,
    write_image,
    write_parts,
    write_peak_bytes,
)
from gpuconv.image_io.types import (
    BY_PARTS,
    Header,
    Image,
    ImageError,
    OpenImage,
    Page,
    PageSpec,
)
from gpuconv.memory import Budget, default_limit, format_bytes
from gpuconv.pipeline import Pipeline
from gpuconv.pool import adaptive_avg_pool2d
from gpuconv.tiling import Chain, cut, trace
from gpuconv.workers import WAITING, Outcome, Stages, Stop, StoppedError, in_order

PARTS_BYTES = 256 << 20
"""What an image that is filtered by parts takes of the memory limit, if there is so much."""

MOST_THREADS = 8
"""Threads that work on one image's parts."""


INTERRUPTED = "interrupted"
"""The reason of what was stopped."""


@dataclass(frozen=True, slots=True)
class Task:
    """One image file to filter. `refused` is the reason where that cannot even be tried."""

    input: Path
    output: Path
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How a page is filtered: the chains of its colour and its alpha, and what comes out.

    A chain is None where the pipeline does more than our own operations; `why` tells it. The
    alpha's is None where it stays as it is.
    """

    result: PageSpec | None
    color: Chain | None
    alpha: Chain | None
    why: str = ""

    @property
    def inner_bytes(self) -> int:
        """Results between the first and the last operation that are in memory at a time."""
        return self.color.inner_bytes if self.color is not None else 0


class FileFilter:
    """Filters image files, one a call; many threads may call it at once.

    Together they keep within `memory_limit` bytes: an image that does not fit beside the others
    waits, and one that does not fit at all is filtered by parts, or fails. `tile` is the most rows
    and columns of such a part; if given, all images are filtered by parts that can be.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        backend: Any = None,
        device: int | None = None,
        memory_limit: int | None = None,
        tile: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.backend: Backend = resolve(backend, [])
        self.stop = Stop()
        self._device = device
        self._tile = tile
        self.budget = Budget(default_limit() if memory_limit is None else memory_limit)
        self._ways: dict[PageSpec, Way] = {}
        self._planning = threading.Lock()

    def __call__(self, task: Task) -> Outcome:
        """Filter the task's file; whatever goes wrong costs this file alone."""
        stages = Stages()
        try:
            pixels = self._filter(task, stages)
        except ImageError as error:
            return Outcome(task, "failed", error.reason, spans=stages.spans)
        except StoppedError:
            return Outcome(task, "failed", INTERRUPTED, spans=stages.spans)
        except Exception as error:  # whatever this image provokes, the others go on
            reason = f"cannot be filtered: {told(error)}"
            return Outcome(task, "failed", reason, spans=stages.spans)
        return Outcome(task, "done", "", pixels, stages.spans)

    def _filter(self, task: Task, stages: Stages) -> int:
        self.stop.check()
        if task.refused:
            raise ImageError(task.input, task.refused)
        with ExitStack() as stack:
            with stages.at("decode"):
                source = stack.enter_context(open_image(task.input))
            header = source.header
            ways = [self.way(spec) for spec in header.pages]
            kind = format_of(task.output) or "PNG"
            self._check_format(task.output, kind, header, ways)
            cost = whole_bytes(source, kind, ways)
            reason = _no_parts(source, kind, ways)
            if not reason and (self._tile is not None or cost > self.budget.limit):
                self._by_parts(task, source, ways, stages)
            else:
                self.check_fits(task.input, cost, reason)
                with self.budget.hold(cost):
                    self.stop.check()
                    self._whole(task, source, stages)
        return header.pixels

    def _whole(self, task: Task, source: OpenImage, stages: Stages) -> None:
        with self.lane() as lane:
            with stages.at("decode"):
                image = source.read()
                source.close()
            self.stop.check()
            with stages.at("compute"):
                image = self.image(image, lane)
            self.stop.check()
            with stages.at("encode"):
                _make_folder(task.output)
                write_image(task.output, image)

    def image(self, image: Image, lane: Lane) -> Image:
        """Every page of an image in memory through the pipeline.

        Colour is filtered with channel_axis=-1. Alpha is not filtered; where the size changes it
        follows by area mean.
        """
        return replace(image, pages=tuple(self._page(page, lane) for page in image.pages))

    def _page(self, page: Page, lane: Lane) -> Page:
        axis = None if page.color.ndim == 2 else -1
        color = self.run(page.color, axis, lane)
        alpha = page.alpha
        if alpha is not None:
            _check_alpha(alpha.dtype, color.dtype)
            size = color.shape[:2]
            if alpha.shape != size:
                alpha = adaptive_avg_pool2d(alpha[None], size, backend="numpy")[0]
        return Page(color, alpha)

    def run(self, pixels: Any, axis: int | None, lane: Lane) -> Any:
        """The pipeline over an array; where it fits, it is on the device all the way."""
        if all(isinstance(step, str) for step in self.pipeline.steps):
            try:
                result = self.pipeline(lane.upload(pixels), channel_axis=axis, backend=self.backend)
                return lane.download(result)
            except DeviceMemoryError:
                pass  # a host array passes through the device in pieces
        return np.asarray(self.pipeline(pixels, channel_axis=axis, backend=self.backend))

    def lane(self) -> Any:
        """What one thread works in."""
        return self.backend.lane(self._device)

    def check_fits(self, path: str | os.PathLike[str], need: int, remedy: str) -> None:
        """Raise an ImageError if an image needs more memory than there is for all."""
        if need > self.budget.limit:
            raise ImageError(
                path,
                f"needs about {format_bytes(need)} in memory, more than the limit of "
                f"{format_bytes(self.budget.limit)}; {remedy}",
            )

    # What will come of a page

    def way(self, spec: PageSpec) -> Way:
        """How pages of that size and kind are filtered."""
        with self._planning:
            if spec not in self._ways:
                if len(self._ways) >= 64:
                    self._ways.clear()
                self._ways[spec] = self._new_way(spec)
            return self._ways[spec]

    def _new_way(self, spec: PageSpec) -> Way:
        axis = None if spec.channels == 1 else -1
        try:
            chain = trace(self.pipeline, spec.color_shape, spec.dtype, channel_axis=axis)
        except NotTileableError as error:
            return Way(None, None, None, str(error))
        height, width = chain.size
        result = PageSpec(height, width, spec.channels, chain.output.dtype, spec.alpha)
        alpha = None
        if spec.alpha:
            _check_alpha(spec.dtype, result.dtype)
            if chain.size != chain.input_size:
                shrink = partial(adaptive_avg_pool2d, output_size=chain.size)
                alpha = trace(shrink, (1, *chain.input_size), spec.dtype)
        return Way(result, chain, alpha)

    @staticmethod
    def _check_format(path: Path, kind: str, header: Header, ways: list[Way]) -> None:
        results = tuple(way.result for way in ways if way.result is not None)
        if len(results) == len(ways):
            reason = misfit(kind, replace(header, pages=results))
            if reason:
                raise ImageError(path, reason)

    # By parts

    def _by_parts(self, task: Task, source: OpenImage, ways: list[Way], stages: Stages) -> None:
        limit = self.budget.limit
        threads = min(MOST_THREADS, get_num_threads())
        header = replace(
            source.header, pages=tuple(way.result for way in ways if way.result is not None)
        )
        with self.budget.hold(min(limit, PARTS_BYTES)), ExitStack() as stack:
            share = min(limit, PARTS_BYTES) * 3 // 4 // (2 * threads)
            pages = [
                stack.enter_context(
                    closing(self._parts_of_page(source, page, way, share, threads, stages))
                )
                for page, way in enumerate(ways)
            ]
            with stages.at("encode"):
                _make_folder(task.output)
                write_parts(task.output, header, pages)

    def _parts_of_page(
        self,
        source: OpenImage,
        index: int,
        way: Way,
        share: int,
        threads: int,
        stages: Stages,
    ) -> Generator[Page]:
        """Bands of a filtered page from top to bottom."""
        chain = way.color
        assert chain is not None
        spec = source.header.pages[index]
        rows, columns = chain.tile(share * spec.channels // (spec.channels + spec.alpha))
        if self._tile is not None:
            rows, columns = min(rows, self._tile), min(columns, self._tile)

        stop = Stop(self.stop)

        def band(rows: range) -> Page:
            stop.check()
            with self.lane() as lane, stages.at("compute"):

                def color(rows: range, columns: range) -> Any:
                    with stages.at("decode"):
                        part = source.read_part(index, rows, columns).color
                    return lane.upload(part)

                tiles = [
                    lane.download(chain.compute(rows, part, color, self.backend))
                    for part in cut(chain.size[1], columns)
                ]
                whole = tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=1)
                alpha = self._alpha(source, index, way, rows, stages) if spec.alpha else None
            return Page(whole, alpha)

        bands = in_order(cut(chain.size[0], rows), band, jobs=threads, stop=stop)
        with closing(bands):
            while True:
                with stages.at(WAITING):
                    found = next(bands, None)
                if found is None:
                    return
                yield found[1]

    @staticmethod
    def _alpha(source: OpenImage, index: int, way: Way, rows: range, stages: Stages) -> Any:
        """Rows of the alpha that goes with the result."""

        def read(rows: range, columns: range) -> Any:
            with stages.at("decode"):
                alpha = source.read_part(index, rows, columns).alpha
            assert alpha is not None
            return alpha

        if way.alpha is None:
            return read(rows, range(source.header.pages[index].width))
        alpha = way.alpha
        return alpha.compute(rows, range(alpha.size[1]), lambda *p: read(*p)[None], "numpy")[0]


def _check_alpha(alpha: Any, color: Any) -> None:
    if alpha != color:
        raise ValueError(f"alpha is {alpha} and the result is {color}; drop out_dtype")


def _make_folder(path: Path) -> None:
    """The folder that a file will lie in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ImageError(path, f"cannot be written: {reason}") from error


def whole_bytes(source: OpenImage, kind: str, ways: Iterable[Way]) -> int:
    """Memory that an image needs which is filtered whole, by estimate."""
    ways = list(ways)
    given = source.header.nbytes
    results = [way.result for way in ways]
    if any(result is None for result in results):
        return max(source.peak_bytes, 4 * given)  # nobody knows what a user's function needs
    specs = [spec for spec in results if spec is not None]
    made = sum(spec.nbytes for spec in specs)
    inner = max((way.inner_bytes for way in ways), default=0)
    written = max((write_peak_bytes(kind, spec) for spec in specs), default=0)
    return max(source.peak_bytes, given + inner + made, made + written)


def _no_parts(source: OpenImage, kind: str, ways: Iterable[Way]) -> str:
    """Why an image cannot be filtered by parts; empty where it can."""
    convert = "use TIFF, .npy or Zarr, or raise the memory limit"
    if not source.by_parts:
        return f"this {source.header.format} cannot be read by parts; {convert}"
    if kind not in BY_PARTS:
        return f"{kind} cannot be written by parts; {convert}"
    why = next((way.why for way in ways if way.color is None), "")
    return f"the pipeline cannot be computed by parts: {why}" if why else ""


def told(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process of its own needs to know to filter files."""

    pipeline: Pipeline
    backend: str
    memory_limit: int | None = None
    tile: int | None = None
    threads: int | None = None


def filter_file(settings: Settings, task: Task) -> Outcome:
    """Filter a file in a process that does so again and again."""
    return _filter_with(settings)(task)


@cache
def _filter_with(settings: Settings) -> FileFilter:
    if settings.threads is not None:
        set_num_threads(settings.threads)
    return FileFilter(
        settings.pipeline,
        backend=settings.backend,
        memory_limit=settings.memory_limit,
        tile=settings.tile,
    )
