"""Image kernels: the classics as read-only arrays, and functions that make the others.

Arrays are float64 (KH, KW) and are slid without flipping, as `filters.filter2d` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuconv.plan import check

Kernel = npt.NDArray[np.float64]

__all__ = [
    "box",
    "edge",
    "emboss",
    "gabor",
    "gaussian",
    "gaussian_taps",
    "identity",
    "laplacian",
    "log",
    "motion",
    "prewitt_x",
    "prewitt_y",
    "scharr_x",
    "scharr_y",
    "sharpen",
    "sobel_x",
    "sobel_y",
]


POINT_SIGMA = 0.01
"""Below this spread a bell is a point: its next weight, exp(-5000), is 0 in float64."""

MOST_WEIGHTS = 2**24
"""Of a kernel along one axis: no image is that wide."""


def _constant(rows: Sequence[Sequence[float]]) -> Kernel:
    kernel = np.array(rows, dtype=np.float64)
    kernel.setflags(write=False)
    return kernel


identity = _constant([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
sharpen = _constant([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
edge = _constant([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
emboss = _constant([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
laplacian = _constant([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
sobel_x = _constant([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
sobel_y = _constant([[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
scharr_x = _constant([[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]])
scharr_y = _constant([[-3, -10, -3], [0, 0, 0], [3, 10, 3]])
prewitt_x = _constant([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]])
prewitt_y = _constant([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])


def box(size: int | Sequence[int]) -> Kernel:
    """The mean of `size` (one value or (y, x)) pixels.

    Raises
    ------
    ValueError : a size is below 1.
    """
    height, width = check.per_axis("size", size, 2)
    return np.full((height, width), 1 / (height * width))


def gaussian_taps(sigma: float, size: int | None = None, *, truncate: float = 4.0) -> Kernel:
    """One-dimensional Gaussian weights (K,) that sum to 1; sigma 0 gives the single weight 1.

    K is `size`, or 2·round(truncate·sigma) + 1 as in SciPy. An even size has its middle between
    two weights.

    Raises
    ------
    ValueError : sigma or truncate is negative or not finite, or size is below 1.
    """
    sigma = check.number("sigma", sigma, minimum=0)
    if size is None:
        truncate = check.number("truncate", truncate, minimum=0)
        size = _reaching("sigma", truncate * sigma)
    size = _length("size", size)
    away = np.arange(size) - (size - 1) / 2
    if sigma < POINT_SIGMA:
        weights = (np.abs(away) == np.min(np.abs(away))).astype(np.float64)
    else:
        weights = np.exp(-0.5 * ((away**2 - np.min(away**2)) / sigma / sigma))
    kernel: Kernel = weights / weights.sum()
    return kernel


def gaussian(sigma: float | Sequence[float], size: int | Sequence[int] | None = None) -> Kernel:
    """A Gaussian bell that sums to 1. `sigma` and `size` are one value or (y, x).

    Raises
    ------
    ValueError : sigma is negative or not finite, or a size is below 1.
    """
    sigmas = check.pair_of_numbers("sigma", sigma, minimum=0)
    sizes = (None, None) if size is None else check.per_axis("size", size, 2)
    return np.outer(*(gaussian_taps(s, n) for s, n in zip(sigmas, sizes, strict=True)))


def log(sigma: float, size: int | None = None) -> Kernel:
    """Laplacian of a Gaussian (Marr and Hildreth, 1980), shifted so that it sums to 0.

    Raises
    ------
    ValueError : sigma is not above 0, or size is below 1.
    """
    sigma = _positive("sigma", sigma)
    size = _reaching("sigma", 4 * sigma) if size is None else _length("size", size)
    away = (np.arange(size) - (size - 1) / 2) ** 2
    squared = (away[:, np.newaxis] + away) / (2 * sigma**2)
    bell = np.exp(-squared)
    kernel = (squared - 1) * bell * 2 / sigma**2 / bell.sum()
    result: Kernel = kernel - kernel.mean()
    return result


def gabor(
    wavelength: float,
    theta: float,
    sigma: float,
    gamma: float = 0.5,
    psi: float = 0.0,
    size: int | None = None,
) -> Kernel:
    """A wave of `wavelength` pixels under a Gaussian (Gabor, 1946; Daugman, 1985).

    Parameters
    ----------
    theta : direction in which the wave varies, in radians: 0 along the width, π/2 along the height.
    sigma : spread of the Gaussian along the wave; across it is sigma / gamma.
    psi : phase in radians: 0 answers to bars, π/2 to edges.

    Raises
    ------
    ValueError : wavelength, sigma or gamma is not above 0, or an angle is not finite.
    """
    wavelength, sigma = _positive("wavelength", wavelength), _positive("sigma", sigma)
    gamma = _positive("gamma", gamma)
    theta, psi = check.number("theta", theta), check.number("psi", psi)
    reach = 3 * sigma * max(1.0, 1 / gamma)
    size = _reaching("sigma", reach) if size is None else _length("size", size)
    away = np.arange(size) - (size - 1) / 2
    along = away * math.cos(theta) + away[:, np.newaxis] * math.sin(theta)
    across = -away * math.sin(theta) + away[:, np.newaxis] * math.cos(theta)
    bell = np.exp(-(along**2 + (gamma * across) ** 2) / (2 * sigma**2))
    kernel: Kernel = bell * np.cos(2 * math.pi * along / wavelength + psi)
    return kernel


def motion(length: int, angle: float) -> Kernel:
    """The streak of a camera that moves `length` pixels at `angle` degrees, anticlockwise.

    Each pixel's weight falls off linearly within one pixel of the line; the weights sum to 1.

    Raises
    ------
    ValueError : length is below 1, or angle is not finite.
    """
    length = _length("length", length)
    radians = math.radians(check.number("angle", angle))
    reach = (length - 1) / 2
    half = math.ceil(reach)
    away = np.arange(-half, half + 1)
    along = away * math.cos(radians) - away[:, np.newaxis] * math.sin(radians)
    across = away * math.sin(radians) + away[:, np.newaxis] * math.cos(radians)
    beyond = np.maximum(np.abs(along) - reach, 0)
    weights = np.maximum(0, 1 - np.hypot(across, beyond))
    weights[weights < 1e-12] = 0
    kernel: Kernel = weights / weights.sum()
    return kernel


def _length(argument: str, value: int) -> int:
    """Weights along an axis."""
    length = check.integer(argument, value, 1)
    if length > MOST_WEIGHTS:
        raise ValueError(f"{argument} must be at most {MOST_WEIGHTS}, got {value!r:.60}")
    return length


def _reaching(argument: str, reach: float) -> int:
    """Weights along an axis that reach so many pixels to either side."""
    if reach > MOST_WEIGHTS // 2 - 1:
        raise ValueError(
            f"{argument} must make a kernel of at most {MOST_WEIGHTS} weights along an axis, got "
            f"one that reaches {reach:.3g} pixels"
        )
    return 2 * int(reach + 0.5) + 1


def _positive(argument: str, value: float) -> float:
    result = check.number(argument, value)
    if not result > 0:
        raise ValueError(f"{argument} must be greater than 0, got {value!r}")
    return result
