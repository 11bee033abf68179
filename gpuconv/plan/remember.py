"""Plans are made once: a call like an earlier one finds its plan, and what was prepared for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from math import copysign
from typing import Any, TypeVar

import numpy as np

from gpuconv.arrays import spec_key

P = TypeVar("P", bound=Callable[..., Any])

MOST_PLANS = 64
"""Plans that are kept of each kind; then all are forgotten."""

MOST_BYTES = 1 << 15
"""Of an array of weights. Calls with larger ones are planned anew."""

PLAIN = frozenset((int, bool, str, type(None), type, np.dtype))
"""Types whose values are keys beside the type: 1 and True differ."""


_known: list[dict[Any, Any]] = []


def forget() -> None:
    """Forget all plans, and with them what backends prepared."""
    for plans in _known:
        plans.clear()


class Memo(dict[Any, Any]):
    """What backends prepared for a plan: no part of its value, and left behind by pickles."""

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        return Memo, ()


@dataclass(frozen=True, slots=True)
class WithMemo:
    """A plan that backends may keep things with."""

    memo: Memo = field(default_factory=Memo, init=False, compare=False, repr=False)


def remembered(*data: str) -> Callable[[P], P]:
    """Keep the plans that a function makes.

    Its arguments named in `data` are arrays of any library that count by shape and dtype; NumPy's
    arrays among the others count by their values too.
    """

    def decorate(make: P) -> P:
        names = list(signature(make).parameters)
        places = frozenset(place for place, name in enumerate(names) if name in data)
        known: dict[Any, Any] = {}
        _known.append(known)

        @wraps(make)
        def plan(*arguments: Any, **keywords: Any) -> Any:
            key: list[Any] = [*keywords]
            # The keys of most arguments are told here, without a call: this runs before every call.
            for place, value in enumerate(arguments):
                kind = type(value)
                if kind in PLAIN:
                    key.append(value)
                    key.append(kind)
                    continue
                part = spec_key(value) if place in places else _key(value)
                if part is None:
                    return make(*arguments, **keywords)
                key.append(part)
            for name, value in keywords.items():
                kind = type(value)
                if kind in PLAIN:
                    key.append(value)
                    key.append(kind)
                    continue
                part = spec_key(value) if name in data else _key(value)
                if part is None:
                    return make(*arguments, **keywords)
                key.append(part)
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


def _key(value: Any) -> Any:
    """What an argument counts by; None where that is not plain to see. 1, 1.0 and True differ."""
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if kind is float:
        return kind, value, copysign(1, value)
    if kind is np.ndarray:
        if value.nbytes <= MOST_BYTES and value.dtype.kind in "iuf":
            return value.shape, value.dtype, value.tobytes()
        return None
    if kind is tuple or kind is list:
        parts = tuple(_key(part) for part in value)
        return None if None in parts else (kind, parts)
    if isinstance(value, np.dtype):
        return np.dtype, value
    if isinstance(value, np.generic) and value.dtype.kind in "iuf":
        return kind, value.tobytes()
    return None
