"""scikit-image on the CPU, and cuCIM, which offers the same functions for CuPy arrays."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np

from bench.cases import Case
from bench.peers.common import Call, Library, UnsupportedError, on_axes, pair
from bench.peers.cuda import OnCuda

MODE = "mirror"


class SkImage(Library):
    """skimage: most of it scipy.ndimage underneath."""

    name = "skimage"
    packages = ("scikit-image",)
    modules = ("skimage",)
    lacks = ("float16",)
    xp: Any = np

    def start(self, threads: int) -> None:
        (root,) = self.modules
        self.filters = import_module(f"{root}.filters")
        self.measure = import_module(f"{root}.measure")
        self.morphology = import_module(f"{root}.morphology")

    def gaussian_blur(self, case: Case) -> Call:
        sigma = on_axes(case, case.arguments["sigma"], 0)

        def run(images: Any, out: Any) -> Any:
            return self.filters.gaussian(
                images, sigma, mode=MODE, truncate=4.0, preserve_range=True
            )

        note = "its result is float" if case.dtype.kind in "iu" else ""
        return Call(run, fills_out=False, note=note)

    def sobel(self, case: Case) -> Call:
        if case.dtype.kind in "iu" or "channel_axis" in case.arguments:
            raise UnsupportedError("rescales integers and has no channels in its sobel")

        def run(images: Any, out: Any) -> Any:
            for image, target in zip(images, out, strict=True):
                target[...] = self.filters.sobel(image, mode=MODE)
            return out

        # It divides each derivative by 4 and the magnitude by the root of 2.
        return Call(run, ours=lambda result: result * (4 * math.sqrt(2)), note="normalised")

    def median_blur(self, case: Case) -> Call:
        footprint = self.xp.ones(on_axes(case, case.arguments["size"], 1), bool)
        return Call(
            lambda images, out: self.filters.median(
                images, footprint, mode=MODE, behavior="ndimage", out=out
            )
        )

    def dilate(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.dilation)

    def erode(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.erosion)

    def morph_open(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.opening)

    def morph_close(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.closing)

    def _morphology(self, case: Case, function: Any) -> Call:
        y, x = pair(case.arguments["size"])
        lines = [on_axes(case, size, 1) for size in ((y, 1), (1, x))]
        footprint = [(self.xp.ones(line, self.xp.uint8), 1) for line in lines]
        return Call(
            lambda images, out: function(images, footprint, mode=MODE, out=out),
            note="a column, then a row",
        )

    def unsharp_mask(self, case: Case) -> Call:
        if case.dtype.kind in "iu" or "channel_axis" in case.arguments:
            raise UnsupportedError("rescales integers")
        sigma, amount = case.arguments["sigma"], case.arguments["amount"]

        def run(images: Any, out: Any) -> Any:
            for image, target in zip(images, out, strict=True):
                target[...] = self.filters.unsharp_mask(
                    image, radius=sigma, amount=amount, preserve_range=True
                )
            return out

        return Call(run, same_border=False, note="its border is symmetric")

    def max_pool2d(self, case: Case) -> Call:
        return self._blocks(case, self.xp.max)

    def avg_pool2d(self, case: Case) -> Call:
        return self._blocks(case, self.xp.mean)

    def _blocks(self, case: Case, function: Any) -> Call:
        size, stride = case.arguments["kernel_size"], case.arguments["stride"]
        if size != stride or case.arguments["layout"] != "NCHW":
            raise UnsupportedError("its block_reduce knows blocks side by side alone")
        if any(n % size for n in case.shape[-2:]):
            raise UnsupportedError("its block_reduce pads the last block")
        blocks = (1, 1, size, size)
        return Call(
            lambda x, out: self.measure.block_reduce(x, blocks, function),
            fills_out=False,
            note="block_reduce",
        )


class CuCIM(OnCuda, SkImage):
    """cucim.skimage."""

    name = "cucim"
    packages = ("cucim-cu12", "cucim-cu13", "cucim")
    modules = ("cucim.skimage",)
    lacks = ()

    def start(self, threads: int) -> None:
        super().start(threads)
        self.xp = import_module("cupy")
