"""conv2d_pool2d: what conv2d and then a pool give, without the map between."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from tests import reference
from tests.image_cases import DTYPES, assert_equal, assert_within, is_integer
from tests.map_cases import LAYOUTS, public_layout, random_maps, random_values, shrink_tiles
from tests.matrix import name, pairwise

GROUPS = {"one": (1, 3, 5), "two": (2, 4, 6), "each": (4, 4, 4)}

AXES = {
    "dtype": DTYPES,
    "weight": ("same", "int8"),
    "pool": ("max", "avg"),
    "pool_size": (1, 2, (3, 2)),
    "pool_stride": (None, 1, 3),
    "pool_padding": (0, 1, "same"),
    "stride": (1, 2),
    "padding": (0, 1, "same"),
    "dilation": (1, 2),
    "border": reference.BORDERS,
    "groups": tuple(GROUPS),
    "bias": (False, True),
    "activation": (None, "relu", (-40, 90)),
    "algorithm": ("auto", "gemm", "direct"),
    "layout": LAYOUTS,
    "tiles": ("whole", "small"),
}


def arrays(case):
    """(input, weight, bias): whole numbers, so that every order of summing gives the same."""
    groups, channels, outputs = GROUPS[case["groups"]]
    integer = is_integer(random_values((1,), case["dtype"]).dtype)
    weight = case["weight"] if integer and case["weight"] != "same" else case["dtype"]
    x = random_maps(case["layout"], channels, (11, 13), case["dtype"])
    w = random_values((outputs, channels // groups, 3, 2), weight)
    bias = random_values((outputs,), case["dtype"]) if case["bias"] else None
    if integer:
        return x, w, bias
    return tuple(None if a is None else np.rint(3 * a).astype(a.dtype) for a in (x, w, bias))


@pytest.mark.parametrize("case", pairwise(AXES, 11), ids=name)
def test_conv2d_pool2d_is_conv2d_then_the_pool(case, monkeypatch):
    x, w, bias = arrays(case)
    if case["pool_size"] == 1:
        case = case | {"pool_padding": 0}
    arguments = {
        "stride": case["stride"],
        "padding": case["padding"],
        "dilation": case["dilation"],
        "groups": GROUPS[case["groups"]][0],
        "padding_mode": case["border"],
        "activation": case["activation"],
        "algorithm": case["algorithm"],
        "layout": public_layout(case["layout"]),
    }
    window = (case["pool_size"], case["pool_stride"], case["pool_padding"])
    maps = gpuconv.conv2d(x, w, bias, **arguments)
    pool = {"max": gpuconv.max_pool2d, "avg": gpuconv.avg_pool2d}[case["pool"]]
    expected = pool(maps, *window, layout=arguments["layout"])
    if case["tiles"] == "small":
        shrink_tiles(monkeypatch)
    arguments |= {"pool_size": window[0], "pool_stride": window[1], "pool_padding": window[2]}
    result = gpuconv.conv2d_pool2d(x, w, bias, pool=case["pool"], **arguments)
    if is_integer(result.dtype) or case["pool"] == "max":
        assert_equal(result, expected, maps.dtype)
    else:
        assert_within(
            result,
            expected.astype(np.float64),
            2 * reference.EPSILON[result.dtype.name] * np.abs(expected).astype(np.float64) + 1e-30,
            result.dtype.name,
        )


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_conv2d_pool2d_is_the_reference(dtype, pool):
    x, w = random_values((2, 3, 9, 10), dtype), random_values((4, 3, 3, 3), dtype)
    result = gpuconv.conv2d_pool2d(x, w, padding=1, pool=pool)
    expected = reference.conv2d_pool2d(x, w, padding=1, pool=pool)
    if dtype == "uint8":
        assert_equal(result, expected.astype(np.int32), np.int32)
        return
    bound = reference.avg_pool2d(reference.bound(x, w, padding=1), 2)
    whole = reference.max_pool2d(reference.bound(x, w, padding=1), 2)
    assert_within(result, expected, whole if pool == "max" else bound + 1e-6, dtype)


def test_the_convolution_is_rounded_before_it_is_pooled():
    x, w = random_values((1, 3, 8, 8), "uint8"), random_values((2, 3, 3, 3), "int8")
    maps = gpuconv.conv2d(x, w, activation="relu", out_dtype=np.uint8)
    result = gpuconv.conv2d_pool2d(x, w, out_dtype=np.uint8, pool="avg")
    assert_equal(result, gpuconv.avg_pool2d(maps, 2), np.uint8)
    assert len(np.unique(maps)) > 1


def test_relu_is_the_default_and_none_is_none():
    x, w = random_values((1, 1, 16, 6), "float32"), random_values((1, 4, 3, 3), "float32")
    w = w.swapaxes(0, 1)
    assert gpuconv.conv2d_pool2d(x, w).min() == 0
    assert gpuconv.conv2d_pool2d(x, w, activation=None).min() < 0


def test_bad_arguments_are_named():
    x, w = random_values((2, 4, 6, 7), "float32"), random_values((6, 4, 3, 3), "float32")
    for message, call in (
        (r"pool must be one of max, avg, got 'lp'", {"pool": "lp"}),
        (r"pool_size must be at least 1, got 0", {"pool_size": 0}),
        (r"pool_size must fit into the padded input, got 5 .*", {"pool_size": 5}),
        (r"pool_stride must be at least 1, got 0", {"pool_stride": 0}),
        (r"pool_padding must leave input in every window, got 2", {"pool_padding": 2}),
        (r"pool_padding must be at least 0, got -1", {"pool_padding": -1}),
        (r'pool_padding must be "valid", .*, got .ful.', {"pool_padding": "ful"}),
        (r"out must have shape \(2, 6, 2, 2\), got", {"out": np.empty((2, 6, 4, 5), np.float32)}),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            gpuconv.conv2d_pool2d(x, w, **call)
