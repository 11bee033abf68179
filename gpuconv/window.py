"""Sliding windows: the one place where output sizes, spans and paddings are computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

Positions = TypeVar("Positions", int, npt.NDArray[np.int64])
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]

MOST = 2**31 - 1
"""Largest size, stride, dilation or padding: no array is that long."""


@dataclass(frozen=True, slots=True)
class AxisWindow:
    """A sliding window along one axis. All fields count elements."""

    size: int
    stride: int = 1
    dilation: int = 1
    pad: tuple[int, int] = (0, 0)

    @property
    def extent(self) -> int:
        """Input elements from the first tap to the last, both included."""
        return (self.size - 1) * self.dilation + 1

    def input_span(self, outputs: int) -> int:
        """Input elements read by `outputs` neighbouring outputs: one side of a tile."""
        return (outputs - 1) * self.stride + self.extent

    def input_range(self, start: int, stop: int) -> tuple[int, int]:
        """Input coordinates read by outputs start..stop-1; they may lie outside the input."""
        first = start * self.stride - self.pad[0]
        return first, first + self.input_span(stop - start)

    def outputs(self, length: int, *, ceil_mode: bool = False) -> int:
        """Number of windows over `length` elements (below 1 if none fits).

        With `ceil_mode` a last partial window counts if it starts inside the input or its left
        padding (PyTorch's rule).
        """
        room = length + sum(self.pad) - self.extent
        if not ceil_mode:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        if (count - 1) * self.stride >= length + self.pad[0]:
            count -= 1
        return count

    def transposed_outputs(self, length: int, output_padding: int) -> int:
        """Output size of the transposed convolution over `length` inputs."""
        return self.input_span(length) - sum(self.pad) + output_padding

    def padding_only(self, length: int, outputs: int) -> bool:
        """Whether some window touches no input element at all."""
        return any(
            not self._touches(position * self.stride - self.pad[0], length)
            for position in {0, outputs - 1, *self._gap_candidates(length, outputs)}
        )

    def _touches(self, start: int, length: int) -> bool:
        """Whether a tap of the window that begins at `start` lies in the input."""
        tap = max(0, -(start // self.dilation))  # the first that does not lie before it
        return tap < self.size and start + tap * self.dilation < length

    def _gap_candidates(self, length: int, outputs: int) -> range:
        """Windows whose taps might all step over a short input."""
        if self.dilation <= length:
            return range(0)
        return range(outputs)


def resolve_padding(
    padding: Padding,
    sizes: Sequence[int],
    windows: Sequence[AxisWindow],
    argument: str = "padding",
) -> tuple[tuple[int, int], ...]:
    """Padding in any accepted form → one (before, after) pair per axis.

    `windows` carry size, stride and dilation; `sizes` are the input's (for "same"). The rule of
    "same" is ONNX's SAME_UPPER/SAME_LOWER: ceil(n / stride) outputs, an odd pad at the end/start.
    """
    rank = len(windows)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding == "full":
            return tuple((w.extent - 1, w.extent - 1) for w in windows)
        if padding in ("same", "same_upper", "same_lower"):
            pads = []
            for length, w in zip(sizes, windows, strict=True):
                total = max(0, w.input_span(-(-length // w.stride)) - length)
                small, large = total // 2, total - total // 2
                pads.append((large, small) if padding == "same_lower" else (small, large))
            return tuple(pads)
        raise ValueError(
            f'{argument} must be "valid", "same", "same_upper", "same_lower", "full" or integers, '
            f"got {padding!r}"
        )
    if isinstance(padding, SupportsIndex) and is_integer(padding):
        pads = [(int(padding), int(padding))] * rank
    else:
        items = items_of(padding) or []
        if len(items) == 1 and rank > 1 and is_integer(items[0]):
            items = items * rank
        pads = [(int(p), int(p)) if is_integer(p) else _pair(argument, p, padding) for p in items]
        if len(pads) != rank:
            raise ValueError(
                f"{argument} must be one integer, {rank} integers or {rank} (before, after) pairs, "
                f"got {padding!r}"
            )
    if any(p < 0 for pair in pads for p in pair):
        raise ValueError(f"{argument} must be at least 0, got {padding!r}")
    if any(p > MOST for pair in pads for p in pair):
        raise ValueError(f"{argument} must be at most {MOST}, got {padding!r:.60}")
    return tuple(pads)


def _pair(argument: str, value: object, padding: object) -> tuple[int, int]:
    if isinstance(value, Sequence) and len(value) == 2 and all(is_integer(v) for v in value):
        return int(value[0]), int(value[1])
    raise ValueError(f"{argument} must be integers or (before, after) pairs, got {padding!r}")


def items_of(value: object) -> list[Any] | None:
    """What a sequence (or another iterable, but text) holds; None for what is none."""
    if isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0:
        return None
    return list(value) if isinstance(value, Iterable) else None


def is_integer(value: object) -> bool:
    """Whether `value` is an integer of Python or NumPy (a bool is not)."""
    return (
        hasattr(value, "__index__")
        and not isinstance(value, (bool, type))
        and getattr(value, "ndim", 0) == 0
        and getattr(getattr(value, "dtype", None), "kind", "i") in "iu"
    )


def adaptive_window(position: Positions, length: int, outputs: int) -> tuple[Positions, Positions]:
    """(start, stop) of window `position`, or of an array of them, in an adaptive pool.

    The rule is PyTorch's.
    """
    return position * length // outputs, -(-(position + 1) * length // outputs)
