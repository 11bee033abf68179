"""SciPy's ndimage, and CuPy's of the same signatures. Our `reflect` is their `mirror`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from bench.cases import Case
from bench.peers.common import (
    DERIVE,
    SMOOTH,
    Call,
    Library,
    height_axis,
    on_axes,
    sharpening,
)
from bench.peers.cuda import OnCuda

MODE = "mirror"


class SciPy(Library):
    """scipy.ndimage. It uses one thread."""

    name = "scipy"
    packages = ("scipy",)
    modules = ("scipy.ndimage",)
    lacks = ("float16",)
    xp: Any = np

    def start(self, threads: int) -> None:
        self.ndimage = import_module(self.modules[0])

    def filter2d(self, case: Case) -> Call:
        def run(images: Any, kernel: Any, out: Any) -> Any:
            kernel = kernel.reshape(on_axes(case, kernel.shape, 1))
            return self._into(out, self.ndimage.correlate, images, kernel)

        return Call(run)

    def separable_filter2d(self, case: Case) -> Call:
        height = height_axis(case)

        def run(images: Any, column: Any, row: Any, out: Any) -> Any:
            self.ndimage.correlate1d(images, column, height, output=out, mode=MODE)
            self.ndimage.correlate1d(out, row, height + 1, output=out, mode=MODE)
            return out

        return Call(run)

    def gaussian_blur(self, case: Case) -> Call:
        sigma = on_axes(case, case.arguments["sigma"], 0)
        return Call(
            lambda images, out: self._into(
                out, self.ndimage.gaussian_filter, images, sigma, truncate=4.0
            )
        )

    def box_blur(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.uniform_filter)

    def median_blur(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.median_filter)

    def dilate(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.maximum_filter)

    def erode(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.minimum_filter)

    def morph_open(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.grey_opening)

    def morph_close(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.grey_closing)

    def morph_gradient(self, case: Case) -> Call:
        return self._sized(case, self.ndimage.morphological_gradient)

    def sobel(self, case: Case) -> Call:
        height = height_axis(case)
        floats = self.xp.float32 if case.dtype.kind in "iu" else case.dtype

        def derivative(images: Any, along: int, across: int) -> Any:
            slope = self.ndimage.correlate1d(images, DERIVE, along, output=floats, mode=MODE)
            return self.ndimage.correlate1d(slope, SMOOTH, across, output=slope, mode=MODE)

        def run(images: Any, out: Any) -> Any:
            slopes = (
                derivative(images, height, height + 1),
                derivative(images, height + 1, height),
            )
            return self._saturate(self.xp.hypot(*slopes), out)

        return Call(run, note="two derivatives in float, hypot, saturated")

    def sharpen(self, case: Case) -> Call:
        kernel = sharpening(case.arguments["amount"])
        kernel = self.xp.asarray(kernel.reshape(on_axes(case, 3, 1)))

        def run(images: Any, out: Any) -> Any:
            wide = self.xp.int32 if case.dtype.kind in "iu" else case.dtype
            return self._saturate(
                self.ndimage.correlate(images, kernel, output=wide, mode=MODE), out
            )

        return Call(run, note="in int32, then saturated")

    def _sized(self, case: Case, function: Any) -> Call:
        size = on_axes(case, case.arguments["size"], 1)
        return Call(lambda images, out: self._into(out, function, images, size=size))

    def _into(self, out: Any, function: Any, *arguments: Any, **keywords: Any) -> Any:
        function(*arguments, output=out, mode=MODE, **keywords)
        return out

    def _saturate(self, values: Any, out: Any) -> Any:
        if out.dtype.kind in "iu":
            limits = np.iinfo(out.dtype)
            if values.dtype.kind == "f":
                self.xp.rint(values, out=values)
            self.xp.clip(values, limits.min, limits.max, out=values)
        out[...] = values
        return out


class CuPy(OnCuda, SciPy):
    """cupyx.scipy.ndimage."""

    name = "cupy"
    packages = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
    modules = ("cupyx.scipy.ndimage",)
    lacks = ()

    def start(self, threads: int) -> None:
        super().start(threads)
        self.xp = import_module("cupy")
