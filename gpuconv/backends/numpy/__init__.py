"""The NumPy backend: every plan, tile by tile, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import Spec
from gpuconv.backends.numpy import box, conv, linear, morphology, pool, rank
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
    LinearPlan: linear.run,
    BoxPlan: box.run,
    RankPlan: rank.run,
    MorphPlan: morphology.run,
    ConvPlan: conv.run,
    ConvTransposePlan: conv.run_transpose,
    ConvPoolPlan: conv.run_pooled,
    PoolPlan: pool.run,
    AdaptivePoolPlan: pool.run_adaptive,
    UnpoolPlan: pool.run_unpool,
}
"""Each takes (plan, inputs, outputs) and fills the outputs."""


class NumpyBackend:
    """Runs plans with NumPy alone."""

    name = "numpy"

    def empty(self, spec: Spec) -> Values:
        """An array for a result."""
        return np.empty(spec.shape, spec.dtype)

    def run(self, plan: Plan, inputs: Sequence[Values], outputs: Sequence[Values]) -> None:
        """Carry out `plan`: fill `outputs` from `inputs`."""
        if all(0 not in o.shape for o in outputs):
            with np.errstate(all="ignore"):
                FAMILIES[type(plan)](plan, inputs, outputs)
