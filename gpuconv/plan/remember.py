"""Plans are made once: a call like an earlier one finds its plan, and what was prepared for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from math import copysign
from typing import Any, TypeVar

import numpy as np

P = TypeVar("P", bound=Callable[..., Any])

MOST_PLANS = 64
"""Plans that are kept of each kind; then all are forgotten."""

MOST_BYTES = 1 << 15
"""Of an array of weights. Calls with larger ones are planned anew."""

PLAIN = frozenset((int, bool, str, type(None), type, np.dtype))


_known: list[dict[Any, Any]] = []


def forget() -> None:
    """Forget all plans, and with them what backends prepared."""
    for plans in _known:
        plans.clear()


class Memo(dict[Any, Any]):
    """What backends prepared for a plan: no part of its value, and left behind by pickles."""

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        return Memo, ()


def remembered(*data: str) -> Callable[[P], P]:
    """Keep the plans that a function makes.

    Its arguments named in `data` are arrays that count by shape and dtype; other arrays count by
    their values too.
    """

    def decorate(make: P) -> P:
        names = list(signature(make).parameters)
        places = {place for place, name in enumerate(names) if name in data}
        known: dict[Any, Any] = {}
        _known.append(known)

        @wraps(make)
        def plan(*arguments: Any, **keywords: Any) -> Any:
            key: list[Any] = []
            for place, value in enumerate(arguments):
                key.append(_key(value, place in places))
            for name, value in keywords.items():
                key.append(name)
                key.append(_key(value, name in data))
            if None in key:
                return make(*arguments, **keywords)
            whole = tuple(key)
            found = known.get(whole)
            if found is None:
                found = make(*arguments, **keywords)
                if len(known) >= MOST_PLANS:
                    known.clear()
                known[whole] = found
            return found

        return plan  # type: ignore[return-value]

    return decorate


def _key(value: Any, data: bool) -> Any:
    """What an argument counts by; None where that is not plain to see. 1, 1.0 and True differ."""
    kind = type(value)
    if kind is np.ndarray:
        if data:
            return value.shape, value.dtype
        if value.nbytes <= MOST_BYTES and value.dtype.kind in "iuf":
            return value.shape, value.dtype, value.tobytes()
        return None
    if kind in PLAIN:
        return kind, value
    if kind is float:
        return kind, value, copysign(1, value)
    if kind is tuple or kind is list:
        parts = tuple(_key(part, False) for part in value)
        return None if None in parts else (kind, parts)
    return None
