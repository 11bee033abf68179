"""What is measured. A case's name is stable: results are compared across commits by it.

    gaussian_blur/u8/1x2160x3840/sigma3     operation / dtype / shape of the input / arguments
    conv2d/f32/8x64x56x56/3x3-64            kernel 3x3, 64 output channels

Sets (a case may be in several):

* quick   small images, every operation: does it work, and roughly how fast?
* cpu     1, 4 and 16 Mpixel and the layers of common networks
* gpu     8 images of 3840×2160; the goals' cases also for 1, 64 and one of 16384×16384; layers of
          64 images

The gpu set comes in groups, the most telling cases first. Each is made for a `Scale`, so that a
rehearsal without a GPU goes through the same cases at a tiny size.

Bytes and operations come from the plan of the call and are computed nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

import gpuconv
from gpuconv.arrays import Spec
from gpuconv.backends.numpy import NumpyBackend
from gpuconv.window import AxisWindow

Arrays = tuple[npt.NDArray[Any], ...]
Shape = tuple[int, ...]

DTYPES: dict[str, npt.DTypeLike] = {
    "u8": "uint8",
    "u16": "uint16",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}
try:
    import ml_dtypes
except ImportError:  # cases of bfloat16 are left out
    pass
else:
    DTYPES["bf16"] = ml_dtypes.bfloat16

QUICK = (1, 512, 1024)
MEGAPIXELS: dict[int, Shape] = {1: (1, 1024, 1024), 4: (1, 2048, 2048), 16: (1, 4096, 4096)}

BLOCK = 1 << 24
"""Elements of noise that are drawn. Larger arrays repeat a little fewer, so that no rows are equal,
and there is but one of them at a time.
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the cases of the gpu set are."""

    size: tuple[int, int] = (2160, 3840)
    huge: tuple[int, int] = (16384, 16384)
    most_images: int = 64
    most_channels: int = 4096
    most_side: int = 4096

    def images(self, n: int) -> Shape:
        """A batch of `n` images."""
        return (min(n, self.most_images), *self.size)

    @property
    def batches(self) -> tuple[Shape, ...]:
        """Eight images, which most is said of, 64, one, and one huge image."""
        return self.images(8), self.images(64), self.images(1), (1, *self.huge)

    def channels(self, count: int) -> int:
        """So many channels, if they may be."""
        return min(count, self.most_channels)

    def maps(self, n: int, channels: int, side: int, *, last: bool = False) -> Shape:
        """A batch of square feature maps."""
        n, c, side = min(n, self.most_images), self.channels(channels), min(side, self.most_side)
        return (n, side, side, c) if last else (n, c, side, side)


FULL = Scale()
TINY = Scale((36, 64), (48, 48), 2, 8, 20)


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a public function.

    `weights` draws what it takes beside its input, which is of `shape` and `dtype`. `arguments` are
    the keywords of the call.
    """

    name: str
    operation: str
    shape: Shape
    dtype: np.dtype[Any]
    weights: Callable[[np.random.Generator], Arrays] = field(compare=False)
    arguments: Mapping[str, Any]
    tags: frozenset[str] = frozenset()

    def make(self, rng: np.random.Generator) -> Arrays:
        """Its arrays: the input, then weights."""
        return (noise(rng, self.shape, self.dtype), *self.weights(rng))

    @property
    def function(self) -> Callable[..., Any]:
        """The public function, of feature maps or of images; or a chain of them."""
        if self.operation == "pipeline":
            return chain
        room = gpuconv if hasattr(gpuconv, self.operation) else gpuconv.filters
        function: Callable[..., Any] = getattr(room, self.operation)
        return function

    def run(self, *arrays: Any, **where: Any) -> Any:
        """Call the function; `where` is `out=` and `backend=`."""
        return self.function(*arrays, **self.arguments, **where)

    def plan(self, arrays: Arrays) -> Any:
        """The plan of the call, without carrying it out."""
        recorder = _Recorder()
        result = self.run(*arrays, backend=recorder)
        if len(recorder.plans) == 1:
            return recorder.plans[0]
        return ChainOfPlans(recorder.plans, Spec(result.shape, result.dtype))


