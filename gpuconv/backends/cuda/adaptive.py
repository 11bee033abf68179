"""Launches of kernels_cu/adaptive.cu: adaptive and global pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuconv.backends.cuda.launch import DeviceArray, Launch, Launcher, Variant
from gpuconv.plan import AdaptivePoolPlan


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    yield from ()


def launches(
    plan: AdaptivePoolPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """To be written."""
    raise NotImplementedError
