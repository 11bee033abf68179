"""How the NumPy backend computes feature maps: its rule, its threads, what it mixes."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.numpy import depthwise, products, threads, winograd
from gpuconv.backends.numpy.correlation import choose_method
from gpuconv.backends.numpy.operands import Maps, Operands, choose_numbers
from gpuconv.window import AxisWindow
from tests import reference
from tests.map_cases import random_values, shrink_tiles


@pytest.fixture(autouse=True)
def numpy_backend():
    with gpuconv.use_backend("numpy"):
        yield
    threads.set_num_threads(None)


def operands_of(x, w, groups=1, stride=1, dilation=1, pad=1, last=False):
    """Operands of one part of a convolution with all channels."""
    windows = [AxisWindow(n, stride, dilation, (pad, pad)) for n in w.shape[2:]]
    split = (groups, (x.shape[-1] if last else x.shape[1]) // groups)
    lead, tail = (x.shape[:-1], ()) if last else (x.shape[:1], x.shape[2:])
    maps = Maps(x.reshape(*lead, *split, *tail), last)
    taps = int(np.prod(w.shape[1:]))
    numbers = choose_numbers(x.dtype, w.dtype, x.dtype, taps)
    weight = w.reshape(groups, -1, *w.shape[1:])
    return Operands(maps, slice(0, groups), weight, windows, numbers, last, True)


def method_for(x, w, outputs, algorithm="gemm", **arguments):
    return choose_method(operands_of(x, w, **arguments), outputs, algorithm).__name__


# ---------------------------------------------------------------- the rule


def test_rule_takes_winograd_where_it_saves_products():
    x, w = np.zeros((1, 64, 16, 16), np.float32), np.zeros((64, 64, 3, 3), np.float32)
    assert method_for(x, w, (16, 16)) == "Winograd"
    assert method_for(x.astype(np.float64), w.astype(np.float64), (16, 16)) == "Winograd"
    assert method_for(x, w, (7, 7)) == "Products"  # too much junk
    assert method_for(x, w[:63], (16, 16)) == "Products"
    assert method_for(x[:, :63], w[:, :63], (16, 16)) == "Products"
    assert method_for(x, w, (8, 8), stride=2) == "Products"
    assert method_for(x, w, (14, 14), dilation=2) == "Products"
    assert method_for(x, w[:, :32], (16, 16), groups=2) == "Products"
    assert method_for(x.astype(np.int8), w.astype(np.int8), (16, 16)) == "Products"
    assert method_for(np.zeros((1, 16, 16, 64), np.float32), w, (16, 16), last=True) == "Products"


def test_rule_takes_bands_for_single_channels_of_float_rows():
    x, w = np.zeros((1, 4, 9, 9), np.float32), np.zeros((4, 1, 3, 3), np.float32)
    assert method_for(x, w, (9, 9), "direct", groups=4) == "Bands"
    assert method_for(x.astype(np.uint8), w.astype(np.int8), (9, 9), "direct", groups=4) == "Bands"
    last = np.zeros((1, 9, 9, 4), np.float32)
    assert method_for(last, w, (9, 9), "direct", groups=4, last=True) == "Slabs"
    assert method_for(x, w[:, :, 0], (9,), "direct", groups=4) == "Slabs"
    wide = x.astype(np.int32), w.astype(np.int32)
    assert method_for(*wide, (9, 9), "direct", groups=4) == "Slabs"  # not exact in floats
    assert method_for(x, w, (9, 9), "direct", groups=4, dilation=9) == "Slabs"


# ---------------------------------------------------------------- threads

CASES = {
    "products": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "float32"),
        random_values((70, 40, 3, 3), "float32"),
        stride=2,
    ),
    "gathered": lambda: gpuconv.conv2d(
        random_values((3, 3, 60, 61), "float32"),
        random_values((40, 3, 7, 7), "float32"),
        random_values((40,), "float32"),
        stride=2,
        padding=3,
        activation="relu",
    ),
    "channels last": lambda: gpuconv.conv2d(
        random_values((3, 30, 31, 40), "float32"),
        random_values((70, 40, 3, 3), "float32"),
        padding=1,
        layout="NHWC",
    ),
    "winograd": lambda: gpuconv.conv2d(
        random_values((3, 64, 30, 31), "float32"), random_values((64, 64, 3, 3), "float32")
    ),
    "depthwise": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "float32"),
        random_values((40, 1, 3, 3), "float32"),
        padding=1,
        groups=40,
    ),
    "slabs": lambda: gpuconv.conv2d(
        random_values((3, 30, 31, 40), "float32"),
        random_values((40, 1, 3, 3), "float32"),
        padding=1,
        groups=40,
        layout="NHWC",
    ),
    "integers": lambda: gpuconv.conv2d(
        random_values((3, 40, 30, 31), "uint8"), random_values((70, 40, 3, 3), "int8"), padding=1
    ),
    "transposed": lambda: gpuconv.conv_transpose2d(
        random_values((3, 40, 20, 21), "float32"),
        random_values((40, 30, 4, 4), "float32"),
        stride=2,
    ),
    "pooled": lambda: gpuconv.conv2d_pool2d(
        random_values((3, 8, 60, 61), "float32"), random_values((40, 8, 3, 3), "float32")
    ),
    "max pool": lambda: gpuconv.max_pool2d(
        random_values((3, 40, 60, 61), "float32"), 3, 2, 1, return_indices=True
    ),
    "average": lambda: gpuconv.avg_pool2d(random_values((3, 40, 60, 61), "float32"), 3, 2, 1),
    "global": lambda: gpuconv.global_avg_pool(random_values((3, 40, 60, 61), "float32")),
}


@pytest.mark.parametrize("tiles", ["whole", "small"])
@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_the_threads(case, tiles, monkeypatch):
    if tiles == "small":
        monkeypatch.setattr(products, "SUM_ELEMENTS", 1 << 10)
        monkeypatch.setattr(depthwise, "TILE_ELEMENTS", 1 << 12)
        monkeypatch.setattr(winograd, "TRANSFORMED_ELEMENTS", 1 << 16)
    results = []
    for count in (1, 2, 5):
        threads.set_num_threads(count)
        results.append(CASES[case]())
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_threads_that_need_the_same_weights_find_them_whole():
    x, w = random_values((8, 64, 16, 16), "float32"), random_values((256, 64, 3, 3), "float32")
    threads.set_num_threads(1)
    expected = gpuconv.conv2d(x, w, padding=1)
    threads.set_num_threads(4)
    for _ in range(30):
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, padding=1), expected)


def test_numpy_does_not_warn_on_any_thread():
    threads.set_num_threads(5)
    x = np.full((9, 40, 30, 30), np.float32(3e38))
    w = np.full((40, 40, 3, 3), np.float32(3e38))
    assert np.isinf(gpuconv.conv2d(x, w)).all()
    assert np.isinf(gpuconv.avg_pool2d(x, 2)).all()


# ---------------------------------------------------------------- algorithms that mix windows


def mixed_bound(x, w):
    """The contract's bound where windows are mixed: with the largest |x| for every one."""
    scale = abs(x).max() * abs(w).sum((1, 2, 3))
    return 2 * np.sqrt(np.prod(w.shape[1:])) * 2.0**-23 * scale[None, :, None, None]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (8, 9), (13, 17)])
