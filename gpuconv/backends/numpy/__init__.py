"""The NumPy backend: every plan, tile by tile, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import Array, Spec, to_numpy
from gpuconv.backends.numpy.box import run as run_box
from gpuconv.backends.numpy.conv import run as run_conv
from gpuconv.backends.numpy.conv import run_pooled as run_conv_pool
from gpuconv.backends.numpy.conv import run_transpose as run_conv_transpose
from gpuconv.backends.numpy.linear import run as run_linear
from gpuconv.backends.numpy.morphology import run as run_morphology
from gpuconv.backends.numpy.pool import run as run_pool
from gpuconv.backends.numpy.pool import run_unpool
from gpuconv.backends.numpy.rank import run as run_rank
from gpuconv.backends.numpy.threads import shared
from gpuconv.plan import (
    AdaptivePoolPlan,
    BoxPlan,
    ConvPlan,
    ConvPoolPlan,
    ConvTransposePlan,
    LinearPlan,
    MorphPlan,
    Plan,
    PoolPlan,
    RankPlan,
    UnpoolPlan,
)

Values = npt.NDArray[Any]
Family = Callable[[Any, Sequence[Values], Sequence[Values]], None]

FAMILIES: dict[type, Family] = {
    LinearPlan: run_linear,
    BoxPlan: run_box,
    RankPlan: run_rank,
    MorphPlan: run_morphology,
    ConvPlan: run_conv,
    ConvTransposePlan: run_conv_transpose,
    ConvPoolPlan: run_conv_pool,
    PoolPlan: run_pool,
    AdaptivePoolPlan: run_pool,
    UnpoolPlan: run_unpool,
}
"""Each takes (plan, inputs, outputs) and fills the outputs."""


class HostLane:
    """A lane of a backend that computes on the host: nothing goes up or comes down."""

    def upload(self, array: Values) -> Values:
        """As it is."""
        return array

    def download(self, array: Array) -> Values:
        """As it is."""
        return to_numpy("result", array)


class NumpyBackend:
    """Runs plans with NumPy alone."""

    name = "numpy"

    def scope(self, array: Array) -> AbstractContextManager[Any]:
        """Nothing to prepare."""
        return nullcontext()

    def adopt(self, argument: str, array: Array) -> Values:
        """A host array of any library as a view."""
        return to_numpy(argument, array)

    def empty(self, spec: Spec, like: Values) -> Values:
        """An array for a result."""
        return np.empty(spec.shape, spec.dtype)

    @contextmanager
    def lane(self, device: int | None = None) -> Iterator[HostLane]:
        """A share of the processors for one of several threads."""
        if device is not None:
            raise ValueError(f"device must be None for the numpy backend, got {device}")
        with shared():
            yield HostLane()

    def run(self, plan: Plan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
        """Carry out `plan`: fill `outputs` from `inputs`."""
        if all(0 not in o.shape for o in outputs):
            with np.errstate(all="ignore"):
                FAMILIES[type(plan)](plan, inputs, outputs)
