"""kornia's filters over PyTorch tensors of a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.cases import Arrays, Case
from bench.peers.common import Call, UnsupportedError, gaussian_radius, pair
from bench.peers.pytorch import OnTorchCuda, on_channel


class Kornia(OnTorchCuda):
    """kornia.filters and kornia.morphology: floats alone."""

    name = "kornia"
    packages = ("kornia",)
    modules = ("kornia", "torch", "cupy")

    def start(self, threads: int) -> None:
        super().start(threads)
        self.filters = import_module("kornia.filters")
        self.morphology = import_module("kornia.morphology")

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        if case.dtype.kind != "f":
            raise UnsupportedError("takes floats")
        return super().call(case, plan, arrays)

    def filter2d(self, case: Case) -> Call:
        return on_channel(lambda x, kernel: self.filters.filter2d(x, kernel[None]))

    def separable_filter2d(self, case: Case) -> Call:
        return on_channel(
            lambda x, column, row: self.filters.filter2d_separable(x, row[None], column[None])
        )

    def gaussian_blur(self, case: Case) -> Call:
        sigma = tuple(float(s) for s in pair(case.arguments["sigma"]))
        size = tuple(2 * gaussian_radius(s) + 1 for s in sigma)
        return on_channel(lambda x: self.filters.gaussian_blur2d(x, size, sigma))

    def box_blur(self, case: Case) -> Call:
        size = pair(case.arguments["size"])
        return on_channel(lambda x: self.filters.box_blur(x, size))

    def median_blur(self, case: Case) -> Call:
        size = pair(case.arguments["size"])
        return on_channel(
            lambda x: self.filters.median_blur(x, size),
            same_border=False,
            note="its border is constant",
        )

    def sobel(self, case: Case) -> Call:
        return on_channel(
            lambda x: self.filters.sobel(x, normalized=False),
            same_border=False,
            note="its border is edge",
        )

    def unsharp_mask(self, case: Case) -> Call:
        if case.arguments["amount"] != 1:
            raise UnsupportedError("adds the difference once")
        sigma = tuple(float(s) for s in pair(case.arguments["sigma"]))
        size = tuple(2 * gaussian_radius(s) + 1 for s in sigma)
        return on_channel(lambda x: self.filters.unsharp_mask(x, size, sigma))

    def dilate(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.dilation)

    def erode(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.erosion)

    def morph_open(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.opening)

    def morph_close(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.closing)

    def morph_gradient(self, case: Case) -> Call:
        return self._morphology(case, self.morphology.gradient)

    def _morphology(self, case: Case, function: Callable[..., Any]) -> Call:
        size = pair(case.arguments["size"])
        ones = self.torch.ones(size, device=self.device, dtype=self._dtype(case))
        return on_channel(
            lambda x: function(x, ones), same_border=False, note="nothing lies outside"
        )

    def _dtype(self, case: Case) -> Any:
        return getattr(self.torch, case.dtype.name)
