"""The reference against second witnesses: NumPy, SciPy, OpenCV, scikit-image, PyTorch, ONNX.

A witness that is not installed skips its tests; what no library answers is counted out by hand.
"""

import itertools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from tests import onnx_cases, reference

SCIPY_MODES = {
    "constant": "constant",
    "edge": "nearest",
    "reflect": "mirror",
    "symmetric": "reflect",
    "wrap": "grid-wrap",
}
RAGGED = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
SIZES = [3, (3, 5), (1, 4), (2, 2), (4, 3)]


def witness(name):
    """A session fixture that is the module `name`, or skips the test."""

    def module():
        return pytest.importorskip(name, reason=f"second witness {name} is not installed")

    return pytest.fixture(scope="session")(module)


torch = witness("torch")
ndimage = witness("scipy.ndimage")
cv2 = witness("cv2")
skimage_filters = witness("skimage.filters")
onnx = witness("onnx")


@pytest.fixture
def images(rng):
    """Two small integer-valued float images: exact in every witness."""
    return rng.integers(0, 256, (2, 9, 11)).astype(np.float64)


def close(actual, expected, rtol=1e-12):
    """Same shape, same values, NaN where NaN."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def same(actual, expected):
    """Same shape and identical values."""
    np.testing.assert_array_equal(actual, np.asarray(expected), strict=False)
    assert np.shape(actual) == np.shape(expected)


# ---------------------------------------------------------------- borders and geometry


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_border_index_folds_as_numpy_pad(border, n):
    reach = 3 * n + 2
    keywords = {"constant_values": -1} if border == "constant" else {}
    expected = np.pad(np.arange(n), reach, mode=border, **keywords)
    actual = [reference.border_index(i, n, border) for i in range(-reach, n + reach)]
    assert [-1 if i is None else i for i in actual] == expected.tolist()


@pytest.mark.parametrize("border", reference.BORDERS)
def test_pad_matches_numpy_pad_on_the_last_axes(border, rng):
    array = rng.normal(size=(2, 3, 4))
    keywords = {"constant_values": 2.5} if border == "constant" else {}
    expected = np.pad(array, [(0, 0), (1, 4), (5, 0)], mode=border, **keywords)
    same(reference.pad(array, [(1, 4), (5, 0)], border, 2.5), expected)


def test_output_size_matches_torch_pooling(torch):
    for n, k, s, p, d, ceil in itertools.product(
        range(1, 9), (1, 2, 3, 5), (1, 2, 3, 4), (0, 1), (1, 2), (False, True)
    ):
        reach = (k - 1) * d + 1
        if p > k // 2 or n + 2 * p < reach:
            continue
        expected = torch.nn.functional.max_pool1d(torch.zeros(1, 1, n), k, s, p, d, ceil)
        assert reference.output_size(n, reach, s, (p, p), ceil) == expected.shape[-1]


@pytest.mark.parametrize("n", [1, 5, 6])
@pytest.mark.parametrize("extent", [1, 4, 5])
@pytest.mark.parametrize("stride", [1, 3])
def test_same_pads_give_ceil_n_over_stride_outputs(n, extent, stride):
    upper, lower = (reference.same_pads(n, extent, stride, up) for up in (True, False))
    assert upper == lower[::-1]
    assert 0 <= upper[1] - upper[0] <= 1
    for pads in (upper, lower):
        assert reference.output_size(n, extent, stride, pads) == math.ceil(n / stride)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (2, [(2, 2), (2, 2)]),
        ((1, 2), [(1, 1), (2, 2)]),
        (((1, 2), (0, 3)), [(1, 2), (0, 3)]),
        ("valid", [(0, 0), (0, 0)]),
        ("same", [(1, 2), (1, 2)]),
        ("same_upper", [(1, 2), (1, 2)]),
        ("same_lower", [(2, 1), (2, 1)]),
        ("full", [(3, 3), (4, 4)]),
    ],
)
def test_resolve_pads_reads_every_form(padding, expected):
    # 7 rows, 4 taps, stride 1: 3 to share out. 8 columns, 3 taps 2 apart, stride 2: 8 - 7 + 2 = 3.
    assert reference.resolve_pads(padding, (7, 8), (4, 3), (1, 2), (1, 2)) == expected


# ---------------------------------------------------------------- exact numbers


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_correctly_rounded_is_half_to_even_and_saturates(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    halves = [Fraction(n, 2) for n in range(-9, 10)]
    numbers = [*halves, low - 1, low, high, high + 1, 2**70, -(2**70)]
    expected = [min(max(round(n), low), high) for n in numbers]
    same(reference.correctly_rounded(np.array(numbers, object), dtype), expected)
    as_floats = np.array([float(n) for n in halves])
    same(reference.correctly_rounded(as_floats, dtype), expected[: len(halves)])


def test_divide_half_even_matches_fractions():
    totals = [*range(-12, 13), 2**63 - 1, -(2**64)]
    for count in (1, 2, 4, 6, -4):
        expected = [round(Fraction(total, count)) for total in totals]
        same(reference.divide_half_even(np.array(totals, object), count), expected)


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu"])
def test_activate_matches_torch(torch, name):
    x = np.array([-800.0, -30, -3, -0.5, -0.0, 0.5, 3, 30, 800, np.nan])
    close(reference.activate(x, name), getattr(torch.nn.functional, name)(torch.tensor(x)))


def test_activate_clamps_to_a_pair():
    same(reference.activate(np.array([-3, 2, 9]), (0, 6)), [0, 2, 6])


# ---------------------------------------------------------------- convolution

CONVOLUTIONS = [
    ((1, 2, 9), (3, 2, 4), {"stride": 2, "padding": 3}),
    ((2, 4, 9), (6, 2, 3), {"dilation": 2, "groups": 2, "padding": 1}),
    ((2, 3, 8, 7), (4, 3, 3, 3), {}),
    ((2, 3, 8, 7), (4, 3, 2, 3), {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)}),
    ((2, 3, 8, 7), (3, 1, 3, 5), {"groups": 3, "padding": "same", "dilation": (2, 1)}),
    ((3, 8, 7), (5, 3, 1, 1), {"padding": "valid"}),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 1), {"stride": (1, 2, 3), "padding": (1, 1, 0)}),
    ((1, 4, 5, 6, 4), (2, 2, 2, 2, 2), {"dilation": (2, 1, 1), "groups": 2}),
    ((0, 3, 8, 7), (4, 3, 3, 3), {}),
]


@pytest.mark.parametrize(("shape", "kernel", "arguments"), CONVOLUTIONS)
def test_conv_matches_torch(torch, rng, shape, kernel, arguments):
    x, w, b = rng.normal(size=shape), rng.normal(size=kernel), rng.normal(size=kernel[0])
    function = getattr(torch.nn.functional, f"conv{len(kernel) - 2}d")
    expected = function(*map(torch.tensor, (x, w, b)), **arguments)
    close(reference.conv(x, w, b, **arguments), expected)


@pytest.mark.parametrize("border", ["edge", "reflect", "symmetric", "wrap", "constant"])
def test_conv_with_a_border_equals_conv_of_the_padded_input(rng, border):
    x, w = rng.normal(size=(1, 2, 4, 5)), rng.normal(size=(3, 2, 3, 3))
    keywords = {"constant_values": 1.5} if border == "constant" else {}
    padded = np.pad(x, [(0, 0), (0, 0), (6, 1), (2, 7)], mode=border, **keywords)
    actual = reference.conv(x, w, padding=((6, 1), (2, 7)), padding_mode=border, value=1.5)
    same(actual, reference.conv(padded, w))


def test_conv_of_integers_matches_torch_modulo_2_64(torch, rng):
    x = rng.integers(-(2**62), 2**62, (2, 3, 6, 5))
    w = rng.integers(-(2**62), 2**62, (4, 3, 3, 2))
    b = rng.integers(-(2**62), 2**62, 4)
    actual = reference.conv(x, w, b, padding=1)
    assert actual.dtype == np.int64
    same(actual, torch.nn.functional.conv2d(*map(torch.tensor, (x, w, b)), padding=1))


def test_conv_of_mixed_integers_is_exact(rng):
    x, w = rng.integers(0, 256, (1, 1, 4), np.uint8), rng.integers(-128, 128, (1, 1, 4), np.int8)
    expected = sum(int(a) * int(b) for a, b in zip(x.ravel(), w.ravel(), strict=True))
    assert reference.conv(x, w).tolist() == [[[expected]]]


@pytest.mark.parametrize("unbatched", [False, True])
def test_conv_nhwc_is_nchw_transposed(rng, unbatched):
    x, w = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(4, 3, 3, 3))
    x = x[0] if unbatched else x
    last = np.moveaxis(x, -3, -1)
    expected = np.moveaxis(reference.conv(x, w, activation="relu"), -3, -1)
    same(reference.conv(last, w, activation="relu", layout="NHWC"), expected)


def test_conv_spreads_nan_and_inf_to_their_windows_only(rng):
    x, w = rng.normal(size=(1, 1, 7, 7)), rng.uniform(1, 2, (1, 1, 3, 3))
    x[..., 0, 0], x[..., 6, 6] = np.nan, -np.inf
    y = reference.conv(x, w)[0, 0]
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 0]]
    assert np.argwhere(np.isinf(y)).tolist() == [[4, 4]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conv_of_short_floats_is_float64(rng, dtype):
    x, w = (rng.normal(size=shape).astype(dtype) for shape in ((1, 2, 5, 5), (3, 2, 3, 3)))
    wide = reference.conv(x.astype(np.float64), w.astype(np.float64))
    same(reference.conv(x, w), wide)


TRANSPOSED = [
    ((1, 2, 5), (2, 3, 4), {"stride": 3, "padding": 2, "output_padding": 2}),
    ((2, 4, 5, 3), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
    ((4, 5, 3), (4, 3, 3, 2), {"dilation": (2, 3), "stride": 2, "output_padding": (1, 2)}),
    ((1, 2, 3, 2, 4), (2, 2, 2, 3, 1), {"stride": 2, "padding": (0, 1, 0)}),
    ((0, 2, 5), (2, 3, 4), {}),
]


@pytest.mark.parametrize(("shape", "kernel", "arguments"), TRANSPOSED)
def test_conv_transpose_matches_torch(torch, rng, shape, kernel, arguments):
    x, w = rng.normal(size=shape), rng.normal(size=kernel)
    b = rng.normal(size=kernel[1] * arguments.get("groups", 1))
    function = getattr(torch.nn.functional, f"conv_transpose{len(kernel) - 2}d")
    expected = function(*map(torch.tensor, (x, w, b)), **arguments)
    close(reference.conv_transpose(x, w, b, **arguments), expected)


@pytest.mark.parametrize("arguments", [{"padding": ((1, 0), (0, 2)), "stride": 2}, {"padding": 1}])
def test_conv_transpose_is_the_adjoint_of_conv(rng, arguments):
    x, w = rng.normal(size=(1, 2, 7, 7)), rng.normal(size=(3, 2, 2, 3))
    forth = reference.conv(x, w, **arguments)
    y = rng.normal(size=forth.shape)
    close(np.sum(x * reference.conv_transpose(y, w, **arguments)), np.sum(forth * y))


def test_conv_transpose_same_gives_n_times_stride_outputs(rng):
    x, w = rng.normal(size=(1, 1, 4)), rng.normal(size=(1, 1, 4))
    full = reference.conv_transpose(x, w, stride=3)
    close(reference.conv_transpose(x, w, stride=3, padding="same_upper"), full[..., :12])
    close(reference.conv_transpose(x, w, stride=3, padding="same_lower"), full[..., 1:])
    assert reference.conv_transpose(x, w[..., :1], stride=3, padding="same").shape == (1, 1, 12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_bound_is_the_formula(dtype):
    eps = float(ml_dtypes.finfo(dtype).eps)
    x, w = np.array([[[-1, 2, -3, 4]]], dtype), np.array([[[1, -1, 0, 2]]], dtype)
    close(reference.bound(x, w), [[[2 * 2 * eps * (1 + 2 + 8)]]])
    close(reference.bound(x, w, np.array([-5], dtype)), [[[2 * 2 * eps * (5 + 1 + 2 + 8)]]])


# ---------------------------------------------------------------- pooling

WINDOWS = [
    ((2, 3, 11), 3, {}),
    ((2, 3, 11), 2, {"stride": 3, "padding": 1, "ceil_mode": True}),
    ((2, 3, 8, 9), (2, 3), {"stride": 1, "padding": (1, 0)}),
    ((2, 3, 8, 9), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    ((2, 3, 2, 2), 3, {"stride": 3, "padding": 1, "ceil_mode": True}),
    ((3, 8, 9), 3, {"stride": (3, 2)}),
    ((1, 2, 5, 6, 4), (2, 3, 2), {"stride": (1, 2, 3), "padding": (1, 1, 0), "ceil_mode": True}),
    ((0, 3, 8, 9), 2, {}),
]
DILATED = [
    ((2, 3, 11), 4, {"stride": 2, "padding": 2, "dilation": 3, "ceil_mode": True}),
    ((2, 3, 8, 9), 3, {"stride": 2, "padding": 1, "dilation": (1, 2), "ceil_mode": True}),
    ((1, 2, 5, 6, 4), (2, 3, 2), {"stride": 2, "padding": (1, 1, 0), "dilation": 2}),
]


def dims_of(shape):
    """Spatial axes of a case: the one unbatched shape is (3, 8, 9)."""
    return 2 if shape == (3, 8, 9) else len(shape) - 2


def holed(rng, shape):
    """Many ties, some NaN, some -Inf."""
    x = rng.integers(0, 4, shape).astype(np.float64)
    x[rng.random(shape) < 0.1] = np.nan
    x[rng.random(shape) < 0.2] = -np.inf
    return x


@pytest.mark.parametrize(("shape", "size", "arguments"), [*WINDOWS, *DILATED])
def test_max_pool_matches_torch_with_ties_and_nan(torch, rng, shape, size, arguments):
    x, dims = holed(rng, shape), dims_of(shape)
    arguments = {**arguments, "return_indices": True}
    function = getattr(torch.nn.functional, f"max_pool{dims}d")
    top, index = getattr(reference, f"max_pool{dims}d")(x, size, **arguments)
    expected_top, expected_index = function(torch.tensor(x), size, **arguments)
    same(top, expected_top)
    same(index, expected_index)


def test_max_pool_of_integers_keeps_dtype_and_never_picks_padding(torch):
    x = np.zeros((1, 1, 3, 3), np.uint8)
    top, index = reference.max_pool2d(x, 3, 1, 1, return_indices=True)
    assert top.dtype == np.uint8
    expected = torch.nn.functional.max_pool2d(torch.tensor(x), 3, 1, 1, return_indices=True)
    same(index, expected[1])


def test_min_pool_is_max_pool_of_the_negative(rng):
    x = rng.integers(0, 4, (2, 3, 8, 9)).astype(np.float64)
    x[x == 3] = np.nan
    arguments = {"stride": 2, "padding": 1, "ceil_mode": True, "return_indices": True}
    low, where_low = reference.min_pool2d(x, 3, **arguments)
    high, where_high = reference.max_pool2d(-x, 3, **arguments)
    same(low, -high)
    same(where_low, where_high)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize(("shape", "size", "arguments"), WINDOWS)
def test_avg_pool_matches_torch(torch, rng, shape, size, arguments, divisor, count_include_pad):
    x, dims = rng.normal(size=shape), dims_of(shape)
    arguments = {**arguments, "count_include_pad": count_include_pad}
    if dims > 1:
        arguments["divisor_override"] = divisor
    function = getattr(torch.nn.functional, f"avg_pool{dims}d")
    actual = getattr(reference, f"avg_pool{dims}d")(x, size, **arguments)
    close(actual, function(torch.tensor(x), size, **arguments))


@pytest.mark.parametrize(("shape", "size", "arguments"), DILATED)
def test_avg_pool_with_dilation_is_a_sum_over_a_count(rng, shape, size, arguments):
    x, dims = rng.normal(size=shape), dims_of(shape)
    pool = getattr(reference, f"avg_pool{dims}d")
    total = pool(x, size, **arguments, divisor_override=1)
    for include, padded in ((False, 0), (True, 1)):
        pads = [(0, 0)] * 2 + [(p, p) for p in reference.per_axis(arguments["padding"], dims)]
        inside = np.pad(np.ones(shape), pads, constant_values=padded)
        count = pool(inside, size, **{**arguments, "padding": 0}, divisor_override=1)
        close(pool(x, size, **arguments, count_include_pad=include), total / count)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64])
def test_avg_pool_of_integers_rounds_half_to_even(rng, dtype):
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (1, 1, 4, 6), dtype, endpoint=True)
    blocks = x.reshape(2, 2, 3, 2).swapaxes(1, 2).reshape(6, 4).tolist()
    actual = reference.avg_pool2d(x, 2)
    assert actual.dtype == dtype
    assert actual.ravel().tolist() == [round(Fraction(sum(block), 4)) for block in blocks]


def test_avg_pool_of_integers_saturates_under_divisor_override():
    x = np.full((1, 1, 2, 2), 200, np.uint8)
    assert reference.avg_pool2d(x, 2, divisor_override=1).item() == 255


@pytest.mark.parametrize("norm", [1, 2, 3.5])
def test_lp_pool_matches_torch_on_whole_windows(torch, rng, norm):
    x = rng.uniform(0.1, 1, (2, 3, 8, 9))
    for dims, shape in ((1, (6, 8, 9)), (2, (2, 3, 8, 9)), (3, (1, 2, 3, 8, 9))):
        function = getattr(torch.nn.functional, f"lp_pool{dims}d")
        expected = function(torch.tensor(x.reshape(shape)), norm, 3, 2)
        close(getattr(reference, f"lp_pool{dims}d")(x.reshape(shape), norm, 3, 2), expected)


def test_lp_pool_takes_absolute_values_of_the_elements_present():
    x = np.array([[[-3.0, 4, -5]]])
    close(reference.lp_pool1d(x, 2, 2, ceil_mode=True), [[[5, 5]]])
    close(reference.lp_pool1d(x, 1, 2, padding=1), [[[3, 9]]])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 3, 11), 4),
        ((2, 3, 8, 9), (3, None)),
        ((2, 3, 3, 2), (5, 7)),
        ((1, 2, 5, 6, 4), (2, 4, 3)),
        ((0, 3, 8, 9), 2),
    ],
)
def test_adaptive_pools_match_torch(torch, rng, shape, size):
    x, dims, functional = rng.normal(size=shape), len(shape) - 2, torch.nn.functional
    expected = getattr(functional, f"adaptive_avg_pool{dims}d")(torch.tensor(x), size)
    close(getattr(reference, f"adaptive_avg_pool{dims}d")(x, size), expected)
    x = holed(rng, shape)
    expected = getattr(functional, f"adaptive_max_pool{dims}d")(torch.tensor(x), size, True)
    top, index = getattr(reference, f"adaptive_max_pool{dims}d")(x, size, return_indices=True)
    same(top, expected[0])
    same(index, expected[1])


def test_adaptive_avg_pool_of_integers_rounds_half_to_even():
    x = np.array([[[1, 2, 3, 4]]], np.uint8)
    assert reference.adaptive_avg_pool1d(x, 2).tolist() == [[[2, 4]]]


def test_global_pools_keep_axes_of_size_one(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    close(reference.global_avg_pool(x), x.mean(axis=(2, 3), keepdims=True))
    same(reference.global_max_pool(x), x.max(axis=(2, 3), keepdims=True))
    last = np.moveaxis(x, 1, -1)
    same(reference.global_max_pool(last, layout="NHWC"), last.max(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("output_size", [None, (9, 8)])
def test_max_unpool_matches_torch(torch, rng, output_size):
    x, functional = rng.normal(size=(2, 3, 8, 8)), torch.nn.functional
    top, index = reference.max_pool2d(x, 2, 2, 1, return_indices=True)
    arguments = {"kernel_size": 2, "stride": 2, "padding": 1, "output_size": output_size}
    expected = functional.max_unpool2d(torch.tensor(top), torch.tensor(index), **arguments)
    same(reference.max_unpool2d(top, index, **arguments), expected)


def test_max_unpool_takes_padding_pairs():
    top, index = np.array([[[7.0, 8]]]), np.array([[[0, 2]]])
    assert reference.max_unpool1d(top, index, 2, padding=((1, 0),)).tolist() == [[[7, 0, 8]]]


def test_pools_nhwc_are_nchw_transposed(rng):
    x = rng.normal(size=(2, 3, 6, 4))
    last = np.moveaxis(x, 1, -1)
    for name in ("max_pool2d", "min_pool2d", "avg_pool2d"):
        pool = getattr(reference, name)
        same(pool(last, 2, layout="NHWC"), np.moveaxis(pool(x, 2), 1, -1))
    top, index = reference.max_pool2d(last, 2, return_indices=True, layout="NHWC")
    same(index, np.moveaxis(reference.max_pool2d(x, 2, return_indices=True)[1], 1, -1))
    unpooled = reference.max_unpool2d(top, index, 2, layout="NHWC")
    same(unpooled, np.where(unpooled == 0, 0, last))
    assert (unpooled != 0).sum() == top.size


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_conv2d_pool2d_matches_torch(torch, rng, pool):
    x, w, b = rng.normal(size=(2, 3, 9, 8)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    functional = torch.nn.functional
    maps = torch.relu(functional.conv2d(*map(torch.tensor, (x, w, b)), stride=1, padding=1))
    expected = getattr(functional, f"{pool}_pool2d")(maps, 3, 2, 1)
    arguments = {"pool": pool, "pool_size": 3, "pool_stride": 2, "pool_padding": 1}
    close(reference.conv2d_pool2d(x, w, b, 1, padding=1, **arguments), expected)


@pytest.mark.parametrize("operator", onnx_cases.FUNCTIONS)
def test_feature_maps_match_the_onnx_operator_cases(onnx, operator):
    names = []  # some expected values are given to four decimals
    for name, function, arguments, inputs, outputs in onnx_cases.cases(operator):
        actual = getattr(reference, function)(*inputs, **arguments)
        actual = actual if isinstance(actual, tuple) else (actual,)
        assert len(actual) == len(outputs), name
        for one, expected in zip(actual, outputs, strict=True):
            assert one.shape == expected.shape, name
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=6e-5, err_msg=name)
        names.append(name)
    assert len(names) >= 2


# ---------------------------------------------------------------- image kernels


def test_kernels_match_opencv(cv2):
    for name, scale in (("sobel", 3), ("scharr", cv2.FILTER_SCHARR)):
        row, column = cv2.getDerivKernels(1, 0, scale)
        same(reference.KERNELS[f"{name}_x"], column @ row.T)
        same(reference.KERNELS[f"{name}_y"], row @ column.T)


def test_kernels_sum_to_their_gain():
    gains = {name: int(kernel.sum()) for name, kernel in reference.KERNELS.items()}
    assert {name for name, gain in gains.items() if gain == 1} == {"identity", "sharpen", "emboss"}
    assert sum(gain == 0 for gain in gains.values()) == len(gains) - 3


def test_gaussian_kernel1d_matches_opencv(cv2):
    for sigma in (0.5, 1.3, 4.0):
        kernel = reference.gaussian_kernel1d(sigma)
        close(kernel, cv2.getGaussianKernel(len(kernel), sigma, cv2.CV_64F).ravel())
    assert reference.gaussian_kernel1d(0).tolist() == [1]


# ---------------------------------------------------------------- images: linear filters


def each(function, images):
    """Stack of `function` over the planes."""
    return np.stack([function(image) for image in images])


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (1, 6), (25, 30)])
def test_filter2d_matches_scipy_correlate(ndimage, rng, images, border, shape):
    kernel, mode = rng.normal(size=shape), SCIPY_MODES[border]
    expected = each(lambda x: ndimage.correlate(x, kernel, mode=mode, cval=3.5), images)
    close(reference.filter2d(images, kernel, border=border, value=3.5), expected, rtol=1e-11)


@pytest.mark.parametrize("border", ["edge", "reflect", "symmetric", "constant"])
@pytest.mark.parametrize("anchor", [(0, 0), (2, 1), (1, 3)])
def test_filter2d_matches_opencv_with_anchor_and_delta(cv2, rng, images, border, anchor):
    modes = {"edge": "REPLICATE", "reflect": "REFLECT_101", "symmetric": "REFLECT"}
    mode = getattr(cv2, "BORDER_" + modes.get(border, "CONSTANT"))
    kernel, cv_anchor = rng.integers(-4, 5, (3, 4)), anchor[::-1]
    for dtype, depth in ((np.uint8, cv2.CV_8U), (np.float64, cv2.CV_64F)):
        x = images.astype(dtype)
        expected = each(
            lambda x, depth=depth: cv2.filter2D(
                x, depth, kernel.astype(np.float64), None, cv_anchor, 7, mode
            ),
            x,
        )
        actual = reference.filter2d(x, kernel, anchor=anchor, delta=7, border=border)
        same(actual, expected)


def test_filter2d_of_integers_rounds_half_to_even_and_saturates():
    x = np.array([[1, 2, 3, 5, 255]], np.uint8)
    assert reference.filter2d(x, [[0.5]]).tolist() == [[0, 1, 2, 2, 128]]
    assert reference.filter2d(x, [[2.0]]).tolist() == [[2, 4, 6, 10, 255]]
    assert reference.filter2d(x, [[-1]], delta=0.5).tolist() == [[0, 0, 0, 0, 0]]
    assert reference.filter2d(x.astype(np.int8), [[-1]], delta=0.5).tolist() == [[0, -2, -2, -4, 2]]


def test_filter2d_of_64_bit_integers_is_exact():
    a, b = 2**63 + 1, 2**64 - 1
    x = np.array([[a, b, 5]], np.uint64)
    exact = reference.filter2d_exact(x, [[3, -1, 0]], border="constant")
    assert exact.tolist() == [[-a, 3 * a - b, 3 * b - 5]]
    rounded = reference.filter2d(x, [[3, -1, 0]], border="constant")
    assert rounded.tolist() == [[0, 3 * a - b, b]]


def test_filter2d_of_huge_integer_weights_is_exact():
    x = np.array([[255, 254]], np.uint8)
    exact = reference.filter2d_exact(x, [[2.0**60, -(2.0**60)]], border="constant")
    assert exact.tolist() == [[-255 * 2**60, 2**60]]


def test_filter2d_rounds_and_saturates_the_border_value():
    x = np.zeros((1, 1), np.uint8)
    for value, expected in ((2.5, 2), (300, 255), (-1, 0)):
        assert reference.filter2d(x, [[1, 0]], border="constant", value=value).item() == expected


def test_filter2d_reads_channels_last(rng, images):
    kernel = rng.normal(size=(3, 3))
    last = np.moveaxis(images, 0, -1)
    expected = np.moveaxis(reference.filter2d(images, kernel), 0, -1)
    same(reference.filter2d(last, kernel, channel_axis=-1), expected)


def test_filter2d_bound_is_the_formula():
    x, eps = np.array([[-1, 2, -3]], np.float32), 2.0**-23
    close(reference.filter2d_bound(x, [[1, -1, 2]])[:, 1], [2 * math.sqrt(3) * eps * (1 + 2 + 6)])
    one = reference.filter2d_bound(x, [[1]], delta=-4, border="constant", value=-1)
    close(one, 2 * eps * np.array([[5, 6, 7]]))


@pytest.mark.parametrize("border", reference.BORDERS)
def test_separable_filter2d_equals_filter2d_with_the_outer_product(rng, images, border):
    column, row = rng.normal(size=4), rng.normal(size=3)
    expected = reference.filter2d(images, np.outer(column, row), border=border, value=9)
    close(reference.separable_filter2d(images, column, row, border=border, value=9), expected)


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("sigma", [0.1, 1.5, (0, 2), (4, 0.7)])
def test_gaussian_blur_matches_scipy(ndimage, images, border, sigma):
    mode = SCIPY_MODES[border]
    expected = each(lambda x: ndimage.gaussian_filter(x, sigma, mode=mode), images)
    close(reference.gaussian_blur(images, sigma, border=border), expected)
    rounded = reference.gaussian_blur(images.astype(np.uint16), sigma, border=border)
    same(rounded, np.rint(expected))


def test_gaussian_blur_matches_opencv(cv2, images):
    expected = each(lambda x: cv2.GaussianBlur(x, (13, 9), 2.1, sigmaY=1.3), images)
    close(reference.gaussian_blur(images, (1.3, 2.1), truncate=3), expected)


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_box_blur_matches_scipy(ndimage, images, border, size):
    mode = SCIPY_MODES[border]
    expected = each(lambda x: ndimage.uniform_filter(x, size, mode=mode), images)
    close(reference.box_blur(images, size, border=border), expected)


def test_box_blur_of_integers_rounds_exact_halves_to_even(rng):
    for dtype in (np.uint8, np.int64):
        high = np.iinfo(dtype).max
        x = rng.integers(high - 4, high, (7, 8), dtype, endpoint=True)
        padded = np.pad(x, ((1, 0), (1, 0)), mode="edge").astype(object)
        sums = padded[1:, 1:] + padded[:-1, 1:] + padded[1:, :-1] + padded[:-1, :-1]
        expected = [round(Fraction(total, 4)) for total in sums.ravel()]
        actual = reference.box_blur(x, 2, border="edge")
        assert actual.dtype == dtype
        assert actual.ravel().tolist() == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_sobel_prewitt_and_scharr_match_scipy_and_opencv(ndimage, cv2, images, axis):
    expected = each(lambda x: ndimage.sobel(x, axis, mode="mirror"), images)
    same(reference.sobel(images, axis=axis), expected)
    expected = each(lambda x: ndimage.prewitt(x, axis, mode="mirror"), images)
    same(reference.prewitt(images, axis=axis), expected)
    expected = each(lambda x: cv2.Scharr(x, cv2.CV_64F, axis, 1 - axis), images)
    same(reference.scharr(images, axis=axis), expected)


@pytest.mark.parametrize("name", ["sobel", "scharr", "prewitt"])
def test_gradient_magnitude_is_the_rounded_root_of_both_squares(images, name):
    function = getattr(reference, name)
    gy, gx = (function(images, axis=axis) for axis in (0, 1))
    close(function(images), np.hypot(gy, gx))
    same(function(images.astype(np.uint16)), np.rint(np.hypot(gy, gx)))
    same(function(images.astype(np.uint8)), np.minimum(np.rint(np.hypot(gy, gx)), 255))


def test_rounded_root_is_correct_around_every_half():
    for root in (0, 1, 2, 7, 1000, 2**33):
        half_way = root * root + root  # (root + 1/2)² less a quarter
        assert reference.rounded_root(half_way) == root
        assert reference.rounded_root(half_way + 1) == root + 1


def test_laplacian_and_sharpen_match_scipy(ndimage, images):
    curvature = each(lambda x: ndimage.laplace(x, mode="mirror"), images)
    same(reference.laplacian(images), curvature)
    close(reference.sharpen(images, 0.3), images - 0.3 * curvature, rtol=1e-11)
    same(reference.sharpen(images.astype(np.uint8)), np.clip(images - curvature, 0, 255))


def test_unsharp_mask_matches_skimage(skimage_filters, images):
    expected = each(
        lambda x: skimage_filters.unsharp_mask(x, 1.5, 0.7, preserve_range=True), images
    )
    close(reference.unsharp_mask(images, 1.5, 0.7, border="symmetric"), expected)


def test_unsharp_mask_of_integers_takes_the_amount_in_4096ths(images):
    x = images.astype(np.uint16)
    same(reference.unsharp_mask(x, amount=1 / 9000), x)
    expected = reference.unsharp_mask(images, amount=2867 / 4096)
    same(reference.unsharp_mask(x, amount=0.7), np.clip(np.rint(expected), 0, 65535))


# ---------------------------------------------------------------- images: ranks and morphology


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("size", SIZES)
def test_rank_filters_match_scipy(ndimage, images, border, size):
    mode, count = SCIPY_MODES[border], math.prod(reference.per_axis(size, 2))
    keywords = {"border": border, "value": 100}
    for x in (images, images.astype(np.uint8)):
        for rank in (0, count - 1, -2):
            expected = each(
                lambda x, rank=rank: ndimage.rank_filter(x, rank, size, None, None, mode, 100), x
            )
            same(reference.rank_filter(x, rank, size, **keywords), expected)
        expected = each(lambda x: ndimage.median_filter(x, size, None, None, mode, 100), x)
        actual = reference.median_blur(x, size, **keywords)
        same(actual, expected)
        assert actual.dtype == x.dtype


def test_median_blur_matches_opencv(cv2, images):
    x = images.astype(np.uint8)
    expected = each(lambda x: cv2.medianBlur(x, 5), x)
    same(reference.median_blur(x, 5, border="edge"), expected)


def test_rank_filter_gives_nan_where_the_window_holds_one(images):
    images[0, 4, 5] = np.nan
    found = np.isnan(reference.rank_filter(images, 0, (3, 2)))
    expected = np.zeros_like(found)
    expected[0, 3:6, 5:7] = True
    same(found, expected)


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("shape", [{"size": 3}, {"size": (2, 4)}, {"footprint": RAGGED}])
def test_morphology_matches_scipy(ndimage, images, border, shape):
    keywords = {"mode": SCIPY_MODES[border], "cval": 100, **shape}
    ours = {"border": border, "value": 100, **shape}
    for x in (images, images.astype(np.uint8)):
        same(reference.dilate(x, **ours), each(lambda x: ndimage.maximum_filter(x, **keywords), x))
        same(reference.erode(x, **ours), each(lambda x: ndimage.minimum_filter(x, **keywords), x))
        opened = each(lambda x: ndimage.grey_opening(x, **keywords), x)
        same(reference.morph_open(x, **ours), opened)


@pytest.mark.parametrize("border", reference.BORDERS)
@pytest.mark.parametrize("footprint", [np.ones((3, 3)), np.ones((2, 4)), RAGGED])
def test_morph_close_matches_scipy_with_the_footprint_reflected(ndimage, images, border, footprint):
    # SciPy reflects the footprint in every dilation, here it is the second step that does.
    keywords = {"mode": SCIPY_MODES[border], "cval": 100}
    keywords["origin"] = [k % 2 - 1 for k in footprint.shape]  # the mirror image of k // 2
    mirrored = footprint[::-1, ::-1]
    expected = each(lambda x: ndimage.grey_closing(x, footprint=mirrored, **keywords), images)
    actual = reference.morph_close(images, footprint=footprint, border=border, value=100)
    same(actual, expected)


def test_dilate_and_erode_match_opencv_without_reflecting_the_footprint(cv2, images):
    x, footprint = images.astype(np.uint8), RAGGED.astype(np.uint8)
    keywords = {"borderType": cv2.BORDER_REPLICATE}
    for name in ("dilate", "erode"):
        expected = each(lambda x, name=name: getattr(cv2, name)(x, footprint, **keywords), x)
        same(getattr(reference, name)(x, footprint=footprint, border="edge"), expected)


def test_opening_is_below_and_closing_above_the_image_inside(images):
    inside = np.s_[:, 4:-4, 4:-4]
    opened = reference.morph_open(images, footprint=RAGGED)[inside]
    closed = reference.morph_close(images, footprint=RAGGED)[inside]
    assert (opened <= images[inside]).all()
    assert (images[inside] <= closed).all()
    assert (opened < closed).any()


def test_morph_gradient_matches_opencv_and_saturates(cv2, images):
    x, box = images.astype(np.uint8), np.ones((3, 5), np.uint8)
    expected = each(
        lambda x: cv2.morphologyEx(x, cv2.MORPH_GRADIENT, box, borderType=cv2.BORDER_REPLICATE), x
    )
    same(reference.morph_gradient(x, (3, 5), border="edge"), expected)
    extremes = np.array([[-128, 127]], np.int8)
    assert reference.morph_gradient(extremes, border="edge").tolist() == [[127, 127]]


def test_dilate_spreads_nan_to_the_windows_that_hold_it(images):
    images[1, 4, 4] = np.nan
    found = np.isnan(reference.dilate(images, footprint=RAGGED))
    expected = np.zeros_like(found)
    for y, x in np.argwhere(RAGGED):
        expected[1, 4 - (y - 2), 4 - (x - 1)] = True
    same(found, expected)
