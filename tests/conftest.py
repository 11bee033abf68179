"""Which backend the engine's tests run on, and fixtures that many files share."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda.cupy_launcher import probe
from gpuconv.plan.remember import forget
from tests.emulator import EmulatorBackend

ENGINE_TESTS = {
    f"tests.test_{name}"
    for name in (
        *("filters", "filters_linear", "filters_rank", "filters_photos"),
        *("conv", "conv_pool", "conv_transpose", "pool", "unpool", "map_properties", "peers"),
    )
}
"""Files whose every test runs once on each backend."""

BACKENDS = {
    "numpy": (),
    "emulator": pytest.mark.emulator,
    "cuda": pytest.mark.gpu,
}

RARE = {"int8", "int32", "uint32"}
"""Types of elements whose tests on the emulator are slow ones: each is an instance of what others
try, and takes g++ as long."""

LEFT_OUT = {"numpy_alone": {"emulator", "cuda"}, "not_emulated": {"emulator"}}
"""What a mark keeps off a test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-gpu",
        action="store_true",
        help="tests that need a CUDA device fail, where they would be skipped for want of one",
    )


def pytest_configure() -> None:
    # What a shell has put in the background ignores Ctrl-C, and so would the tests' own children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__ in ENGINE_TESTS:
        marks = (mark.name for mark in metafunc.definition.iter_markers())
        left_out = set().union(*(LEFT_OUT.get(name, ()) for name in marks))
        chosen = [
            pytest.param(name, marks=mark)
            for name, mark in BACKENDS.items()
            if name not in left_out
        ]
        metafunc.parametrize("engine", chosen, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        params = getattr(item, "callspec", None) and item.callspec.params
        if params and params.get("engine") == "emulator" and RARE & set(map(str, params.values())):
            item.add_marker(pytest.mark.slow)


@cache
def emulator_backend() -> EmulatorBackend:
    """One for the whole process: its kernels stay loaded."""
    return EmulatorBackend()


def require_gpu(config: pytest.Config) -> None:
    """Without a CUDA device: skip the running test with the reason, or fail with --require-gpu."""
    if not probe().available:
        refuse = pytest.fail if config.getoption("--require-gpu") else pytest.skip
        refuse(f"no CUDA device: {probe().reason}; {probe().remedy}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers that hang on the test's name alone, not on what ran before it."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def cupy(request: pytest.FixtureRequest) -> Any:
    """CuPy, where there is a device."""
    require_gpu(request.config)
    import cupy

    return cupy


@pytest.fixture
def numpy_backend() -> Iterator[None]:
    """Calls without `backend=` run on NumPy; the test may set the number of threads."""
    with gpuconv.use_backend("numpy"):
        yield
    gpuconv.set_num_threads(None)


@pytest.fixture(scope="module")
def emulator() -> EmulatorBackend:
    """A backend whose counts of launches are the file's own."""
    return EmulatorBackend()


@pytest.fixture(autouse=True)
def fresh_plans() -> None:
    """No test finds what another one had prepared."""
    forget()


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The backend that calls without `backend=` run on, in the files of ENGINE_TESTS."""
    name = getattr(request, "param", None)
    if name is None:
        yield None
        return
    if name == "cuda":
        require_gpu(request.config)
    backend = emulator_backend() if name == "emulator" else name
    with gpuconv.use_backend(backend):
        yield backend
