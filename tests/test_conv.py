"""conv1d, conv2d, conv3d and conv2d_pool2d against the reference, PyTorch and ONNX."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.numpy import products
from tests import reference
from tests.image_cases import DTYPES, FLOATS, assert_equal, assert_within, dtype_of, is_integer
from tests.map_cases import (
    LAYOUTS,
    LENGTHS,
    grain,
    per_axis,
    public_layout,
    random_maps,
    random_values,
    shrink_tiles,
    spatial,
)
from tests.matrix import completed, name, pairwise

PADDINGS = (0, 1, "mixed", "pairs", "valid", "same_upper", "same_lower", "full", "far")
GROUPS = {"one": (1, 3, 5), "two": (2, 4, 6), "each": (4, 4, 4), "twice each": (3, 3, 6)}
"""(groups, input channels, output channels)."""

AXES = {
    "rank": (1, 2, 3),
    "dtype": DTYPES,
    "weight": ("same", "int8", "uint8", "int16", "uint64"),
    "kernel": (1, 2, 3, "mixed"),
    "stride": (1, 2, "mixed"),
    "dilation": (1, 2, "mixed"),
    "padding": PADDINGS,
    "border": reference.BORDERS,
    "value": (0, 3),
    "groups": tuple(GROUPS),
    "layout": LAYOUTS,
    "length": tuple(LENGTHS),
    "bias": (False, True),
    "activation": (None, "relu", (-40, 90)),
    "algorithm": ("auto", "gemm", "direct"),
    "tiles": ("whole", "small"),
}


def padding_of(setting, rank, sizes):
    """The `padding` argument for an entry of PADDINGS."""
    if setting == "pairs":
        return tuple((axis, 2 - axis) for axis in range(rank))
    if setting == "mixed":
        return tuple(2 - axis for axis in range(rank))
    if setting == "far":
        return tuple((0, n + 2) if axis % 2 else (n + 2, 0) for axis, n in enumerate(sizes))
    return setting


def weight_dtype(dtype, weight):
    """Floats go with the very same float."""
    return dtype if weight == "same" or dtype in FLOATS else weight


def sum_dtype(x, w):
    """DESIGN 3.2: int32 where 8-bit operands cannot exceed it, else int64; floats stay."""
    if not is_integer(x.dtype):
        return x.dtype
    largest = math.prod(max(-int(np.iinfo(a.dtype).min), np.iinfo(a.dtype).max) for a in (x, w))
    small = x.itemsize == w.itemsize == 1 and math.prod(w.shape[1:]) * largest < 2**31
    return np.dtype(np.int32 if small else np.int64)


def assert_conv(actual, x, w, bias, arguments, dtype=None):
    """The reference's result: integers exactly, floats within the contract's bound."""
    dtype = sum_dtype(x, w) if dtype is None else dtype_of(dtype)
    expected = reference.conv(x, w, bias, **arguments)
    if is_integer(x.dtype):
        if is_integer(dtype):
            expected = reference.correctly_rounded(expected, dtype)
        assert_equal(actual, expected.astype(dtype), dtype)
        return
    plain = {key: value for key, value in arguments.items() if key != "activation"}
    bound = reference.bound(x, w, bias, **plain) + grain(dtype.name)
    assert_within(actual, expected, bound, dtype.name)


def check(case, monkeypatch):
    """One case of the matrix."""
    if case["tiles"] == "small":
        shrink_tiles(monkeypatch, case["rank"])
    rank, dtype = case["rank"], case["dtype"]
    kernel, stride, dilation = (per_axis(case[k], rank) for k in ("kernel", "stride", "dilation"))
    sizes = spatial(case["length"], kernel, dilation)
    groups, channels, outputs = GROUPS[case["groups"]]
    x = random_maps(case["layout"], channels, sizes, dtype)
    w = random_values((outputs, channels // groups, *kernel), weight_dtype(dtype, case["weight"]))
    bias = random_values((outputs,), dtype) if case["bias"] else None
    arguments = {
        "stride": stride,
        "padding": padding_of(case["padding"], rank, sizes),
        "dilation": dilation,
        "groups": groups,
        "padding_mode": case["border"],
        "value": case["value"],
        "activation": case["activation"],
        "layout": public_layout(case["layout"]),
    }
    conv = getattr(gpuconv, f"conv{rank}d")
    result = conv(x, w, bias, algorithm=case["algorithm"], **arguments)
    assert_conv(result, x, w, bias, arguments)


@pytest.mark.parametrize("case", [*pairwise(AXES, 1), *pairwise(AXES, 2)], ids=name)
def test_conv_is_the_reference(case, monkeypatch):
    check(case, monkeypatch)


GEOMETRY = ("kernel", "stride", "dilation", "padding", "border")
NUMBERS = ("dtype", "weight", "groups", "bias", "activation", "algorithm")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", AXES["rank"])
def test_conv_is_the_reference_for_every_geometry(rank, layout):
    for case in completed(AXES, GEOMETRY, rank=rank, layout=layout):
        with pytest.MonkeyPatch.context() as patch:
            check(case, patch)


@pytest.mark.slow
@pytest.mark.parametrize("tiles", AXES["tiles"])
@pytest.mark.parametrize("rank", AXES["rank"])
def test_conv_is_the_reference_for_all_numbers(rank, tiles):
    for case in completed(AXES, NUMBERS, rank=rank, tiles=tiles, padding=1):
        with pytest.MonkeyPatch.context() as patch:
            check(case, patch)


TORCH_AXES = {
    "rank": (1, 2, 3),
    "dtype": ("float32", "float64"),
    "kernel": (1, 3, "mixed"),
    "stride": (1, 2, "mixed"),
    "dilation": (1, 2, "mixed"),
    "padding": (0, 1, "mixed"),
    "groups": tuple(GROUPS),
    "bias": (False, True),
    "length": ("one more", "longer"),
}


@pytest.mark.parametrize("case", pairwise(TORCH_AXES, 3), ids=name)
def test_conv_agrees_with_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rank = case["rank"]
    kernel, stride, dilation = (per_axis(case[k], rank) for k in ("kernel", "stride", "dilation"))
    sizes = spatial(case["length"], kernel, dilation)
    padding = (1,) * rank if case["padding"] == 1 else padding_of(case["padding"], rank, sizes)
    groups, channels, outputs = GROUPS[case["groups"]]
    x = random_maps("NCHW", channels, sizes, case["dtype"])
    w = random_values((outputs, channels // groups, *kernel), case["dtype"])
    bias = random_values((outputs,), case["dtype"]) if case["bias"] else None
    names = ("stride", "padding", "dilation", "groups")
    arguments = dict(zip(names, (stride, padding, dilation, groups), strict=True))
    tensors = [None if a is None else torch.tensor(a) for a in (x, w, bias)]
    expected = getattr(torch.nn.functional, f"conv{rank}d")(*tensors, **arguments).numpy()
    bound = 2 * reference.bound(x, w, bias, **arguments)
    result = getattr(gpuconv, f"conv{rank}d")(x, w, bias, **arguments)
    assert_within(result, expected, bound, case["dtype"])


@pytest.mark.parametrize("operator", ["Conv", "ConvInteger"])
def test_conv_answers_the_onnx_cases(operator):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from tests.onnx_cases import cases

    count = 0
    for _, function, arguments, inputs, outputs in cases(operator):
        result = getattr(gpuconv, function)(*inputs, **arguments)
        np.testing.assert_allclose(result, outputs[0], rtol=1e-5, atol=1e-5)
        count += 1
    assert count >= 2


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_knows_the_layout_names_of_every_rank(rank, layout):
    own = {"NCHW": ("NCW", "NCHW", "NCDHW"), "NHWC": ("NWC", "NHWC", "NDHWC")}[layout][rank - 1]
    x = random_maps(layout, 2, (5,) * rank, "int16")
    w = random_values((3, 2, *[2] * rank), "int16")
    conv = getattr(gpuconv, f"conv{rank}d")
    np.testing.assert_array_equal(conv(x, w, layout=own), conv(x, w, layout=layout))


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
@pytest.mark.parametrize("taps", [1, 9, 127, 128, 129, 1000, 9216, 50_000])
def test_sums_of_equal_terms_stay_within_the_bound(taps, algorithm):
    x, w = np.full((1, taps, 3), 0.1, np.float32), np.full((2, taps, 1), 0.7, np.float32)
    assert_conv(gpuconv.conv1d(x, w, algorithm=algorithm), x, w, None, {})


@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
@pytest.mark.parametrize("taps", [9, 32, 128, 576, 4096])
def test_sums_survive_one_term_that_dwarfs_the_others(algorithm, taps):
    """Added one by one to the first, each of the others would be rounded away."""
    x = np.full((1, taps, 64), 0.49 * 2.0**-23, np.float32)
    x[:, 0] = 1
    w = np.ones((8, taps, 1), np.float32)
    assert_conv(gpuconv.conv1d(x, w, algorithm=algorithm), x, w, None, {})


@pytest.mark.parametrize("kernel", [7, 300, 70_000])
def test_sums_of_one_long_kernel_stay_within_the_bound(kernel):
    x = random_values((1, kernel + 2), "float32")
    w = abs(random_values((1, 1, kernel), "float32"))
    for algorithm in ("gemm", "direct"):
        if kernel < 1000 or algorithm == "gemm":
            result = gpuconv.conv1d(abs(x), w, algorithm=algorithm)
            expected = np.correlate(abs(x[0]).astype(float), w[0, 0].astype(float), "valid")
            bound = 2 * math.sqrt(kernel) * 2.0**-23 * expected
            assert_within(result, expected[None], bound[None], "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_half_floats_are_summed_in_float32(dtype, algorithm):
    x = np.ones((1, 4096, 2), dtype_of(dtype))
    result = gpuconv.conv1d(x, np.ones((1, 4096, 1), x.dtype), algorithm=algorithm)
    assert_equal(result, np.full((1, 1, 2), 4096), x.dtype)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_kernels_may_be_cut_into_parts_of_different_sizes(layout, monkeypatch):
    monkeypatch.setattr(products, "GATHERED_TAPS", 2)
    x, w = random_maps(layout, 3, (90,), "float32"), random_values((4, 3, 3), "float32")
    assert_conv(gpuconv.conv1d(x, w, layout=layout), x, w, None, {"layout": layout})


EXTREMES = [
    ("uint8", "int8"),
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("uint8", "int16"),
    ("int16", "int16"),
    ("uint16", "uint16"),
    ("int32", "int8"),
    ("int32", "int16"),
    ("uint32", "int16"),
    ("int32", "int32"),
    ("uint32", "uint32"),
    ("uint64", "uint64"),
    ("int64", "uint8"),
]


@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
@pytest.mark.parametrize("channels", [1, 70, 700])
@pytest.mark.parametrize(("dtype", "weight"), EXTREMES)
def test_integer_sums_are_exact_at_the_ends_of_the_range(dtype, weight, channels, algorithm):
    for x_end, w_end in itertools.product(("min", "max"), repeat=2):
        x = np.full((1, channels, 4), getattr(np.iinfo(dtype), x_end), dtype)
        w = np.full((2, channels, 3), getattr(np.iinfo(weight), w_end), weight)
        assert_conv(gpuconv.conv1d(x, w, algorithm=algorithm), x, w, None, {})


def test_integer_sums_become_int64_where_int32_could_overflow():
    x = np.full((1, 66_000), 255, np.uint8)
    assert gpuconv.conv1d(x, np.full((1, 1, 65_000), 127, np.int8)).dtype == np.int32
    result = gpuconv.conv1d(x, np.full((1, 1, 65_999), -128, np.int8))
    assert_equal(result, np.full((1, 2), -128 * 255 * 65_999), np.int64)


@pytest.mark.parametrize("out_dtype", ["uint8", "int8", "int16", "int32", "int64", "uint64"])
def test_narrower_integer_results_saturate(out_dtype):
    x, w = random_values((2, 3, 6, 7), "uint8"), random_values((4, 3, 3, 3), "int8")
    bias = np.array([-500_000, 2**31 - 1, 0, 2**40])
    result = gpuconv.conv2d(x, w, bias, out_dtype=out_dtype)
    assert_conv(result, x, w, bias, {}, out_dtype)


def test_int32_results_saturate_where_a_bias_pushes_them_out():
    bias = np.array([2**33, -(2**33)])
    result = gpuconv.conv1d(np.ones((1, 4), np.uint8), np.ones((2, 1, 2), np.int8), bias)
    assert_equal(result[:, 0], np.array([2**31 - 1, -(2**31)]), np.int32)


@pytest.mark.parametrize("out_dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_float_results_of_integers_are_the_exact_sum_converted(dtype, out_dtype):
    x, w = random_values((2, 3, 6, 7), dtype), random_values((4, 3, 3, 3), "int8")
    with np.errstate(over="ignore"):
        exact = reference.conv(x, w).astype(dtype_of(out_dtype))
    assert_equal(gpuconv.conv2d(x, w, out_dtype=out_dtype), exact, dtype_of(out_dtype))


@pytest.mark.parametrize("out_dtype", ["float16", "float32", "float64"])
def test_float_results_are_rounded_once(out_dtype):
    x, w = random_values((1, 3, 6, 7), "float16"), random_values((4, 3, 3, 3), "float16")
    result = gpuconv.conv2d(x, w, out_dtype=out_dtype)
    bound = reference.bound(x.astype(np.float32), w) + abs(reference.conv(x, w)) * (
        reference.EPSILON[out_dtype] / 2
    )
    assert_within(result, reference.conv(x, w), bound, out_dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", [a for a in reference.ACTIVATIONS if a] + [(-0.5, 1.25)])
def test_activations_follow_the_bias(activation, dtype):
    x, w = random_values((2, 3, 6, 7), dtype), random_values((4, 3, 3, 3), dtype)
    bias = random_values((4,), dtype)
    expected = reference.conv(x, w, bias, activation=activation)
    # No activation is steeper than 1.13; each rounds a few times itself.
    bound = 1.13 * reference.bound(x, w, bias)
    bound += 8 * reference.EPSILON[dtype] * (abs(expected) + (np.abs(expected) < 1) * 0.01)
    assert_within(gpuconv.conv2d(x, w, bias, activation=activation), expected, bound, dtype)


@pytest.mark.parametrize("activation", [a for a in reference.ACTIVATIONS if a])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_are_sound_far_from_zero_and_at_nan(activation, dtype):
    ends = np.array([-np.inf, -1e30, -60, -6, -0.0, 0, 0.3, 6, 60, 1e30, np.inf, np.nan], dtype)
    result = gpuconv.conv1d(ends[None], np.ones((1, 1, 1), dtype), activation=activation)
    expected = reference.activate(ends.astype(np.float64), activation)
    tolerance = 16 * reference.EPSILON[dtype]
    np.testing.assert_allclose(result[0], expected, rtol=tolerance, atol=tolerance)


def test_integer_clamps_round_their_bounds_to_integers():
    x = np.arange(-5, 6, dtype=np.int16)[None]
    result = gpuconv.conv1d(x, np.ones((1, 1, 1), np.int8), activation=(-2.5, np.inf))
    np.testing.assert_array_equal(result[0], np.maximum(x[0], -2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_holds_any_value_that_the_dtype_holds(dtype):
    x, w = random_values((1, 3, 4), dtype), random_values((2, 3, 3), dtype)
    ends = (0.1, -2.5) if dtype in FLOATS else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for value in map(float if dtype in FLOATS else int, ends):
        arguments = {"padding": 2, "value": value}
        assert_conv(gpuconv.conv1d(x, w, **arguments), x, w, None, arguments)


# ---------------------------------------------------------------- NaN and Inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
@pytest.mark.parametrize("border", reference.BORDERS)
def test_bad_values_reach_exactly_the_windows_that_hold_them(border, algorithm, bad):
    x = np.array(random_values((2, 3, 7, 8), "float32"))
    w = np.array(random_values((4, 3, 3, 3), "float32"))
    w[:, :, 0, 1] = 0
    x[1, 2, 3, 4] = x[0, 0, 0, 0] = bad
    arguments = {"padding": 2, "dilation": (1, 2), "padding_mode": border}
    result = gpuconv.conv2d(x, w, algorithm=algorithm, **arguments)
    expected = reference.conv(x, w, **arguments)
    assert 0 < np.sum(~np.isfinite(expected)) < expected.size / 2
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result[~finite], expected[~finite])
    np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_a_bad_weight_reaches_its_own_output_channel_alone(algorithm):
    x, w = random_values((2, 3, 7, 8), "float32"), np.array(random_values((4, 3, 3, 3), "float32"))
    w[2, 1, 0, 0] = np.nan
    bad = np.isnan(gpuconv.conv2d(x, w, padding=1, algorithm=algorithm)).all(axis=(0, 2, 3))
    np.testing.assert_array_equal(bad, [False, False, True, False])


def test_the_padding_value_may_be_nan():
    x, w = random_values((1, 1, 4, 5), "float32"), random_values((1, 1, 3, 3), "float32")
    result = gpuconv.conv2d(x, w, padding=1, value=np.nan)[0, 0]
    assert np.isnan(result[[0, -1]]).all()
    assert np.isfinite(result[1:-1, 1:-1]).all()


# ---------------------------------------------------------------- arrays


def views():
    """The same (2, 4, 6, 7) values in memory of every kind."""
    x = random_values((2, 4, 6, 7), "float32")
    wide = np.zeros((2, 8, 12, 21), np.float32)
    wide[:, ::2, 1::2, 2::3] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(x.shape)
    odd[...] = x
    return {
        "sliced": wide[:, ::2, 1::2, 2::3],
        "reversed": x[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
        "transposed": x.transpose(3, 1, 0, 2).copy().transpose(2, 1, 3, 0),
        "Fortran": np.asfortranarray(x),
        "unaligned": odd,
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
    }


@pytest.mark.parametrize("kind", list(views()))
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_any_strides_give_the_same_result(kind, kernel, algorithm):
    x, w = random_values((2, 4, 6, 7), "float32"), random_values((5, 4, kernel, kernel), "float32")
    view = views()[kind]
    expected = gpuconv.conv2d(x, w, padding=kernel // 2, algorithm=algorithm)
    result = gpuconv.conv2d(view, w, padding=kernel // 2, algorithm=algorithm)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    turned = w[:, ::-1].copy()[:, ::-1]
    result = gpuconv.conv2d(x, turned, padding=kernel // 2, algorithm=algorithm)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_one_value_repeated_by_strides_is_read_as_it_is():
    x = np.broadcast_to(np.float32(2), (2, 3, 5, 5))
    result = gpuconv.conv2d(x, np.ones((4, 3, 3, 3), np.float32))
    np.testing.assert_array_equal(result, np.full((2, 4, 3, 3), 54))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_batch_of_none_gives_none(layout):
    shape = (0, 3, 6, 7) if layout == "NCHW" else (0, 6, 7, 3)
    x, w = np.empty(shape, np.float32), random_values((5, 3, 3, 3), "float32")
    expected = (0, 5, 4, 5) if layout == "NCHW" else (0, 4, 5, 5)
    assert gpuconv.conv2d(x, w, layout=layout).shape == expected
    pooled = gpuconv.conv2d_pool2d(x, w, layout=layout)
    assert pooled.shape == ((0, 5, 2, 2) if layout == "NCHW" else (0, 2, 2, 5))


def test_more_images_and_more_groups_than_65535():
    many = random_values((70_000, 1, 3), "int8")
    w = random_values((2, 1, 2), "int8")
    np.testing.assert_array_equal(gpuconv.conv1d(many, w), reference.conv(many, w))
    channels = random_values((1, 70_000, 3), "float32")
    w = random_values((70_000, 1, 2), "float32")
    expected = (channels[:, :, :-1] * w[:, 0, 0, None]) + (channels[:, :, 1:] * w[:, 0, 1, None])
    for algorithm in ("direct", "gemm"):
        result = gpuconv.conv1d(channels, w, groups=70_000, algorithm=algorithm)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_out_is_filled_and_returned_whatever_its_strides():
    x, w = random_values((2, 3, 6, 7), "float32"), random_values((5, 3, 3, 3), "float32")
    room = np.zeros((2, 10, 8, 5), np.float32)
    out = room[:, ::2, ::-2]
    assert gpuconv.conv2d(x, w, out=out) is out
    np.testing.assert_array_equal(out, gpuconv.conv2d(x, w))
    assert not room[:, 1::2].any()


def test_bad_arguments_are_named():
    x, w = random_values((2, 4, 6, 7), "float32"), random_values((6, 4, 3, 3), "float32")
    room = np.empty((2, 6, 4, 5), np.float32)
    overlapping = np.empty(x.size + room.size - 1, np.float32)
    for error, message, call in (
        (ValueError, r"out must have shape \(2, 6, 4, 5\), got", {"out": room[:1]}),
        (ValueError, "out must have dtype float32, got float64", {"out": room.astype(float)}),
        (ValueError, r"groups must divide .*, got 3", {"groups": 3}),
        (ValueError, r"stride must be at least 1, got 0", {"stride": 0}),
        (ValueError, r"dilation must be one integer or 2 integers, got", {"dilation": (1, 2, 3)}),
        (ValueError, r"padding must be at least 0, got -1", {"padding": -1}),
        (
            ValueError,
            r"padding_mode must be one of .*, got 'mirrored'",
            {"padding_mode": "mirrored"},
        ),
        (ValueError, r"activation must be one of .*, got 'swish'", {"activation": "swish"}),
        (ValueError, r"algorithm must be one of .*, got 'fft'", {"algorithm": "fft"}),
        (ValueError, r"layout must be one of .*, got 'NCWH'", {"layout": "NCWH"}),
        (ValueError, r"weight must fit into the padded input, got", {"dilation": 4}),
        (TypeError, r"out_dtype must be a float dtype .*, got int8", {"out_dtype": np.int8}),
        (ValueError, r"bias must have shape \(6,\), got \(4,\)", {"bias": w[0, :, 0, 0]}),
    ):
        with pytest.raises(error, match=f"^{message}"):
            gpuconv.conv2d(x, w, **call)
    with pytest.raises(TypeError, match=r"^weight must have the dtype of input \(float32\), got"):
        gpuconv.conv2d(x, w.astype(np.float64))
    with pytest.raises(ValueError, match=r"^input must have shape \(N, C, H, W\) or .*, got"):
        gpuconv.conv2d(x[0, 0], w)
    mine = overlapping[: x.size].reshape(x.shape)
    theirs = overlapping[-room.size :].reshape(room.shape)
    with pytest.raises(ValueError, match=r"^out must not share memory"):
        gpuconv.conv2d(mine, w, out=theirs)
