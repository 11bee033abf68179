"""Which cases are measured: sets, of which a case may be in several.

* quick   small images, every operation: does it work, and roughly how fast?
* cpu     1, 4 and 16 Mpixel and the layers of common networks
* gpu     8 images of 3840×2160; the goals' cases also for 1, 64 and one of 16384×16384; layers of
          64 images

The gpu set comes in groups, the most telling cases first. Each is made for a `Scale`, so that a
rehearsal without a GPU goes through the same cases at a tiny size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache

from bench.cases import (
    CHAINS,
    DTYPES,
    Case,
    Shape,
    conv2d,
    filter2d,
    gaussian_blur,
    pipeline,
    pool2d,
    separable_filter2d,
    sharpen,
    sized,
    sobel,
    unsharp_mask,
)

QUICK = (1, 512, 1024)
MEGAPIXELS: dict[int, Shape] = {1: (1, 1024, 1024), 4: (1, 2048, 2048), 16: (1, 4096, 4096)}


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
    for dtype in ("u8", "f16"):
        yield from (separable_filter2d(dtype, shape, k, "tensor") for k in (7, 15, 31))
        yield from (gaussian_blur(dtype, shape, sigma, "tensor") for sigma in (1, 3))
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
            yield separable_filter2d(dtype, shape, 15, "tensor")
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