class ChainOfPlans:
    """What steps in a row are as one plan: the first's input becomes the last's output."""

    def __init__(self, plans: Sequence[Any], result: Spec) -> None:
        self.outputs = (result,)
        self.flops = sum(plan.flops for plan in plans)
        written = [sum(math.prod(s.shape) * s.dtype.itemsize for s in p.outputs) for p in plans]
        self.min_bytes = plans[0].min_bytes - written[0] + written[-1]
        axes = zip(*(reach for plan in plans for reach in _reaches(plan)), strict=True)
        self.windows = tuple(map(_one_window, axes))


def _reaches(plan: Any) -> list[tuple[AxisWindow, AxisWindow]]:
    """The windows along H and W of a plan's own steps."""
    if hasattr(plan, "steps"):
        return [tuple(step.windows[-2:]) for step in plan.steps]
    return [tuple(plan.windows[-2:])]


def _one_window(steps: Sequence[AxisWindow]) -> AxisWindow:
    """The window through which steps in a row see the first's input."""
    extent, stride, before, after = 1, 1, 0, 0
    for window in steps:
        extent += (window.extent - 1) * stride
        before += window.pad[0] * stride
        after += window.pad[1] * stride
        stride *= window.stride
    return AxisWindow(extent, stride, pad=(before, after))


def chain(images: Any, *, steps: tuple[str, ...], **where: Any) -> Any:
    """A pipeline of these steps, made once."""
    return _pipeline(steps)(images, **where)


@cache
def _pipeline(steps: tuple[str, ...]) -> gpuconv.Pipeline:
    return gpuconv.Pipeline(*steps)


