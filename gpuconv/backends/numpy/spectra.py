"""Weighted sums over large windows by fast Fourier transforms of overlapping squares.

All in float64, for which NumPy's transforms are the fastest: sums over float32 images come out
better than any others, and sums of integers so near to whole numbers that rounding makes them
exact again (`plan.cpu` tells when).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpuconv.backends.numpy.scratch import Scratch
from gpuconv.backends.numpy.tile import Values
from gpuconv.dtypes import FLOAT64
from gpuconv.plan.cpu import TRANSFORM_SIDE

SIDE = 320
"""Of a square, about: its transforms and the kernel's spectrum take 4 MiB at most."""

COMPLEX = np.dtype(np.complex128)


@lru_cache(maxsize=512)
def side(outputs: int, size: int) -> tuple[int, int]:
    """(outputs of a square along an axis, its side): the least work for `outputs` in all."""
    choices = []
    for pieces in range(1, outputs + 1):
        piece = -(-outputs // pieces)
        length = _fast(piece + size - 1)
        if length <= TRANSFORM_SIDE:
            choices.append((pieces * length, piece, length))
            if piece < size // 4:
                break
    _, piece, length = min(choices)
    return piece, length


def _fast(length: int) -> int:
    """The next even length without prime factors above 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and length % 2 == 0:
            return length
        length += 1


class SpectralSums:
    """Sums over windows of one kernel; `shift`: integers times 2^-shift, which stay exact."""

    def __init__(self, kernel: Values, inner: int, shift: int | None) -> None:
        self.kernel = kernel.astype(np.float64)
        self.inner, self.shift = inner, shift
        self._spectra: dict[tuple[int, int], Values] = {}

    def _spectrum(self, sides: tuple[int, int]) -> Values:
        """Of the mirrored kernel: windows are not flipped."""
        found = self._spectra.get(sides)
        if found is None:
            scaled = np.ldexp(self.kernel, self.shift or 0)
            found = np.fft.rfft2(scaled, sides)
            np.conj(found, out=found)
            self._spectra = {sides: found}  # at once: other threads look for theirs
        return found

    def __call__(self, tile: Values, out: Values) -> None:
        """Fill out (b, h, w·inner) from a tile (b, h + KH − 1, pitch)."""
        count, height, width = out.shape
        inner = self.inner
        (rows, tall), (columns, wide) = (
            side(n, k) for n, k in zip((height, width // inner), self.kernel.shape, strict=True)
        )
        spectrum = self._spectrum((tall, wide))
        more_rows, more_columns = (n - 1 for n in self.kernel.shape)
        with Scratch() as scratch:
            square = scratch.take((tall, wide), FLOAT64)
            waves, mixed = (scratch.take(spectrum.shape, COMPLEX) for _ in range(2))
            for plane in range(count):
                for y in range(0, height, rows):
                    for x in range(0, width // inner, columns):
                        h, w = min(rows, height - y), min(columns, width // inner - x)
                        for channel in range(inner):
                            first = x * inner + channel
                            span = (w + more_columns - 1) * inner + 1
                            pixels = tile[plane, y : y + h + more_rows, first : first + span]
                            square.fill(0)
                            square[: h + more_rows, : w + more_columns] = pixels[:, ::inner]
                            np.fft.rfft(square, axis=1, out=waves)
                            np.fft.fft(waves, axis=0, out=mixed)
                            np.multiply(mixed, spectrum, out=mixed)
                            np.fft.ifft(mixed, axis=0, out=waves)
                            np.fft.irfft(waves, wide, axis=1, out=square)
                            sums = square[:h, :w]
                            if self.shift is not None:
                                np.rint(sums, out=sums)
                                sums *= 0.5**self.shift
                            place = slice(first, first + (w - 1) * inner + 1, inner)
                            out[plane, y : y + h, place] = sums


def tile_sizes(height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of outputs of a square."""
    return max(SIDE, 2 * height) - height, max(SIDE, 2 * width) - width
