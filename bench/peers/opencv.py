"""OpenCV on the CPU, image by image. Our `reflect` is its BORDER_REFLECT_101."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import Case
from bench.peers.common import Call, Library, UnsupportedError, gaussian_radius, pair, sharpening


class OpenCV(Library):
    """cv2: images (H, W) or (H, W, C), `dst` preallocated."""

    name = "opencv"
    packages = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
    modules = ("cv2",)
    lacks = ("float16",)

    def start(self, threads: int) -> None:
        import cv2

        self.cv2 = cv2
        self.border = cv2.BORDER_REFLECT_101
        cv2.setNumThreads(threads)

    def filter2d(self, case: Case) -> Call:
        def one(image: Any, kernel: Any, dst: Any) -> None:
            self.cv2.filter2D(image, -1, kernel, dst=dst, borderType=self.border)

        return _each(one)

    def sharpen(self, case: Case) -> Call:
        kernel = sharpening(case.arguments["amount"]).astype(np.float32)

        def one(image: Any, dst: Any) -> None:
            self.cv2.filter2D(image, -1, kernel, dst=dst, borderType=self.border)

        return _each(one)

    def separable_filter2d(self, case: Case) -> Call:
        def one(image: Any, column: Any, row: Any, dst: Any) -> None:
            self.cv2.sepFilter2D(image, -1, row, column, dst=dst, borderType=self.border)

        return _each(one)

    def gaussian_blur(self, case: Case) -> Call:
        y, x = pair(case.arguments["sigma"])
        size = tuple(2 * gaussian_radius(s) + 1 for s in (x, y))

        def one(image: Any, dst: Any) -> None:
            self.cv2.GaussianBlur(image, size, x, dst=dst, sigmaY=y, borderType=self.border)

        return _each(one)

    def box_blur(self, case: Case) -> Call:
        y, x = pair(case.arguments["size"])

        def one(image: Any, dst: Any) -> None:
            self.cv2.blur(image, (x, y), dst=dst, borderType=self.border)

        return _each(one)

    def sobel(self, case: Case) -> Call:
        if case.dtype == np.uint16:
            raise UnsupportedError("its convertScaleAbs saturates to uint8 alone")
        depth = self.cv2.CV_64F if case.dtype == np.float64 else self.cv2.CV_32F

        def one(image: Any, dst: Any) -> None:
            slopes = (
                self.cv2.Sobel(image, depth, *order, borderType=self.border)
                for order in ((1, 0), (0, 1))
            )
            if dst.dtype.kind == "f":
                self.cv2.magnitude(*slopes, magnitude=dst)
            else:
                self.cv2.convertScaleAbs(self.cv2.magnitude(*slopes), dst=dst)

        return _each(one, note="two derivatives in float, magnitude, saturated")

    def median_blur(self, case: Case) -> Call:
        y, x = pair(case.arguments["size"])
        if y != x or (y > 5 and case.dtype != np.uint8) or case.dtype == np.float64:
            raise UnsupportedError("its medianBlur takes squares, above 5x5 of uint8, no float64")

        def one(image: Any, dst: Any) -> None:
            self.cv2.medianBlur(image, x, dst=dst)

        return _each(one, same_border=False, note="its border is edge")

    def dilate(self, case: Case) -> Call:
        return self._morphology(case, self.cv2.MORPH_DILATE)

    def erode(self, case: Case) -> Call:
        return self._morphology(case, self.cv2.MORPH_ERODE)

    def morph_open(self, case: Case) -> Call:
        return self._morphology(case, self.cv2.MORPH_OPEN)

    def morph_close(self, case: Case) -> Call:
        return self._morphology(case, self.cv2.MORPH_CLOSE)

    def morph_gradient(self, case: Case) -> Call:
        return self._morphology(case, self.cv2.MORPH_GRADIENT)

    def _morphology(self, case: Case, operation: int) -> Call:
        y, x = pair(case.arguments["size"])
        element = self.cv2.getStructuringElement(self.cv2.MORPH_RECT, (x, y))

        def one(image: Any, dst: Any) -> None:
            self.cv2.morphologyEx(image, operation, element, dst=dst, borderType=self.border)

        return _each(one)


def _each(one: Callable[..., None], **facts: Any) -> Call:
    """A call that does a batch image by image, each into its place in `out`."""

    def run(images: Any, *weights: Any, out: Any) -> Any:
        for image, dst in zip(images, out, strict=True):
            one(image, *weights, dst=dst)
        return out

    return Call(run, **facts)
