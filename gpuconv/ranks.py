"""One function for one, two and three spatial axes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def per_rank(
    function: Callable[Concatenate[int, P], R],
) -> tuple[Callable[P, R], Callable[P, R], Callable[P, R]]:
    """`_name(rank, ...)` as name1d(...), name2d(...) and name3d(...), each with its signature."""
    name = function.__name__.lstrip("_")
    function.__qualname__ = f"{name}Nd"  # what Python calls it where arguments are missing
    one, two, three = (_of_rank(rank, f"{name}{rank}d", function) for rank in (1, 2, 3))
    return one, two, three


def _of_rank(rank: int, name: str, function: Callable[Concatenate[int, P], R]) -> Callable[P, R]:
    def public(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(rank, *args, **kwargs)

    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    public.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    public.__name__ = public.__qualname__ = name
    public.__module__ = function.__module__
    public.__doc__ = function.__doc__
    return public
