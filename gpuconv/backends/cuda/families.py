"""Which family of kernels carries out which plan."""

from __future__ import annotations

from functools import cache, partial
from itertools import chain

from gpuconv.backends.cuda import (
    adaptive,
    box,
    chains,
    conv,
    conv_pool,
    conv_transpose,
    dense_strips,
    linear,
    morph_small,
    morphology,
    pool,
    rank,
    separable_strips,
    separable_tensor,
    toeplitz,
    unpool,
    window_channels,
    window_lanes,
)
from gpuconv.backends.cuda.launch import Family, Variant
from gpuconv.plan import (
    AdaptivePoolPlan,
    BoxPlan,
    ChainPlan,
    ConvPlan,
    ConvPoolPlan,
    ConvTransposePlan,
    LinearPlan,
    MorphPlan,
    PoolPlan,
    RankPlan,
    UnpoolPlan,
)

FAMILIES: dict[type, Family] = {
    LinearPlan: linear.launches,
    BoxPlan: box.launches,
    RankPlan: rank.launches,
    MorphPlan: morphology.launches,
    ConvPlan: conv.launches,
    ConvTransposePlan: conv_transpose.launches,
    ConvPoolPlan: conv_pool.launches,
    PoolPlan: pool.launches,
    AdaptivePoolPlan: adaptive.launches,
    UnpoolPlan: unpool.launches,
}
FAMILIES[ChainPlan] = partial(chains.launches, FAMILIES)

MODULES = (
    *(
        toeplitz,
        separable_tensor,
        dense_strips,
        separable_strips,
        linear,
        box,
        rank,
        morphology,
        morph_small,
    ),
    *(window_lanes, window_channels),
    *(conv, conv_transpose, conv_pool, pool, adaptive, unpool, chains),
)


@cache
def variants() -> tuple[Variant, ...]:
    """Every kernel that any plan may ask for."""
    return tuple(chain.from_iterable(module.variants() for module in MODULES))
