"""The NumPy backend's threads: how many, what they leave as it was, and what survives a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.backends.numpy import threads
from tests.image_cases import random_images

pytestmark = pytest.mark.usefixtures("numpy_backend")


def run_python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"GPUCONV_BACKEND": "numpy"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_number_of_threads_is_what_was_set():
    gpuconv.set_num_threads(3)
    assert gpuconv.get_num_threads() == 3
    gpuconv.set_num_threads(None)
    assert gpuconv.get_num_threads() == threads._usable()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_number_of_threads_must_be_a_positive_integer(bad):
    with pytest.raises(ValueError, match=r"count must be an integer of at least 1 or None, got "):
        gpuconv.set_num_threads(bad)


@pytest.mark.parametrize(
    ("told", "expected"), [("5", "5"), ("0", None), ("many", None), ("", None)]
)
def test_environment_sets_the_number_of_threads(told, expected):
    code = "import gpuconv; print(gpuconv.get_num_threads())"
    assert run_python(code, GPUCONV_NUM_THREADS=told) == (expected or str(threads._usable()))


def test_small_arrays_start_no_thread():
    code = """if True:
        import threading, numpy as np, gpuconv
        gpuconv.set_num_threads(4)
        gpuconv.filters.gaussian_blur(np.ones((64, 64), np.float32), 2)
        gpuconv.conv2d(np.ones((1, 3, 16, 16), np.float32), np.ones((4, 3, 3, 3), np.float32))
        gpuconv.max_pool2d(np.ones((1, 3, 16, 16), np.float32), 2)
        print(threading.active_count())
        gpuconv.filters.gaussian_blur(np.ones((3000, 2000), np.float32), 2)
        print(threading.active_count() > 1)"""
    assert run_python(code).split() == ["1", "True"]


def test_blas_has_one_thread_inside_and_its_own_number_again_outside():
    ask, tell = threads._blas()
    before = ask()
    tell(3)
    outside = ask()  # 1 where BLAS cannot be told
    seen = []
    try:
        gpuconv.set_num_threads(2)
        threads.for_each(lambda item: seen.append(ask()), range(20))
        with pytest.raises(ZeroDivisionError):
            threads.for_each(lambda item: 1 / item, [1, 0, 1])
        assert ask() == outside
    finally:
        tell(before)
    assert set(seen) == {1}


def test_each_item_is_taken_once_and_the_first_error_stops_the_rest():
    gpuconv.set_num_threads(4)
    seen = []
    threads.for_each(seen.append, range(1000))
    assert sorted(seen) == list(range(1000))
    begun = []

    def fail(item):
        begun.append(item)
        raise KeyError(item)

    with pytest.raises(KeyError):
        threads.for_each(fail, range(1000))
    assert len(begun) <= 4


def test_tasks_inside_of_tasks_run_where_they_are():
    gpuconv.set_num_threads(3)
    wrong = []

    def outer(_):
        own = threading.get_ident()
        threads.for_each(lambda _: wrong.append(threading.get_ident() != own), range(5))

    threads.for_each(outer, range(6))
    assert wrong == [False] * 30


def test_callers_on_many_threads_get_their_own_results():
    gpuconv.set_num_threads(3)
    images = [random_images((400 + 50 * i, 900), "uint8") for i in range(6)]
    expected = [filters.gaussian_blur(image, 3) for image in images]

    def call(i):
        if i == 7:
            gpuconv.set_num_threads(2)  # a pool that is in use goes on
        return filters.gaussian_blur(images[i % 6], 3)

    with ThreadPoolExecutor(6) as pool:
        for i, result in enumerate(pool.map(call, range(30))):
            np.testing.assert_array_equal(result, expected[i % 6])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    """Also one that is forked while other threads compute, and hold locks."""
    code = """if True:
        import os, threading, warnings, numpy as np, gpuconv
        from gpuconv.backends.numpy import threads
        warnings.simplefilter("ignore")
        gpuconv.set_num_threads(2)
        image = np.random.default_rng(0).random((1500, 2000), np.float32)
        expected = gpuconv.filters.gaussian_blur(image, 3)
        ask, tell = threads._blas()
        before, busy = ask(), True

        def work():
            while busy:
                gpuconv.filters.gaussian_blur(image, 3)

        thread = threading.Thread(target=work)
        thread.start()
        children = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                same = np.array_equal(gpuconv.filters.gaussian_blur(image, 3), expected)
                os._exit(0 if same and ask() == before else 1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        busy = False
        thread.join()
        print(codes, ask() == before)"""
    assert run_python(code) == "[0, 0, 0, 0, 0] True"
