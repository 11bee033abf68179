"""Launches of kernels_cu/conv.cu: convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuconv.backends.cuda.launch import DeviceArray, Launch, Launcher, Variant
from gpuconv.plan import ConvPlan


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    yield from ()


def launches(
    plan: ConvPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """To be written."""
    raise NotImplementedError
