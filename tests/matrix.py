"""Choosing cases: every pair of values, without every combination."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CANDIDATES = 8
"""Cases that are tried for each that is taken."""


def pairwise(axes: Mapping[str, Sequence[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Few cases in which any two values of two axes meet. The same seed gives the same cases.

    Greedy: of some random cases that hold a pair not met yet, the one with most such pairs.
    """
    names, rng = list(axes), random.Random(seed)
    missing = {
        ((one, i), (two, j)): None
        for one, two in itertools.combinations(range(len(names)), 2)
        for i in range(len(axes[names[one]]))
        for j in range(len(axes[names[two]]))
    }
    if len(names) < 2:
        return product(axes)
    cases = []
    while missing:
        held = [dict(next(iter(missing))) for _ in range(CANDIDATES)]
        candidates = [_complete(case, axes, missing, rng) for case in held]
        best = max(candidates, key=lambda case: len(_pairs(case) & missing.keys()))
        for pair in _pairs(best):
            missing.pop(pair, None)
        cases.append({name: axes[name][best[place]] for place, name in enumerate(names)})
    return cases


def _complete(
    case: dict[int, int], axes: Mapping[str, Sequence[Any]], missing: Any, rng: random.Random
) -> dict[int, int]:
    """Fill the open axes, in random order, each with the value that meets most new pairs."""
    sizes = [len(values) for values in axes.values()]
    open_axes = [axis for axis in range(len(sizes)) if axis not in case]
    rng.shuffle(open_axes)
    for axis in open_axes:

        def gain(value: int, axis: int = axis) -> float:
            met = (tuple(sorted([(axis, value), other])) for other in case.items())
            return sum(pair in missing for pair in met) + rng.random() / 2

        case[axis] = max(range(sizes[axis]), key=gain)
    return case


def _pairs(case: dict[int, int]) -> set[tuple[tuple[int, int], ...]]:
    return set(itertools.combinations(sorted(case.items()), 2))


def product(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def completed(
    axes: Mapping[str, Sequence[Any]], names: Sequence[str], seed: int = 0, **fixed: Any
) -> Iterator[dict[str, Any]]:
    """Every combination of the axes `names`; the others at random, but for those `fixed`."""
    rng = random.Random(f"{seed}{fixed}")
    for case in product({key: axes[key] for key in names}):
        yield {key: rng.choice(values) for key, values in axes.items()} | case | fixed


def name(case: Mapping[str, Any]) -> str:
    """A case as the id of a test."""
    return "-".join(str(value).replace(" ", "") for value in case.values())
