"""Kernels as integers: sums and symmetry kept, accumulators never outgrown, schemes by rule."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from gpuconv import filters, kernels
from gpuconv.quantize import (
    LADDER,
    SEPARABLE_RESIDUAL,
    Frozen,
    exact_accumulator,
    factor,
    plan_separable,
    plan_stencil,
    quantise,
    symmetry_orbits,
    whole_factors,
)
from tests.image_cases import INTEGERS, SMALL_INTEGERS, random_images

RNG = np.random.default_rng(50)
CAPACITY = {"float32": 2**24, "float64": 2**53, "int64": 2**63}
"""What an accumulator holds exactly, up to this magnitude."""


def magnitude(dtype):
    info = np.iinfo(dtype)
    return max(-int(info.min), int(info.max))


def total(values):
    """Σ|v| in Python integers."""
    return sum(abs(int(v)) for v in values.array.flat)


def normalised(kernel):
    return kernel / kernel.sum()


NORMALISED = {
    "random 3": normalised(RNG.random((3, 3))),
    "random 4x7": normalised(RNG.random((4, 7))),
    "random 31": normalised(RNG.random((31, 31))),
    "box 3": kernels.box(3),
    "box 2x6": kernels.box((2, 6)),
    "box 31": kernels.box(31),
    "gaussian 0.5": kernels.gaussian(0.5),
    "gaussian 2.3": kernels.gaussian(2.3),
    "gaussian 9": kernels.gaussian(9),
    "gaussian of even size": kernels.gaussian(1.7, 6),
    "motion": kernels.motion(9, 33),
    "1x1": np.ones((1, 1)),
    "1x5": normalised(RNG.random((1, 5))),
    "6x1": normalised(RNG.random((6, 1))),
    "negative lobes": np.outer([-0.1, 0.6, 0.6, -0.1], [-0.2, 0.7, 0.7, -0.2]),
    "sharp": np.array([[0, -0.3, 0], [-0.3, 2.2, -0.3], [0, -0.3, 0]]),
}
ODD_SUMS = {
    "rank 1 and a little": np.outer([1, 2, 1], [1, 3, 1]) / 20 + np.eye(3) * 1e-8,
    "gain 10": RNG.normal(size=(3, 5)) * 3,
    "gain 1000": RNG.normal(size=(5, 5)) * 60,
    "gain 1000, rank 1": np.outer(RNG.normal(size=5), RNG.normal(size=4)) * 80,
    "gain 10^6": RNG.normal(size=(3, 3)) * 2e5,
    "gain 10^8": RNG.normal(size=(3, 3)) * 2e7,
    "gain 10^-6": RNG.normal(size=(3, 3)) * 1e-7,
    "gain 10^-30": RNG.random((3, 3)) * 1e-30,
    "one weight of many": np.pad([[0.3]], 6),
    "log": kernels.log(1.4),
    "gabor": kernels.gabor(6, 0.4, 2),
}
FRACTIONS = {**NORMALISED, **ODD_SUMS}


# ---------------------------------------------------------------- sums


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("name", NORMALISED)
def test_normalised_kernels_leave_constant_images_unchanged(name, dtype):
    info = np.iinfo(dtype)
    levels = {info.min, info.max, *range(max(info.min, -128), min(info.max, 255) + 1, 13), 1, 100}
    images = np.repeat(np.array(sorted(levels), dtype), 15).reshape(-1, 3, 5)
    result = filters.filter2d(images, NORMALISED[name])
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("sigma", [0.3, 1, 2.5, 7, 20, 60, (0, 4)])
def test_blurs_leave_constant_images_unchanged(sigma, dtype):
    info = np.iinfo(dtype)
    for level in (info.min, info.min + 1, 77, info.max - 1, info.max):
        image = np.full((3, 4), level, dtype)
        np.testing.assert_array_equal(filters.gaussian_blur(image, sigma), image)
        np.testing.assert_array_equal(filters.unsharp_mask(image, sigma, 3.7), image)
        np.testing.assert_array_equal(filters.box_blur(image, (9, 4)), image)


@pytest.mark.parametrize("bits", [12, 16, 23, 28, 32, 36, 42])
@pytest.mark.parametrize("name", FRACTIONS)
def test_quantise_keeps_the_sum_to_half_a_symmetry_orbit(name, bits):
    kernel = FRACTIONS[name]
    q, shift = quantise(kernel, bits)
    assert sum(abs(int(v)) for v in q.flat) <= 2**bits
    wanted = round(math.fsum(np.ldexp(kernel, shift).flat))
    orbits = {len(orbit) for orbit in symmetry_orbits(kernel)}
    assert abs(int(q.sum()) - wanted) <= (min(orbits) // 2 if name in NORMALISED else min(orbits))
    if name in NORMALISED:
        assert int(q.sum()) == 2**shift
    # What no orbit can share equally is left to the smallest ones.
    assert np.all(abs(q - np.ldexp(kernel, shift)) <= 0.5 + max(orbits))


def missed_levels(stencil, kernel, dtype):
    """What the worst image could make of the difference between weights and fixed point."""
    if not stencil.separable:
        weights = np.ldexp(stencil.dense.array.astype(np.float64), -stencil.shift)
        return magnitude(dtype) * abs(kernel - weights).sum()
    column = np.ldexp(stencil.column.array.astype(np.float64), -stencil.column_shift)
    row = np.ldexp(stencil.row.array.astype(np.float64), -stencil.shift)
    off = magnitude(dtype) * abs(kernel - np.outer(column, row)).sum()
    return off + (abs(row).sum() / 2 if stencil.column_shift else 0)


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("name", FRACTIONS)
def test_stencils_miss_less_than_a_level_in_the_worst_case(name, dtype):
    kernel = FRACTIONS[name]
    stencil = plan_stencil(kernel, np.dtype(dtype))
    assert missed_levels(stencil, kernel, dtype) < 1


# ---------------------------------------------------------------- symmetry


SYMMETRIES = {
    "left-right": lambda k: k[:, ::-1],
    "up-down": lambda k: k[::-1],
    "half turn": lambda k: k[::-1, ::-1],
    "diagonal": lambda k: k.T,
    "antidiagonal": lambda k: k[::-1, ::-1].T,
}


@pytest.mark.parametrize("bits", [12, 16, 23, 36])
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 8, 15])
def test_quantise_keeps_every_symmetry(size, symmetry, bits, rng):
    mirror = SYMMETRIES[symmetry]
    half = rng.random((size, size))
    kernel = (half + mirror(half)) / 2
    kernel /= kernel.sum()
    kernel = (kernel + mirror(kernel)) / 2
    q, _ = quantise(kernel, bits)
    np.testing.assert_array_equal(mirror(q), q)
    opposite = half - mirror(half)
    q, _ = quantise(opposite, bits)
    np.testing.assert_array_equal(mirror(q), -q)
    assert int(q.sum()) == 0


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("size", [2, 3, 7, 12])
def test_stencils_of_mirrored_kernels_are_mirrored(size, dtype, rng):
    kernel = rng.random((size, size + 1)) / size**2
    plain = plan_stencil(kernel, np.dtype(dtype))
    for axis in (0, 1):
        mirrored = plan_stencil(np.flip(kernel, axis), np.dtype(dtype))
        np.testing.assert_array_equal(np.flip(mirrored.dense.array, axis), plain.dense.array)
        assert (mirrored.shift, mirrored.accumulator) == (plain.shift, plain.accumulator)


def test_symmetry_orbits_partition_the_weights(rng):
    for kernel in FRACTIONS.values():
        places = sorted(place for orbit in symmetry_orbits(kernel) for place in orbit)
        assert places == list(range(kernel.size))
    assert sorted(map(len, symmetry_orbits(kernels.gaussian(1, 3)))) == [1, 4, 4]
    assert sorted(map(len, symmetry_orbits(kernels.gaussian(1, (3, 5))))) == [1, 2, 2, 2, 4, 4]
    assert len(symmetry_orbits(rng.random((3, 3)))) == 9


# ---------------------------------------------------------------- accumulators


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("name", FRACTIONS)
def test_stencils_of_fractions_never_outgrow_their_accumulator(name, dtype):
    stencil = plan_stencil(FRACTIONS[name], np.dtype(dtype))
    if stencil.accumulator == "int64x2":
        half = 4 * np.dtype(dtype).itemsize
        assert total(stencil.dense) * 2**half < 2**62
        return
    check_bounds(stencil, dtype)


def check_bounds(stencil, dtype):
    """Every partial sum, in any order, is exact; delta finds room in 64 bits."""
    room = CAPACITY[stencil.accumulator]
    if not stencil.separable:
        assert total(stencil.dense) * magnitude(dtype) <= min(room, 2**58)
        return
    column = total(stencil.column) * magnitude(dtype)
    middle = column // 2**stencil.column_shift + 1
    assert column <= min(room, 2**58)
    assert total(stencil.row) * middle <= min(room, 2**58 + total(stencil.row))


@pytest.mark.parametrize("dtype", SMALL_INTEGERS)
@pytest.mark.parametrize("sigma", [0.5, 1, 3, 10, 30])
@pytest.mark.parametrize("gain", [1, 50, 1024])
def test_stencils_of_bells_never_outgrow_their_accumulator(sigma, gain, dtype):
    taps = kernels.gaussian_taps(sigma)
    stencil = plan_separable(taps, taps, np.dtype(dtype), gain)
    assert stencil.separable
    check_bounds(stencil, dtype)
    assert 2 * magnitude(dtype) << stencil.shift < 2**62


def test_narrow_sums_stay_within_float32_and_wide_ones_within_31_bits():
    for dtype in ("uint8", "int8"):
        for name, kernel in FRACTIONS.items():
            stencil = plan_stencil(kernel, np.dtype(dtype))
            word = stencil.why.split()[0]
            limit = {"narrow": (2**16, 2**15, 2**12), "wide": (2**23, 2**23, 2**17)}.get(word)
            if limit is None:
                continue
            parts = (stencil.dense, stencil.column, stencil.row)
            for values, most in zip(parts, limit, strict=True):
                assert values is None or total(values) <= most, name
            assert stencil.accumulator == {"narrow": "float32", "wide": "float64"}[word]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_ladder_climbs_with_the_gain(dtype):
    """Each scheme is taken by some gain, and a greater gain never goes back down.

    Of factors, gains that leave hardly a pixel unsaturated may go on to one dense pass.
    """
    rng = np.random.default_rng(8)
    kernel = rng.normal(size=(3, 3)) / 3
    factors = rng.normal(size=(2, 3)) / 2
    ladder = [scheme.name for scheme in LADDER[np.dtype(dtype).itemsize]]
    names = [*ladder, "halved"]
    for plan, most in (
        (lambda gain: plan_stencil(kernel * gain, np.dtype(dtype)), 22),
        (lambda gain: plan_separable(factors[0] * gain, factors[1], np.dtype(dtype)), 10),
    ):
        rungs = [names.index(plan(gain).why.split()[0]) for gain in 2.0 ** np.arange(-3, most)]
        assert rungs == sorted(rungs)
        assert set(rungs) >= set(range(len(ladder)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_kernels_choose_an_accumulator_that_holds_their_sums(dtype):
    kind = np.dtype(dtype)
    for weight in (1, 2**8, 2**16, 2**24, 2**30, 2**40, 2**50):
        kernel = np.array([[weight, -weight], [weight, 2.0]])
        bound = (3 * weight + 2) * magnitude(dtype)
        half = 4 * kind.itemsize
        if bound >> half >= 2**58:
            with pytest.raises(ValueError, match=r"^kernel must keep its sums .*, got "):
                plan_stencil(kernel, kind)
            continue
        stencil = plan_stencil(kernel, kind)
        np.testing.assert_array_equal(stencil.dense.array, kernel)
        assert stencil.shift == 0
        if stencil.accumulator == "int64x2":
            assert bound >= 2**58
        else:
            assert bound < CAPACITY[stencil.accumulator]


def test_exact_accumulator_is_the_cheapest_that_holds_the_bound():
    uint8 = np.dtype("uint8")
    for bits, name in ((24, "float32"), (53, "float64"), (58, "int64"), (62, "int64x2")):
        assert exact_accumulator(2**bits - 1, uint8) == name
        if bits < 62:
            assert exact_accumulator(2**bits, uint8) != name
    with pytest.raises(ValueError, match=r"^kernel must"):
        exact_accumulator(2**62, uint8)


@pytest.mark.parametrize(("dtype", "gain"), [("uint8", 1e16), ("uint16", 1e11), ("int16", 1e11)])
def test_fractions_of_a_gain_past_every_scheme_are_refused(dtype, gain):
    with pytest.raises(ValueError, match=r"^kernel must have a smaller gain for .*, got "):
        plan_stencil(FRACTIONS["random 3"] * gain, np.dtype(dtype))


# ---------------------------------------------------------------- separability


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_kernel_is_separable_up_to_a_residual_of_2_to_the_minus_20(dtype):
    # The pivot is the middle, so that a change of a corner is the residual itself.
    kernel = np.outer([0.2, 1, 0.3], [0.4, 1, 0.7]) / 5
    peak = kernel.max()
    for share, separable in ((0, True), (0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):
        bent = kernel.copy()
        bent[0, 0] += share * SEPARABLE_RESIDUAL * peak
        assert plan_stencil(bent, np.dtype(dtype)).separable is separable


def test_the_pivot_is_the_first_largest_weight():
    kernel = np.array([[1.0, -4, 2], [4, 0.5, 1]])
    column, row, residual = factor(kernel)
    np.testing.assert_array_equal(column, [-4, 0.5])
    np.testing.assert_array_equal(row, [-0.25, 1, -0.5])
    np.testing.assert_array_equal(residual, kernel - np.outer(column, row))
    assert not residual[0].any()
    assert not residual[:, 1].any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_kernels_are_separable_to_rounding_alone(dtype, rng):
    kernel = np.outer(rng.normal(size=4), rng.normal(size=5))
    assert plan_stencil(kernel, np.dtype(dtype)).separable
    bent = kernel.copy()
    bent[np.unravel_index(abs(kernel).argmin(), kernel.shape)] *= 1 + 1e-5
    assert not plan_stencil(bent, np.dtype(dtype)).separable


def test_whole_factors_are_integers_or_none():
    column, row = whole_factors(np.outer([2.0, -6, 4], [3, 9, 0, -6]))
    np.testing.assert_array_equal(np.outer(column, row), np.outer([2, -6, 4], [3, 9, 0, -6]))
    assert math.gcd(*map(int, row)) == 1
    for kernel in (np.zeros((3, 3)), kernels.edge, np.array([[2.0, 3], [3, 4.5 * 2]])):
        assert whole_factors(kernel) is None


@pytest.mark.parametrize("kernel", [kernels.sobel_x, kernels.scharr_y, kernels.prewitt_x])
def test_classic_gradients_are_separable_and_exact(kernel):
    stencil = plan_stencil(kernel, np.dtype("uint8"))
    assert stencil.separable
    assert (stencil.shift, stencil.column_shift, stencil.accumulator) == (0, 0, "float32")


# ---------------------------------------------------------------- schemes as values


def test_the_scheme_follows_from_kernel_and_dtype_alone():
    kernel = FRACTIONS["gain 10"]
    one, other = (plan_stencil(k, np.dtype("uint8")) for k in (kernel, kernel.copy(order="F")))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert plan_stencil(kernel, np.dtype("uint16")) != one
    assert plan_stencil(np.nextafter(kernel, 9), np.dtype("uint8")).shift == one.shift


def test_frozen_copies_its_array_and_cannot_be_written():
    weights = np.arange(6.0).reshape(2, 3)
    frozen = Frozen(weights)
    weights[0, 0] = 9
    assert frozen.array[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        frozen.array[0, 0] = 1
    assert frozen == Frozen(frozen.array)
    assert frozen != Frozen(weights)
    assert frozen != Frozen(frozen.array.astype(np.float32))
    assert {frozen: 1}[Frozen(frozen.array.copy(order="F"))] == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_dense_and_separable_kernels_of_the_same_weights_agree_within_a_level(dtype):
    images = random_images((2, 20, 24), dtype)
    for sigma in (0.7, 1.6, 3):
        taps = kernels.gaussian_taps(sigma)
        apart = filters.separable_filter2d(images, taps, taps)
        together = filters.filter2d(images, np.outer(taps, taps))
        np.testing.assert_array_equal(apart, together)
        tilted = np.outer(taps, taps)
        tilted[0, 0] += 4 * SEPARABLE_RESIDUAL * tilted.max()
        dense = filters.filter2d(images, tilted)
        assert abs(dense.astype(int) - apart).max() <= 1
