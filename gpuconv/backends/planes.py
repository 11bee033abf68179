"""How arrays of any strides are walked as stacks of planes, without a copy.

Works on the arrays of NumPy and CuPy alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

Values = Any
"""An array of NumPy or CuPy."""


def planes(arrays: Sequence[Values], lead: int) -> Iterator[list[Values]]:
    """Fold the first `lead` axes of each array into one, without copying.

    Arrays whose strides do not allow it are walked along their first axis.
    """
    if lead == 0:
        yield [a[np.newaxis] for a in arrays]
        return
    if lead == 1:
        yield list(arrays)
        return
    if all(_mergeable(a, lead) for a in arrays):
        yield [a.reshape(prod(a.shape[:lead]), *a.shape[lead:]) for a in arrays]
        return
    for items in zip(*arrays, strict=True):
        yield from planes(items, lead - 1)


def _mergeable(array: Values, lead: int) -> bool:
    if array.size == 0:
        return True
    axes = [(n, s) for n, s in zip(array.shape[:lead], array.strides[:lead], strict=True) if n > 1]
    return all(
        stride == inner_stride * inner for (_, stride), (inner, inner_stride) in pairwise(axes)
    )


def image_planes(arrays: Sequence[Values], channels_last: bool) -> Iterator[list[Values]]:
    """Images (..., H, W) or (..., H, W, C) as planes (B, H, W, C)."""
    whole = [a if channels_last else a[..., np.newaxis] for a in arrays]
    yield from planes(whole, whole[0].ndim - 3)


def map_planes(arrays: Sequence[Values], rank: int, channels_last: bool) -> Iterator[list[Values]]:
    """Feature maps as planes for what treats channels alike: (N·C, *spatial, 1) or (N, …, C)."""
    if channels_last:
        yield from planes(arrays, arrays[0].ndim - rank - 1)
    else:
        yield from planes([a[..., np.newaxis] for a in arrays], arrays[0].ndim - rank)
