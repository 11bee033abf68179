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
    "median 9x9": lambda x, **k: filters.median_blur(x, 9, **k),
    "rank 0 of 2x2": lambda x, **k: filters.rank_filter(x, 0, 2, **k),
    "box 60x50": lambda x, **k: filters.box_blur(x, (60, 50), **k),
    "erode 2500x40": lambda x, **k: filters.erode(x, (2500, 40), **k),
    "dilate 31x40": lambda x, **k: filters.dilate(x, (31, 40), **k),
}


CORNERS = np.arange(9.0).reshape(3, 3) - 4
STRIPS = (
    *(("uint8", 3, (60, 1600)), ("uint16", 5, (56, 400, 4)), ("float32", 7, (64, 400))),
    ("float16", 3, (50, 320, 3)),
)
"""dtype, size of the kernel and shape of images of more than two strips each way."""


def image_calls() -> dict[str, Call]:
    """Every filter, with the dtypes and the layouts taken in turn."""
    calls: dict[str, Call] = {}
    holed = random_images((19, 45), "float32").copy()
    holed[::7, ::11] = np.nan
    for size in (3, 5, 9, (75, 40)):
        calls[f"median {size} of NaN"] = lambda x=holed, n=size: filters.median_blur(x, n)
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
    odd = random_images((19, 36), "uint8")
    calls["filter2d 3x3, uint8, rows of 36 bytes"] = lambda: filters.filter2d(odd, CORNERS)
    for dtype, size, shape in STRIPS:
        images, kernel = random_images(shape, dtype), np.arange(size**2).reshape(size, size) % 4 / 8
        axis = None if len(shape) == 2 else -1
        label = f"filter2d {size}x{size}, {dtype}, strips that no border reaches"
        calls[label] = lambda x=images, w=kernel, c=axis: filters.filter2d(x, w, channel_axis=c)
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
    add("max_pool2d of many channels", gpuconv.max_pool2d, deep, (3, 2), 2, 1, layout="NHWC")
    for size, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 1, 1)):
        named = {"stride": stride, "padding": padding, "layout": "NHWC"}
        label = f"pool2d {size}x{size} {stride} apart of many channels"
        add(f"max_{label}", gpuconv.max_pool2d, deep, size, **named)
        add(f"avg_{label}", gpuconv.avg_pool2d, deep.astype("uint8"), size, **named)
    line, places = random_values((1, 1, 35_000), "uint8"), np.arange(35_000)[None, None] * 2
    add("max_unpool1d of a long line", gpuconv.max_unpool1d, line, places, 2)
    for dtype in ("float32", "uint8"):
        even = random_values((2, 3, 20, 32), dtype)
        add(f"max_pool2d of whole packs, {dtype}", gpuconv.max_pool2d, even, 3, 2, 1)
        add(f"avg_pool2d of whole packs, {dtype}", gpuconv.avg_pool2d, even, 2)
        add(f"avg_pool2d 1 apart of whole packs, {dtype}", gpuconv.avg_pool2d, even, 3, 1, 1)
        add(f"max_pool2d 9x9 of whole packs, {dtype}", gpuconv.max_pool2d, even, 9, 1, 4)
        add(f"avg_pool2d 9x9 of whole packs, {dtype}", gpuconv.avg_pool2d, even, 9, 1, 4)
        add(f"max_pool2d 11x11 of whole packs, {dtype}", gpuconv.max_pool2d, even, 11, 1, 5)
        many = random_values((1, 18, 20, 32), dtype)
        named = {"stride": 1, "padding": 2, "layout": "NHWC"}
        add(f"max_pool2d 5x5 of many channels, {dtype}", gpuconv.max_pool2d, many, 5, **named)
        add(f"avg_pool2d 5x5 of many channels, {dtype}", gpuconv.avg_pool2d, many, 5, **named)
    wide = random_values((1, 1, 300, 200), "float32")
    add("global_avg_pool of a large plane", gpuconv.global_avg_pool, wide)
    return calls


CHAINS = {
    "edges": ("gaussian_blur:sigma=1", "sobel", "max_pool2d:kernel_size=2"),
    "dense": (
        "filter2d:kernel=emboss,border=edge",
        "unsharp_mask:sigma=0.5,border=constant,value=3",
        "min_pool2d:kernel_size=3,stride=2,padding=1",
    ),
    "boxes": (
        "box_blur:size=(3,5),border=symmetric",
        "morph_open",
        "avg_pool2d:kernel_size=3,stride=2,padding=1",
    ),
}
CHAIN_IMAGES = {
    "uint8": ((2, 37, 80), {}),
    "uint16": ((2, 21, 45), {}),
    "float16": ((35, 24, 4), {"channel_axis": -1}),
    "float32": ((2, 21, 45, 3), {"channel_axis": -1}),
}


