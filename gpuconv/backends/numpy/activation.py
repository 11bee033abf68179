"""Activations, applied to a tile of sums before it is rounded to its dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.dtypes import INT64, saturate_value
from gpuconv.plan.conv import LEAKY_SLOPE, Activation

Values = npt.NDArray[Any]
Ratio = tuple[tuple[float, ...], tuple[float, ...]]
"""Numerator and denominator of a rational function, highest power first."""

# W. J. Cody, "Rational Chebyshev approximations for the error function", 1969.
# fmt: off
ERF: Ratio = (
    (0.185777706184603153, 3.16112374387056560, 113.864154151050156, 377.485237685302021,
     3209.37758913846947),
    (1.0, 23.6012909523441209, 244.024637934444173, 1282.61652607737228, 2844.23683343917062),
)
"""erf(x) / x in x², for |x| <= 0.46875."""

ERFC: Ratio = (
    (2.15311535474403846e-8, 0.564188496988670089, 8.88314979438837594, 66.1191906371416295,
     298.635138197400131, 881.952221241769090, 1712.04761263407058, 2051.07837782607147,
     1230.33935479799725),
    (1.0, 15.7449261107098347, 117.693950891312499, 537.181101862009858, 1621.38957456669019,
     3290.79923573345963, 4362.61909014324716, 3439.36767414372164, 1230.33935480374942),
)
"""erfc(x) exp(x²) in x, for 0.46875 <= x <= 4."""

ERFC_TAIL: Ratio = (
    (0.0163153871373020978, 0.305326634961232344, 0.360344899949804439, 0.125781726111229246,
     0.0160837851487422766, 0.000658749161529837803),
    (1.0, 2.56852019228982242, 1.87295284992346047, 0.527905102951428412, 0.0605183413124413191,
     0.00233520497626869185),
)
"""(1/√π - erfc(x) exp(x²) x) x² in 1/x², for x >= 4."""
# fmt: on

FAR = 30.0
"""erfc(FAR) is 0 in float64."""


def activate(sums: Values, activation: Activation) -> Values:
    """A named activation, or a clamp, of float sums. May overwrite them."""
    if activation is None:
        return sums
    if isinstance(activation, tuple):
        return np.clip(sums, *activation, out=sums)
    return FUNCTIONS[activation](sums)


def activate_integers(sums: Values, activation: Activation) -> Values:
    """relu, or a clamp to bounds rounded to integers, of int64 sums."""
    if activation is None:
        return sums
    low, high = activation if isinstance(activation, tuple) else (0, np.inf)
    return np.clip(sums, saturate_value(low, INT64), saturate_value(high, INT64), out=sums)


def _sigmoid(x: Values) -> Values:
    """1 / (1 + exp(-x)), which overflows to 0 as it should."""
    result = np.exp(-x)
    result += 1
    return np.divide(1, result, out=result)


def _gelu(x: Values) -> Values:
    """x Φ(x), the exact form."""
    half: Values = 0.5 * x
    half *= erfc(-np.sqrt(0.5) * x.astype(np.float64)).astype(x.dtype)
    return half


def _ratio(ratio: Ratio, x: Values) -> Values:
    """A rational function by Horner's rule."""
    top, bottom = (np.full_like(x, coefficients[0]) for coefficients in ratio)
    for result, coefficients in ((top, ratio[0]), (bottom, ratio[1])):
        for coefficient in coefficients[1:]:
            result *= x
            result += coefficient
    return np.divide(top, bottom, out=top)


def erfc(x: Values) -> Values:
    """The complementary error function of float64 values."""
    size = np.abs(x)
    result = np.empty_like(x)
    near, far = size <= 0.46875, size > 4
    t = x[near]
    result[near] = 1 - t * _ratio(ERF, t * t)
    t = np.minimum(size[far], FAR)
    inverse = 1 / (t * t)
    tail = (1 / np.sqrt(np.pi) - inverse * _ratio(ERFC_TAIL, inverse)) / t
    result[far] = np.exp(-t * t) * tail
    middle = ~(near | far)
    t = size[middle]
    result[middle] = np.exp(-t * t) * _ratio(ERFC, t)
    return np.where((x < 0) & ~near, 2 - result, result)


FUNCTIONS: dict[str, Callable[[Values], Values]] = {
    "relu": lambda x: np.maximum(x, 0, out=x),
    "leaky_relu": lambda x: np.where(x > 0, x, LEAKY_SLOPE * x),
    "sigmoid": _sigmoid,
    "tanh": lambda x: np.tanh(x, out=x),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
}
"""Activations of float sums by name."""
