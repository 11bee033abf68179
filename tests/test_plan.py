"""Plans as values: frozen, hashable, picklable, and readable."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

from gpuconv import kernels
from gpuconv.plan import cpu
from gpuconv.plan.conv import plan_conv, plan_conv_pool, plan_conv_transpose
from gpuconv.plan.filters import (
    plan_box,
    plan_filter,
    plan_gradient,
    plan_morphology,
    plan_rank,
    plan_separable_filter,
)
from gpuconv.plan.pool import plan_adaptive_pool, plan_pool, plan_unpool
from gpuconv.plan.remember import forget
from tests.image_cases import COMMON

PHOTO = np.zeros((2, 30, 40), np.uint8)
MAPS = np.zeros((2, 4, 12, 13), np.float32)
WEIGHT = np.zeros((6, 4, 3, 3), np.float32)
CONV = {
    "stride": 1,
    "padding": 1,
    "dilation": 1,
    "groups": 1,
    "padding_mode": "zeros",
    "value": 0,
    "activation": "relu",
    "layout": "NCHW",
    "out_dtype": None,
    "precision": "ieee",
    "algorithm": "auto",
}


def conv_plan(**changes):
    return plan_conv(2, MAPS, WEIGHT, None, **{**CONV, **changes})


BELL = kernels.gaussian_taps(2)
PLANS = {
    "dense": (
        lambda: plan_filter(PHOTO, kernels.emboss, **COMMON),
        ["3x3 dense", "integer weights", "uint8 (2, 30, 40)", "border reflect", "float32"],
    ),
    "separable": (
        lambda: plan_separable_filter(PHOTO, BELL, BELL, **COMMON),
        ["17x17 separable", "narrow fixed point, rank 1"],
    ),
    "wide": (
        lambda: plan_filter(PHOTO.astype(np.uint16), np.outer(BELL, BELL), **COMMON),
        ["17x17 separable", "wide fixed point, rank 1", "float64"],
    ),
    "gradient": (lambda: plan_gradient(PHOTO, (1, 2, 1), None, **COMMON), ["magnitude", "2 sum"]),
    "box": (lambda: plan_box(PHOTO, 5, **COMMON), ["5x5 box"]),
    "rank": (lambda: plan_rank(PHOTO, None, (3, 5), **COMMON), ["3x5 box", "rank 7 of 15"]),
    "open": (
        lambda: plan_morphology(PHOTO, ("erode", "dilate"), 3, None, **COMMON),
        ["erode 3x3 box, then dilate 3x3 box"],
    ),
    "conv": (conv_plan, ["(2, 4, 12, 13)", "(2, 6, 12, 13)", "gemm", "36 taps in float32"]),
    "depthwise": (
        lambda: plan_conv(2, MAPS, WEIGHT[:4, :1], None, **{**CONV, "groups": 4}),
        ["direct (few channels a group"],
    ),
    "transpose": (
        lambda: plan_conv_transpose(
            2,
            MAPS,
            WEIGHT.transpose(1, 0, 2, 3),
            None,
            stride=2,
            padding=0,
            output_padding=1,
            groups=1,
            dilation=1,
            activation=None,
            layout="NCHW",
        ),
        ["(2, 6, 26, 28)", "2x2 output phases"],
    ),
    "pooled": (
        lambda: plan_conv_pool(
            conv_plan(), pool="max", pool_size=2, pool_stride=None, pool_padding=0
        ),
        ["ConvPlan", "max 2x2 stride 2x2"],
    ),
    "pool": (
        lambda: plan_pool(
            2, MAPS, "max", kernel_size=3, stride=2, return_indices=True, layout="NCHW"
        ),
        ["max 3x3 stride 2x2 with indices"],
    ),
    "adaptive": (lambda: plan_adaptive_pool(2, MAPS, "avg", (5, None), layout="NCHW"), ["5, 13"]),
    "unpool": (
        lambda: plan_unpool(
            2,
            MAPS,
            np.zeros(MAPS.shape, np.int64),
            kernel_size=2,
            stride=None,
            padding=0,
            output_size=None,
            layout="NCHW",
        ),
        ["(2, 4, 24, 26)"],
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan_is_a_value(name):
    make, _ = PLANS[name]
    plan = make()
    assert plan == make()
    assert hash(plan) == hash(make())
    assert pickle.loads(pickle.dumps(plan)) == plan
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        plan.extra = 1


@pytest.mark.parametrize("name", PLANS)
def test_plan_tells_what_was_chosen_and_why(name):
    make, words = PLANS[name]
    text = repr(make())
    assert "\n" not in text
    assert [w for w in words if w not in text] == []


@pytest.mark.parametrize("name", PLANS)
def test_plan_counts_traffic_and_work(name):
    plan = PLANS[name][0]()
    assert plan.min_bytes > 0
    assert plan.flops >= 0
    assert all(len(spec.shape) == len(plan.outputs[0].shape) for spec in plan.outputs)


def test_min_bytes_counts_every_array_once():
    assert PLANS["box"][0]().min_bytes == 2 * PHOTO.nbytes
    assert conv_plan().min_bytes == MAPS.nbytes + WEIGHT.nbytes + 4 * 2 * 6 * 12 * 13


def test_plans_differ_where_a_pixel_could():
    plain = plan_filter(PHOTO, kernels.emboss, **COMMON)
    for changed in (
        plan_filter(PHOTO, kernels.edge, **COMMON),
        plan_filter(PHOTO, kernels.emboss, delta=1, **COMMON),
        plan_filter(PHOTO, kernels.emboss, **{**COMMON, "border": "wrap"}),
        plan_filter(PHOTO.astype(np.int8), kernels.emboss, **COMMON),
    ):
        assert changed != plain


def test_numeric_scheme_follows_from_kernel_and_dtype_alone():
    one = plan_separable_filter(PHOTO, BELL, BELL, **COMMON)
    other = plan_separable_filter(PHOTO[:, :3, :5], BELL, BELL, **{**COMMON, "border": "wrap"})
    assert one.stencils == other.stencils


# ---------------------------------------------------------------- the rule of the NumPy backend

NOISE = np.random.default_rng(4).random((70, 70))
ON_CPU = {
    "few": (np.uint8, kernels.sharpen),
    "window": (np.uint8, NOISE[:7, :7] / NOISE[:7, :7].sum()),
    "passes": (np.float32, np.outer(BELL, BELL)),
    "transforms": (np.float32, NOISE[:16, :16]),
    "integers": (np.int32, 2**20 * kernels.emboss),
    "words": (np.int64, kernels.emboss),
}


@pytest.mark.parametrize("algorithm", ON_CPU)
def test_rule_names_an_algorithm_and_the_plan_tells_it(algorithm):
    dtype, kernel = ON_CPU[algorithm]
    plan = plan_filter(np.zeros((30, 40), dtype), kernel, **COMMON)
    assert plan.on_cpu == algorithm
    assert f"on the CPU {cpu.LINEAR[algorithm]}" in repr(plan)


def test_rule_changes_where_it_says():
    def on_cpu(dtype, size):
        return plan_filter(np.zeros((99, 99), dtype), NOISE[:size, :size], **COMMON).on_cpu

    assert [on_cpu(np.float32, n) for n in (15, 16)] == ["window", "transforms"]
    assert [on_cpu(np.float64, n) for n in (11, 12)] == ["window", "transforms"]
    assert on_cpu(np.uint16, 20) == "window"  # rounding would not make its sums exact
    whole = np.arange(400).reshape(20, 20) % 7
    for dtype, expected in ((np.uint16, "transforms"), (np.int32, "window")):
        plan = plan_filter(np.zeros((99, 99), dtype), whole, **COMMON)
        assert plan.on_cpu == expected
    nine, ten = np.ones((3, 3)), np.ones((2, 5))
    nine[0, 0] = ten[0, 0] = 2  # no outer products
    image = np.zeros((30, 40), np.uint8)
    assert plan_filter(image, nine, **COMMON).on_cpu == "few"
    assert plan_filter(image, ten, **COMMON).on_cpu == "window"
    assert plan_filter(image, 20 * nine, **COMMON).on_cpu == "window"  # beyond int16
    assert [plan_rank(image, None, n, **COMMON).on_cpu for n in (15, 16)] == ["network", "levels"]
    assert plan_rank(image.astype(float), None, 16, **COMMON).on_cpu == "selection"
    wide = np.zeros((6, 32, 3, 3), np.float32)
    maps = np.zeros((2, 32, 9, 9), np.float32)
    assert conv_plan().on_cpu == "columns"
    assert plan_conv(2, maps, wide, None, **CONV).on_cpu == "planes"
    alone = {**CONV, "groups": 32}
    assert plan_conv(2, maps, wide[:1, :1].repeat(32, 0), None, **alone).on_cpu == "bands"


# ---------------------------------------------------------------- plans are made once


def test_a_call_like_an_earlier_one_finds_its_plan():
    kernel = NOISE[:3, :3].copy()
    plan = plan_filter(PHOTO, kernel, **COMMON)
    assert plan_filter(PHOTO + 1, kernel.copy(), **COMMON) is plan
    assert plan_filter(PHOTO[:, ::-1], kernel, **COMMON) is plan
    kernel[0, 0] += 1
    assert plan_filter(PHOTO, kernel, **COMMON) != plan
    assert conv_plan() is conv_plan()
    forget()
    assert conv_plan() == conv_plan()


@pytest.mark.parametrize(
    "other",
    [
        (PHOTO[:, 1:], (3, 3)),
        (PHOTO.astype(np.int8), (3, 3)),
        (PHOTO.astype(">u2"), (3, 3)),
        (PHOTO, (3, 5)),
        (PHOTO, 3),
    ],
)
def test_another_call_gets_another_plan(other):
    plan = plan_box(PHOTO, (3, 3), **COMMON)
    images, size = other
    again = plan_box(images, size, **COMMON)
    assert again is not plan
    assert again.images.shape == images.shape
    assert again.images.dtype == images.dtype.newbyteorder("=")


def test_values_that_are_equal_but_not_the_same_get_plans_of_their_own():
    plan_box(PHOTO, 3, **COMMON)
    with pytest.raises(ValueError, match="size must be"):
        plan_box(PHOTO, 3.0, **COMMON)
    with pytest.raises(TypeError):
        plan_box(np.ma.masked_array(PHOTO), 3, **COMMON)
    floats = np.zeros((5, 6), np.float32)
    for value in (0.0, -0.0):
        plan = plan_box(floats, 3, **{**COMMON, "border": "constant", "value": value})
        assert math.copysign(1, plan.images.value) == math.copysign(1, value)


def test_what_was_prepared_is_no_part_of_a_plan():
    plan = plan_box(PHOTO, 3, **COMMON)
    plan.memo["something"] = object()
    assert plan == plan_box(np.zeros(PHOTO.shape, np.uint8), [3, 3], **COMMON)
    assert pickle.loads(pickle.dumps(plan)).memo == {}