def chain_calls() -> dict[str, Call]:
    """Pipelines whose steps share a launch."""
    calls: dict[str, Call] = {}
    for name, steps in CHAINS.items():
        for dtype, (shape, keywords) in CHAIN_IMAGES.items():
            if name == "boxes" and dtype.startswith("float"):
                continue
            run, images = gpuconv.Pipeline(*steps), random_images(shape, dtype)
            label = f"chain {name}, {dtype}"
            calls[label] = lambda run=run, x=images, k=keywords: run(x, **k)
    return calls


TENSOR = {
    "of 15x15": ("uint8", (53, 280), (15, 15), {}),
    "of two parts": ("uint8", (9, 40), (10, 9), {"border": "edge"}),
    "of many slabs": ("uint8", (6, 10, 4), (34, 151), {"channel_axis": -1, "border": "wrap"}),
    "in colour": ("float16", (2, 20, 45, 3), (7, 9), {"channel_axis": -1}),
    "of 40x9": ("bfloat16", (70, 140), (40, 9), {"border": "constant", "value": 3}),
    "of floats": ("float32", (40, 30), (18, 8), {"border": "symmetric"}),
}
"""dtype, shape, size of the kernel."""


def tensor_calls() -> dict[str, Call]:
    """On tensor cores, of whole numbers or bytes: exact, however the products are summed."""
    calls: dict[str, Call] = {}
    for name, (dtype, shape, size, keywords) in TENSOR.items():
        images = np.clip(random_images(shape, dtype).astype(np.float32).round(), -99, 255)
        kernel = np.arange(size[0] * size[1]).reshape(size) % 7 % 5 - 1.0
        if name == "of two parts":
            kernel *= 2**14 + 1
        images, precision = images.astype(dtype_of(dtype)), "tf32" if dtype == "float32" else "ieee"
        given = keywords | {"algorithm": "tensor", "precision": precision}
        calls[f"filter2d {name}, {dtype}, on tensor cores"] = lambda x=images, w=kernel, k=given: (
            filters.filter2d(x, w, **k)
        )
    column, row = np.hanning(11)[1:-1] / 5, np.hanning(13)[1:-1] / 6
    for shape, keywords in (
        *(((20, 144), {}), ((2, 35, 528), {"border": "constant"})),
        ((17, 32, 4), {"channel_axis": -1, "border": "wrap"}),
    ):
        for dtype in ("uint8", "float16", "bfloat16"):
            images, factors = random_images(shape, dtype), (column, row)
            if dtype != "uint8":
                images = images.astype(np.float32).round().astype(dtype_of(dtype))
                factors = np.arange(9) % 3 - 1, np.arange(11) % 4 - 1
            given = keywords | {"algorithm": "tensor"}
            calls[f"separable_filter2d of {shape}, {dtype}, on tensor cores"] = (
                lambda x=images, w=factors, k=given: filters.separable_filter2d(x, *w, **k)
            )
    tall = random_images((50, 32), "uint8")
    calls["gaussian_blur on tensor cores"] = lambda: filters.gaussian_blur(
        tall, (4, 3), algorithm="tensor"
    )
    strange = np.zeros((3, 20, 280), np.float16)
    strange[:, 18, 30] = np.inf
    calls["separable_filter2d of Inf, float16, on tensor cores"] = lambda: (
        filters.separable_filter2d(strange, column, row, algorithm="tensor")
    )
    kernel = np.arange(63.0).reshape(7, 9) % 4
    calls["filter2d of Inf, float16, on tensor cores"] = lambda: filters.filter2d(
        strange, kernel, algorithm="tensor"
    )
    return calls


def morph_calls() -> dict[str, Call]:
    """Two steps with boxes that have kernels of their own, over strips at edges and inside."""
    calls: dict[str, Call] = {}
    holed = random_images((23, 132), "float32").copy()
    holed[::7, ::11] = np.nan
    cases = (
        *((3, random_images((70, 1600), "uint8"), {}), (5, holed, {"border": "edge"})),
        *((15, random_images((50, 1520), "uint8"), {}), (7, holed, {"border": "constant"})),
        (15, random_images((40, 432, 3), "uint8"), {"channel_axis": -1}),
    )
    for size, images, keywords in cases:
        for function in (filters.morph_open, filters.morph_gradient):
            calls[f"{function.__name__} {size}, {images.dtype}, {images.shape}"] = (
                lambda run=function, x=images, n=size, k=keywords: run(x, n, **k)
            )
    return calls


def every_call() -> dict[str, Call]:
    """All of them by name."""
    calls = image_calls() | odd_map_calls() | chain_calls() | tensor_calls() | morph_calls()
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
