"""Who filters the files of a run: threads of this process, or the processes of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from gpuconv import scale
from gpuconv.files import FileFilter, Settings, Task, filter_file, told
from gpuconv.workers import Outcome, in_order


class Crew(Protocol):
    """Filters files. `name` is that of the backend."""

    name: str

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task."""


class Threads:
    """Filters in this process."""

    def __init__(self, filter_one: FileFilter, jobs: int) -> None:
        self._filter = filter_one
        self._jobs = jobs
        self.name = filter_one.backend.name

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task, in order."""
        results = in_order(work, self._filter, jobs=self._jobs, stop=self._filter.stop)
        with closing(results):
            for _, outcome in results:
                yield outcome


class Cluster:
    """Filters in processes of a Dask cluster: of one made for this run, or at `scheduler`."""

    def __init__(
        self, settings: Settings, workers: int | None, scheduler: str | None, jobs: int | None
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._scheduler = scheduler
        self._jobs = 2 if jobs is None else jobs
        self.name = settings.backend

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task, as they finish."""
        tasks = [
            Task(Path(os.path.abspath(t.input)), Path(os.path.abspath(t.output)), t.refused)
            for t in work
        ]
        one = partial(filter_file, self._settings)
        with scale.cluster(self._scheduler, self._workers) as client:
            for index, result in scale.run_on(client, one, tasks, ahead=self._jobs):
                if isinstance(result, BaseException):
                    yield Outcome(work[index], "failed", f"its worker failed: {told(result)}")
                else:
                    yield replace(result, item=work[index])