@pytest.mark.parametrize("border", ["zeros", "reflect"])
@pytest.mark.parametrize("elements", [1 << 10, 1 << 12, 1 << 19])
def test_winograd_is_the_reference(size, border, elements, monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MOST_PRODUCTS", 1e9)
    monkeypatch.setattr(winograd, "TRANSFORMED_ELEMENTS", elements)
    if border == "reflect" and min(size) < 2:
        size = (2, 2)
    x, w = random_values((3, 5, *size), "float32"), random_values((4, 5, 3, 3), "float32")
    bias = random_values((4,), "float32")
    arguments = {"padding": 1, "padding_mode": border}
    assert method_for(x, w, size) == "Winograd"
    expected = reference.conv(x, w, bias, **arguments)
    actual = gpuconv.conv2d(x, w, bias, **arguments)
    assert actual.shape == expected.shape
    assert (abs(actual - expected) <= mixed_bound(x, w) + 1e-6).all()


@pytest.mark.parametrize("channels", [64, 128, 300])
def test_winograd_of_many_channels_keeps_the_bound(channels):
    rng = np.random.default_rng(channels)
    for sign in (0.0, 1.0):
        x = rng.uniform(sign - 1, 1, (1, channels, 12, 12)).astype(np.float32)
        w = rng.uniform(sign - 1, 1, (64, channels, 3, 3)).astype(np.float32)
        assert method_for(x, w, (12, 12), pad=1) == "Winograd"
        error = abs(gpuconv.conv2d(x, w, padding=1) - reference.conv(x, w, padding=1))
        assert (error <= mixed_bound(x, w)).all()


BAD = [np.nan, np.inf, -np.inf, 3e38]
"""3e38 overflows where it is mixed with others, but not in the windows themselves."""


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", ["input", "weight"])
def test_winograd_spreads_bad_values_no_further_than_their_windows(bad, place):
    x = np.array(random_values((2, 64, 12, 13), "float32"))
    w = np.array(random_values((64, 64, 3, 3), "float32")) / 64
    assert method_for(x, w, (12, 13)) == "Winograd"
    if place == "input":
        x[0, 3, 5, 6] = bad
        x[1, 0, 0, 0] = bad
    else:
        w[7, 5, 0, 2] = bad
    with np.errstate(over="ignore"):
        expected = reference.conv(x, w, padding=1).astype(np.float32)
    actual = gpuconv.conv2d(x, w, padding=1)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stride", [1, 2])
def test_bands_spread_bad_values_no_further_than_their_windows(bad, stride):
    x = np.array(random_values((2, 5, 11, 12), "float32"))
    w = np.array(random_values((10, 1, 3, 3), "float32"))
    x[1, 2, 5, 6] = x[0, 0, 10, 11] = bad
    w[4, 0, 1, 1] = 0
    arguments = {"padding": 1, "stride": stride, "groups": 5}
    expected = reference.conv(x, w, **arguments)
    actual = gpuconv.conv2d(x, w, **arguments)
    finite = np.isfinite(expected)
    assert 0 < (~finite).sum() < finite.size
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (2, 7), (7, 2)])
@pytest.mark.parametrize("geometry", [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("size", [(3, 4), (8, 9), (13, 30)])
@pytest.mark.parametrize("tiles", ["whole", "small"])
def test_bands_are_the_reference(kernel, geometry, size, tiles, monkeypatch):
    if tiles == "small":
        shrink_tiles(monkeypatch)
    stride, dilation = geometry
    x, w = random_values((2, 3, *size), "float32"), random_values((6, 1, *kernel), "float32")
    padding = tuple(dilation * (n - 1) // 2 for n in kernel) if max(kernel) < 7 else 6
    arguments = {"stride": stride, "dilation": dilation, "padding": padding, "groups": 3}
    expected = reference.conv(x, w, **arguments)
    error = abs(gpuconv.conv2d(x, w, **arguments) - expected)
    assert (error <= reference.bound(x, w, **arguments)).all()


@pytest.mark.parametrize("junk", [0.0, 1e9])
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_products_agree_on_flat_and_on_cut_planes(layout, channels, junk, monkeypatch):
    monkeypatch.setattr(products, "JUNK", junk)
    sizes = (7, 9)
    shape = (3, *sizes, channels) if layout == "NHWC" else (3, channels, *sizes)
    x, w = random_values(shape, "int8"), random_values((5, channels, 3, 4), "int8")
    for stride, dilation in ((1, 1), (2, 1), (2, 3), ((1, 3), (2, 1))):
        arguments = {"stride": stride, "dilation": dilation, "padding": 4, "layout": layout}
        expected = reference.conv(x, w, **arguments)
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, **arguments), expected)
