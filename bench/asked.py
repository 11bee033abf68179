"""What the CUDA backend launches for a case, asked with arrays that take no memory."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.cases import Case
from gpuconv.backends.cuda.families import FAMILIES
from gpuconv.backends.cuda.launch import Launch
from gpuconv.plan import ChainPlan, MorphPlan


class _Asked:
    """A backend that asks the CUDA families for launches and notes them; also their launcher."""

    name = "asked"
    chains = True
    tensor_cores = True

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.traffic: list[tuple[int, int]] = []

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def adopt(self, argument: str, array: Any) -> Any:
        return array

    def empty(self, shape: Any, dtype: Any) -> Any:
        """As a backend: (spec, like); as a launcher: (shape, dtype)."""
        spec = (shape.shape, shape.dtype) if hasattr(shape, "dtype") else (shape, dtype)
        return without_memory(*spec)

    def owns(self, array: Any) -> bool:
        return True

    def device(self, array: Any) -> int:
        return 0

    def constant(self, array: Any) -> Any:
        return array

    def run(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        found = list(FAMILIES[type(plan)](plan, inputs, outputs, self))  # type: ignore[arg-type]
        self.launches += found
        if isinstance(plan, ChainPlan):  # what passes hand on to each other lies in memory
            self.traffic += [(x.arguments[0].nbytes, x.arguments[1].nbytes) for x in found]
            return
        read, written = (sum(int(a.nbytes) for a in arrays) for arrays in (inputs[:1], outputs))
        own = len(found)
        if isinstance(plan, MorphPlan) and not plan.gradient and own > 1:
            own //= len(plan.steps)  # what steps hand on lies in memory
        self.traffic += [(read // own, written // own)] * len(found)


@cache
def _pages(size: int) -> mmap.mmap:
    """Addresses without memory behind them: it comes when they are written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def without_memory(shape: Sequence[int], dtype: Any) -> Any:
    """Zeros that take no memory, aligned like a device's; all of one size share their place."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(_pages(size), np.uint8).view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the CUDA backend launches for a case whose arrays are contiguous.

    traffic : bytes read and written by each launch, unless its Work knows better.
    read, written : bytes of a call that reads and writes everything once.
    """

    launches: tuple[Launch, ...]
    traffic: tuple[tuple[int, int], ...]
    read: int
    written: int


def ask(case: Case) -> Asked:
    """The launches of a case."""
    backend = _Asked()
    image = without_memory(case.shape, case.dtype)
    result = case.run(image, *case.weights(np.random.default_rng(0)), backend=backend)
    return Asked(tuple(backend.launches), tuple(backend.traffic), image.nbytes, result.nbytes)
