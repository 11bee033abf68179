"""PyTorch (oneDNN on the CPU, cuDNN on CUDA), in full precision. No input asks for gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import Arrays, Case
from bench.peers.common import (
    DERIVE,
    SMOOTH,
    Call,
    Library,
    UnsupportedError,
    gaussian_taps,
    pair,
    sharpening,
)


def on_channel(function: Callable[..., Any], **facts: Any) -> Call:
    """A call on images (N, H, W) seen as maps of one channel."""

    def run(images: Any, *weights: Any, out: Any) -> Any:
        return function(images[:, None], *weights)[:, 0]

    return Call(run, fills_out=False, **facts)


class Tensors(Library):
    """A library of functions over PyTorch tensors, which allocate their outputs."""

    def start(self, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        if "channel_axis" in case.arguments:
            raise UnsupportedError("takes images channel by channel")
        return super().call(case, plan, arrays)

    def load(self, array: Any) -> Any:
        if array.dtype.name == "bfloat16":
            same_bits = self.torch.from_numpy(array.view(np.int16))
            return same_bits.view(self.torch.bfloat16).to(self.device)
        return self.torch.from_numpy(array).to(self.device)

    def empty(self, spec: Any) -> Any:
        return None

    def fetch(self, result: Any) -> Any:
        wide = result.dtype == self.torch.bfloat16
        return (result.float() if wide else result).cpu().numpy()


class OnTorchCuda(Tensors):
    """Tensors on a CUDA device, without TF32."""

    device = "cuda"

    def missing(self) -> str | None:
        reason = super().missing()
        if reason is None:
            import torch

            reason = None if torch.cuda.is_available() else "PyTorch finds no CUDA device"
        return reason

    def start(self, threads: int) -> None:
        super().start(threads)
        self.torch.backends.cudnn.benchmark = True
        self.torch.backends.cudnn.allow_tf32 = False
        self.torch.backends.cuda.matmul.allow_tf32 = False

    def extra_bytes(self, work: Callable[[], Any]) -> int | None:
        """The high-water mark of PyTorch's allocator."""
        cuda = self.torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        work()
        return int(cuda.max_memory_allocated() - before)


class Torch(Tensors):
    """torch.nn.functional on the CPU."""

    name = "torch"
    packages = ("torch",)
    modules = ("torch",)

    def start(self, threads: int) -> None:
        super().start(threads)
        self.functional = self.torch.nn.functional

    def call(self, case: Case, plan: Any, arrays: Arrays) -> Call:
        if case.dtype.kind != "f" and "pool" not in case.operation and case.operation != "dilate":
            raise UnsupportedError("its convolutions are made for floats")
        return super().call(case, plan, arrays)

    def conv2d(self, case: Case) -> Call:
        return self._maps(case, self.functional.conv2d)

    def max_pool2d(self, case: Case) -> Call:
        return self._maps(case, self.functional.max_pool2d)

    def avg_pool2d(self, case: Case) -> Call:
        return self._maps(case, self.functional.avg_pool2d)

    def filter2d(self, case: Case) -> Call:
        def run(x: Any, kernel: Any) -> Any:
            return self._correlate(self._padded(x, kernel.shape), kernel)

        return on_channel(run)

    def sharpen(self, case: Case) -> Call:
        kernel = self._weights(case, sharpening(case.arguments["amount"]))
        return on_channel(lambda x: self._correlate(self._padded(x, kernel.shape), kernel))

    def separable_filter2d(self, case: Case) -> Call:
        return on_channel(self._separable)

    def gaussian_blur(self, case: Case) -> Call:
        factors = [self._weights(case, gaussian_taps(s)) for s in pair(case.arguments["sigma"])]
        return on_channel(lambda x: self._separable(x, *factors))

    def box_blur(self, case: Case) -> Call:
        size = pair(case.arguments["size"])
        return on_channel(
            lambda x: self.functional.avg_pool2d(self._padded(x, size), size, stride=1)
        )

    def sobel(self, case: Case) -> Call:
        along = self._weights(case, np.outer(DERIVE, SMOOTH))
        both = self.torch.stack([along, along.T])[:, None]

        def run(x: Any) -> Any:
            slopes = self.functional.conv2d(self._padded(x, (3, 3)), both)
            return self.torch.hypot(slopes[:, :1], slopes[:, 1:])

        return on_channel(run, note="one convolution of two outputs, hypot")

    def dilate(self, case: Case) -> Call:
        return self._extreme(case, 1)

    def erode(self, case: Case) -> Call:
        if case.dtype.kind != "f":
            raise UnsupportedError("has no pool of minima, and no negative of unsigned images")
        return self._extreme(case, -1)

    def _extreme(self, case: Case, sign: int) -> Call:
        size = pair(case.arguments["size"])
        if not all(k % 2 for k in size):
            raise UnsupportedError("pads its max pool evenly")
        around = tuple(k // 2 for k in size)  # reflected pixels lie in the window already
        if sign > 0:
            return on_channel(lambda x: self.functional.max_pool2d(x, size, 1, around))
        return on_channel(lambda x: -self.functional.max_pool2d(-x, size, 1, around))

    def _weights(self, case: Case, values: Any) -> Any:
        return self.load(np.ascontiguousarray(values, case.dtype))

    def _padded(self, x: Any, size: Any) -> Any:
        (top, left) = (k // 2 for k in size)
        below, right = (k - 1 - k // 2 for k in size)
        return self.functional.pad(x, (left, right, top, below), mode="reflect")

    def _correlate(self, x: Any, kernel: Any) -> Any:
        return self.functional.conv2d(x, kernel[None, None])

    def _separable(self, x: Any, column: Any, row: Any) -> Any:
        padded = self._padded(x, (len(column), len(row)))
        return self._correlate(self._correlate(padded, column[:, None]), row[None, :])

    def _maps(self, case: Case, function: Callable[..., Any]) -> Call:
        """A function of feature maps with our names of the arguments; NHWC is a view for it."""
        options = {key: value for key, value in case.arguments.items() if key != "layout"}
        if case.arguments["layout"] == "NCHW":
            return Call(lambda *arrays, out: function(*arrays, **options), fills_out=False)

        def run(x: Any, *weights: Any, out: Any) -> Any:
            return function(x.permute(0, 3, 1, 2), *weights, **options).permute(0, 2, 3, 1)

        return Call(run, fills_out=False, note="channels_last")


class TorchCuda(OnTorchCuda, Torch):
    """torch.nn.functional on CUDA."""

    name = "torch-cuda"
    modules = ("torch", "cupy")  # CuPy's events are the clock
