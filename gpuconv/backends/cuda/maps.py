"""Feature maps as the kernels see them: twin of kernels_cu/common/map.cuh."""

from __future__ import annotations

from gpuconv.backends.cuda.launch import DeviceArray, element_strides, struct
from gpuconv.plan.maps import MapShape

MAP_STRIDES = struct(
    "MapStrides",
    *(("batch", "i8"), ("channel", "i8"), ("depth", "i8"), ("row", "i8"), ("column", "i8")),
)


def map_strides(array: DeviceArray, shape: MapShape) -> tuple[int, ...]:
    """A MAP_STRIDES: strides in elements, whatever the layout; 0 for axes that are not there."""
    strides = element_strides(array)
    batch, strides = (strides[0], strides[1:]) if shape.batched else (0, strides)
    channel, spatial = (
        (strides[-1], strides[:-1]) if shape.channels_last else (strides[0], strides[1:])
    )
    return (batch, channel, *(0,) * (3 - len(spatial)), *spatial)


def three_axes(values: tuple[int, ...], missing: int) -> tuple[int, ...]:
    """Sizes of 1 to 3 spatial axes as (depth, height, width); `missing` stands in for the first."""
    return (missing,) * (3 - len(values)) + tuple(values)
