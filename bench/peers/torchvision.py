"""torchvision's transforms over PyTorch tensors of a CUDA device."""

from __future__ import annotations

from importlib import import_module

from bench.cases import Case
from bench.peers.common import Call, gaussian_radius, pair
from bench.peers.pytorch import OnTorchCuda, on_channel


class TorchVision(OnTorchCuda):
    """torchvision.transforms.v2.functional: it has a Gaussian blur."""

    name = "torchvision"
    packages = ("torchvision",)
    modules = ("torchvision", "torch", "cupy")

    def start(self, threads: int) -> None:
        super().start(threads)
        self.transforms = import_module("torchvision.transforms.v2.functional")

    def gaussian_blur(self, case: Case) -> Call:
        y, x = (float(s) for s in pair(case.arguments["sigma"]))
        size = [2 * gaussian_radius(s) + 1 for s in (x, y)]
        return on_channel(lambda images: self.transforms.gaussian_blur(images, size, [x, y]))
