"""Pools against the reference, PyTorch and ONNX."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpuconv
from tests import reference
from tests.image_cases import DTYPES, FLOATS, assert_equal, assert_within, is_integer
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

CONTENTS = ("noise", "ties", "ends", "nan")

AXES = {
    "function": ("max_pool", "min_pool", "avg_pool", "lp_pool"),
    "rank": (1, 2, 3),
    "dtype": DTYPES,
    "kernel": (1, 2, 3, "mixed", "long"),
    "stride": (None, 1, 2, "mixed", 5),
    "dilation": (1, 2, "mixed"),
    "padding": (0, 1, "pairs", "valid", "same_upper", "same_lower", "most"),
    "ceil_mode": (False, True),
    "layout": LAYOUTS,
    "length": tuple(LENGTHS),
    "content": CONTENTS,
    "return_indices": (False, True),
    "count_include_pad": (False, True),
    "divisor_override": (None, 3, -2),
    "norm": (1, 2, 3.5, 0.5, math.inf),
    "tiles": ("whole", "small"),
}


def filled(x, content):
    """Noise with what makes pools go wrong: equal elements, ends of the range, NaN."""
    x = np.array(x)
    rng = np.random.default_rng(x.size)
    if content == "ties":
        x[...] = rng.integers(0, 3, x.shape)
    ends = (
        (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max) if is_integer(x.dtype) else (-np.inf, np.inf)
    )
    if content in ("ends", "nan"):
        x[rng.random(x.shape) < 0.5] = ends[0]
        x[rng.random(x.shape) < 0.1] = ends[1]
    if content == "nan" and not is_integer(x.dtype):
        x[rng.random(x.shape) < 0.1] = np.nan
    return x


def geometry(case):
    """Sizes and the arguments of a window; padding goes where a window would see nothing else."""
    rank, kernel = case["rank"], per_axis(case["kernel"], case["rank"])
    dilation = per_axis(case["dilation"], rank)
    stride = None if case["stride"] is None else per_axis(case["stride"], rank)
    sizes = spatial(case["length"], kernel, dilation)
    padding = case["padding"]
    if padding == "pairs":
        padding = tuple((axis % 2, 1) for axis in range(rank))
    if padding == "most":
        padding = tuple((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    arguments = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": case["ceil_mode"],
    }
    if sees_nothing(sizes, arguments):
        arguments["padding"] = 0
    if sees_nothing(sizes, arguments):
        arguments["ceil_mode"] = False
    return sizes, arguments


def sees_nothing(sizes, arguments):
    """Whether some window lies wholly in padding."""
    window = (arguments[key] for key in ("kernel_size", "stride", "padding", "dilation"))
    g = reference.geometry(sizes, *window, arguments["ceil_mode"])
    inside = reference.pad(np.ones(sizes, bool), g.reach, "constant", False)
    return min(g.out) < 1 or not reference.windows(inside, g).any(axis=-1).all()


def check(case, monkeypatch):
    """One case of the matrix."""
    if case["tiles"] == "small":
        shrink_tiles(monkeypatch, case["rank"])
    function = f"{case['function']}{case['rank']}d"
    dtype = case["dtype"]
    if case["function"] == "lp_pool" and dtype not in FLOATS:
        dtype = "float32"
    sizes, arguments = geometry(case)
    x = filled(random_maps(case["layout"], 5, sizes, dtype), case["content"])
    x.setflags(write=False)
    arguments["layout"] = public_layout(case["layout"])
    if case["function"] in ("max_pool", "min_pool"):
        arguments["return_indices"] = case["return_indices"]
    if case["function"] == "avg_pool":
        arguments |= {key: case[key] for key in ("count_include_pad", "divisor_override")}
    if case["function"] == "lp_pool":
        arguments["norm_type"] = case["norm"]
    result = getattr(gpuconv, function)(x, **arguments)
    if arguments.get("norm_type") == math.inf:
        function, x = f"max_pool{case['rank']}d", abs(x)
        del arguments["norm_type"]
    expected = getattr(reference, function)(x, **arguments)
    if function.startswith(("max", "min")):
        assert_selected(result, expected, x.dtype)
    else:
        assert_reduced(function, result, expected, x, arguments)


def assert_selected(result, expected, dtype):
    """The very same elements, and the very same positions."""
    if isinstance(result, tuple):
        assert_equal(result[1], expected[1], np.int64)
        result, expected = result[0], expected[0]
    assert_equal(result, expected.astype(dtype), dtype)


def assert_reduced(function, result, expected, x, arguments):
    """Integer means exactly; floats within 2·sqrt(T)·eps·Σ|x| / count, NaN and Inf in place."""
    if is_integer(x.dtype):
        assert_equal(result, expected, x.dtype)
        return
    scale = np.abs(expected)
    if function.startswith("avg"):
        scale = np.abs(getattr(reference, function)(abs(x), **arguments))
    taps = math.prod(arguments["kernel_size"])
    bound = 2 * math.sqrt(taps) * reference.EPSILON[x.dtype.name] * scale + grain(x.dtype.name)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result.astype(float)[~finite], expected[~finite])
    values, sums, bounds = (np.where(finite, a, 0) for a in (result.astype(float), expected, bound))
    assert_within(values.astype(x.dtype), sums, bounds, x.dtype.name)
    assert result.dtype == x.dtype


@pytest.mark.parametrize("case", [*pairwise(AXES, 7), *pairwise(AXES, 8)], ids=name)
def test_pools_are_the_reference(case, monkeypatch):
    check(case, monkeypatch)


GEOMETRY = ("kernel", "stride", "dilation", "padding", "ceil_mode")


@pytest.mark.slow
@pytest.mark.parametrize("function", AXES["function"])
@pytest.mark.parametrize("rank", AXES["rank"])
def test_pools_are_the_reference_for_every_geometry(rank, function):
    for case in completed(AXES, GEOMETRY, rank=rank, function=function):
        with pytest.MonkeyPatch.context() as patch:
            check(case, patch)


@pytest.mark.parametrize("function", AXES["function"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("content", ["noise", "ties", "nan"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(17, 1, 1), (20, 20, 1), (31, 7, 1), (33, 2, 2), (40, 13, 1), (64, 1, 3), (24, 50, 1)],
)
def test_wide_windows_are_the_reference(function, dtype, content, kernel, stride, dilation):
    """Windows that overlap share their sums; others are folded."""
    extra = {"lp_pool": {"norm_type": 2}}.get(function, {})
    if function == "lp_pool":
        dtype = "float32"
    if function in ("max_pool", "min_pool"):
        extra = {"return_indices": True}
    x = filled(random_values((2, 3, 230), dtype), content)
    arguments = {"kernel_size": (kernel,), "stride": stride, "dilation": dilation, **extra}
    arguments |= {"padding": ((kernel // 2, kernel // 3),), "ceil_mode": True}
    result = getattr(gpuconv, f"{function}1d")(x, **arguments)
    expected = getattr(reference, f"{function}1d")(x, **arguments)
    if function in ("max_pool", "min_pool"):
        assert_selected(result, expected, x.dtype)
    else:
        assert_reduced(f"{function}1d", result, expected, x, arguments)


# ---------------------------------------------------------------- adaptive and global pools

ADAPTIVE_AXES = {
    "function": ("adaptive_avg_pool", "adaptive_max_pool"),
    "rank": (1, 2, 3),
    "dtype": DTYPES,
    "output_size": (1, 2, 3, 7, 11, "mixed"),
    "sizes": ((1, 1, 1), (7, 5, 6), (12, 8, 4), (11, 17, 2)),
    "layout": LAYOUTS,
    "content": CONTENTS,
    "return_indices": (False, True),
    "tiles": ("whole", "small"),
}


@pytest.mark.parametrize("case", pairwise(ADAPTIVE_AXES, 9), ids=name)
def test_adaptive_pools_are_the_reference(case, monkeypatch):
    if case["tiles"] == "small":
        shrink_tiles(monkeypatch, case["rank"])
    rank = case["rank"]
    sizes = case["sizes"][:rank]
    wanted = (4, None, 3)[-rank:] if case["output_size"] == "mixed" else case["output_size"]
    x = filled(random_maps(case["layout"], 3, sizes, case["dtype"]), case["content"])
    arguments = {"output_size": wanted, "layout": public_layout(case["layout"])}
    if case["function"] == "adaptive_max_pool":
        arguments["return_indices"] = case["return_indices"]
    function = f"{case['function']}{rank}d"
    result = getattr(gpuconv, function)(x, **arguments)
    expected = getattr(reference, function)(x, **arguments)
    if case["function"] == "adaptive_max_pool":
        assert_selected(result, expected, x.dtype)
    else:
        scaled = {**arguments, "kernel_size": sizes}
        assert_adaptive_mean(function, result, expected, x, scaled)


def assert_adaptive_mean(function, result, expected, x, arguments):
    """As `assert_reduced`, with the whole plane as the window."""
    plain = {k: v for k, v in arguments.items() if k != "kernel_size"}
    if is_integer(x.dtype):
        assert_equal(result, expected, x.dtype)
        return
    scale = getattr(reference, function)(abs(x), **plain)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(result.astype(float)[~finite], expected[~finite])
    taps = math.prod(arguments["kernel_size"])
    bound = 2 * math.sqrt(taps) * reference.EPSILON[x.dtype.name] * scale + grain(x.dtype.name)
    values, sums, bounds = (np.where(finite, a, 0) for a in (result.astype(float), expected, bound))
    assert_within(values.astype(x.dtype), sums, bounds, x.dtype.name)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32"])
def test_global_pools_keep_axes_of_size_one(dtype, rank, layout):
    x = random_maps(layout, 3, (6, 5, 4)[:rank], dtype)
    for function in ("global_avg_pool", "global_max_pool"):
        result = getattr(gpuconv, function)(x, layout=layout)
        expected = getattr(reference, function)(x, layout=layout)
        assert result.shape == ((2, 3, *[1] * rank) if layout == "NCHW" else (2, *[1] * rank, 3))
        if function == "global_max_pool" or is_integer(x.dtype):
            assert_equal(result, expected.astype(x.dtype), x.dtype)
        else:
            bound = 2 * math.sqrt(120) * reference.EPSILON[dtype] * np.abs(x.astype(float)).mean()
            assert_within(result, expected, np.full(expected.shape, bound), dtype)


# ---------------------------------------------------------------- second witnesses

TORCH_AXES = {
    "function": ("max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool"),
    "rank": (1, 2, 3),
    "kernel": (2, 3, (3, 4, 2)),
    "stride": (None, 1, 2, (2, 3, 1)),
    "half": (False, True),
    "dilation": (1, 2),
    "ceil_mode": (False, True),
    "content": CONTENTS,
    "count_include_pad": (False, True),
    "divisor_override": (None, 5),
    "output_size": (1, 3, 4),
}


@pytest.mark.parametrize("case", pairwise(TORCH_AXES, 10), ids=name)
def test_pools_agree_with_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rank, function = case["rank"], f"{case['function']}{case['rank']}d"
    x = filled(random_values((2, 3, *(11, 9, 10)[:rank]), "float32"), case["content"])
    kernel = reference.per_axis(case["kernel"], 3)[:rank]
    stride = (
        case["stride"] if case["stride"] is None else reference.per_axis(case["stride"], 3)[:rank]
    )
    arguments = {"kernel_size": kernel, "stride": stride, "ceil_mode": case["ceil_mode"]}
    padding = tuple(k // 2 for k in kernel) if case["half"] else (0,) * rank
    if case["function"] == "max_pool":
        arguments |= {"padding": padding, "dilation": case["dilation"], "return_indices": True}
    elif case["function"] == "avg_pool":
        arguments |= {"padding": padding, "count_include_pad": case["count_include_pad"]}
        if rank > 1:
            arguments["divisor_override"] = case["divisor_override"]
    elif case["function"] == "lp_pool":
        # PyTorch scales a partial window up to a whole one; ONNX sums what is there.
        arguments |= {"norm_type": 2, "ceil_mode": False}
        if rank == 1:
            arguments |= {"kernel_size": kernel[0], "stride": stride and stride[0]}
    else:
        arguments = {"output_size": case["output_size"]}
        if case["function"] == "adaptive_max_pool":
            arguments["return_indices"] = True
    expected = getattr(torch.nn.functional, function)(torch.tensor(x), **arguments)
    result = getattr(gpuconv, function)(x, **arguments)
    if arguments.get("return_indices"):
        np.testing.assert_array_equal(result[1], expected[1].numpy())
        result, expected = result[0], expected[0]
    np.testing.assert_allclose(result, expected.numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "operator",
    ["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "MaxUnpool"],
)
def test_pools_answer_the_onnx_cases(operator):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from tests.onnx_cases import cases

    count = 0
    for _, function, arguments, inputs, outputs in cases(operator):
        result = getattr(gpuconv, function)(*inputs, **arguments)
        results = result if isinstance(result, tuple) else (result,)
        for ours, theirs in zip(results, outputs, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)  # as ONNX does
        count += 1
    assert count >= 2


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32"])
@pytest.mark.parametrize("divisor", [None, 1, -1, 7, 2**63, -(2**70)])
def test_integer_means_are_exact_where_their_sums_exceed_64_bits(dtype, divisor):
    info = np.iinfo(dtype)
    x = np.array([[info.max, info.max, info.max - 3, info.min, info.min + 1, 5]], dtype)
    for kernel in (2, 3, 6):
        result = gpuconv.avg_pool1d(x, kernel, 1, divisor_override=divisor)
        windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(object), kernel)
        means = reference.divide_half_even(windows.sum(axis=1), divisor or kernel)
        assert_equal(result[0], np.clip(means, info.min, info.max).astype(dtype), x.dtype)


def test_integer_means_round_half_to_even():
    x = np.array([[0, 1, 1, 2, 2, 3, -1, 0, -1, -2]], np.int8)
    np.testing.assert_array_equal(gpuconv.avg_pool1d(x, 2), [[0, 2, 2, 0, -2]])


@pytest.mark.parametrize("size", [100, 1000, 100_000])
def test_means_of_equal_elements_stay_within_the_bound(size):
    x = np.full((1, 2, size), 0.1, np.float32)
    for result in (
        gpuconv.avg_pool1d(x, size),
        gpuconv.global_avg_pool(x),
        gpuconv.avg_pool1d(x, size - 3, 1),
    ):
        np.testing.assert_allclose(result, np.float32(0.1), rtol=4e-7)


def test_means_survive_one_element_that_dwarfs_the_others():
    x = np.full((1, 1, 4096), 2.0**-24, np.float32)
    x[..., 0] = 1
    exact = x.astype(np.float64).mean()
    error = abs(float(gpuconv.avg_pool1d(x, 4096)[0, 0, 0]) - exact) / exact
    assert error <= 2 * 64 * 2.0**-23


def test_half_floats_are_summed_in_float32():
    x = np.ones((1, 1, 5000), np.float16)
    assert gpuconv.avg_pool1d(x, 5000) == 1
    assert gpuconv.lp_pool1d(x * 200, 2, 5000)[0, 0, 0] == np.float16(200 * math.sqrt(5000))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_infinite_norm_is_the_largest_magnitude(dtype):
    x = random_values((2, 3, 9), dtype)
    result = gpuconv.lp_pool1d(x, math.inf, 3, 2, padding=1)
    assert_equal(result, gpuconv.max_pool1d(abs(x), 3, 2, 1), x.dtype)


def test_outside_never_wins():
    for dtype, low in (("int8", -128), ("uint8", 0), ("float32", -np.inf)):
        x = np.full((1, 3, 3), low, dtype)
        values, indices = gpuconv.max_pool2d(x, 3, 2, 1, return_indices=True)
        np.testing.assert_array_equal(values[0], np.full((2, 2), low))
        np.testing.assert_array_equal(indices[0], [[0, 1], [3, 4]])
        values, indices = gpuconv.min_pool2d(
            -x - 1 if dtype == "int8" else ~x if low == 0 else -x, 3, 2, 1, return_indices=True
        )
        np.testing.assert_array_equal(indices[0], [[0, 1], [3, 4]])


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_indices_have_the_dtype_asked_for(index_dtype):
    x = random_values((2, 3, 8), "float32")
    for pool in (gpuconv.max_pool1d, gpuconv.adaptive_max_pool1d):
        _, indices = pool(x, 2, return_indices=True, index_dtype=index_dtype)
        assert indices.dtype == index_dtype


# ---------------------------------------------------------------- arrays

CALLS = {
    "max_pool2d": {"kernel_size": 3, "padding": 1},
    "min_pool2d": {"kernel_size": 2},
    "avg_pool2d": {"kernel_size": 3, "padding": 1},
    "lp_pool2d": {"kernel_size": 2, "norm_type": 2},
    "adaptive_avg_pool2d": {"output_size": 4},
    "adaptive_max_pool2d": {"output_size": (3, 5)},
    "global_avg_pool": {},
    "global_max_pool": {},
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("function", CALLS)
def test_any_strides_are_read_and_filled(function, layout):
    pool, arguments = getattr(gpuconv, function), {**CALLS[function], "layout": layout}
    x = random_maps(layout, 6, (9, 12), "float32")
    expected = pool(x, **arguments)
    wide = np.zeros((2, *(3 * n for n in x.shape[1:])), np.float32)
    wide[:, ::3, 1::3, 2::3] = x
    turned = x[::-1, :, ::-1, ::-1].copy()[::-1, :, ::-1, ::-1]
    swapped = x.astype(x.dtype.newbyteorder())
    for view in (wide[:, ::3, 1::3, 2::3], turned, np.asfortranarray(x), swapped):
        np.testing.assert_allclose(pool(view, **arguments), expected, rtol=1e-6)
    room = np.zeros((2, *(2 * n for n in expected.shape[1:])), np.float32)
    out = room[::-1, ::2, ::-2, ::2]
    assert pool(x, out=out, **arguments) is out
    np.testing.assert_array_equal(out, expected)
    assert np.count_nonzero(room) <= expected.size


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("function", CALLS)
def test_a_batch_of_none_gives_none(function, layout):
    shape = (0, 6, 9, 12) if layout == "NCHW" else (0, 9, 12, 6)
    result = getattr(gpuconv, function)(
        np.empty(shape, np.float32), layout=layout, **CALLS[function]
    )
    assert result.shape[0] == 0
    assert result.shape[1 if layout == "NCHW" else -1] == 6


def test_a_pair_of_outs_takes_values_and_indices():
    x = random_values((2, 3, 8), "float32")
    outs = np.empty((2, 3, 4), np.float32), np.empty((2, 3, 4), np.int64)
    result = gpuconv.max_pool1d(x, 2, return_indices=True, out=outs)
    assert result[0] is outs[0]
    assert result[1] is outs[1]
    np.testing.assert_array_equal(np.take_along_axis(x, outs[1], -1), outs[0])


@pytest.mark.parametrize("stride", [(), [], np.array([], int)], ids=["tuple", "list", "array"])
def test_without_a_stride_windows_lie_side_by_side_as_in_pytorch(stride):
    x = random_values((2, 3, 8, 9), "float32")
    expected = gpuconv.max_pool2d(x, (2, 3), (2, 3), return_indices=True)
    for ours, theirs in zip(
        gpuconv.max_pool2d(x, (2, 3), stride, return_indices=True), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        gpuconv.max_unpool2d(*expected, (2, 3), stride), gpuconv.max_unpool2d(*expected, (2, 3))
    )


def test_more_planes_than_65535():
    x = random_values((70_000, 1, 4, 4), "uint8")
    tops, places = gpuconv.max_pool2d(x, 2, return_indices=True)
    blocks = x.reshape(70_000, 2, 2, 2, 2)
    np.testing.assert_array_equal(tops[:, 0], blocks.max(axis=(2, 4)))
    flat = np.take_along_axis(x.reshape(70_000, 16), places.reshape(70_000, 4), 1)
    np.testing.assert_array_equal(flat, tops.reshape(70_000, 4))
    np.testing.assert_array_equal(
        gpuconv.max_unpool2d(tops, places, 2).reshape(70_000, 16).max(axis=1),
        x.reshape(70_000, 16).max(axis=1),
    )


def test_bad_arguments_are_named():
    x = random_values((2, 4, 6, 7), "float32")
    for message, call in (
        (r"kernel_size must be at least 1, got 0", {"kernel_size": 0}),
        (r"kernel_size must be one integer or 2 integers, got", {"kernel_size": (1, 2, 3)}),
        (r"kernel_size must fit into the padded input, got 8", {"kernel_size": 8}),
        (r"stride must be at least 1, got -1", {"kernel_size": 2, "stride": -1}),
        (r"padding must leave input in every window, got 3", {"kernel_size": 2, "padding": 3}),
        (r"ceil_mode must be True or False, got 1", {"kernel_size": 2, "ceil_mode": 1}),
        (r"layout must be one of .*, got 'CHWN'", {"kernel_size": 2, "layout": "CHWN"}),
        (r"out must have shape \(2, 4, 3, 3\), got", {"kernel_size": 2, "out": x}),
        (
            r"index_dtype must be int32 or int64, got int8",
            {"kernel_size": 2, "return_indices": True, "index_dtype": "int8"},
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            gpuconv.max_pool2d(x, **call)
    one = np.empty((2, 4, 3, 3), np.int64)
    with pytest.raises(ValueError, match=r"^out must be arrays apart from each other"):
        gpuconv.max_pool2d(x.astype(np.int64), 2, return_indices=True, out=(one, one))
    with pytest.raises(ValueError, match=r"^divisor_override must not be 0, got 0"):
        gpuconv.avg_pool2d(x, 2, divisor_override=0)
    with pytest.raises(ValueError, match=r"^divisor_override must be below 2\^1023, got 1000"):
        gpuconv.avg_pool2d(x, 2, divisor_override=10**400)
    with pytest.raises(ValueError, match=r"^norm_type must be greater than 0, got 0"):
        gpuconv.lp_pool2d(x, 0, 2)
    largest = gpuconv.lp_pool2d(x, math.inf, 2)
    np.testing.assert_array_equal(gpuconv.lp_pool2d(x, 10**400, 2), largest)
    with pytest.raises(TypeError, match=r"^index_dtype must be a dtype, got"):
        gpuconv.max_pool2d(x, 2, return_indices=True, index_dtype=math)
    with pytest.raises(
        TypeError, match=r"^input must be of a float dtype for an lp pool, got int8"
    ):
        gpuconv.lp_pool2d(x.astype(np.int8), 2, 2)
    with pytest.raises(ValueError, match=r"^output_size must be at least 1, got 0"):
        gpuconv.adaptive_avg_pool2d(x, 0)
    with pytest.raises(TypeError, match=r"^indices must be of an integer dtype, got float32"):
        gpuconv.max_unpool2d(x, x, 2)
    with pytest.raises(ValueError, match=r"^indices must have the shape of input"):
        gpuconv.max_unpool2d(x, np.zeros((2, 4, 6, 8), int), 2)
