"""Host arrays cut into pieces that pass through a device one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from gpuconv.plan import Plan

Values = npt.NDArray[Any]

PIECE_BYTES = 256 << 20
"""Input and output of a piece, in about."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a call: a plan of its own, over views of the host arrays."""

    plan: Plan
    inputs: Sequence[Values]
    outputs: Sequence[Values]


def pieces(
    plan: Plan, inputs: Sequence[Values], outputs: Sequence[Values], limit: int
) -> Iterator[Piece]:
    """Cut a call into pieces of about `limit` bytes."""
    yield Piece(plan, inputs, outputs)
