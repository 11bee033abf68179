"""What can be measured. A case's name is stable: results are compared across commits by it.

    gaussian_blur/u8/1x2160x3840/sigma3     operation / dtype / shape of the input / arguments
    conv2d/f32/8x64x56x56/3x3-64            kernel 3x3, 64 output channels

Bytes and operations come from the plan of the call and are computed nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

BLOCK = 1 << 24
"""Elements of noise that are drawn. Larger arrays repeat a little fewer, so that no rows are equal,
and there is but one of them at a time.
"""


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
    """Room for 64 images of 3840×2160, float32."""
    return np.empty(4 * 64 * 2160 * 3840, np.uint8)


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
