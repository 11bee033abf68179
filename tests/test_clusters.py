"""A Dask cluster of processes: every item's result once, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest

from gpuconv import clusters, filters, scale
from gpuconv.extras import MissingExtraError
from tests.step_cases import image

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are ended by SIGKILL")

PYTHON = sys.executable


@pytest.fixture(scope="module")
def client():
    """Two processes for all tests; both are there when a test begins."""
    with scale.cluster(workers=2) as client:
        yield client


@pytest.fixture
def two(client):
    client.wait_for_workers(2, timeout=30)
    return client


def square(item):
    return item * item


def die_once(folder, item):
    """The square; number 7 takes its worker with it when it comes for the first time."""
    (folder / f"{item}-{time.monotonic_ns()}").touch()
    if item == 7 and len(list(folder.glob("7-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return item * item


def always_die(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def take_a_while(item):
    time.sleep(0.03)
    return item


class PickyError(Exception):
    """Can be pickled, and not restored."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def be_picky(item):
    raise PickyError(item, 2)


def fail(item):
    if item % 2:
        raise ValueError(f"number {item}")
    return item


def test_every_item_comes_once(two):
    assert sorted(scale.run_on(two, square, range(50))) == [(i, i * i) for i in range(50)]
    assert list(scale.run_on(two, square, [])) == []


def test_an_error_is_that_items_result(two):
    found = dict(scale.run_on(two, fail, range(6)))
    assert [found[i] for i in (0, 2, 4)] == [0, 2, 4]
    assert [str(found[i]) for i in (1, 3, 5)] == ["number 1", "number 3", "number 5"]
    assert all(isinstance(found[i], ValueError) for i in (1, 3, 5))


def test_an_error_that_cannot_travel_is_told(two):
    ((number, error),) = scale.run_on(two, be_picky, [1])
    assert number == 0
    assert isinstance(error, RuntimeError)
    assert str(error) == "PickyError: 1 and 2"


def test_quick_items_travel_together(two):
    found = list(scale.run_on(two, square, range(1000)))
    assert sorted(found) == [(i, i * i) for i in range(1000)]
    run = clusters._Run(two, square, [], 2, 60)
    run._slots = 1024
    assert run._together() == 1
    for seconds, left, items in (
        (0.25, -1, 41),
        (20.0, -1, 1),
        (0.0, -1, 64),
        (0.25, 10_000, 4),
        (0.25, 3, 1),
    ):
        run._item_s, run._left = seconds, left
        assert run._together() == items


def test_a_lost_workers_items_are_redone(two, tmp_path):
    found = list(scale.run_on(two, partial(die_once, tmp_path), range(40)))
    assert sorted(found) == [(i, i * i) for i in range(40)]
    begun = Counter(int(path.name.partition("-")[0]) for path in tmp_path.iterdir())
    assert begun[7] == 2
    assert set(begun) == set(range(40))


def test_an_item_that_kills_every_worker_costs_itself_alone(two):
    found = list(scale.run_on(two, always_die, range(12), ahead=4))
    assert sorted(number for number, _ in found) == list(range(12))
    assert isinstance(dict(found)[3], distributed.KilledWorker)
    assert [r for n, r in sorted(found, key=lambda pair: pair[0]) if n != 3] == [
        i for i in range(12) if i != 3
    ]


def test_items_are_asked_for_as_workers_are_free(two):
    asked = []

    def items():
        for item in range(100):
            asked.append(item)
            yield item

    results = scale.run_on(two, take_a_while, items(), ahead=3)
    assert asked == []
    for count in range(1, 20):
        next(results)
        assert len(asked) <= count + 2 * 3
    results.close()
    assert len(asked) < 30


def test_leaving_cancels_what_is_under_way(two, tmp_path):
    results = scale.run_on(two, partial(die_once, tmp_path), range(100, 200))
    next(results)
    results.close()
    time.sleep(0.5)
    begun = len(list(tmp_path.iterdir()))
    assert begun <= 10
    time.sleep(0.2)
    assert len(list(tmp_path.iterdir())) == begun


def test_ahead_is_checked(two):
    with pytest.raises(ValueError, match="ahead must be at least 1, got 0"):
        scale.run_on(two, square, [1], ahead=0)


def test_workers_share_the_processors(two):
    told = set(two.run(os.getenv, "GPUCONV_NUM_THREADS").values())
    assert len(told) == 1
    assert int(told.pop()) >= 1


def test_arrays_on_a_cluster_are_those_of_the_whole(two):
    source = image((300, 200), np.uint8)
    result = scale.map("median_blur:size=5,border=wrap", da.from_array(source, chunks=70))
    found = two.compute(result).result(timeout=60)
    np.testing.assert_array_equal(found, filters.median_blur(source, 5, border="wrap"))


# ---------------------------------------------------------------- clusters that are not there


def test_no_workers_at_all():
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address="127.0.0.1:0", processes=False, protocol="tcp"
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
        pytest.raises(scale.ClusterError, match=r"no worker for 1 s; start some with: dask worker"),
    ):
        list(scale.run_on(client, square, [1], patience_s=1))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_address_where_nobody_answers(monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with (
        pytest.raises(scale.ClusterError) as caught,
        scale.cluster(address),
    ):
        pass
    assert time.monotonic() - start < 5
    assert str(caught.value) == (
        f"no Dask scheduler answers at {address}; start one with: dask scheduler"
    )


def test_an_address_of_something_else(monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with (
            pytest.raises(scale.ClusterError, match="no Dask scheduler answers"),
            scale.cluster(f"tcp://127.0.0.1:{listener.getsockname()[1]}"),
        ):
            pass


@pytest.mark.parametrize("address", ["nonsense", "carrier-pigeon://loft:1"])
def test_an_address_that_is_none(address):
    with pytest.raises(scale.ClusterError, match=f"answers at {address}"), scale.cluster(address):
        pass


def test_a_cluster_is_there_or_made():
    with (
        pytest.raises(ValueError, match="workers must be None beside an address, got 2"),
        scale.cluster("tcp://127.0.0.1:1", 2),
    ):
        pass
    with (
        pytest.raises(ValueError, match="workers must be at least 1, got 0"),
        scale.cluster(None, 0),
    ):
        pass


def test_distributed_is_needed_only_by_a_call(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'gpuconv\[dask\]'"),
        scale.cluster(workers=1),
    ):
        pass


def test_a_scheduler_is_found_by_its_address(two):
    with scale.cluster(two.scheduler.addr) as client:
        assert sorted(scale.run_on(client, square, range(9))) == [(i, i * i) for i in range(9)]


# ---------------------------------------------------------------- a process of its own

INTERRUPTED = """
import time
from gpuconv import scale
def slow(item):
    time.sleep(0.3)
    return item
if __name__ == "__main__":
    try:
        with scale.cluster(workers=1) as client:
            for number, _ in scale.run_on(client, slow, range(1000)):
                print(number, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_ends_all_processes_quietly(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [PYTHON, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout.readline() == "0\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert out.splitlines()[-1] == "interrupted"
    assert err == ""
