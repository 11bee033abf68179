"""Independent pieces of work of feature maps, carried out on all threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuconv.backends.numpy.threads import for_each

Task = Callable[[], None]


def run_tasks(tasks: Sequence[Task]) -> None:
    """Carry out tasks that are independent of each other."""
    for_each(_run, tasks)


def _run(task: Task) -> None:
    with np.errstate(all="ignore"):  # every thread has its own
        task()
