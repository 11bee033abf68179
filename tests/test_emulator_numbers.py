"""Arithmetic in the emulator: half and bfloat16, conversions, tensor cores, asynchronous copies."""

from __future__ import annotations

import itertools
import re

import ml_dtypes
import numpy as np
import pytest

from tests.emulator import EmulatorLauncher, KernelError, Kind
from tests.emulator.cases import KERNELS

pytestmark = pytest.mark.emulator

DTYPES = {
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"float16": "float16", "bfloat16": ml_dtypes.bfloat16},
    **{"float": "float32", "double": "float64"},
}
"""NumPy's dtypes by the names that the CUDA source uses."""

SOURCES = {"int": "int32", "int64": "int64", "uint64": "uint64", "float": "float32"}
SOURCES["double"] = "float64"
HALVES = ("float16", "bfloat16")

NARROWED = [
    (name, source)
    for name, source in itertools.product(DTYPES, SOURCES)
    if not (name in HALVES and "int" in source)
]
NUMBERS = [
    *(f"half_arithmetic<{name}>" for name in HALVES),
    *(f"widened<{name}>" for name in DTYPES),
    *(f"narrowed<{name}, {source}>" for name, source in NARROWED),
    *(f"extremes<{name}>" for name in DTYPES),
    *(f"packs<{name}>" for name in ("uint8", "float16", "float")),
    "bit_tricks",
]
PRODUCTS = [
    *("product_tf32", "product_half<float16>", "product_half<bfloat16>"),
    *("product_8bit<int8>", "product_8bit<uint8>", "padded_copy"),
    *("product_of_registers<float, float>", "product_of_registers<float16, float>"),
    *("product_of_registers<bfloat16, float>", "product_of_registers<uint8, int>"),
    *("matrix_halves<false>", "matrix_halves<true>"),
]


@pytest.fixture(scope="module")
def numbers():
    launcher = EmulatorLauncher(folder=KERNELS)
    return dict(zip(NUMBERS, launcher.kernels("numbers.cu", NUMBERS), strict=True))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "checked"])
def products(request):
    launcher = EmulatorLauncher(checked=request.param, folder=KERNELS)
    return dict(zip(PRODUCTS, launcher.kernels("tensor.cu", PRODUCTS), strict=True))


