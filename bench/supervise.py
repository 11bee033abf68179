"""Work that may crash or hang, in a process of its own, started anew for what is left.

The process reads the names of its jobs from its standard input, a line each, and tells on its
standard output what it is at:

    @begin NAME
    anything else, which belongs to the job
    @end NAME

It may stop early, with status 0 when its time is over or another to be started anew.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from bench import machine

BEGIN, END = "@begin ", "@end "

RAISED = "raised "
"""How a job may begin the line that tells of an exception."""

GRACE_S = 10.0
"""How long beyond its time a process may finish what it is at."""

Done = Callable[[str, str, list[str]], None]
"""(name, "ended", "crashed" or "hung", what was printed). No name: before the first job."""


def announce(mark: str, name: str) -> None:
    """In the process: tell that a job begins or ends."""
    print(f"{mark}{name}", flush=True)


def jobs() -> list[str]:
    """In the process: what it is to do."""
    return sys.stdin.read().splitlines()


def supervise(
    names: Sequence[str], command: Sequence[str], until: float, patience_s: float, done: Done
) -> list[str]:
    """Run `command` over jobs until the clock says `until`; those that were not begun.

    A job that crashes the process, or prints nothing for `patience_s`, is given up.
    """
    left = list(names)
    while left and time.time() < until:
        if not _run_once(left, command, until, patience_s, done):
            break
    return left


def _run_once(
    left: list[str], command: Sequence[str], until: float, patience_s: float, done: Done
) -> bool:
    """One process: takes the jobs that it ends from `left`. Whether another would get further."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=machine.ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = _reader(process.stdout)
    with suppress(OSError):  # where it ended at once: what it printed tells why
        process.stdin.write("\n".join(left))
        process.stdin.close()
    before, current = len(left), ""
    printed: list[str] = []

    def finish(how: str) -> None:
        if current:
            left.remove(current)
        done(current, how, printed)

    while True:
        wait_s = min(patience_s, until + GRACE_S - time.time())
        try:
            line = lines.get(timeout=max(wait_s, 0.01))
        except queue.Empty:
            kill(process)
            finish("hung")
            return len(left) < before
        if line is None:
            break
        if line.startswith(BEGIN):
            current, printed = line.removeprefix(BEGIN), []
        elif line.startswith(END):
            finish("ended")
            current, printed = "", []
        else:
            printed.append(line)
    status = process.wait()
    if current or (status and len(left) == before):
        printed.append(f"the process ended with status {status}")
        finish("crashed")
    return len(left) < before


def _reader(stream: IO[str]) -> queue.Queue[str | None]:
    """Lines as they come; None at the end."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def kill(process: subprocess.Popen[str]) -> None:
    """End it and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
