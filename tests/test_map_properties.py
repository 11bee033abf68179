"""What holds for any feature map: laws of convolutions and pools, and the memory they need."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import gpuconv
from tests.map_cases import shrink_tiles

small = settings(derandomize=True, deadline=None, max_examples=30)


def maps(dtype="int16", rank=2, batch=(1, 3), channels=(1, 4), side=(1, 9)):
    """Feature maps of whole numbers."""
    shape = st.tuples(*(st.integers(*b) for b in (batch, channels, *[side] * rank)))
    return shape.flatmap(lambda s: arrays.arrays(dtype, s, elements=st.integers(-99, 99)))


def weights_for(x, data, outputs=None, kernel=(1, 3)):
    """Weights that fit the channels of `x`."""
    size = [data.draw(st.integers(*kernel)) for _ in x.shape[2:]]
    count = data.draw(st.integers(1, 3)) if outputs is None else outputs
    elements = st.integers(-9, 9)
    return data.draw(arrays.arrays("int8", (count, x.shape[1], *size), elements=elements))


@small
@given(maps(), st.sampled_from(["gemm", "direct"]))
def test_a_kernel_of_one_one_changes_nothing(x, algorithm):
    w = np.eye(x.shape[1], dtype=np.int8)[:, :, None, None]
    np.testing.assert_array_equal(gpuconv.conv2d(x, w, algorithm=algorithm), x)


@small
@given(maps(side=(3, 9)), st.data())
def test_conv_is_linear_in_input_and_weights(x, data):
    w, v = weights_for(x, data, 2, (3, 3)), weights_for(x, data, 2, (3, 3))
    y = data.draw(arrays.arrays(x.dtype, x.shape, elements=st.integers(-99, 99)))
    conv = gpuconv.conv2d
    np.testing.assert_array_equal(conv(x + y, w), conv(x, w) + conv(y, w))
    np.testing.assert_array_equal(conv(x, w + v), conv(x, w) + conv(x, v))


@small
@given(maps(side=(2, 9)), st.data(), st.integers(-12, 12), st.integers(-12, 12))
def test_conv_on_a_circle_moves_with_its_input(x, data, down, right):
    w = weights_for(x, data)
    named = {"padding": "same", "padding_mode": "circular"}
    moved = gpuconv.conv2d(np.roll(x, (down, right), (2, 3)), w, **named)
    still = gpuconv.conv2d(x, w, **named)
    np.testing.assert_array_equal(moved, np.roll(still, (down, right), (2, 3)))


@small
@given(maps(batch=(2, 5), side=(3, 9)), st.data())
def test_images_of_a_batch_do_not_touch(x, data):
    w = weights_for(x, data)
    for function, arguments in (
        (gpuconv.conv2d, (w,)),
        (gpuconv.conv_transpose2d, (w[:, :1].repeat(x.shape[1], 1).swapaxes(0, 1),)),
        (gpuconv.max_pool2d, (3,)),
        (gpuconv.avg_pool2d, (2,)),
        (gpuconv.adaptive_avg_pool2d, (2,)),
    ):
        whole = function(x, *arguments)
        np.testing.assert_array_equal(whole, np.stack([function(one, *arguments) for one in x]))


@small
@given(maps(side=(3, 12)), st.data(), st.sampled_from(["gemm", "direct"]))
def test_tiles_leave_no_trace(x, data, algorithm):
    w = weights_for(x, data)
    calls = (
        lambda: (
            gpuconv.conv2d(x, w, padding=1, dilation=2, algorithm=algorithm)
            if min(x.shape[2:]) > 4
            else gpuconv.conv2d(x, w, padding=2, algorithm=algorithm)
        ),
        lambda: gpuconv.conv_transpose2d(x, w[:1].repeat(x.shape[1], 0), stride=2),
        lambda: gpuconv.max_pool2d(x, 3, 2, 1, return_indices=True),
        lambda: gpuconv.avg_pool2d(x, 3, 1, 1),
        lambda: gpuconv.adaptive_max_pool2d(x, (2, 5), return_indices=True),
        lambda: gpuconv.conv2d_pool2d(x, w, padding=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        whole = [call() for call in calls]
        shrink_tiles(patch)
        cut = [call() for call in calls]
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one, other)


@small
@given(maps(side=(3, 9)), st.data())
def test_channels_last_is_channels_first_turned(x, data):
    w, turned = weights_for(x, data), np.moveaxis(x, 1, -1)
    for function, arguments in (
        (gpuconv.conv2d, (w,)),
        (gpuconv.max_pool2d, (2,)),
        (gpuconv.avg_pool2d, (3, 2)),
        (gpuconv.adaptive_max_pool2d, (2,)),
    ):
        first = function(x, *arguments)
        last = function(turned, *arguments, layout="NHWC")
        np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)


@small
@given(maps(side=(3, 9)), st.data())
def test_inputs_stay_as_they_were(x, data):
    w, copy = weights_for(x, data), x.copy()
    before = w.copy()
    for dtype in (np.int16, np.float32):
        a, b = x.astype(dtype), w.astype(dtype)
        gpuconv.conv2d(a, b, algorithm="direct")
        gpuconv.conv2d(a, b[..., :1, :1], activation="relu")
        for pool in (gpuconv.max_pool2d, gpuconv.avg_pool2d):
            pool(a, 1)
            pool(a, (1, 2))
        gpuconv.conv2d_pool2d(a, b[..., :1, :1], pool_size=1)
        gpuconv.adaptive_avg_pool2d(a, x.shape[2:])
        np.testing.assert_array_equal(a, copy)
        np.testing.assert_array_equal(b, before)


@small
@given(maps(side=(1, 9)), st.integers(1, 4), st.integers(1, 3))
def test_unpooled_maxima_pool_to_themselves(x, size, stride):
    if size > min(x.shape[2:]):
        size = 1
    tops, places = gpuconv.max_pool2d(x, size, stride, return_indices=True)
    flat = x.reshape(*x.shape[:2], -1)
    chosen = np.take_along_axis(flat, places.reshape(*x.shape[:2], -1), -1)
    np.testing.assert_array_equal(chosen.reshape(tops.shape), tops)
    np.testing.assert_array_equal(-gpuconv.min_pool2d(-x, size, stride), tops)


# ---------------------------------------------------------------- memory

LIMIT = 64 << 20
"""Bytes beyond input and output (DESIGN 4)."""


def halves(*shape):
    """Ones that cost nothing to make: float16, so that they must be converted."""
    return np.ones(shape, np.float16)


BIG = {
    "conv, many channels": lambda: gpuconv.conv2d(
        halves(1, 192, 160, 160), halves(4, 192, 3, 3), padding=1
    ),
    "conv, channels last": lambda: gpuconv.conv2d(
        halves(1, 160, 160, 192), halves(4, 192, 3, 3), padding=1, layout="NHWC"
    ),
    "conv, one large image": lambda: gpuconv.conv2d(
        np.ones((1, 1, 3000, 3000), np.uint8), np.ones((1, 1, 5, 5), np.int8), padding=40
    ),
    "conv, large kernel": lambda: gpuconv.conv2d(
        halves(1, 1210, 1210), halves(1, 1, 1200, 1200), algorithm="gemm"
    ),
    "conv, many weights": lambda: gpuconv.conv2d(halves(1, 4096, 3, 3), halves(4096, 4096, 1, 1)),
    "conv, far apart": lambda: gpuconv.conv2d(
        halves(1, 2, 4100, 4100), halves(2, 2, 3, 3), dilation=2040, stride=9
    ),
    "conv, many groups": lambda: gpuconv.conv2d(
        halves(1, 20_000, 24, 24), halves(20_000, 1, 3, 3), groups=20_000, algorithm="gemm"
    ),
    "depthwise": lambda: gpuconv.conv2d(
        halves(8, 256, 96, 96), halves(256, 1, 3, 3), groups=256, padding=1
    ),
    "transpose": lambda: gpuconv.conv_transpose2d(
        halves(1, 64, 256, 256), halves(64, 8, 4, 4), stride=2
    ),
    "conv then pool": lambda: gpuconv.conv2d_pool2d(
        halves(1, 8, 512, 512), halves(64, 8, 3, 3), pool_size=4, pool_stride=3
    ),
    "conv then one window": lambda: gpuconv.conv2d_pool2d(
        halves(1, 8, 512, 512), halves(64, 8, 3, 3), pool_size=510
    ),
    "conv, far apart, many groups": lambda: gpuconv.conv2d(
        halves(1, 512, 160, 160), halves(512, 1, 2, 2), dilation=150, groups=512
    ),
    "max pool, channels last": lambda: gpuconv.max_pool2d(
        halves(1, 70, 70, 4096), 65, 1, layout="NHWC"
    ),
    "max pool": lambda: gpuconv.max_pool2d(halves(1, 1, 4096, 4096), 3, 2, 1, return_indices=True),
    "wide max pool": lambda: gpuconv.max_pool2d(halves(1, 3000, 3000), 700, 300),
    "mean": lambda: gpuconv.global_avg_pool(np.ones((1, 1, 6000, 6000), np.uint8)),
    "mean, channels last": lambda: gpuconv.avg_pool2d(
        np.ones((1, 8, 8, 300_000), np.uint8), 3, 1, layout="NHWC"
    ),
    "adaptive": lambda: gpuconv.adaptive_max_pool2d(
        halves(1, 1, 4099, 4099), (3, 1000), return_indices=True
    ),
    "norm": lambda: gpuconv.lp_pool1d(halves(1, 2, 8_000_000), 2, 1_000_000, 500_000),
    "unpool": lambda: gpuconv.max_unpool2d(
        halves(1, 1, 2000, 2000), np.zeros((1, 1, 2000, 2000), np.int64), 2
    ),
}


@pytest.mark.numpy_alone
@pytest.mark.parametrize("call", BIG)
def test_workspace_is_bounded(call, monkeypatch):
    """Peak memory while a backend runs, less what was there before it and the output is."""
    from gpuconv.backends.numpy import NumpyBackend

    peaks = []
    run = NumpyBackend.run

    def measured(self, plan, inputs, outputs):
        tracemalloc.start()
        try:
            run(self, plan, inputs, outputs)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(NumpyBackend, "run", measured)
    BIG[call]()
    assert 0 < max(peaks) < LIMIT / 2  # the rest is for BLAS, and for a second thread
