"""Many items on many machines: a Dask cluster, and every item's result from it just once."""

from __future__ import annotations

import itertools
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from logging import CRITICAL
from operator import length_hint
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

TASKS_PER_S = 100
MOST_TOGETHER = 64
"""Tasks that a client takes back in a second without hurry, and the most items that are one."""

IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""Run by workers as they start: Ctrl-C reaches all processes, and the first one ends the others."""


class ClusterError(ConnectionError):
    """There is no cluster to work on; the message says why and what to do."""


@contextmanager
def cluster(address: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A Dask cluster for the block: one that is there, or one on this machine, without a dashboard.

    Parameters
    ----------
    address : of a scheduler, such as tcp://10.0.0.5:8786.
    workers : without an address, processes to start, of one thread each. With dask-cuda and a
        usable device they are one a GPU, at most, and share all processors: while a thread's image
        is on the GPU, others decode and encode. None: one a GPU, else one a processor.

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
    import asyncio

    with import_module("distributed.utils").silence_logging_cmgr(CRITICAL):
        try:
            with ThreadPoolExecutor(1) as threads:  # where no other event loop can be running
                threads.submit(asyncio.run, _greet(address)).result()
            client = _client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            told = f" ({error})" if isinstance(error, ValueError) else ""
            raise ClusterError(
                f"no Dask scheduler answers at {address}{told}; start one with: dask scheduler"
            ) from error
        with client:
            yield client


async def _greet(address: str) -> None:
    """Connect and leave: a client would wait for ever for a listener that is no scheduler."""
    import asyncio

    secure = import_module("distributed").Security().get_connection_args("client")
    connect = import_module("distributed.comm").connect
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await connect(address, timeout=CONNECT_SECONDS, **secure)
    await connection.close()


def _client(cluster: Any, **options: Any) -> Any:
    return import_module("distributed").Client(cluster, set_as_default=False, **options)


def _local(workers: int | None) -> Any:
    """A cluster of processes on this machine: one a GPU where that is possible."""
    most = get_num_threads()
    options: dict[str, Any] = {
        "n_workers": workers or most,
        "threads_per_worker": 1,
        "memory_limit": None,  # gpuconv keeps to a limit of its own
        "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        "dashboard_address": None,
        "silence_logs": CRITICAL,
        "preload": [IGNORE_INTERRUPTS],
    }
    kind = import_module("distributed").LocalCluster
    devices = len(info()["backends"][0]["devices"])
    if devices and find_spec("dask_cuda"):
        kind = import_module("dask_cuda").LocalCUDACluster
        options["n_workers"] = count = min(devices, workers or devices)
        options["threads_per_worker"] = max(1, most // count)  # to decode and encode meanwhile
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
    ahead : tasks that are submitted for each thread of the workers; a task is one item, or several
        if they would come back too quickly for one client. Other items are not asked for.
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


@dataclass(frozen=True, slots=True)
class _Several:
    """A task: the function on some items, one after the other."""

    function: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> tuple[float, list[Any]]:
        start = time.perf_counter()
        results = [self._one(item) for item in items]
        return (time.perf_counter() - start) / len(items), results

    def _one(self, item: Any) -> Any:
        try:
            return self.function(item)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # some exceptions cannot travel
                return RuntimeError(f"{type(error).__name__}: {error}")
            return error


@dataclass(slots=True)
class _Task:
    """Items that were submitted together, by number."""

    future: Any
    items: list[tuple[int, Any]]


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
        self._function = _Several(function)
        self._coming = enumerate(items)
        self._left = length_hint(items, -1)
        self._ahead = ahead
        self._patience_s = patience_s
        self._suspects: deque[tuple[int, Any]] = deque()
        self._alone = False
        self._flying: dict[str, _Task] = {}
        self._done: SimpleQueue[str] = SimpleQueue()
        self._slots = 0
        self._asked = float("-inf")
        self._seen = time.monotonic()
        self._item_s: float | None = None

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
                yield from self._settled(key)
        finally:
            if self._flying and self._client.status == "running":
                self._client.cancel([task.future for task in self._flying.values()], force=True)

    def _count_slots(self) -> None:
        """Ask, once a second at most, how many threads all workers have."""
        now = time.monotonic()
        if now - self._asked < min(1, self._patience_s):
            return
        if self._client.status == "closed":
            raise self._gone()
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

    def _gone(self) -> ClusterError:
        return ClusterError(f"the Dask scheduler at {self._address()} is gone; start it again")

    def _address(self) -> str:
        return str(self._client.scheduler.addr if self._client.scheduler else "its address")

    def _submit(self) -> None:
        while len(self._flying) < self._ahead * self._slots and not self._alone:
            items = list(itertools.islice(self._coming, self._together()))
            self._left = max(-1, self._left - len(items))
            if not items and not self._flying and self._suspects:
                self._alone = True
                items = [self._suspects.popleft()]
            if not items:
                return
            future = self._client.submit(self._function, [item for _, item in items], pure=False)
            self._flying[future.key] = _Task(future, items)
            self._watch(future)

    def _together(self) -> int:
        """Items of a task, so that no more tasks a second come back than one client can take."""
        if self._item_s is None:
            return 1
        wanted = round(self._slots / (TASKS_PER_S * max(self._item_s, 1e-6)))
        if self._left >= 0:  # nobody waits for others at the end
            wanted = min(wanted, self._left // (self._ahead * self._slots))
        return max(1, min(MOST_TOGETHER, wanted))

    def _watch(self, future: Any) -> None:
        key = future.key
        future.add_done_callback(lambda _: self._done.put(key))

    def _settled(self, key: str) -> list[tuple[int, Any]]:
        """A task's items by number, with what became of them, where that is the last word."""
        task = self._flying[key]
        numbers = [number for number, _ in task.items]
        failed: Any = None
        try:
            item_s, results = task.future.result(timeout=5)
        except Exception as error:
            if task.future.status in ("cancelled", "lost"):
                raise self._gone() from error
            if task.future.status != "error":  # its worker died before it handed the result over
                self._watch(task.future)
                return []
            failed = error
        del self._flying[key]
        alone, self._alone = self._alone, False
        if failed is None:
            self._item_s = item_s if self._item_s is None else (3 * self._item_s + item_s) / 4
            return list(zip(numbers, results, strict=True))
        killed: Any = import_module("distributed").KilledWorker
        if isinstance(failed, killed) and not alone:
            self._suspects.extend(task.items)
            return []
        return [(number, failed) for number in numbers]
