"""Ctrl-C and SIGTERM: a run ends soon, whatever its threads do, and leaves whole files alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from gpuconv.image_io import remove_leftovers

PATIENCE_S = 1.0
"""How long what is begun may go on once a run was interrupted."""

_INTERRUPTS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and a terminal that goes away end the block as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    with suppress(ValueError):  # not the main thread
        for number in _INTERRUPTS:
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Further signals do not interrupt the end of this process."""
    for number in (signal.SIGINT, *_INTERRUPTS):
        signal.signal(number, signal.SIG_IGN)


def leave(status: int, folders: Iterable[Path] = ()) -> NoReturn:
    """End this process and its children now; what they have not finished in `folders` goes.

    Threads cannot be stopped while a decoder or a filter runs, and Python would wait for them.
    """
    ignore_interrupts()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    children = multiprocessing.active_children()
    if children:  # nobody wants to hear what they say when they are killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for child in children:
        child.kill()
    for child in children:
        child.join(5)
    if children:
        _forget_semaphores()
    for folder in folders:
        remove_leftovers(folder, mine=True)
    os._exit(status)


def _forget_semaphores() -> None:
    """Delete those of multiprocessing; its tracker would tell of what other threads delete now."""
    import_module("multiprocessing.util")._exit_function()
    tracker = import_module("multiprocessing.resource_tracker")._resource_tracker
    if getattr(tracker, "_pid", None):
        with suppress(OSError):
            os.kill(tracker._pid, signal.SIGKILL)