def all_bits(dtype):
    """Every value of a 16-bit dtype, NaNs and infinities among them."""
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def run(kernel, *arrays, count=None, threads=256):
    """Launch over enough blocks for `count` elements, given as the last argument."""
    count = count or arrays[0].size
    kernel((-(-count // threads),), (threads,), (*arrays, np.int32(count)))


def same(actual, expected):
    """Equal, where all NaNs are."""
    np.testing.assert_array_equal(np.asarray(actual, np.float64), np.asarray(expected, np.float64))


@pytest.mark.parametrize("name", HALVES)
def test_half_arithmetic_rounds_once(numbers, name, rng):
    dtype = DTYPES[name]
    a, b, c = (rng.permutation(all_bits(dtype)) for _ in range(3))
    with np.errstate(all="ignore"):
        x, y = a.astype(np.float64), b.astype(np.float64)
        c[::2] = (-x * y * (1 + 2**-9)).astype(dtype)[::2]  # cancels: the sum's last bits matter
        z = c.astype(np.float64)
        nan = np.isnan(x) | np.isnan(y)
        out = np.zeros((9, a.size), dtype)
        run(numbers[f"half_arithmetic<{name}>"], a, b, c, out)
        fused = np.array(
            [round_fraction(*v, dtype) for v in zip(x[:4096], y[:4096], z[:4096], strict=True)]
        )
        expected = [x + y, x - y, x * y, x / y]
        for k, exact in enumerate(expected):
            same(out[k], exact.astype(dtype))
        same(out[4, :4096], fused)
        same(out[5], np.fmax(x, y))
        same(out[6], np.fmin(x, y))
    same(out[7], np.where(nan, np.nan, np.fmax(x, y)))
    same(out[8], np.where(nan, np.nan, np.fmin(x, y)))


def round_fraction(x, y, z, dtype):
    """x·y + z in exact arithmetic, rounded once to a 16-bit dtype."""
    from fractions import Fraction

    if not np.isfinite([x, y, z]).all():
        return float(np.array(x * y + z).astype(dtype))
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    near = np.array(float(exact)).astype(dtype)
    if not np.isfinite(near.astype(np.float64)):
        return float(near)
    around = near.view(np.uint16) + np.array([-1, 0, 1], np.int32)
    bits = around.clip(0, 0xFFFF).astype(np.uint16)
    values = [float(v) for v in bits.view(dtype)]
    finite = [(abs(Fraction(v) - exact), b & 1, v) for v, b in zip(values, bits, strict=True)
              if np.isfinite(v)]  # fmt: skip
    return min(finite)[2]


@pytest.mark.parametrize("name", DTYPES)
def test_widened_is_exact(numbers, name):
    values = edge_values(DTYPES[name])
    if name in HALVES:
        values = all_bits(DTYPES[name])
    wide = {"float16": "float32", "bfloat16": "float32", "float": "float32"}.get(name, "float64")
    if "int" in name:
        wide = "int32" if name.endswith(("t8", "t16")) else "int64"
    out = np.zeros(values.size, "uint64" if name == "uint64" else wide)
    run(numbers[f"widened<{name}>"], values, out)
    np.testing.assert_array_equal(out, values.astype(out.dtype))


def edge_values(dtype):
    """Ends, halves and powers of two around every integer range that fit in `dtype`."""
    dtype = np.dtype(dtype)
    powers = [2.0**p for p in (0, 7, 8, 15, 16, 23, 24, 31, 32, 52, 63, 64)]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        exact = [int(p) + d for p in powers for d in (-2, -1, 0, 1)] + [limits.min, limits.max, 0]
        exact += [-v for v in exact]
        return np.array(sorted(v for v in set(exact) if limits.min <= v <= limits.max), dtype)
    steps = [0, 0.25, 0.5, 0.75, 1, 1.5, 2.5]
    values = [s * (p + d) for p in powers for d in (*steps, *(-d for d in steps)) for s in (1, -1)]
    values += [np.inf, -np.inf, np.nan, 1e30, -1e30, 65504, 65519.99, 65520, 3e-8, 2**-25, 1e-45]
    with np.errstate(over="ignore"):
        return np.array(values).astype(dtype)


@pytest.mark.parametrize(("name", "source"), NARROWED)
def test_narrowed_saturates_and_rounds_half_to_even(numbers, name, source):
    values = edge_values(SOURCES[source])
    dtype = np.dtype(DTYPES[name])
    out = np.zeros(values.size, dtype)
    run(numbers[f"narrowed<{name}, {source}>"], values, out)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        expected = [
            0 if v != v else min(max(v if np.isinf(v) else round(v), limits.min), limits.max)
            for v in values.tolist()
        ]
        assert out.tolist() == expected
    else:
        with np.errstate(over="ignore"):
            same(out, values.astype(dtype))


@pytest.mark.parametrize("name", DTYPES)
def test_extremes_let_nan_win(numbers, name):
    dtype = np.dtype(DTYPES[name])
    values = edge_values(dtype)
    a, b = (v.ravel()[:1024] for v in np.meshgrid(values[-32:], values[-32:]))
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    out = np.zeros((4, a.size), dtype)
    numbers[f"extremes<{name}>"]((1,), (a.size,), (a, b, out, np.int32(a.size)))
    with np.errstate(invalid="ignore"):
        largest, smallest = np.maximum(a, b), np.minimum(a, b)
    np.testing.assert_array_equal(out[0] == out[0], largest == largest)
    np.testing.assert_array_equal(out[0][out[0] == out[0]], largest[largest == largest])
    np.testing.assert_array_equal(out[1][out[1] == out[1]], smallest[smallest == smallest])
    if dtype.kind in "iu":
        assert (out[2] == np.iinfo(dtype).min).all()
        assert (out[3] == np.iinfo(dtype).max).all()
    else:
        same(out[2:], np.full((2, a.size), np.inf) * [[-1], [1]])


@pytest.mark.parametrize("name", ["uint8", "float16", "float"])
def test_packs_move_neighbours_together(numbers, name, rng):
    values = rng.integers(0, 100, (16, 4)).astype(DTYPES[name])
    out = np.zeros_like(values)
    numbers[f"packs<{name}>"]((1,), (16,), (values, out))
    np.testing.assert_array_equal(out, values[:, ::-1])


def test_bit_tricks(numbers, rng):
    a = np.concatenate([[0, 1, 2**31], rng.integers(0, 2**32, 61)]).astype(np.uint32)
    b = rng.integers(0, 2**32, 64).astype(np.uint32)
    out = np.zeros((15, 64), np.uint32)
    numbers["bit_tricks"]((1,), (64,), (a, b, out, np.int32(64)))
    x, y = a.astype(np.uint64), b.astype(np.uint64)
    signed = a.view(np.int32).astype(np.int64) * b.view(np.int32).astype(np.int64)
    both = np.stack([a.view(np.uint8).reshape(64, 4), b.view(np.uint8).reshape(64, 4)], 1)
    picked = both.reshape(64, 8)[:, [5, 1, 7, 3]]
    dot = (a.view(np.int8).reshape(64, 4).astype(int) * b.view(np.int8).reshape(64, 4)).sum(1) + 3
    expected = [
        [bin(v).count("1") for v in a.tolist()],
        [32 - v.bit_length() for v in a.tolist()],
        [(v & -v).bit_length() for v in a.tolist()],
        x * y >> 32,
        (signed >> 32).astype(np.int32).view(np.uint32),
        np.ascontiguousarray(picked).view(np.uint32)[:, 0],
        (y << 32 | x) >> 5 & 0xFFFFFFFF,
        np.maximum(a.view(np.uint8), b.view(np.uint8)).view(np.uint32),
        np.minimum(a.view(np.int8), b.view(np.int8)).view(np.uint32),
        np.maximum(a.view(np.int16), b.view(np.int16)).view(np.uint32),
        np.minimum(a.view(np.uint16), b.view(np.uint16)).view(np.uint32),
        dot.astype(np.int32).view(np.uint32),
        a,
        np.maximum(a, b),
        np.minimum(a.view(np.int32), b.view(np.int32)).view(np.uint32),
    ]
    for k, row in enumerate(expected):
        np.testing.assert_array_equal(out[k], np.asarray(row).astype(np.uint32), err_msg=str(k))


SETTINGS = [
    {"order": "forward"},
    {"order": "reverse", "poison": 0x3B},
    {"order": "random", "seed": 3, "early_copies": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_product_tf32(products, settings, rng):
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((16, 64), (64, 8)))
    out = np.zeros((16, 8), np.float32)
    products["product_tf32"].using(**settings)((1,), (32,), (a, b, out, np.int32(64)))

    def tf32(x):
        return ((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)

    exact = tf32(a).astype(np.float64) @ tf32(b).astype(np.float64)
    np.testing.assert_allclose(out, exact, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", HALVES)
def test_product_half(products, name, settings, rng):
    a, b = (rng.standard_normal(s).astype(DTYPES[name]) for s in ((16, 64), (64, 8)))
    out = np.zeros((16, 8), np.float32)
    kernel = products[f"product_half<{name}>"].using(**settings)
    kernel((1,), (32,), (a, b, out, np.int32(64)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(out, exact, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["int8", "uint8"])
def test_product_8bit(products, name, settings, rng):
    limits = np.iinfo(name)
    a = rng.integers(-128, 128, (16, 96)).astype(np.int8)
    b = rng.integers(limits.min, limits.max + 1, (96, 8)).astype(name)
    out = np.zeros((16, 8), np.int32)
    kernel = products[f"product_8bit<{name}>"].using(**settings)
    kernel((1,), (32,), (a, np.ascontiguousarray(b.T), out, np.int32(96)))
    np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


SUMS = ((4, 32), (8, 1)), ((2, 16), (2, 8))
NVIDIA = {
    "float": (((4, 16), (8, 1)), ((2, 8), (2, 64)), ((4, 8), (8, 1)), ((2, 32),)),
    "float16": (
        *(((4, 32), (8, 1)), ((2, 16), (2, 8), (2, 128))),
        *(((4, 16), (8, 1)), ((2, 8), (2, 64))),
    ),
    "uint8": (
        *(((4, 64), (8, 1)), ((4, 16), (2, 8), (2, 256))),
        *(((4, 32), (8, 1)), ((4, 8), (2, 128))),
    ),
}
NVIDIA["bfloat16"] = NVIDIA["float16"]
"""Where lanes and their elements lie in A by columns and in B by rows, as (count, stride) pairs,
the fastest first; SUMS says it of all results. It is not our reading: CUTLASS has these numbers in
cute/atom/mma_traits_sm80.hpp, for SM80_16x8x8_F32TF32TF32F32_TN and its like."""


def places(lanes, elements):
    """(32, elements of a lane): the place of each."""
    parts = []
    for digits in (lanes, elements):
        numbers = np.zeros(1, int)
        for count, stride in digits:
            numbers = (np.arange(count)[:, None] * stride + numbers).ravel()
        parts.append(numbers)
    return parts[0][:, None] + parts[1]


@pytest.mark.parametrize("name", NVIDIA)
def test_registers_hold_the_elements_that_nvidia_says(products, name, rng):
    *left, right_lanes, right_elements = NVIDIA[name]
    kinds = {"float": (np.float32,) * 2, "uint8": (np.int8, np.uint8)}
    kinds = kinds.get(name, (DTYPES[name],) * 2)
    at = places(*left), places(right_lanes, right_elements)
    depth = at[0].size // 16
    a = rng.integers(-99, 100, (16, depth)).astype(kinds[0])
    b = rng.integers(0, 200, (depth, 8)).astype(kinds[1])
    registers = [
        np.ascontiguousarray(elements[own]).view(np.uint32)
        for elements, own in zip((a.T.ravel(), b.ravel()), at, strict=True)
    ]
    total = "int" if name == "uint8" else "float"
    out = np.zeros((32, 4), np.int32 if name == "uint8" else np.float32)
    products[f"product_of_registers<{name}, {total}>"]((1,), (32,), (*registers, out))
    result = np.zeros(128)
    result[places(*SUMS)] = out
    np.testing.assert_array_equal(result.reshape(8, 16).T, a.astype(float) @ b.astype(float))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_copy_async_fills_with_zeros(products, settings, rng):
    values = rng.standard_normal(40).astype(np.float32)
    out = np.zeros(64, np.float32)
    products["padded_copy"].using(**settings)((1,), (64,), (values, out, np.int32(40)))
    np.testing.assert_array_equal(out, np.pad(values, (0, 24))[::-1])


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(products, transposed):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    out = np.zeros((32, 2), np.uint16)
    products[f"matrix_halves<{str(transposed).lower()}>"]((1,), (32,), (values, out))
    np.testing.assert_array_equal(out.reshape(8, 8), values.T if transposed else values)


WAITS = re.compile(r"__syncwarp\(\);|wait_copies<\d>\(\);|commit_copies\(\);")


@pytest.mark.parametrize("number", range(4))
def test_every_wait_that_is_deleted_is_missed(tmp_path, number):
    text = (KERNELS / "tensor.cu").read_text()
    start = text.index(" product_half(")
    waits = list(WAITS.finditer(text, start, text.index("\n}\n", start)))
    assert len(waits) == 4
    begin, end = waits[number].span()
    (tmp_path / "tensor.cu").write_text(text[:begin] + ";" + text[end:])
    launcher = EmulatorLauncher(checked=True, folder=tmp_path)
    kernel = launcher.kernel("tensor.cu", "product_half<float16>")
    a, b = np.ones((16, 64), np.float16), np.ones((64, 8), np.float16)
    with pytest.raises(KernelError) as caught:
        kernel((1,), (32,), (a, b, np.zeros((16, 8), np.float32), np.int32(64)))
    expected = Kind.race if "__syncwarp" in waits[number][0] else Kind.copy_in_flight
    assert expected in {finding.kind for finding in caught.value.findings}
