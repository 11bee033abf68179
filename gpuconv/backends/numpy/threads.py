"""Threads of the NumPy backend: one pool, with BLAS kept to a thread of its own in each.

What is computed never depends on how many threads there are: the work is cut into the same tasks.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

from gpuconv.window import is_integer

T = TypeVar("T")

BLAS_NAMES = (
    *("scipy_openblas_{}64_", "scipy_openblas_{}"),
    *("openblas_{}64_", "openblas_{}"),
)
"""How the builds of OpenBLAS that NumPy comes with name their functions."""

_lock = threading.Lock()
_count: int | None = None
_pool: ThreadPoolExecutor | None = None
_inside = threading.local()
_pinned_by = 0
_blas_threads = 1
_sharing = 0


def set_num_threads(count: int | None) -> None:
    """How many threads the NumPy backend uses; None for one a processor that may be used.

    Results do not depend on it. GPUCONV_NUM_THREADS sets it from outside.

    Raises
    ------
    ValueError : `count` is not an integer of at least 1.
    """
    global _count, _pool
    if count is not None and (not is_integer(count) or count < 1):
        raise ValueError(f"count must be an integer of at least 1 or None, got {count!r}")
    with _lock:
        _count = None if count is None else int(count)
        _pool = None  # its threads end once nobody uses it any more


def get_num_threads() -> int:
    """How many threads the NumPy backend uses."""
    return _usable() if _count is None else _count


@cache
def _usable() -> int:
    """GPUCONV_NUM_THREADS, or the processors that this process may run on."""
    told = os.environ.get("GPUCONV_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each(task: Callable[[T], None], items: Sequence[T]) -> None:
    """Run `task` on every item, in any order, on all threads; the first error is raised.

    Items must be independent of each other. Inside of a task it runs them one by one.
    """
    with one_blas_thread():
        helpers = min(get_num_threads() // max(1, _sharing), len(items)) - 1
        if helpers < 1 or getattr(_inside, "task", False):
            for item in items:
                task(item)
            return
        waiting = iter(items)
        taking = threading.Lock()

        def work() -> None:
            _inside.task = True
            try:
                while True:
                    with taking:
                        item = next(waiting, _END)
                    if item is _END:
                        return
                    task(item)  # type: ignore[arg-type]
            except BaseException:
                with taking:
                    for _ in waiting:  # nobody starts another
                        pass
                raise
            finally:
                _inside.task = False

        futures: list[Future[None]] = [_workers().submit(work) for _ in range(helpers)]
        try:
            work()
        finally:
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error


_END = object()


@contextmanager
def shared() -> Iterator[None]:
    """A block that several threads are in at once: each call gets its share of all threads."""
    global _sharing
    with _lock:
        _sharing += 1
    try:
        yield
    finally:
        with _lock:
            _sharing -= 1


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, get_num_threads() - 1), "gpuconv")
        return _pool


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Matrix products inside take one thread; afterwards as many as before.

    Its own threads would compete with ours, and its sums might hang on their number.
    """
    global _pinned_by, _blas_threads
    ask, tell = _blas()
    with _lock:
        _pinned_by += 1
        if _pinned_by == 1:
            _blas_threads = ask()
            if _blas_threads > 1:
                tell(1)
    try:
        yield
    finally:
        with _lock:
            _pinned_by -= 1
            if _pinned_by == 0 and _blas_threads > 1:
                tell(_blas_threads)


@cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]]:
    """How NumPy's BLAS is asked for and told its threads; harmless where it is not OpenBLAS."""
    ask, tell = (_blas_function(f"{verb}_num_threads") for verb in ("get", "set"))
    if ask is None or tell is None:
        return (lambda: 1), (lambda count: None)
    return ask, tell


def blas_kernels() -> str:
    """What computes NumPy's matrix products: "OpenBLAS for SkylakeX"."""
    ask = _blas_function("get_corename")
    if ask is None:
        return "another BLAS than OpenBLAS"
    ask.restype = ctypes.c_char_p
    name: bytes = ask()
    return f"OpenBLAS for {name.decode()}"


WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")
"""OpenBLAS's kernels for AVX-512."""


@cache
def wide_vectors() -> bool:
    """Whether matrix products use AVX-512."""
    return blas_kernels().endswith(WIDE)


def _blas_function(name: str) -> Any:
    """A function of NumPy's OpenBLAS, or None."""
    spec = find_spec("numpy._core._multiarray_umath")
    try:
        library = ctypes.CDLL(spec.origin if spec else None)
    except OSError:
        return None
    names = (pattern.format(name) for pattern in BLAS_NAMES)
    return next((getattr(library, n) for n in names if hasattr(library, n)), None)


def _after_fork() -> None:
    """A child has none of its parent's threads, and its locks may be held by them."""
    global _lock, _pool, _pinned_by, _inside, _sharing
    if _pinned_by and _blas_threads > 1:
        _blas()[1](_blas_threads)
    _lock, _pool, _pinned_by, _inside = threading.Lock(), None, 0, threading.local()
    _sharing = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
