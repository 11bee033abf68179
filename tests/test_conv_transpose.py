"""conv_transpose1d, 2d and 3d against the reference, PyTorch, ONNX and the adjoint of conv."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpuconv
from tests import reference
from tests.image_cases import DTYPES, assert_equal, assert_within, is_integer
from tests.map_cases import (
    LAYOUTS,
    grain,
    per_axis,
    public_layout,
    random_maps,
    random_values,
    shrink_tiles,
)
from tests.matrix import completed, name, pairwise

GROUPS = {"one": (1, 3, 5), "two": (2, 4, 6), "each": (4, 4, 4), "twice each": (3, 3, 6)}
"""(groups, input channels, output channels)."""

SIZES = {"point": (1, 1, 1), "short": (2, 1, 3), "odd": (5, 4, 3)}

AXES = {
    "rank": (1, 2, 3),
    "dtype": DTYPES,
    "weight": ("same", "int8", "uint16", "int64"),
    "kernel": (1, 2, 3, "mixed", "long"),
    "stride": (1, 2, 3, "mixed", 7),
    "dilation": (1, 2, 3, "mixed"),
    "padding": (0, 1, "pairs", "same_upper", "same_lower"),
    "output_padding": (0, 1, "mixed"),
    "groups": tuple(GROUPS),
    "layout": LAYOUTS,
    "size": tuple(SIZES),
    "bias": (False, True),
    "activation": (None, "relu", (-40, 90)),
    "tiles": ("whole", "small"),
}


def geometry(case):
    """(kernel, stride, dilation, padding, output padding, sizes) of a case, made to fit."""
    rank = case["rank"]
    kernel, stride, dilation = (per_axis(case[k], rank) for k in ("kernel", "stride", "dilation"))
    sizes = SIZES[case["size"]][:rank]
    extra = per_axis(case["output_padding"], rank)
    room = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
    extra = tuple(min(e, r) for e, r in zip(extra, room, strict=True))
    if str(case["padding"]).startswith("same"):
        return kernel, stride, dilation, case["padding"], (0,) * rank, sizes
    padding = tuple((1, 0) if case["padding"] == "pairs" else (case["padding"],) * 2 for _ in sizes)
    axes = list(zip(sizes, kernel, stride, dilation, strict=True))
    full = [(n - 1) * s + reference.extent(k, d) for n, k, s, d in axes]
    padding = tuple(p if sum(p) < f else (0, 0) for p, f in zip(padding, full, strict=True))
    return kernel, stride, dilation, padding, extra, sizes


def check(case, monkeypatch):
    """One case of the matrix."""
    if case["tiles"] == "small":
        shrink_tiles(monkeypatch, case["rank"])
    rank, dtype = case["rank"], case["dtype"]
    kernel, stride, dilation, padding, extra, sizes = geometry(case)
    groups, channels, outputs = GROUPS[case["groups"]]
    x = random_maps(case["layout"], channels, sizes, dtype)
    weight = case["weight"] if is_integer(x.dtype) and case["weight"] != "same" else dtype
    w = random_values((channels, outputs // groups, *kernel), weight)
    bias = random_values((outputs,), dtype) if case["bias"] else None
    arguments = {
        "stride": stride,
        "padding": padding,
        "output_padding": extra,
        "groups": groups,
        "dilation": dilation,
        "layout": public_layout(case["layout"]),
    }
    transpose = getattr(gpuconv, f"conv_transpose{rank}d")
    result = transpose(x, w, bias, activation=case["activation"], **arguments)
    expected = reference.conv_transpose(x, w, bias, activation=case["activation"], **arguments)
    if is_integer(x.dtype):
        assert result.dtype == (np.int32 if x.itemsize == w.itemsize == 1 else np.int64)
        expected = reference.correctly_rounded(expected, result.dtype)
        assert_equal(result, expected, result.dtype)
    else:
        assert_within(result, expected, bound(x, w, bias, arguments), dtype)


def bound(x, w, bias, arguments):
    """2·sqrt(T)·eps·Σ|x||w|, with T for a kernel all of whose taps meet."""
    scale = reference.conv_transpose(
        abs(x), abs(w), None if bias is None else abs(bias), **arguments
    )
    taps = w.shape[0] // arguments.get("groups", 1) * math.prod(w.shape[2:])
    error = 2 * math.sqrt(taps) * reference.EPSILON[x.dtype.name] * scale
    return error + grain(x.dtype.name)


@pytest.mark.parametrize("case", [*pairwise(AXES, 4), *pairwise(AXES, 5)], ids=name)
def test_conv_transpose_is_the_reference(case, monkeypatch):
    check(case, monkeypatch)


GEOMETRY = ("kernel", "stride", "dilation", "padding", "output_padding")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", AXES["rank"])
def test_conv_transpose_is_the_reference_for_every_geometry(rank, layout):
    for case in completed(AXES, GEOMETRY, rank=rank, layout=layout):
        with pytest.MonkeyPatch.context() as patch:
            check(case, patch)


TORCH_AXES = {
    "rank": (1, 2, 3),
    "kernel": (1, 2, 3, "mixed", "long"),
    "stride": (1, 2, 3, "mixed", 7),
    "dilation": (1, 2, 3, "mixed"),
    "padding": (0, 1),
    "output_padding": (0, 1, "mixed"),
    "groups": tuple(GROUPS),
    "size": tuple(SIZES),
    "dtype": ("float32", "float64"),
}


@pytest.mark.parametrize("case", pairwise(TORCH_AXES, 6), ids=name)
def test_conv_transpose_agrees_with_pytorch(case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kernel, stride, dilation, padding, extra, sizes = geometry(case)
    groups, channels, outputs = GROUPS[case["groups"]]
    x = random_maps("NCHW", channels, sizes, case["dtype"])
    w = random_values((channels, outputs // groups, *kernel), case["dtype"])
    bias = random_values((outputs,), case["dtype"])
    arguments = {
        "stride": stride,
        "padding": tuple(p for p, _ in padding),
        "output_padding": extra,
        "groups": groups,
        "dilation": dilation,
    }
    function = f"conv_transpose{case['rank']}d"
    tensors = [torch.tensor(a) for a in (x, w, bias)]
    expected = getattr(torch.nn.functional, function)(*tensors, **arguments).numpy()
    result = getattr(gpuconv, function)(x, w, bias, **arguments)
    assert_within(result, expected, 2 * bound(x, w, bias, arguments), case["dtype"])


def test_conv_transpose_answers_the_onnx_cases():
    pytest.importorskip("onnx", reason="onnx is not installed")
    from tests.onnx_cases import cases

    count = 0
    for _, function, arguments, inputs, outputs in cases("ConvTranspose"):
        result = getattr(gpuconv, function)(*inputs, **arguments)
        np.testing.assert_allclose(result, outputs[0], rtol=1e-5, atol=1e-5)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (2, 3), (3, 2), (4, 6)])
def test_conv_transpose_is_the_adjoint_of_conv(rank, stride, dilation):
    conv, transpose = (getattr(gpuconv, f"{n}{rank}d") for n in ("conv", "conv_transpose"))
    x = random_values((2, 4, *(13, 12, 11)[:rank]), "int8")
    w = random_values((6, 2, *(3, 2, 1)[:rank]), "int8")
    arguments = {"stride": stride, "dilation": dilation, "padding": 2, "groups": 2}
    forward = conv(x, w, **arguments)
    y = random_values(forward.shape, "int8")
    rest = [
        (n + 4 - reference.extent(k, dilation)) % stride
        for n, k in zip(x.shape[2:], w.shape[2:], strict=True)
    ]
    back = transpose(y, w, output_padding=rest, **arguments)
    assert back.shape == x.shape
    assert np.sum(forward.astype(np.int64) * y) == np.sum(back.astype(np.int64) * x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["input", "weight", "both"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3), (2, 3), (5, 1)])
def test_bad_values_reach_exactly_where_they_are_spread(stride, dilation, place, bad):
    x = np.array(random_values((2, 3, 4, 5), "float32"))
    w = np.array(random_values((3, 4, 3, 2), "float32"))
    w[1, :, 2, 1] = 0
    if place != "weight":
        x[1, 1, 2, 0] = bad
    if place != "input":
        w[0, 3, 0, 1] = bad
    arguments = {"stride": stride, "dilation": dilation, "padding": 1}
    result = gpuconv.conv_transpose2d(x, w, **arguments)
    expected = reference.conv_transpose(x, w, **arguments)
    finite = np.isfinite(expected)
    assert 0 < np.sum(~finite) < expected.size / 2
    np.testing.assert_array_equal(result[~finite], expected[~finite])
    np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-4, atol=1e-4)


def test_places_that_no_tap_reaches_hold_the_activated_bias():
    x, w = random_values((1, 1, 3), "float32"), random_values((1, 2, 1), "float32")
    result = gpuconv.conv_transpose1d(x, w, np.array([1.5, -2], np.float32), 4, activation="relu")
    np.testing.assert_array_equal(result[0, :, 1:4], [[1.5] * 3, [0] * 3])


def test_one_enormous_stride_costs_no_phase_without_taps():
    x, w = random_values((1, 1, 2), "int16"), random_values((1, 1, 3), "int16")
    result = gpuconv.conv_transpose1d(x, w, stride=1_000_000)
    expected = np.zeros((1, 1, 1_000_003), np.int64)
    expected[..., :3] = x[0, 0, 0].astype(np.int64) * w[0]
    expected[..., 1_000_000:] = x[0, 0, 1].astype(np.int64) * w[0]
    np.testing.assert_array_equal(result, expected)


def test_sums_over_many_channels_stay_within_the_bound():
    x, w = np.full((1, 5000, 3), 0.1, np.float32), np.full((5000, 1, 2), 0.7, np.float32)
    expected = reference.conv_transpose(x, w)
    assert_within(gpuconv.conv_transpose1d(x, w), expected, bound(x, w, None, {}), "float32")


def test_conv_transpose_reads_any_strides_and_fills_any_out():
    x, w = random_values((2, 4, 5, 6), "float32"), random_values((4, 3, 3, 3), "float32")
    expected = gpuconv.conv_transpose2d(x, w, stride=2)
    turned = x[::-1, :, ::-1].copy()[::-1, :, ::-1]
    room = np.zeros((2, *expected.shape[1:3], 2 * expected.shape[3]), np.float32)
    out = room[..., ::-2]
    assert (
        gpuconv.conv_transpose2d(turned, w[..., ::-1].copy()[..., ::-1], stride=2, out=out) is out
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_of_none_gives_none():
    x, w = np.empty((0, 4, 5), np.float32), random_values((4, 3, 2), "float32")
    assert gpuconv.conv_transpose1d(x, w, stride=2).shape == (0, 3, 10)


def test_bad_arguments_are_named():
    x, w = random_values((2, 4, 5, 6), "float32"), random_values((4, 3, 3, 3), "float32")
    for message, call in (
        ("output_padding must be smaller than stride or dilation, got 2", {"output_padding": 2}),
        ("padding must be .*, got 'some'", {"padding": "some"}),
        ("padding must leave an output of at least 1, got 9", {"padding": 9}),
        ("groups must be at least 1, got 0", {"groups": 0}),
        (r"weight must have shape \(C, O / groups, ...\) .*, got", {"groups": 3}),
        (r"bias must have shape \(3,\), got \(4,\)", {"bias": w[:, 0, 0, 0]}),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            gpuconv.conv_transpose2d(x, w, **call)
