"""What is measured. A case's name is stable: results are compared across commits by it.

    gaussian_blur/u8/1x2160x3840/sigma3     operation / dtype / shape of the input / arguments
    conv2d/f32/8x64x56x56/3x3-64            kernel 3x3, 64 output channels

Sets (a case may be in several):

* quick   small images, every operation: does it work, and roughly how fast?
* cpu     1, 4 and 16 Mpixel and the layers of common networks
* gpu     1, 8 and 64 images of 3840×2160, and one of 16384×16384

Bytes and operations come from the plan of the call and are computed nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

import gpuconv

Arrays = tuple[npt.NDArray[Any], ...]
Shape = tuple[int, ...]

DTYPES = {"u8": "uint8", "u16": "uint16", "f16": "float16", "f32": "float32", "f64": "float64"}

QUICK = (1, 512, 1024)
MEGAPIXELS: dict[int, Shape] = {1: (1, 1024, 1024), 4: (1, 2048, 2048), 16: (1, 4096, 4096)}
UHD = {n: (n, 2160, 3840) for n in (1, 8, 64)}
HUGE = (1, 16384, 16384)


@dataclass(frozen=True, slots=True)
class Case:
    """One call of a public function.

    `make` draws its arrays: the input of `shape` and `dtype` first, then weights. `arguments` are
    the keywords of the call.
    """

    name: str
    operation: str
    shape: Shape
    dtype: np.dtype[Any]
    make: Callable[[np.random.Generator], Arrays] = field(compare=False)
    arguments: Mapping[str, Any]
    tags: frozenset[str] = frozenset()

    @property
    def function(self) -> Callable[..., Any]:
        """The public function, of feature maps or of images."""
        room = gpuconv if hasattr(gpuconv, self.operation) else gpuconv.filters
        function: Callable[..., Any] = getattr(room, self.operation)
        return function

    def run(self, *arrays: Any, **where: Any) -> Any:
        """Call the function; `where` is `out=` and `backend=`."""
        return self.function(*arrays, **self.arguments, **where)

    def plan(self, arrays: Arrays) -> Any:
        """The plan of the call, without carrying it out."""
        recorder = _Recorder()
        self.run(*arrays, backend=recorder)
        (plan,) = recorder.plans
        return plan


class _Recorder:
    """A backend that only notes what it is asked to do."""

    name = "recorder"

    def __init__(self) -> None:
        self.plans: list[Any] = []

    def empty(self, spec: Any) -> Any:
        """An array of the right shape that takes no memory."""
        return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)

    def run(self, plan: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Note the plan."""
        self.plans.append(plan)


# ---------------------------------------------------------------- makers


def noise(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Noise over an integer dtype's whole range, or over [0, 1)."""
    dtype = np.dtype(dtype)
    if dtype.kind == "u":
        return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return rng.random(shape, np.float32).astype(dtype, copy=False)


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
        make=lambda rng: (noise(rng, shape, DTYPES[dtype]), *weights(rng)),
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


def filter2d(dtype: str, shape: Shape, k: int) -> Case:
    """A dense kernel that no two vectors make up, of sum 1."""

    def weights(rng: np.random.Generator) -> Arrays:
        return (_mean_of(dtype, rng.random((k, k))),)

    return _image("filter2d", dtype, shape, f"k{k}", weights)


def separable_filter2d(dtype: str, shape: Shape, k: int) -> Case:
    """A column and a row of sum 1."""

    def weights(rng: np.random.Generator) -> Arrays:
        return _mean_of(dtype, rng.random(k)), _mean_of(dtype, rng.random(k))

    return _image("separable_filter2d", dtype, shape, f"k{k}", weights)


def _mean_of(dtype: str, weights: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Weights of sum 1 in the images' float, or in float32 for integer images."""
    return (weights / weights.sum()).astype(DTYPES[dtype] if dtype[0] == "f" else np.float32)


def gaussian_blur(dtype: str, shape: Shape, sigma: float) -> Case:
    """Kernel of 2·round(4σ) + 1."""
    return _image("gaussian_blur", dtype, shape, f"sigma{sigma:g}", sigma=sigma)


def sized(operation: str, dtype: str, shape: Shape, k: int) -> Case:
    """`box_blur`, `median_blur`, `dilate`, ...: a window of k×k."""
    return _image(operation, dtype, shape, f"{k}x{k}", size=k)


def sobel(dtype: str, shape: Shape) -> Case:
    """The gradient's magnitude."""
    return _image("sobel", dtype, shape, "magnitude")


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
    yield from _other_dtypes(MEGAPIXELS[4], ("u16", "f16", "f64"))
    yield from _colour((1, 1536, 2048, 3))
    yield from _layers("f32", 8)


def _gpu() -> Iterator[Case]:
    dtypes = ("u8", "f16", "f32")
    for shape in (*UHD.values(), HUGE):
        for dtype in dtypes:
            yield from (filter2d(dtype, shape, k) for k in (3, 5, 7))
            yield from (gaussian_blur(dtype, shape, sigma) for sigma in (1, 3))
            yield sobel(dtype, shape)
        yield from (sized("median_blur", "u8", shape, k) for k in (3, 5))
        yield from (sized("dilate", "u8", shape, k) for k in (3, 15))
    for dtype in dtypes:
        yield from (filter2d(dtype, UHD[8], k) for k in (15, 31))
        yield from (separable_filter2d(dtype, UHD[8], k) for k in (7, 15, 31))
        yield from (sized("box_blur", dtype, UHD[8], k) for k in (5, 15))
    yield from (sized("median_blur", "u8", UHD[8], k) for k in (7, 15, 31))
    yield sharpen("u8", UHD[8])
    yield from _other_dtypes(UHD[8], ("u16",))
    yield from _colour((8, 2160, 3840, 3))
    for dtype in ("f16", "f32"):
        yield from _layers(dtype, 64)
        yield conv2d(dtype, (64, 56, 56, 128), 3, 128, layout="NHWC")
        yield pool2d("max_pool2d", dtype, (64, 112, 112, 64), 3, 2, layout="NHWC")


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
    yield conv2d(dtype, (n, 3, 224, 224), 7, 64, stride=2)
    yield conv2d(dtype, (n, 64, 56, 56), 3, 64)
    yield conv2d(dtype, (n, 128, 28, 28), 3, 128)
    yield conv2d(dtype, (n, 256, 14, 14), 3, 256)
    yield conv2d(dtype, (n, 64, 56, 56), 1, 256)
    yield conv2d(dtype, (n, 1024, 14, 14), 1, 256)
    yield conv2d(dtype, (n, 128, 56, 56), 3, 128, groups=128)
    yield conv2d(dtype, (n, 128, 56, 56), 7, 128, groups=128)
    for operation in ("max_pool2d", "avg_pool2d"):
        yield pool2d(operation, dtype, (n, 64, 112, 112), 2, 2)
        yield pool2d(operation, dtype, (n, 64, 112, 112), 3, 2)
        yield pool2d(operation, dtype, (n, 64, 56, 56), 9, 1)


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
