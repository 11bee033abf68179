"""Many images at a time: each thread takes an image all the way from its source to its sink.

    thread 1   decode a │ compute a │ encode a │ decode c │ compute c │ ...
    thread 2          decode b │ compute b │ encode b │ decode d │ ...

So decoding, computing and encoding overlap, and no more images are in memory than there are
threads. On CUDA every thread has a stream of its own, so copies overlap kernels, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAITING = "wait"
"""The stage in which a thread does nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """A thread at a stage of an image's way, from `start` to `stop` (seconds of perf_counter)."""

    stage: str
    thread: int
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: "done", "failed" (with the reason) or "skipped"."""

    item: Any
    status: str
    reason: str = ""
    pixels: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def seconds(self) -> float:
        """How long threads worked on it."""
        return sum(span.seconds for span in self.spans)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage."""
        found: dict[str, float] = {}
        for span in self.spans:
            found[span.stage] = found.get(span.stage, 0.0) + span.seconds
        return found


class Stages:
    """A clock for one item: which thread was at which stage, and when.

    A stage that begins inside of another one interrupts it.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._now = threading.local()

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """The current thread is at `stage` inside the block."""
        outer = getattr(self._now, "stage", None)
        self._turn(stage)
        try:
            yield
        finally:
            self._turn(outer)

    def _turn(self, stage: str | None) -> None:
        moment = time.perf_counter()
        before = getattr(self._now, "stage", None)
        if before is not None and before != WAITING:
            self._spans.append(Span(before, threading.get_ident(), self._now.since, moment))
        self._now.stage, self._now.since = stage, moment

    @property
    def spans(self) -> tuple[Span, ...]:
        """All stages that are over."""
        return tuple(self._spans)


class StoppedError(Exception):
    """The run was interrupted."""


class Stop:
    """Tells all threads of a run to stop soon; those of a part of it stop with the whole."""

    def __init__(self, whole: Stop | None = None) -> None:
        self._event = threading.Event()
        self._whole = whole

    def now(self) -> None:
        """Stop."""
        self._event.set()

    def check(self) -> None:
        """Raise StoppedError once the run is to stop."""
        if self._event.is_set():
            raise StoppedError
        if self._whole is not None:
            self._whole.check()


def in_order(
    items: Iterable[T],
    work: Callable[[T], R],
    *,
    jobs: int,
    stop: Stop | None = None,
    patience_s: float | None = None,
) -> Generator[tuple[T, R]]:
    """(item, work(item)) in the order of the items, worked on by `jobs` threads.

    At most 2 * jobs items are begun, or done and waiting for their turn: `items` is not asked for
    more. When the caller leaves or is interrupted, what has begun is waited for, `patience_s` at
    most; `stop` makes that quick.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()

    def first() -> tuple[T, R]:
        result = waiting[0][1].result()
        return waiting.popleft()[0], result

    threads = ThreadPoolExecutor(jobs, thread_name_prefix="gpuconv-worker")
    try:
        for item in items:
            waiting.append((item, threads.submit(work, item)))
            while waiting and (len(waiting) >= 2 * jobs or waiting[0][1].done()):
                yield first()
        while waiting:
            yield first()
    except BaseException:
        if stop is not None:
            stop.now()
        threads.shutdown(wait=patience_s is None, cancel_futures=True)
        wait([future for _, future in waiting if not future.cancelled()], patience_s)
        raise
    threads.shutdown(wait=True)
