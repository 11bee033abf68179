"""Many items on many machines: a Dask cluster, and every item's result from it just once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from logging import CRITICAL
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from gpuconv.backends import info
from gpuconv.backends.numpy.threads import get_num_threads
from gpuconv.extras import need

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

CONNECT_SECONDS = 10
"""What a scheduler is given to answer."""

DEATHS = 1
"""Workers that may die while they have an item; when one more does, the item is a suspect."""


class ClusterError(ConnectionError):
    """There is no cluster to work on; the message says why and what to do."""


@contextmanager
def cluster(address: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A Dask cluster for the block: one that is there, or one on this machine, without a dashboard.

    Parameters
    ----------
    address : of a scheduler, such as tcp://10.0.0.5:8786.
    workers : without an address, processes to start, of one thread each. With dask-cuda and a
        usable device they are one a GPU, at most. None: one a GPU, else one a processor.

    Raises
    ------
    ClusterError : no scheduler answers.
    ValueError : `workers` is below 1, or given beside an address.
    MissingExtraError : Dask is not installed.
    """
    need("a cluster", "dask", "dask", "distributed")
    if address is not None:
        if workers is not None:
            raise ValueError(f"workers must be None beside an address, got {workers}")
        with _connected(address) as client:
            yield client
        return
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    with _local(workers) as local, _client(local) as client:
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        client = _client(address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        told = " ".join(str(error).split()) if isinstance(error, ValueError) else ""
        raise ClusterError(
            f"no Dask scheduler answers at {address}{told and f' ({told})'}; "
            "start one with: dask scheduler"
        ) from error
    with client:
        yield client


def _client(cluster: Any, **options: Any) -> Any:
    return import_module("distributed").Client(cluster, set_as_default=False, **options)


def _local(workers: int | None) -> Any:
    """A cluster of processes on this machine: one a GPU where that is possible."""
    most = get_num_threads()
    options: dict[str, Any] = {
        "n_workers": workers or most,
        "threads_per_worker": 1,
        "memory_limit": None,  # gpuconv keeps to a limit of its own
        "dashboard_address": None,
        "silence_logs": CRITICAL,
    }
    kind = import_module("distributed").LocalCluster
    devices = len(info()["backends"][0]["devices"])
    if devices and find_spec("dask_cuda"):
        kind = import_module("dask_cuda").LocalCUDACluster
        options["n_workers"] = min(devices, workers or devices)
        options["device_memory_limit"] = None
    else:
        threads = max(1, most // options["n_workers"])
        options["env"] = {"GPUCONV_NUM_THREADS": str(threads)}
    with import_module("dask.config").set({"distributed.scheduler.allowed-failures": DEATHS}):
        return kind(**options)


def run_on(
    client: Client,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    ahead: int = 2,
    patience_s: float = 60,
) -> Iterator[tuple[int, R | BaseException]]:
    """Call `function` on every item, on the workers of a cluster: each result comes exactly once.

    Items of a worker that is lost are redone on others, and workers that join are used: a function
    may run more than once for an item. One that is there whenever its worker dies is tried again
    when all others are done, alone; its result is a KilledWorker if that kills workers, too.

    Parameters
    ----------
    function, items, results : small, and can be pickled.
    ahead : items that are submitted for each thread of the workers; the others are not asked for.
    patience_s : how long there may be no worker at all.

    Returns
    -------
    (number, result) of each item as it is done; the exception where the function raised one.

    Raises
    ------
    ClusterError : the scheduler is gone, or there is no worker.
    ValueError : `ahead` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1, got {ahead}")
    return _Run(client, function, items, ahead, patience_s).results()


class _Run:
    """Items on their way through a cluster."""

    def __init__(
        self,
        client: Any,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        ahead: int,
        patience_s: float,
    ) -> None:
        self._client = client
        self._function = function
        self._coming = enumerate(items)
        self._ahead = ahead
        self._patience_s = patience_s
        self._suspects: deque[tuple[int, Any]] = deque()
        self._alone = False
        self._flying: dict[str, tuple[Any, int, Any]] = {}
        self._done: SimpleQueue[str] = SimpleQueue()
        self._slots = 0
        self._asked = float("-inf")
        self._seen = time.monotonic()

    def results(self) -> Iterator[tuple[int, Any]]:
        """(number, result) of each item as it is done; who leaves cancels what is under way."""
        try:
            while True:
                self._count_slots()
                self._submit()
                if not self._flying and self._slots and not self._suspects:
                    return
                try:
                    key = self._done.get(timeout=1 if self._flying else 0.2)
                except Empty:
                    continue
                found = self._settled(key)
                if found is not None:
                    yield found
        finally:
            if self._flying and self._client.status == "running":
                self._client.cancel([future for future, *_ in self._flying.values()], force=True)

    def _count_slots(self) -> None:
        """Ask, once a second at most, how many threads all workers have."""
        now = time.monotonic()
        if now - self._asked < min(1, self._patience_s):
            return
        if self._client.status == "closed":
            raise ClusterError(f"the Dask scheduler at {self._address()} is gone; start it again")
        self._asked = now
        try:
            self._slots = sum(self._client.nthreads().values())
        except OSError:  # the connection is lost; perhaps it comes back
            self._slots = 0
        if self._slots:
            self._seen = now
        elif now - self._seen > self._patience_s:
            raise ClusterError(
                f"there has been no worker for {self._patience_s:.0f} s; "
                f"start some with: dask worker {self._address()}"
            )

    def _address(self) -> str:
        return str(self._client.scheduler.addr if self._client.scheduler else "its address")

    def _submit(self) -> None:
        while len(self._flying) < self._ahead * self._slots and not self._alone:
            pair = next(self._coming, None)
            if pair is not None:
                self._start(*pair)
            elif not self._flying and self._suspects:
                self._alone = True
                self._start(*self._suspects.popleft())
            else:
                return

    def _start(self, number: int, item: Any) -> None:
        future = self._client.submit(self._function, item, pure=False)
        self._flying[future.key] = future, number, item
        self._watch(future)

    def _watch(self, future: Any) -> None:
        key = future.key
        future.add_done_callback(lambda _: self._done.put(key))

    def _settled(self, key: str) -> tuple[int, Any] | None:
        """An item's number and what became of it; None where that is not the last word."""
        future, number, item = self._flying[key]
        result: Any
        try:
            result = future.result(timeout=5)
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                raise ClusterError(
                    f"the Dask scheduler at {self._address()} is gone; start it again"
                ) from error
            if future.status != "error":  # its worker died before it handed the result over
                self._watch(future)
                return None
            result = error
        del self._flying[key]
        killed: Any = import_module("distributed").KilledWorker
        if isinstance(result, killed) and not self._alone:
            self._suspects.append((number, item))
            return None
        self._alone = False
        return number, result
