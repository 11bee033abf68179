"""The operations that a Pipeline knows, in one table: every image filter, and the 2-D pools.

The table is read off the public functions themselves: names and defaults from their signatures,
meanings from their docstrings. Nothing about an operation is written down twice.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpuconv import filters, pool
from gpuconv.arrays import Array, describe, finish_output, on_device, output_view, to_numpy
from gpuconv.plan import check

POOLS = (
    "max_pool2d",
    "min_pool2d",
    "avg_pool2d",
    "lp_pool2d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
)

FROM_THE_CALL = frozenset({"images", "input", "channel_axis", "layout", "out", "backend"})
"""Parameters that the pipeline's own call decides."""

INDICES = frozenset({"return_indices", "index_dtype"})
"""Parameters of pools that would give a second result."""

REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an operation. `default` is REQUIRED where there is none."""

    name: str
    default: Any
    meaning: str

    @property
    def required(self) -> bool:
        """Whether the operation cannot run without it."""
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `run(images, channel_axis=, out=, backend=, **arguments)`."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]
    run: Callable[..., Array]

    def as_dict(self) -> dict[str, Any]:
        """The description as JSON can hold it."""
        return {
            "name": self.name,
            "summary": self.summary,
            "arguments": [
                {
                    "name": argument.name,
                    "required": argument.required,
                    "default": None if argument.required else argument.default,
                    "meaning": argument.meaning,
                }
                for argument in self.arguments
            ],
        }


def operations() -> tuple[Operation, ...]:
    """Every operation, filters first, each with its summary and arguments."""
    return tuple(table().values())


@functools.cache
def table() -> Mapping[str, Operation]:
    """Operations by name."""
    found: dict[str, Operation] = {}
    for name in filters.__all__:
        function = getattr(filters, name)
        if "images" in inspect.signature(function).parameters:
            found[name] = _describe(name, function, function)
    for name in POOLS:
        function = getattr(pool, name)
        found[name] = _describe(name, function, functools.partial(pool_images, function))
    return found


def _describe(name: str, documented: Callable[..., Any], run: Callable[..., Array]) -> Operation:
    document = inspect.getdoc(documented) or ""
    meanings = _shared_meanings() | entries(_section(document, "Parameters"))
    arguments = tuple(
        Argument(key, parameter.default, meanings.get(key, ""))
        for key, parameter in _parameters(documented).items()
        if key not in FROM_THE_CALL | INDICES
    )
    return Operation(name, document.split("\n\n")[0].replace("\n", " ").strip(), arguments, run)


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a public function; `**common` of the filters is spelled out."""
    found: dict[str, inspect.Parameter] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            shared = inspect.signature(filters._apply).parameters
            found.update((k, shared[k]) for k in filters.Common.__annotations__)
        else:
            found[key] = parameter
    return found


@functools.cache
def _shared_meanings() -> dict[str, str]:
    """Meanings of keywords that the docstring of a whole room explains."""
    rooms = "\n".join(inspect.getdoc(room) or "" for room in (pool, filters))
    return {"value": "what a constant border is filled with."} | entries(rooms)


def _section(document: str, title: str) -> str:
    """A section of a NumPy-style docstring."""
    pattern = rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)"
    found = re.search(pattern, document, re.M | re.S)
    return found.group(1) if found else ""


def entries(text: str) -> dict[str, str]:
    """Every `name, name : meaning` of a docstring, whose meaning may go on in indented lines."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        entry = re.match(r"(\w+(?:, \w+)*) : (.*)", line)
        if entry:
            names = entry.group(1).split(", ")
            meanings.update(dict.fromkeys(names, entry.group(2).strip()))
        elif line.startswith(" "):
            for name in names:
                meanings[name] = f"{meanings[name]} {line.strip()}"
        else:
            names = []
    return meanings


def pool_images(
    pool_maps: Callable[..., Array],
    images: Array,
    *,
    channel_axis: int | None = None,
    out: Array | None = None,
    backend: Any = None,
    **arguments: Any,
) -> Array:
    """Pool the image axes of `images` with a function that pools feature maps.

    Parameters
    ----------
    images : (..., H, W), or (..., H, W, C) with channel_axis=-1.

    Returns
    -------
    (..., h, w) or (..., h, w, C) of the images' dtype.
    """
    spec = describe("images", images)
    colour = check.images_have_channels(spec, channel_axis)
    axes = 3 if colour else 2
    if isinstance(images, np.ndarray) or not hasattr(images, "reshape"):
        images = to_numpy("images", images)
    if out is not None:
        view = output_view(out)
        batch, got = spec.shape[:-axes], tuple(view.shape)
        if got[:-axes] != batch:
            raise ValueError(f"out must have the batch axes {batch} of images, got shape {got}")
        if not _folds(view, axes):
            # No view of its memory is a stack of maps.
            shape = {"channel_axis": channel_axis, "backend": backend}
            result = pool_images(pool_maps, images, **shape, **arguments)
            return copied_to(out, "images", result, images)
    layout = "NHWC" if colour else "NCHW"
    maps = _as_maps(images, axes)
    target = None if out is None else _as_maps(out, axes)
    result = pool_maps(maps, layout=layout, out=target, backend=backend, **arguments)
    if out is None:
        inner = tuple(result.shape[1:] if colour else result.shape[2:])
        return result.reshape(spec.shape[:-axes] + inner)
    return out


def copied_to(out: Array, argument: str, result: Array, *images: Array) -> Array:
    """`out` with a result in it, which was made of `images`."""
    target = output_view(out)
    check.check_out(target, describe(argument, result), [("images", image) for image in images])
    target[...] = result if on_device(result) else to_numpy(argument, result)
    if not on_device(out):
        finish_output(out, target)
    return out


def _folds(array: Array, axes: int) -> bool:
    """Whether the batch axes of an array are one axis in memory: before the last `axes`."""
    if 0 in array.shape:
        return True
    strides = array.strides if hasattr(array, "strides") else array.stride()
    batch = tuple(zip(array.shape, strides, strict=True))[:-axes]
    apart = [(size, stride) for size, stride in batch if size > 1]
    return all(outer == size * inner for (_, outer), (size, inner) in pairwise(apart))


def _as_maps(images: Array, axes: int) -> Array:
    """(..., H, W) → (N, 1, H, W), or (..., H, W, C) → (N, H, W, C): a view where one exists."""
    batch = tuple(images.shape[:-axes])
    channel = (1,) if axes == 2 else ()
    return images.reshape((math.prod(batch), *channel, *tuple(images.shape[-axes:])))
