"""A chain of operations on images, each told as text, as a pair or as a callable."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from gpuconv.arrays import Array, Spec, describe, library, on_device, output_view, shares_memory
from gpuconv.backends import resolve, run
from gpuconv.errors import NotTileableError
from gpuconv.operations import Argument, Operation, copied_to, operations, table
from gpuconv.plan import ChainPlan
from gpuconv.plan.check import channels_last, outputs_of
from gpuconv.step_text import MATRIX_ARGUMENTS, format_step, named_kernel, parse_step
from gpuconv.tiling import trace

__all__ = ["Argument", "Operation", "Pipeline", "operations"]

StepLike = str | tuple[str, Mapping[str, Any]] | Callable[[Any], Any]
"""`"gaussian_blur:sigma=2"`, `("gaussian_blur", {"sigma": 2})`, or a callable on the images."""

_MOST_PLANS = 64
"""Chains of a pipeline that are kept, by shape and dtype; then all are forgotten."""

_TRIAL_SHAPE = (2**15, 2**15)
"""An image that no window outgrows. It is one pixel in memory, and is never computed."""


class Pipeline:
    """Run image operations one after another: `Pipeline(*steps)(images)`.

    Each step rounds and saturates to the images' dtype, as if the operations were called one by
    one. On CUDA operations in a row take as few launches as pay off, and images of the host pass
    through the device once; callables get what the steps before them gave.

    Everything about the steps is checked here, before any image is seen. Two pipelines of the same
    text and pairs are equal, hash alike and can be pickled.

    Parameters
    ----------
    steps : text `"name:key=value,key=value"`, pairs `(name, {argument: value})`, other
        pipelines, or callables, which get the images alone. `gpuconv.pipeline.operations()`
        lists the names and their arguments.

    Raises
    ------
    ValueError : an operation, argument or value is unknown, missing or out of range.

    Examples
    --------
    >>> Pipeline("gaussian_blur:sigma=2", ("filter2d", {"kernel": "emboss"}))
    Pipeline('gaussian_blur:sigma=2', 'filter2d:kernel=emboss')
    """

    __slots__ = ("_chains", "_run", "steps")

    steps: tuple[str | Callable[[Any], Any], ...]
    """The steps: canonical text, or the callable itself."""

    def __init__(self, *steps: StepLike) -> None:
        if not steps:
            raise ValueError("steps must hold at least one operation, got none")
        texts: list[str | Callable[[Any], Any]] = []
        for step in steps:
            texts.extend(step.steps if isinstance(step, Pipeline) else [_canonical(step)])
        self.steps = tuple(texts)
        self._run = tuple(_NamedStep.of(s) if isinstance(s, str) else _Call(s) for s in texts)
        self._chains = tuple(_chained(self._run))

    def __call__(
        self,
        images: Any,
        *,
        channel_axis: int | None = None,
        out: Any = None,
        backend: Any = None,
    ) -> Any:
        """Every step in turn on `images`.

        Parameters
        ----------
        images : (..., H, W), or (..., H, W, C) with channel_axis=-1; or a list of such arrays,
            which gives a list.
        out : array that the last step writes to; for a list of images, a list of arrays.

        Returns
        -------
        What the last step gives: the images' dtype and library, sizes as the steps make them.
        """
        if isinstance(images, (list, tuple)):
            return [
                self(image, channel_axis=channel_axis, out=one, backend=backend)
                for image, one in zip(images, outputs_of(images, out), strict=True)
            ]
        steps: Sequence[_Step] = self._run
        if out is not None and len(steps) > 1 and shares_memory(output_view(out), images):
            raise ValueError("out must not share memory with images, got overlapping arrays")
        if len(self._chains) < len(steps) and _takes_chains(backend, images):
            steps = self._chains
        *firsts, last = steps
        result = images
        for step in firsts:
            result = step(result, channel_axis, None, backend)
        return last(result, channel_axis, out, backend)

    @property
    def fingerprint(self) -> str:
        """A short digest of what the steps compute; the same in every process."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(repr(step) for step in self.steps)})"

    def __str__(self) -> str:
        return " | ".join(s if isinstance(s, str) else _name_of(s) for s in self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(self.steps)

    def __reduce__(self) -> tuple[type[Pipeline], tuple[Any, ...]]:
        return Pipeline, self.steps


@dataclass(frozen=True, slots=True, eq=False)
class _NamedStep:
    """An operation of the table with its arguments."""

    operation: Operation
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> _NamedStep:
        """From canonical text. Names of kernels become their arrays."""
        name, arguments = parse_step(text)
        for key in MATRIX_ARGUMENTS & arguments.keys():
            if isinstance(arguments[key], str):
                arguments[key] = named_kernel(key, arguments[key])
        step = cls(_operation(name), arguments)
        step._check_names()
        step._check_values()
        return step

    def __call__(
        self, images: Array, channel_axis: int | None, out: Array | None, backend: Any
    ) -> Array:
        return self.operation.run(
            images, channel_axis=channel_axis, out=out, backend=backend, **self.arguments
        )

    def _check_names(self) -> None:
        known = {argument.name: argument for argument in self.operation.arguments}
        for name in self.arguments.keys() - known.keys():
            raise ValueError(
                f"an argument of {self.operation.name} must be one of {', '.join(known)}"
                f"{_did_you_mean(name, known)}, got {name}"
            )
        for name, argument in known.items():
            if argument.required and name not in self.arguments:
                raise ValueError(f"{name} must be given to {self.operation.name}, got nothing")

    def _check_values(self) -> None:
        """Let the operation's own plan judge its arguments, on an image that is never computed."""
        for dtype in (np.uint8, np.float64):
            images = np.broadcast_to(np.zeros((), dtype), _TRIAL_SHAPE)
            try:
                self(images, None, None, _PlanOnly())
            except _PlannedError:
                return
            except (TypeError, ValueError) as caught:
                error = caught
        raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A callable of the user's; it gets the images alone."""

    function: Callable[[Any], Any]

    def __call__(
        self, images: Array, channel_axis: int | None, out: Array | None, backend: Any
    ) -> Array:
        result = self.function(images)
        return result if out is None else copied_to(out, _name_of(self.function), result)


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """Operations in a row, planned together where that can be."""

    steps: tuple[_NamedStep, ...]
    plans: dict[Any, ChainPlan | None] = field(default_factory=dict)

    def __call__(
        self, images: Array, channel_axis: int | None, out: Array | None, backend: Any
    ) -> Array:
        spec = describe("images", images)
        plan = self._plan(spec, -1 if channels_last(channel_axis, spec.ndim) else None)
        if plan is not None:
            result: Array = run(plan, images, out=out, backend=backend)
            return result
        *firsts, last = self.steps
        result = images
        for step in firsts:
            result = step(result, channel_axis, None, backend)
        return last(result, channel_axis, out, backend)

    def _plan(self, images: Spec, channel_axis: int | None) -> ChainPlan | None:
        key = (images.shape, images.dtype, channel_axis)
        if key not in self.plans:
            if len(self.plans) >= _MOST_PLANS:
                self.plans.clear()
            self.plans[key] = self._planned(images, channel_axis)
        return self.plans.get(key)

    def _planned(self, images: Spec, channel_axis: int | None) -> ChainPlan | None:
        def one_by_one(image: Any, channel_axis: int | None = None) -> Any:
            for step in self.steps:
                image = step(image, channel_axis, None, None)
            return image

        try:
            found = trace(one_by_one, images.shape, images.dtype, channel_axis=channel_axis)
        except NotTileableError:
            return None
        return ChainPlan(images, channel_axis is not None, tuple(found.plans))


_Step = _NamedStep | _Call | _Chain


def _chained(steps: Sequence[_NamedStep | _Call]) -> Iterator[_Step]:
    """The steps, operations in a row as chains."""
    for named, group in groupby(steps, lambda step: isinstance(step, _NamedStep)):
        some: Any = tuple(group)
        if named and len(some) > 1:
            yield _Chain(some)
        else:
            yield from some


def _takes_chains(backend: Any, images: Array) -> bool:
    """Whether who computes plans chains, and rounds after each step as the steps one by one do.

    A bfloat16 tensor of the host would be rounded once, at the end.
    """
    if not getattr(resolve(backend, [images]), "chains", False):
        return False
    return on_device(images) or library(images) != "torch" or "bfloat16" not in str(images.dtype)


class _PlannedError(Exception):
    """The plan was made: every check has passed."""


class _PlanOnly:
    """A backend that stops where the work would begin."""

    name = "plan only"

    def scope(self, array: Array) -> Any:
        """Called once the plan stands."""
        raise _PlannedError

    def adopt(self, argument: str, array: Array) -> Any:
        """Never reached."""
        raise _PlannedError

    def empty(self, spec: Spec, like: Any) -> Any:
        """Never reached."""
        raise _PlannedError

    def run(self, plan: Any, inputs: Any, outputs: Any) -> None:
        """Never reached."""
        raise _PlannedError


def _canonical(step: StepLike) -> str | Callable[[Any], Any]:
    """A step as the text that stands for it, or the callable that it is."""
    if isinstance(step, str):
        name, arguments = parse_step(step)
        return format_step(name, arguments)
    if isinstance(step, tuple) and len(step) == 2 and isinstance(step[0], str):
        name, given = step
        if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
            return format_step(name, given)
    elif callable(step):
        return step
    raise ValueError(f"steps must be text, (name, arguments) pairs or callables, got {step!r:.80}")


def _operation(name: str) -> Operation:
    known = table()
    if name not in known:
        raise ValueError(f"an operation must be {unknown_operation(name)}")
    return known[name]


def unknown_operation(name: str) -> str:
    """What to say of an operation that does not exist: the nearest name, or all of them."""
    known = table()
    hint = _did_you_mean(name, known) or f" ({', '.join(known)})"
    return f"one that `gpuconv ops` lists{hint}, got {name!r}"


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)
