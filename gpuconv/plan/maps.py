"""Shapes of feature maps, whatever their layout."""

from __future__ import annotations

from dataclasses import dataclass

from gpuconv.arrays import Spec


@dataclass(frozen=True, slots=True)
class MapShape:
    """Extents of a feature map, whatever its layout."""

    batch: int
    channels: int
    spatial: tuple[int, ...]
    channels_last: bool
    batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        inner = (
            (*self.spatial, self.channels) if self.channels_last else (self.channels, *self.spatial)
        )
        return (self.batch, *inner) if self.batched else inner

    def __str__(self) -> str:
        return str(self.shape) + (" channels last" if self.channels_last else "")


def map_shape(spec: Spec, rank: int, channels_last: bool) -> MapShape:
    """Name the axes of a feature map that was checked before."""
    batched = spec.ndim == rank + 2
    inner = spec.shape[1:] if batched else spec.shape
    channels, spatial = (inner[-1], inner[:-1]) if channels_last else (inner[0], inner[1:])
    return MapShape(spec.shape[0] if batched else 1, channels, spatial, channels_last, batched)