class _Recorder(NumpyBackend):
    """A backend that only notes what it is asked to do."""

    name = "recorder"

    def __init__(self) -> None:
        self.plans: list[Any] = []

    def empty(self, spec: Any, like: Any) -> Any:
        """An array of the right shape that takes no memory."""
        return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)

    def run(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Note the plan."""
        self.plans.append(plan)


# ---------------------------------------------------------------- makers


def noise(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Noise over an integer dtype's whole range, or over [0, 1)."""
    dtype = np.dtype(dtype)
    if math.prod(shape) > BLOCK:
        return _repeated(noise(rng, (BLOCK - 1,), dtype), shape)
    if dtype.kind == "u":
        return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return rng.random(shape, np.float32).astype(dtype, copy=False)


@cache
def _memory() -> npt.NDArray[np.uint8]:
    """Room for 64 images of float32."""
    return np.empty(4 * math.prod(FULL.images(64)), np.uint8)


def _repeated(block: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """A block over and over, in the memory of the last such array: fresh pages take seconds."""
    size = math.prod(shape)
    memory = _memory()
    if size * block.itemsize > memory.size:
        return np.resize(block, shape)
    flat = memory[: size * block.itemsize].view(block.dtype)
    for start in range(0, size, block.size):
        part = flat[start : start + block.size]
        part[...] = block[: part.size]
    return flat.reshape(shape)


def _case(
    operation: str,
    dtype: str,
    shape: Shape,
    label: str,
    weights: Callable[[np.random.Generator], Arrays] = lambda rng: (),
    **arguments: Any,
) -> Case:
    return Case(
        name=f"{operation}/{dtype}/{'x'.join(map(str, shape))}/{label}",
        operation=operation,
        shape=shape,
        dtype=np.dtype(DTYPES[dtype]),
        weights=weights,
        arguments=MappingProxyType(arguments),
    )


def _image(
    operation: str,
    dtype: str,
    shape: Shape,
    label: str,
    weights: Callable[[np.random.Generator], Arrays] = lambda rng: (),
    **arguments: Any,
) -> Case:
    """Images (N, H, W), or (N, H, W, C) where the shape has four axes."""
    if len(shape) == 4:
        arguments["channel_axis"] = -1
    return _case(operation, dtype, shape, label, weights, **arguments)


def filter2d(dtype: str, shape: Shape, k: int, way: str = "") -> Case:
    """A dense kernel that no two vectors make up, of sum 1; by a `way` of WAYS if asked for."""

    def weights(rng: np.random.Generator) -> Arrays:
        return (_mean_of(dtype, rng.random((k, k))),)

    return _image("filter2d", dtype, shape, _asked(f"k{k}", way), weights, **WAYS[way])


WAYS: dict[str, dict[str, str]] = {
    "": {},
    "tensor": {"algorithm": "tensor"},
    "tf32": {"algorithm": "tensor", "precision": "tf32"},
}
"""How a kernel is asked for: "auto" picks tensor cores only once a GPU has proved them."""


def _asked(label: str, way: str) -> str:
    return f"{label}-{way}" if way else label


def separable_filter2d(dtype: str, shape: Shape, k: int, way: str = "") -> Case:
    """A column and a row of sum 1; by a `way` of WAYS if asked for."""

    def weights(rng: np.random.Generator) -> Arrays:
        return _mean_of(dtype, rng.random(k)), _mean_of(dtype, rng.random(k))

    return _image("separable_filter2d", dtype, shape, _asked(f"k{k}", way), weights, **WAYS[way])


def _mean_of(dtype: str, weights: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Weights of sum 1 in the images' float, or in float32 for integer images."""
    return (weights / weights.sum()).astype(np.float32 if dtype[0] == "u" else DTYPES[dtype])


def gaussian_blur(dtype: str, shape: Shape, sigma: float, way: str = "") -> Case:
    """Kernel of 2·round(4σ) + 1; by a `way` of WAYS if asked for."""
    label = _asked(f"sigma{sigma:g}", way)
    return _image("gaussian_blur", dtype, shape, label, sigma=sigma, **WAYS[way])


def sized(operation: str, dtype: str, shape: Shape, k: int) -> Case:
    """`box_blur`, `median_blur`, `dilate`, ...: a window of k×k."""
    return _image(operation, dtype, shape, f"{k}x{k}", size=k)


def sobel(dtype: str, shape: Shape) -> Case:
    """The gradient's magnitude."""
    return _image("sobel", dtype, shape, "magnitude")


def unsharp_mask(dtype: str, shape: Shape) -> Case:
    """The image and its Gaussian blur of 9 taps, from one read."""
    return _image("unsharp_mask", dtype, shape, "sigma1", sigma=1.0, amount=1.0)


def pipeline(dtype: str, shape: Shape, label: str) -> Case:
    """Steps in a row."""
    return _image("pipeline", dtype, shape, label, steps=CHAINS[label])


CHAINS = {
    "edges": ("gaussian_blur:sigma=1", "sobel", "max_pool2d:kernel_size=2"),
    "clean": ("median_blur:size=3", "gaussian_blur:sigma=1", "sharpen"),
}
"""Steps by the label of their case."""


def sharpen(dtype: str, shape: Shape) -> Case:
    """A 3×3 kernel of small integers that saturates."""
    return _image("sharpen", dtype, shape, "amount1", amount=1.0)


def conv2d(
    dtype: str,
    shape: Shape,
    k: int,
    outputs: int,
    *,
    stride: int = 1,
    groups: int = 1,
    layout: str = "NCHW",
) -> Case:
    """A layer with `padding="same"` geometry written as a number."""
    channels = shape[-1] if layout == "NHWC" else shape[1]
    label = f"{k}x{k}-" + ("depthwise" if groups == channels else str(outputs))
    label += f"-s{stride}" * (stride > 1) + "-nhwc" * (layout == "NHWC")
    fan_in = channels // groups * k * k

    def weights(rng: np.random.Generator) -> Arrays:
        normal = rng.standard_normal((outputs, channels // groups, k, k), np.float32)
        return ((normal / np.sqrt(fan_in)).astype(DTYPES[dtype]),)

    return _case(
        "conv2d",
        dtype,
        shape,
        label,
        weights,
        stride=stride,
        padding=k // 2,
        groups=groups,
        layout=layout,
    )


def pool2d(
    operation: str, dtype: str, shape: Shape, k: int, stride: int, *, layout: str = "NCHW"
) -> Case:
    """`max_pool2d` or `avg_pool2d`, padded where its windows overlap."""
    return _case(
        operation,
        dtype,
        shape,
        f"{k}x{k}-s{stride}" + "-nhwc" * (layout == "NHWC"),
        kernel_size=k,
        stride=stride,
        padding=k // 2 if stride < k else 0,
        layout=layout,
    )


# ---------------------------------------------------------------- sets


def _quick() -> Iterator[Case]:
    for dtype in ("u8", "f32"):
        yield from (filter2d(dtype, QUICK, k) for k in (3, 7))
        yield gaussian_blur(dtype, QUICK, 3)
        yield sized("box_blur", dtype, QUICK, 5)
        yield sobel(dtype, QUICK)
    yield filter2d("u8", (1, 384, 512, 3), 5)
    yield separable_filter2d("f32", QUICK, 15)
    yield sharpen("u8", QUICK)
    yield from (sized("median_blur", "u8", QUICK, k) for k in (3, 5))
    yield from (sized("dilate", "u8", QUICK, k) for k in (3, 15))
    yield conv2d("f32", (2, 64, 56, 56), 3, 64)
    yield conv2d("f32", (2, 64, 56, 56), 1, 256)
    yield conv2d("f32", (2, 128, 56, 56), 3, 128, groups=128)
    yield pool2d("max_pool2d", "f32", (2, 64, 112, 112), 2, 2)
    yield pool2d("avg_pool2d", "f32", (2, 64, 112, 112), 2, 2)


def _cpu() -> Iterator[Case]:
    for shape in MEGAPIXELS.values():
        yield from (filter2d("f32", shape, k) for k in (3, 5, 7, 11, 15, 31))
        yield from (filter2d("u8", shape, k) for k in (3, 5, 7, 11, 15))
        yield from (separable_filter2d("f32", shape, k) for k in (3, 7, 15, 31, 61))
        for dtype in ("u8", "f32"):
            yield from (gaussian_blur(dtype, shape, sigma) for sigma in (1, 3, 10))
            yield from (sized("box_blur", dtype, shape, k) for k in (5, 15))
            yield sobel(dtype, shape)
        yield sharpen("u8", shape)
        yield from (sized("median_blur", "u8", shape, k) for k in (3, 5))
        yield from (sized("dilate", "u8", shape, k) for k in (3, 15))
        yield pool2d("avg_pool2d", "f32", (1, *shape), 4, 4)
    yield filter2d("u8", MEGAPIXELS[4], 31)
    yield from _other_dtypes(MEGAPIXELS[4], ("u16", "f16", "f64"))
    yield from _colour((1, 1536, 2048, 3))
    yield from _layers("f32", 8)


def _gpu_filters(scale: Scale) -> Iterator[Case]:
    """Every filter and dtype over eight images: grey, then RGB and RGBA."""
    shape = scale.images(8)
    for dtype in ("u8", "f32", "f16", "u16"):
        yield from (filter2d(dtype, shape, k) for k in (3, 5, 7, 15, 31))
        yield from (separable_filter2d(dtype, shape, k) for k in (3, 7, 15, 31))
        yield from (gaussian_blur(dtype, shape, sigma) for sigma in (1, 3))
        yield from (sized("box_blur", dtype, shape, k) for k in (5, 15))
        yield sobel(dtype, shape)
        yield unsharp_mask(dtype, shape)
        yield from (sized("dilate", dtype, shape, k) for k in (3, 15, 31))
    for dtype in ("u8", "u16", "f32"):
        yield from (sized("median_blur", dtype, shape, k) for k in (3, 5, 7, 15, 31, 75))
    for operation in ("erode", "morph_open", "morph_close", "morph_gradient"):
        yield sized(operation, "u8", shape, 15)
    for operation in ("morph_open", "morph_gradient"):
        for dtype in ("u8", "u16", "f32"):
            yield from (sized(operation, dtype, shape, k) for k in (3, 5, 15))
        yield from (sized(operation, "u8", (*shape, 3), k) for k in (3, 5, 15))
    yield from (sized("morph_open", "f32", (*shape, 3), k) for k in (3, 5))
    for dtype, way in (("u8", "tensor"), ("f16", "tensor"), ("f32", "tf32")):
        yield from (filter2d(dtype, shape, k, way) for k in (7, 15, 31))
    yield from (separable_filter2d("u8", shape, k, "tensor") for k in (7, 15, 31))
    yield from (gaussian_blur("u8", shape, sigma, "tensor") for sigma in (1, 3))
    yield sharpen("u8", shape)
    yield from (pipeline(dtype, shape, label) for dtype in ("u8", "f32") for label in CHAINS)
    yield from _colour((*shape, 3))
    for channels in (3, 4):
        colour = (*shape, channels)
        for dtype in ("u8", "f32"):
            yield from (filter2d(dtype, colour, k) for k in (3, 5, 7))
            yield gaussian_blur(dtype, colour, 1)
        yield from (gaussian_blur("u8", colour, sigma, "tensor") for sigma in (1, 3))
        yield sobel("u8", colour)


def _gpu_sizes(scale: Scale) -> Iterator[Case]:
    """The rows of DESIGN.md section 7 over one image, over 64 and over a huge one."""
    _, *others = scale.batches
    for shape in others:
        for dtype in ("u8", "f16", "f32"):
            yield filter2d(dtype, shape, 3)
            yield gaussian_blur(dtype, shape, 1)
            yield separable_filter2d(dtype, shape, 15)
            yield sized("box_blur", dtype, shape, 15)
            yield sobel(dtype, shape)
            yield sized("dilate", dtype, shape, 15)
        yield from (filter2d("f32", shape, k) for k in (5, 7))
        yield separable_filter2d("f32", shape, 31)
        for dtype in ("u8", "f16"):
            yield from (filter2d(dtype, shape, k) for k in (15, 31))
            yield from (filter2d(dtype, shape, k, "tensor") for k in (15, 31))
        yield separable_filter2d("u8", shape, 15, "tensor")
        yield from (sized("median_blur", "u8", shape, k) for k in (3, 5, 7, 15, 31))


def _gpu_pools(scale: Scale) -> Iterator[Case]:
    operations = ("max_pool2d", "avg_pool2d")
    for dtype in ("f16", "f32", "u8"):
        layers = {last: scale.maps(64, 64, 112, last=last) for last in (False, True)}
        for layout, shape in zip(("NCHW", "NHWC"), layers.values(), strict=True):
            for operation in operations:
                for k, stride in ((2, 2), (3, 2), (9, 1)):
                    yield pool2d(operation, dtype, shape, k, stride, layout=layout)
    for shape in scale.batches:
        maps = (shape[0], 1, *shape[1:])
        for dtype in ("u8", "f16", "f32"):
            for operation in operations:
                for k, stride in ((2, 2), (3, 2), (9, 1)):
                    yield pool2d(operation, dtype, maps, k, stride)
    for dtype in ("f16", "f32"):
        for operation in operations:
            yield pool2d(operation, dtype, scale.maps(64, 64, 56), 9, 1)


def _gpu_convolutions(scale: Scale) -> Iterator[Case]:
    for dtype in ("f16", "bf16", "f32"):
        if dtype in DTYPES:
            yield from _layers_without_pools(dtype, 64, scale)
            for channels, side in ((128, 56), (256, 56), (512, 28)):
                maps, outputs = scale.maps(64, channels, side, last=True), scale.channels(channels)
                yield conv2d(dtype, maps, 3, outputs, layout="NHWC")
                if channels == 256:
                    yield conv2d(dtype, maps, 1, outputs, layout="NHWC")
                    yield conv2d(dtype, maps, 7, outputs, groups=outputs, layout="NHWC")
    for dtype in ("f16", "f32"):
        for shape in scale.batches:
            yield conv2d(dtype, (shape[0], 1, *shape[1:]), 3, 1)


def _gpu_peers(scale: Scale) -> Iterator[Case]:
    """What the peers are compared in, over sizes of kernels: few cases, as theirs are slow."""
    shape = scale.images(8)
    for dtype in ("u8", "f32"):
        yield from (filter2d(dtype, shape, k) for k in PEER_SIZES)
        yield from (gaussian_blur(dtype, shape, sigma) for sigma in (1, 3))
        yield from (sized("box_blur", dtype, shape, k) for k in (3, 15, 31))
        yield sobel(dtype, shape)
        yield from (sized("dilate", dtype, shape, k) for k in (3, 15, 31))
    yield from (separable_filter2d("f32", shape, k) for k in PEER_SIZES)
    yield from (sized("median_blur", "u8", shape, k) for k in PEER_SIZES)
    yield from (sized("median_blur", "f32", shape, k) for k in (3, 5))
    yield sized("morph_open", "u8", shape, 15)
    yield unsharp_mask("f32", shape)
    for dtype in ("f16", "bf16", "f32"):
        if dtype not in DTYPES:
            continue
        for channels, side, k in ((64, 56, 3), (128, 28, 3), (64, 56, 1)):
            outputs = scale.channels(256 if k == 1 else channels)
            yield conv2d(dtype, scale.maps(64, channels, side), k, outputs)
        depthwise = scale.maps(64, 128, 56)
        yield from (conv2d(dtype, depthwise, k, depthwise[1], groups=depthwise[1]) for k in (3, 7))
        maps = scale.maps(64, 128, 56, last=True)
        yield conv2d(dtype, maps, 3, maps[-1], layout="NHWC")
        for last, layout in ((False, "NCHW"), (True, "NHWC")):
            maps = scale.maps(64, 64, 112, last=last)
            yield pool2d("max_pool2d", dtype, maps, 3, 2, layout=layout)
            yield pool2d("avg_pool2d", dtype, maps, 2, 2, layout=layout)
    yield pool2d("max_pool2d", "f32", scale.maps(64, 64, 56), 9, 1)
    yield pool2d("avg_pool2d", "f32", scale.maps(64, 64, 56), 9, 1)


PEER_SIZES = (3, 5, 7, 15, 31)

GPU_GROUPS = {
    "filters": _gpu_filters,
    "sizes": _gpu_sizes,
    "pools": _gpu_pools,
    "convolutions": _gpu_convolutions,
    "peers": _gpu_peers,
}


def gpu_group(name: str, scale: Scale = FULL) -> list[Case]:
    """The cases of a group of the gpu set, each once, in their order."""
    return list({case.name: case for case in GPU_GROUPS[name](scale)}.values())


def _gpu() -> Iterator[Case]:
    for group in GPU_GROUPS.values():
        yield from group(FULL)


def _other_dtypes(shape: Shape, dtypes: Sequence[str]) -> Iterator[Case]:
    for dtype in dtypes:
        yield filter2d(dtype, shape, 5)
        yield gaussian_blur(dtype, shape, 3)
        yield sized("median_blur", dtype, shape, 3)


def _colour(shape: Shape) -> Iterator[Case]:
    yield filter2d("u8", shape, 5)
    yield gaussian_blur("u8", shape, 3)
    yield sized("median_blur", "u8", shape, 3)
    yield sized("dilate", "u8", shape, 15)


def _layers(dtype: str, n: int) -> Iterator[Case]:
    """Layers of ResNet-50 and MobileNet."""
    yield from _layers_without_pools(dtype, n, FULL)
    yield conv2d(dtype, (n // 2, 256, 28, 28), 3, 256)
    for operation in ("max_pool2d", "avg_pool2d"):
        yield pool2d(operation, dtype, (n, 64, 112, 112), 2, 2)
        yield pool2d(operation, dtype, (n, 64, 112, 112), 3, 2)
        yield pool2d(operation, dtype, (n, 64, 56, 56), 9, 1)


def _layers_without_pools(dtype: str, n: int, scale: Scale) -> Iterator[Case]:
    yield conv2d(dtype, scale.maps(n, 3, 224), 7, scale.channels(64), stride=2)
    for channels, side, k, outputs in (
        *((64, 56, 3, 64), (128, 28, 3, 128), (256, 14, 3, 256)),
        *((64, 56, 1, 256), (1024, 14, 1, 256)),
    ):
        yield conv2d(dtype, scale.maps(n, channels, side), k, scale.channels(outputs))
    maps = scale.maps(n, 128, 56)
    yield from (conv2d(dtype, maps, k, maps[1], groups=maps[1]) for k in (3, 7))


SETS = {"quick": _quick, "cpu": _cpu, "gpu": _gpu}


@cache
def catalogue() -> tuple[Case, ...]:
    """Every case once, tagged with the sets that it is in."""
    found: dict[str, Case] = {}
    for tag, members in SETS.items():
        for case in members():
            known = found.get(case.name, case)
            found[case.name] = replace(known, tags=known.tags | {tag})
    return tuple(found.values())


def select(tag: str, pattern: str = "*") -> list[Case]:
    """The cases of a set whose names match a shell pattern ("median*", "*/u8/*")."""
    return [c for c in catalogue() if tag in c.tags and fnmatchcase(c.name, pattern)]
