"""Borders: what a window reads outside the array. Names are NumPy's.

constant   v v | a b c d | v v        reflect    c b | a b c d | c b
edge       a a | a b c d | d d        symmetric  b a | a b c d | d c
wrap       c d | a b c d | a b
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt


class Border(StrEnum):
    """The five ways to answer for an element outside the array."""

    CONSTANT = "constant"
    EDGE = "edge"
    REFLECT = "reflect"
    SYMMETRIC = "symmetric"
    WRAP = "wrap"


SYNONYMS = {
    "zeros": Border.CONSTANT,
    "replicate": Border.EDGE,
    "nearest": Border.EDGE,
    "circular": Border.WRAP,
    "mirror": Border.REFLECT,
    "reflect101": Border.REFLECT,
}


def parse_border(name: object, argument: str = "border") -> Border:
    """A border's name or synonym → Border. Raises ValueError naming `argument`."""
    if isinstance(name, str):
        if name in SYNONYMS:
            return SYNONYMS[name]
        if name in Border.__members__.values():
            return Border(name)
    names = ", ".join([*Border, *SYNONYMS])
    raise ValueError(f"{argument} must be one of {names}, got {name!r}")


def map_index(index: npt.NDArray[np.int64], length: int, border: Border) -> npt.NDArray[np.int64]:
    """Fold positions along an axis of `length` elements into it, from any distance.

    Positions outside give -1 under a constant border.
    """
    if border is Border.CONSTANT:
        return np.where((index >= 0) & (index < length), index, -1)
    if border is Border.EDGE:
        return np.clip(index, 0, length - 1)
    if border is Border.WRAP:
        return index % length
    if border is Border.SYMMETRIC:
        folded = index % (2 * length)
        return np.minimum(folded, 2 * length - 1 - folded)
    period = max(1, 2 * length - 2)
    folded = index % period
    return np.minimum(folded, period - folded)
