"""Launches of kernels_cu/unpool.cu: unpooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gpuconv.backends.cuda.adaptive import (
    DIVIDER,
    PLACES,
    PREPARED,
    THREADS,
    Laid,
    divider,
    laid,
)
from gpuconv.backends.cuda.launch import (
    ANY,
    DeviceArray,
    Launch,
    Launcher,
    Variant,
    blocks,
    kind,
    struct,
)
from gpuconv.backends.cuda.maps import map_strides, three_axes
from gpuconv.dtypes import INT32
from gpuconv.plan import UnpoolPlan

FILE = "unpool.cu"

UNPOOL_AXIS = struct("UnpoolAxis", ("step", PLACES), ("input", DIVIDER), ("output", DIVIDER))
UNPOOL = struct(
    "UnpoolParams",
    *(("z", UNPOOL_AXIS), ("y", UNPOOL_AXIS), ("x", UNPOOL_AXIS)),
    *(("batch", PLACES), ("channel", PLACES), ("outer", DIVIDER)),
    *(("planes", "i8"), ("size", "i8"), ("inner", "i4")),
    *(("lanes", DIVIDER), ("band", DIVIDER), ("group", "i4")),
    *(("plane_jobs", "i8"), ("lane_jobs", "i8"), ("band_jobs", "i8"), ("first_job", "i8")),
    ("index_kind", "i4"),
)

SHARED_OWNERS = 1 << 13
"""Places whose owners a block keeps in shared memory: several blocks fit a multiprocessor."""

BANDS = 4
"""Parts of a plane up to which blocks keep their own owners: each reads all of its inputs."""

LANES = 32
"""Interleaved channels of a block, if there are so many: neighbours in memory."""

OWNERS = 1 << 23
"""Places whose owners a workspace of 32 MiB holds: it should stay in the cache."""

CLEAR = Variant(FILE, "unpool_clear", ("int32",))
CLAIM = Variant(FILE, "unpool_claim", (ANY,))


def variants() -> Iterator[Variant]:
    """Every kernel that a plan may ask for."""
    yield CLEAR
    yield CLAIM
    for kernel in ("unpool_planes", "unpool_fill"):
        for size in (1, 2, 4, 8):
            yield Variant(FILE, kernel, (f"uint{8 * size}",))


@dataclass(frozen=True, slots=True)
class Parts:
    """How the output is cut: `group` planes, `band` positions and `lanes` channels at once."""

    planes: int
    size: int
    inner: int
    group: int
    band: int
    lanes: int
    in_blocks: bool
    """Each block has a part, all in one launch; else each launch."""

    @property
    def jobs(self) -> tuple[int, int, int]:
        """Parts along planes, channels and positions."""
        return (
            -(-self.planes // self.group),
            -(-self.inner // self.lanes),
            -(-self.size // self.band),
        )

    @property
    def owners(self) -> int:
        """Owners of a part."""
        return self.group * self.band * self.lanes


def _cut(planes: int, size: int, inner: int, owners: int, lanes: int, in_blocks: bool) -> Parts:
    """The parts of at most so many owners."""
    lanes = min(inner, lanes, owners)
    band = min(size, owners // lanes)
    band = -(-size // -(-size // band))
    group = min(planes, owners // (lanes * band)) if band == size else 1
    return Parts(planes, size, inner, group, band, lanes, in_blocks)


def launches(
    plan: UnpoolPlan,
    inputs: Sequence[DeviceArray],
    outputs: Sequence[DeviceArray],
    launcher: Launcher,
) -> Iterator[Launch]:
    """One launch where owners fit shared memory; else three a part of the output.

    Positions outside a plane are ignored: the host does not look into a device's memory.
    """
    values, indices = inputs
    output = outputs[0]
    parts, packed = _prepared(plan, laid((values, output, indices)))
    element = (f"uint{8 * plan.dtype.itemsize}",)
    if parts.in_blocks:
        yield Launch(
            Variant(FILE, "unpool_planes", element),
            blocks(prod(parts.jobs)),
            (THREADS, 1, 1),
            (values, indices, output, packed[0]),
            4 * parts.owners,
        )
        return
    packs = -(-parts.owners // 4)
    owners = launcher.empty((4 * packs,), INT32)
    claims = parts.group * parts.lanes * prod(plan.input.spatial)
    for params in packed:
        for variant, arguments, work in (
            (CLEAR, (owners, np.int64(packs)), packs),
            (CLAIM, (indices, owners, params), claims),
            (
                Variant(FILE, "unpool_fill", element),
                (values, owners, output, params),
                parts.owners,
            ),
        ):
            yield Launch(variant, blocks(-(-work // THREADS)), (THREADS, 1, 1), arguments)


@lru_cache(PREPARED)
def _prepared(
    plan: UnpoolPlan, arrays: tuple[Laid, ...]
) -> tuple[Parts, tuple[np.ndarray[Any, Any], ...]]:
    """The parts of the output, and an UNPOOL for each launch over one or all of them."""
    shapes = (plan.input, plan.output, plan.input)
    batch, channel, *steps = zip(*map(map_strides, arrays, shapes), strict=True)
    small, large = three_axes(plan.input.spatial, 1), three_axes(plan.output.spatial, 1)
    spatial = [abs(step[1]) for step, length in zip(steps, large, strict=True) if length > 1]
    channels = plan.input.channels
    inside = channels > 1 and all(abs(channel[1]) < step for step in spatial)
    outer, inner = (1, channels) if inside else (channels, 1)
    planes, size = plan.input.batch * outer, prod(large)
    axes = [
        (step, divider(few), divider(many))
        for step, few, many in zip(steps, small, large, strict=True)
    ]
    parts = _cut(planes, size, inner, SHARED_OWNERS, LANES, True)
    if parts.jobs[2] > BANDS:
        parts = _cut(planes, size, inner, OWNERS, inner, False)
    sizes = (divider(parts.lanes), divider(parts.band), parts.group, *parts.jobs)
    packed = (
        np.array(
            (
                *(*axes, batch, channel, divider(outer), planes, size, inner),
                *(*sizes, job, kind(arrays[2].dtype)),
            ),
            UNPOOL,
        )
        for job in range(1 if parts.in_blocks else prod(parts.jobs))
    )
    return parts, tuple(packed)
