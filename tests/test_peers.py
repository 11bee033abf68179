"""Peers on their own ground: random calls of OpenCV's, PyTorch's sample inputs and memory formats.

Where the contract means something else on purpose, the call is told in OpenCV's or PyTorch's way.
"""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv import filters, kernels
from tests.image_cases import random_images

BORDERS = {
    "reflect": "BORDER_REFLECT_101",
    "symmetric": "BORDER_REFLECT",
    "edge": "BORDER_REPLICATE",
    "constant": "BORDER_CONSTANT",
}
DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
SIZES = ((1, 1), (1, 17), (19, 1), (5, 5), (17, 33), (24, 64), (33, 50))
CALLS = 12
"""Of each function."""


class Draw:
    """An image, a border and what OpenCV calls them."""

    def __init__(self, rng, dtypes=DTYPES, borders=tuple(BORDERS)):
        cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
        self.rng, self.cv2 = rng, cv2
        channels = rng.integers(5)
        shape = (*SIZES[rng.integers(len(SIZES))], *([channels] if channels else []))
        self.image = random_images(shape, str(rng.choice(dtypes)), seed=int(rng.integers(2**31)))
        if rng.random() < 0.3:  # a part of a wider image: rows begin anywhere
            wide = np.zeros((shape[0] + 2, shape[1] + 3, *shape[2:]), self.image.dtype)
            wide[1:-1, 2:-1] = self.image
            self.image = wide[1:-1, 2:-1]
        self.whole = self.image.dtype.kind in "iu"
        border = str(rng.choice(borders))
        self.ours = {"border": border, "channel_axis": -1 if channels else None}
        self.theirs = {"borderType": getattr(cv2, BORDERS[border])}

    def sides(self, most):
        """Height and width of a window."""
        return tuple(int(n) for n in self.rng.integers(1, most + 1, 2))

    def agree(self, ours, theirs, *, levels=0, scale=1.0):
        """Integers within `levels`, floats within roundings of sums of the size of `scale`."""
        theirs = theirs.reshape(ours.shape)  # OpenCV drops a single channel
        assert ours.dtype == theirs.dtype
        if ours.dtype.kind in "iu":
            assert abs(ours.astype(np.float64) - theirs).max() <= levels
        else:
            size = max(1.0, float(abs(self.image).max())) * max(1.0, scale)
            tolerance = 2e-6 if self.image.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * size)


def filter2d(draw):
    height, width = draw.sides(11)
    if draw.rng.random() < 0.5:
        kernel = draw.rng.integers(-3, 4, (height, width)).astype(np.float64)
    else:
        kernel = draw.rng.normal(size=(height, width)).astype(np.float32).astype(np.float64)
    anchor = int(draw.rng.integers(height)), int(draw.rng.integers(width))
    delta = float(draw.rng.choice([0, 3, -7.25, 128]))
    ours = filters.filter2d(draw.image, kernel, anchor=anchor, delta=delta, **draw.ours)
    theirs = draw.cv2.filter2D(
        draw.image, -1, kernel, anchor=anchor[::-1], delta=delta, **draw.theirs
    )
    draw.agree(ours, theirs, levels=1, scale=abs(kernel).sum() + abs(delta))


def separable_filter2d(draw):
    column, row = (draw.rng.normal(size=n) / np.sqrt(n) for n in draw.sides(19))
    ours = filters.separable_filter2d(draw.image, column, row, **draw.ours)
    theirs = draw.cv2.sepFilter2D(draw.image, -1, row, column, **draw.theirs)
    draw.agree(ours, theirs, levels=1, scale=abs(column).sum() * abs(row).sum())


def gaussian_blur(draw):
    """In float64: OpenCV's own weights for 8 and 16 bits are up to 6 levels off."""
    sigma = tuple(draw.rng.choice([0.3, 0.8, 1.0, 2.0, 3.7], 2))
    height, width = (len(kernels.gaussian_taps(s)) for s in sigma)
    exact = draw.cv2.GaussianBlur(
        draw.image.astype(np.float64), (width, height), sigma[1], sigmaY=sigma[0], **draw.theirs
    )
    theirs = (exact.round() if draw.whole else exact).astype(draw.image.dtype)
    draw.agree(filters.gaussian_blur(draw.image, sigma, **draw.ours), theirs, levels=1)


def box_blur(draw):
    height, width = draw.sides(21)
    theirs = draw.cv2.blur(draw.image, (width, height), **draw.theirs)
    draw.agree(filters.box_blur(draw.image, (height, width), **draw.ours), theirs, levels=1)
    if height * width < 200:
        ours = filters.filter2d(draw.image, np.ones((height, width)), **draw.ours)
        theirs = draw.cv2.boxFilter(draw.image, -1, (width, height), normalize=False, **draw.theirs)
        draw.agree(ours, theirs, scale=height * width)


def derivatives(draw):
    signed = draw.image.dtype == np.uint8
    depth, kept = (draw.cv2.CV_16S, "int16") if signed else (-1, None)
    for axis in (0, 1):
        order = axis, 1 - axis
        for ours, theirs in ((filters.sobel, draw.cv2.Sobel), (filters.scharr, draw.cv2.Scharr)):
            witness = theirs(draw.image, depth, *order, **draw.theirs)
            result = ours(draw.image, axis=axis, out_dtype=kept, **draw.ours)
            draw.agree(result, witness, scale=32)
    ours = filters.laplacian(draw.image, out_dtype=kept, **draw.ours)
    draw.agree(ours, draw.cv2.Laplacian(draw.image, depth, ksize=1, **draw.theirs), scale=8)


