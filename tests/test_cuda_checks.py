"""Every CUDA kernel under the emulator's eyes: races, bounds, orders of threads, requests."""

from __future__ import annotations

from functools import cache

import pytest

import gpuconv
from gpuconv.backends.cuda.families import variants
from tests.cuda_cases import assert_same, every_call, few_blocks
from tests.emulator import EmulatorBackend

pytestmark = pytest.mark.emulator

CALLS = every_call()

ORDERS = {
    "reverse": {"order": "reverse"},
    "random": {"order": "random", "seed": 7},
    "another poison": {"poison": 0x3B},
}


@cache
def backend(**settings):
    """One emulator for each of its builds and settings."""
    return EmulatorBackend(**settings)


def run(name, **settings):
    """A call on the emulator with such settings."""
    with gpuconv.use_backend(backend(**settings)):
        return CALLS[name]()


@pytest.mark.parametrize("name", CALLS)
def test_the_check_build_finds_nothing_and_computes_the_same(name):
    assert_same(run(name, checked=True), run(name))


@pytest.mark.parametrize("settings", ORDERS)
def test_orders_of_threads_and_poison_change_nothing(settings):
    for name in CALLS:
        assert_same(run(name, **ORDERS[settings]), run(name))


def test_the_calls_launch_every_kernel():
    emulator = EmulatorBackend()
    with gpuconv.use_backend(emulator):
        for call in CALLS.values():
            call()
    assert set(emulator.launches) == {variant.kernel for variant in variants()}


def test_blocks_that_take_several_jobs_compute_the_same(monkeypatch):
    expected = {name: run(name) for name in CALLS}
    few_blocks(monkeypatch, 2)
    for name, result in expected.items():
        assert_same(run(name), result)
