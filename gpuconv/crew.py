"""Who filters the files of a run: threads of this process, or the processes of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gpuconv import scale
from gpuconv.files import INTERRUPTED, FileFilter, Settings, Task, filter_file, told
from gpuconv.workers import Outcome, in_order


class Crew(Protocol):
    """Filters files inside of its block.

    name : of the backend.
    finished : outcomes so far, also those that are not told as they are out of order.
    """

    name: str
    finished: list[Outcome]

    def __enter__(self) -> Crew: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task."""


class Threads:
    """Filters in this process. What is begun when it is interrupted may take `patience_s` more."""

    def __init__(self, filter_one: FileFilter, jobs: int, patience_s: float | None = None) -> None:
        self._filter = filter_one
        self._jobs = jobs
        self._patience_s = patience_s
        self.name = filter_one.backend.name
        self.finished: list[Outcome] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task, in order."""
        results = in_order(
            work,
            self._one,
            jobs=self._jobs,
            stop=self._filter.stop,
            patience_s=self._patience_s,
        )
        with closing(results):
            for _, outcome in results:
                yield outcome

    def _one(self, task: Task) -> Outcome:
        outcome = self._filter(task)
        if outcome.reason != INTERRUPTED:
            self.finished.append(outcome)
        return outcome


class Cluster:
    """Filters in processes of a Dask cluster: of one made for this run, or at `scheduler`.

    hasty : an interrupt does not wait for the cluster's end, as the process ends it.
    """

    def __init__(
        self,
        settings: Settings,
        workers: int | None,
        scheduler: str | None,
        jobs: int | None,
        *,
        hasty: bool = False,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._scheduler = scheduler
        self._jobs = 2 if jobs is None else jobs
        self._hasty = hasty
        self._stack = ExitStack()
        self._client: Any = None
        self.name = settings.backend
        self.finished: list[Outcome] = []

    def __enter__(self) -> Crew:
        self._client = self._stack.enter_context(scale.cluster(self._scheduler, self._workers))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not (self._hasty and kind is KeyboardInterrupt):
            self._stack.__exit__(kind, error, trace)
            return
        for nanny in getattr(self._client.cluster, "workers", {}).values():
            nanny.close_gracefully()  # nobody starts workers anew that are killed

    def outcomes(self, work: Sequence[Task]) -> Generator[Outcome]:
        """What became of each task, as they finish."""
        tasks = [
            Task(Path(os.path.abspath(t.input)), Path(os.path.abspath(t.output)), t.refused)
            for t in work
        ]
        one = partial(filter_file, self._settings)
        for index, result in scale.run_on(self._client, one, tasks, ahead=self._jobs):
            if isinstance(result, BaseException):
                reason = f"its worker failed: {told(result)}"
                outcome = Outcome(work[index], "failed", reason)
            else:
                outcome = replace(result, item=work[index])
            self.finished.append(outcome)
            yield outcome
