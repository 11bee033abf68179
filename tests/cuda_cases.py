"""Calls that together launch every kernel of the CUDA backend, small enough to be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.backends.cuda import launch
from gpuconv.backends.cuda.families import MODULES
from tests.image_cases import CALLS, dtype_of, random_images, takes
from tests.map_cases import random_values

Call = Callable[[], Any]

IMAGE_DTYPES = ("uint8", "int16", "float32", "bfloat16", "float64", "int64")
IMAGES = {
    "grey": ((2, 37, 80), {"border": "reflect"}),
    "colour": ((21, 45, 3), {"border": "wrap", "channel_axis": -1}),
    "narrow": ((70, 2), {"border": "constant", "value": 3}),
}
"""Several tiles each way; rows that begin at multiples of 16 bytes, or not; windows far outside."""

MORE_FILTERS: dict[str, Callable[..., Any]] = {
    "filter2d 3x3": lambda x, **k: filters.filter2d(x, np.arange(9.0).reshape(3, 3) - 4, **k),
    "filter2d 5x5": lambda x, **k: filters.filter2d(x, np.arange(25.0).reshape(5, 5) % 7, **k),
    "filter2d 7x7": lambda x, **k: filters.filter2d(x, np.arange(49.0).reshape(7, 7) % 5, **k),
    "filter2d 20x33": lambda x, **k: filters.filter2d(
        x, np.arange(660.0).reshape(20, 33) % 11 - 5, **k
    ),
    "median 5x5": lambda x, **k: filters.median_blur(x, 5, **k),
    "median 7x7": lambda x, **k: filters.median_blur(x, 7, **k),
    "box 60x50": lambda x, **k: filters.box_blur(x, (60, 50), **k),
    "erode 2500x40": lambda x, **k: filters.erode(x, (2500, 40), **k),
    "dilate 31x40": lambda x, **k: filters.dilate(x, (31, 40), **k),
}


def image_calls() -> dict[str, Call]:
    """Every filter, with the dtypes and the layouts taken in turn."""
    calls: dict[str, Call] = {}
    for place, (name, run) in enumerate((CALLS | MORE_FILTERS).items()):
        usable = [d for d in IMAGE_DTYPES if name in MORE_FILTERS or takes(name, d)]
        for dtype in dict.fromkeys(("uint8", "float32", usable[place % len(usable)])):
            for layout, (shape, keywords) in IMAGES.items():
                if dtype not in ("uint8", "float32") and layout != "colour":
                    continue
                images = random_images(shape, dtype)
                label = f"{name}, {dtype}, {layout}"
                calls[label] = lambda run=run, x=images, k=keywords: run(x, **k)
        images = random_images((19, 40), "uint8")
        wider = "int16" if name in ("box_blur", "dilate") else "float32"
        calls[f"{name}, uint8 to {wider}"] = lambda run=run, x=images, d=wider: run(x, out_dtype=d)
    return calls


MAPS = (("float32", "NCHW"), ("float32", "NHWC"), ("uint8", "NCHW"), ("bfloat16", "NHWC"))
POOLS = (("2x2", 2, 2, 0), ("3x3 stride 1", 3, 1, 1), ("15x40 stride 1", (15, 40), 1, 0))


def map_calls(dtype: str, layout: str) -> dict[str, Call]:
    """Every kind of convolution and pool."""
    calls: dict[str, Call] = {}
    shape = (2, 6, 19, 41) if layout == "NCHW" else (2, 19, 41, 6)
    x = random_values(shape, dtype)
    own = {"layout": layout}

    def add(name: str, call: Callable[..., Any], *arrays: Any, **keywords: Any) -> None:
        calls[f"{name}, {dtype}, {layout}"] = lambda: call(*arrays, **(keywords | own))

    w, deep = random_values((8, 6, 3, 3), dtype), random_values((6, 1, 3, 5), dtype)
    up, bias = random_values((6, 4, 3, 2), dtype), random_values((8,), dtype)
    far = {"padding_mode": "reflect"}
    add("conv2d", gpuconv.conv2d, x, w, bias, 1, 1, activation="relu")
    add("conv2d, strided and dilated", gpuconv.conv2d, x, w, None, 2, (5, 3), 2, **far)
    add("conv2d, depthwise", gpuconv.conv2d, x, deep, None, 1, 2, 1, 6)
    add("conv2d, grouped", gpuconv.conv2d, x, w[:, :3], None, 1, 1, 1, 2)
    add("conv_transpose2d", gpuconv.conv_transpose2d, x, up, None, 2, 1)
    for pool in ("max", "avg"):
        add(f"conv2d_pool2d {pool}", gpuconv.conv2d_pool2d, x, w, bias, padding=1, pool=pool)
    for told, size, stride, padding in POOLS:
        where = {"stride": stride, "padding": padding}
        add(f"max_pool2d {told}", gpuconv.max_pool2d, x, size, **where)
        add(f"min_pool2d {told}", gpuconv.min_pool2d, x, size, **where)
        add(f"avg_pool2d {told}", gpuconv.avg_pool2d, x, size, **where)
        where["return_indices"] = True
        add(f"max_pool2d {told}, indices", gpuconv.max_pool2d, x, size, **where)
        if dtype_of(dtype).kind not in "iu":
            add(f"lp_pool2d {told}", gpuconv.lp_pool2d, x, 2, size, stride)
    add("adaptive_avg_pool2d", gpuconv.adaptive_avg_pool2d, x, (4, 7))
    add("adaptive_max_pool2d", gpuconv.adaptive_max_pool2d, x, (5, 3), return_indices=True)
    add("global_avg_pool", gpuconv.global_avg_pool, x)
    add("global_max_pool", gpuconv.global_max_pool, x)
    values = x[:, :, :9, :9] if layout == "NCHW" else x[:, :9, :9]
    places = np.random.default_rng(3).integers(0, 4 * 81, values.shape)
    add("max_unpool2d", gpuconv.max_unpool2d, values, places, 2)
    return calls


def odd_map_calls() -> dict[str, Call]:
    """Ranks, dtypes and sizes for which there are kernels of their own."""
    calls: dict[str, Call] = {}

    def add(name: str, call: Callable[..., Any], *arrays: Any, **keywords: Any) -> None:
        calls[name] = lambda: call(*arrays, **keywords)

    volume = random_values((1, 4, 6, 7, 35), "float32")
    cube = random_values((5, 4, 2, 3, 3), "float32")
    add("conv3d", gpuconv.conv3d, volume, cube, padding=1)
    add("max_pool3d", gpuconv.max_pool3d, volume, 2)
    add("avg_pool1d", gpuconv.avg_pool1d, random_values((3, 100), "float32"), 3, 2)
    mixed = random_values((1, 3, 9, 40), "uint8"), random_values((4, 3, 3, 3), "int8")
    add("conv2d, uint8 by int8 to uint8", gpuconv.conv2d, *mixed, out_dtype="uint8")
    add("conv2d, uint8 by int8 to float32", gpuconv.conv2d, *mixed, out_dtype="float32")
    deep = random_values((1, 9, 11, 32), "float32")
    add("max_pool2d of many channels", gpuconv.max_pool2d, deep, 3, 2, 1, layout="NHWC")
    line, places = random_values((1, 1, 35_000), "uint8"), np.arange(35_000)[None, None] * 2
    add("max_unpool1d of a long line", gpuconv.max_unpool1d, line, places, 2)
    for dtype in ("float32", "uint8"):
        even = random_values((2, 3, 20, 32), dtype)
        add(f"max_pool2d of whole packs, {dtype}", gpuconv.max_pool2d, even, 3, 2, 1)
        add(f"avg_pool2d of whole packs, {dtype}", gpuconv.avg_pool2d, even, 2)
    wide = random_values((1, 1, 300, 200), "float32")
    add("global_avg_pool of a large plane", gpuconv.global_avg_pool, wide)
    return calls


def every_call() -> dict[str, Call]:
    """All of them by name."""
    calls = image_calls() | odd_map_calls()
    for dtype, layout in MAPS:
        calls |= map_calls(dtype, layout)
    return calls


def assert_same(first: Any, second: Any) -> None:
    """The same bits, NaN and the sign of zero included."""
    first, second = ([*r] if isinstance(r, tuple) else [r] for r in (first, second))
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def few_blocks(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let launches have at most so many blocks, each of which takes several jobs in turn."""
    monkeypatch.setattr(launch, "MOST_BLOCKS", most)
    for module in MODULES:
        for function in vars(module).values():
            if hasattr(function, "cache_clear") and function.__module__ == module.__name__:
                monkeypatch.setattr(module, function.__name__, function.__wrapped__)