def median_blur(draw):
    larger = draw.image.dtype == np.uint8 and draw.image.shape[2:] != (2,)
    size = int(draw.rng.choice([3, 5, 7, 15, 21] if larger else [3, 5]))
    ours = filters.median_blur(draw.image, size, **draw.ours)
    draw.agree(ours, draw.cv2.medianBlur(draw.image, size))


def dilate_and_erode(draw):
    """OpenCV's own border leaves out what lies outside: no value there wins."""
    element = draw.rng.random(draw.sides(9)) < 0.6
    element[0, 0] = True
    limits = (np.iinfo if draw.whole else np.finfo)(draw.image.dtype)
    for ours, theirs, loser in (
        (filters.dilate, draw.cv2.dilate, limits.min),
        (filters.erode, draw.cv2.erode, limits.max),
    ):
        for border in ({}, draw.theirs):
            mine = draw.ours if border else {**draw.ours, "border": "constant", "value": loser}
            anchor = element.shape[1] // 2, element.shape[0] // 2
            witness = theirs(draw.image, element.astype(np.uint8), anchor=anchor, **border)
            draw.agree(ours(draw.image, footprint=element, **mine), witness)


def open_and_close(draw):
    shape = draw.rng.choice([draw.cv2.MORPH_RECT, draw.cv2.MORPH_CROSS])
    size = int(draw.rng.choice([1, 3, 5, 7, 15]))
    element = draw.cv2.getStructuringElement(int(shape), (size, size))
    own = {"size": size} if element.all() else {"footprint": element}
    for ours, theirs in (
        (filters.morph_open, draw.cv2.MORPH_OPEN),
        (filters.morph_close, draw.cv2.MORPH_CLOSE),
        (filters.morph_gradient, draw.cv2.MORPH_GRADIENT),
    ):
        witness = draw.cv2.morphologyEx(draw.image, theirs, element, **draw.theirs)
        draw.agree(ours(draw.image, **own, **draw.ours), witness)


WITHIN = tuple(border for border in BORDERS if border != "constant")
OPENCV = {
    filter2d: {},
    separable_filter2d: {},
    gaussian_blur: {},
    box_blur: {},
    derivatives: {},
    median_blur: {"dtypes": ("uint8", "uint16", "float32"), "borders": ("edge",)},
    dilate_and_erode: {"borders": WITHIN},
    open_and_close: {"borders": WITHIN},
}


@pytest.mark.parametrize("call", OPENCV, ids=lambda call: call.__name__)
def test_random_calls_agree_with_opencv(call, rng):
    for _ in range(CALLS):
        call(Draw(rng, **OPENCV[call]))


def memory_formats(torch, x):
    """The tensor as PyTorch may hand it over: its strides in any order, or 0."""
    yield x
    yield x.to(memory_format=torch.channels_last)
    yield x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield torch.stack([x, x], -1)[..., 1]
    yield torch.nn.functional.pad(x, (1, 2, 3, 1))[..., 3:-1, 1:-2]
    yield x[:, :1].expand(x.shape)


@pytest.mark.numpy_alone
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_of_any_memory_format_agree_with_pytorch(dtype, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind, functional = getattr(torch, dtype), torch.nn.functional
    values = rng.normal(size=(2, 4, 9, 12))
    values[0, 0, 2, 3], values[1, 0, 5, 5], values[1, 3, 0, 0] = np.nan, np.inf, -np.inf
    plain, weight = (torch.tensor(v).to(kind) for v in (values, rng.normal(size=(6, 2, 3, 2))))
    tolerance = 4 * torch.finfo(kind).eps
    for x in memory_formats(torch, plain):
        arguments = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
        ours = gpuconv.max_pool2d(x, (3, 2), **arguments, return_indices=True)
        theirs = functional.max_pool2d(x, (3, 2), **arguments, return_indices=True)
        for mine, witness in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, witness, rtol=0, atol=0, equal_nan=True)
        ours = gpuconv.conv2d(x, weight, groups=2, **arguments)
        # PyTorch's own sums in 16 bits lose Inf beside NaN; those in float64 do not.
        witness = functional.conv2d(x.double(), weight.double(), groups=2, **arguments)
        assert ours.dtype == kind
        torch.testing.assert_close(
            ours.double(), witness, rtol=tolerance, atol=20 * tolerance, equal_nan=True
        )


SAMPLED = [
    f"{name}{rank}d"
    for name in (
        *("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"),
        *("conv", "conv_transpose", "max_unpool"),
    )
    for rank in (1, 2, 3)
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLED)
def test_pytorchs_own_samples(name):
    """The inputs that PyTorch tests its own functions with."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = "torch.testing._internal.common_methods_invocations"
    listed = pytest.importorskip(module, reason="what PyTorch's own tests need is not installed")
    count = 0
    for function in listed.op_db:
        if function.name != f"nn.functional.{name}" or function.variant_test_name:
            continue
        for sample in function.sample_inputs("cpu", torch.float64):
            operands = [
                a.numpy() if torch.is_tensor(a) else a for a in (sample.input, *sample.args)
            ]
            named = {k: v.numpy() if torch.is_tensor(v) else v for k, v in sample.kwargs.items()}
            ours = getattr(gpuconv, name)(*operands, **named)
            theirs = function(sample.input, *sample.args, **sample.kwargs)
            pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else ((ours, theirs),)
            for mine, witness in pairs:
                np.testing.assert_allclose(mine, witness, rtol=1e-12, atol=1e-12)
            count += 1
    assert count
