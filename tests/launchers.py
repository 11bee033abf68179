"""Launchers that run nothing: what plans and calls would launch, with arrays of any size."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np

import gpuconv
from gpuconv.backends.cuda import CudaBackend, window


def zeros(*shape, dtype=np.float32):
    """An array that costs no memory, whatever its shape."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def unwritten(*shape, dtype=np.float32):
    """A result of any size that takes no memory: it is never touched."""
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, [0] * len(shape))


class Uploads:
    """One that only keeps constants."""

    def constant(self, array):
        return array


class Memory:
    """One that counts what is asked for, never more than a workspace, and gives none."""

    def __init__(self):
        self.bytes = 0

    def empty(self, shape, dtype):
        bytes_wanted = math.prod(shape) * dtype.itemsize
        assert bytes_wanted <= window.WORKSPACE_BYTES
        self.bytes += bytes_wanted
        return np.broadcast_to(np.zeros(1, dtype), shape)

    def constant(self, array):
        return array


def plan_launches(family, plan, memory, dtype=None):
    """The launches of a plan over images (of `dtype`) that take no memory."""
    images = np.broadcast_to(np.zeros(1, dtype or plan.images.dtype), plan.images.shape)
    result = np.broadcast_to(np.zeros(1, plan.images.out_dtype), plan.images.shape)
    return list(family.launches(plan, [images], [result], memory))


class Recorder:
    """One that takes launches down."""

    def __init__(self):
        self.launches = []

    def owns(self, array):
        return True

    def scope(self, array):
        return nullcontext()

    def adopt(self, argument, array):
        return array

    def empty(self, shape, dtype):
        return unwritten(*shape, dtype=dtype)

    def device(self, array):
        return 0

    def constant(self, array):
        return array

    def ready(self, launch, plan):
        return launch

    def launch(self, ready, arrays, plan):
        self.launches.append(ready)


def recorded(call):
    """The launches of a call of the public functions over NumPy arrays."""
    recorder = Recorder()
    with gpuconv.use_backend(CudaBackend(recorder)):
        call()
    return recorder.launches
