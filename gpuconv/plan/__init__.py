"""Plans: every check of a call, and everything that a backend needs to know of it.

A plan is frozen and hashable. After it, nothing is validated again.
"""

from gpuconv.plan.chain import ChainPlan
from gpuconv.plan.conv import ConvPlan, ConvPoolPlan, ConvTransposePlan
from gpuconv.plan.filters import BoxPlan, LinearPlan, MorphPlan, RankPlan
from gpuconv.plan.pool import AdaptivePoolPlan, PoolPlan, UnpoolPlan

Plan = (
    LinearPlan
    | BoxPlan
    | RankPlan
    | MorphPlan
    | ConvPlan
    | ConvTransposePlan
    | ConvPoolPlan
    | PoolPlan
    | AdaptivePoolPlan
    | UnpoolPlan
    | ChainPlan
)

__all__ = [
    "AdaptivePoolPlan",
    "BoxPlan",
    "ChainPlan",
    "ConvPlan",
    "ConvPoolPlan",
    "ConvTransposePlan",
    "LinearPlan",
    "MorphPlan",
    "Plan",
    "PoolPlan",
    "RankPlan",
    "UnpoolPlan",
]
