"""The emulator does what CUDA does: each feature against NumPy, in every order of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpuconv.border import Border, map_index
from tests.emulator import EmulatorLauncher
from tests.emulator.build import CompileError
from tests.emulator.cases import KERNELS, marked_lines

pytestmark = pytest.mark.emulator

FILE = "features.cu"
NAMES = [
    *("identities", "turns", "block_votes", "warp_votes", "warp_reductions", "warp_exchange"),
    *("shuffles<float>", "shuffles<double>", "shuffles<unsigned char>", "integer_atomics"),
    *("sum_atomics<float>", "sum_atomics<unsigned long long>", "block_sums<float>"),
    *("poison", "affine", "scalars", "optional_input", "vectors", "table", "mixed_widths"),
    "divergence",
    *("instance<3, float>", "instance<5, short>", "filter3x3<float, 32, 8>"),
]
WORDS = np.random.default_rng(11).integers(-100, 100, 64).astype(np.int32)
ORDERS = [("forward", 0), ("reverse", 0), ("random", 1), ("random", 2)]


def launch_all(checked):
    launcher = EmulatorLauncher(checked=checked, folder=KERNELS)
    return dict(zip(NAMES, launcher.kernels(FILE, NAMES), strict=True))


@pytest.fixture(scope="module")
def plain():
    return launch_all(checked=False)


@pytest.fixture(scope="module")
def checked():
    return launch_all(checked=True)


@pytest.fixture(params=itertools.product([False, True], ORDERS), ids=str)
def kernels(request, plain, checked):
    """By name, in both builds and every order: whatever uses it must not depend on either."""
    is_checked, (order, seed) = request.param
    chosen = checked if is_checked else plain
    return {name: kernel.using(order=order, seed=seed) for name, kernel in chosen.items()}


def test_identities(kernels):
    grid, block = (3, 2, 2), (5, 3, 2)
    out = np.zeros((2, 2, 3, 2, 3, 5, 12), np.uint32)
    kernels["identities"](grid, block, (out,))
    for index in np.ndindex(out.shape[:-1]):
        bz, by, bx, tz, ty, tx = index
        assert out[index].tolist() == [tx, ty, tz, bx, by, bz, *block, *grid]


def test_orders_are_what_they_say(plain):
    def turns(**settings):
        out = np.zeros(4 * 40, np.int32)
        plain["turns"].using(**settings)((4,), (40,), (np.zeros(1, np.int32), out))
        return out

    np.testing.assert_array_equal(turns(order="forward"), np.arange(160))
    np.testing.assert_array_equal(turns(order="reverse"), np.arange(160)[::-1])
    shuffled = [turns(order="random", seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert (shuffled[0] != shuffled[2]).any()
    assert (shuffled[0] != np.arange(160)).any()
    np.testing.assert_array_equal(np.sort(shuffled[0]), np.arange(160))


@pytest.mark.parametrize(
    "values", [WORDS, np.abs(WORDS) + 1, -np.abs(WORDS)], ids=["mix", "all", "no"]
)
def test_block_votes(kernels, values):
    out = np.zeros((3, 64), np.int32)
    kernels["block_votes"]((1,), (64,), (values, out))
    yes = values > 0
    expected = np.broadcast_to([[yes.sum()], [yes.all()], [yes.any()]], out.shape)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float", "double", "unsigned char"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kernels, dtype, width, rng):
    values = rng.integers(0, 200, 64).astype({"unsigned char": "uint8"}.get(dtype, dtype))
    if dtype == "float":
        values = values.astype(np.float32)
    out = np.zeros((4, 64), values.dtype)
    kernels[f"shuffles<{dtype}>"]((1,), (64,), (values, out, np.int32(width)))
    lane = np.arange(64)
    first = lane // width * width
    sources = [
        first + 3,
        np.where(lane - 2 < first, lane, lane - 2),
        np.where(lane + 2 >= first + width, lane, lane + 2),
        lane ^ 5,
    ]
    np.testing.assert_array_equal(out, [values[source] for source in sources])


def test_warp_votes(kernels):
    values = (WORDS % 5 - 1).astype(np.int32)
    out = np.zeros((5, 64), np.uint32)
    kernels["warp_votes"]((1,), (64,), (values, out))
    halves = values.reshape(4, 16)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32).reshape(2, 16)[[0, 1, 0, 1]]
    ballots = ((halves > 0) * bits).sum(1)
    same = ((halves[:, :, None] == halves[:, None, :]) * bits[:, None, :]).sum(2)
    expected = [ballots, (halves > 0).any(1), (halves > 0).all(1)]
    np.testing.assert_array_equal(out[:3], np.repeat(np.array(expected), 16, axis=1))
    np.testing.assert_array_equal(out[3], same.ravel())
    np.testing.assert_array_equal(out[4], np.uint32(0xFFFFFFFF))


def test_warp_reductions(kernels):
    out = np.zeros((6, 64), np.int32)
    kernels["warp_reductions"]((1,), (64,), (WORDS, out))
    warps = WORDS.reshape(2, 32)
    operations = (np.add, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    expected = [np.repeat(operation.reduce(warps, axis=1), 32) for operation in operations]
    np.testing.assert_array_equal(out, expected)


def test_warp_exchange(kernels):
    values = WORDS.astype(np.float32)
    out = np.zeros(64, np.float32)
    kernels["warp_exchange"]((1,), (64,), (values, out))
    np.testing.assert_array_equal(out, np.repeat(values.reshape(4, 16).sum(1), 16))


def test_integer_atomics(kernels):
    values = np.concatenate([WORDS, [7, 0, 3]]).astype(np.int32)[-64:]
    out = np.array([1, 2, 3, 4, -1, 0, 9, 5, 3, 0], np.int32)
    kernels["integer_atomics"]((2,), (32,), (values, out))
    reduced = [op.reduce(values) for op in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)]
    swapped = 3
    if not (values == 4).any():  # otherwise the order decides how far 3 climbs
        assert out[8] == (4 if (values == 3).any() else swapped)
    assert out[:8].tolist() == [
        *(1 + values.sum(), 2 - values.sum(), min(3, values.min()), max(4, values.max())),
        *(reduced[0], reduced[1], 9 ^ reduced[2], 7),
    ]
    assert out[9] == 64 % 5


@pytest.mark.parametrize("name", ["float", "unsigned long long"])
def test_sum_atomics(kernels, name, rng):
    dtype = np.float32 if name == "float" else np.uint64
    values = rng.integers(0, 1000, 200).astype(dtype)
    out = np.ones(1, dtype)
    kernels[f"sum_atomics<{name}>"]((2,), (100,), (values, out))
    assert out[0] == 1 + values.sum()


@pytest.mark.parametrize("threads", [1, 2, 64, 1024])
def test_block_sums_in_dynamic_shared_memory(kernels, threads, rng):
    values = rng.integers(0, 100, (3, threads)).astype(np.float32)
    out = np.zeros(3, np.float32)
    kernel = kernels["block_sums<float>"]
    kernel((3,), (threads,), (values, out), shared_mem=4 * threads)
    np.testing.assert_array_equal(out, values.sum(1))
    assert kernel.shared_bytes == -(-4 * threads // 16) * 16


@pytest.mark.parametrize("value", [0xFF, 0x3B])
def test_shared_memory_is_poisoned_before_each_block(plain, value):
    out = np.zeros(64, np.uint32)
    kernel = plain["poison"].using(poison=value)
    for _ in range(2):
        kernel((3,), (32,), (out,), shared_mem=128)
        np.testing.assert_array_equal(out, np.uint32(value * 0x01010101))


AFFINE = np.dtype(
    [("scale", "f8"), ("shift", "f4", 2), ("count", "i4"), ("flag", "u1")], align=True
)


@pytest.mark.parametrize("form", ["scalar", "array", "bytes"])
def test_struct_by_value(kernels, form):
    by = np.array([(1.5, (2.0, -4.0), 50, 1)], AFFINE)
    value = {"scalar": by[0], "array": by, "bytes": by.tobytes()}[form]
    out = np.zeros(64, np.float32)
    values = WORDS.astype(np.float32)
    kernels["affine"]((2,), (32,), (values, out, value))
    np.testing.assert_array_equal(out[:50], values[:50] * 1.5 - 4)
    assert not out[50:].any()


def test_scalars(kernels):
    out = np.zeros(7)
    values = (np.int32(-3), np.uint32(4_000_000_000), -5_000_000_000, np.float32(0.5), 0.1, True)
    kernels["scalars"]((1,), (1,), (out, *values, np.uint8(200)))
    assert out.tolist() == [-3, 4_000_000_000, -5_000_000_000, 0.5, 0.1, 1, 200]


@pytest.mark.parametrize("null", [None, 0, np.uint64(0)])
def test_null_pointer_for_an_array_that_is_not_given(kernels, null):
    out = np.zeros(8, np.float32)
    kernels["optional_input"]((1,), (8,), (null, out))
    assert (out == -1).all()
    kernels["optional_input"]((1,), (8,), (np.arange(8, dtype=np.float32), out))
    assert out.tolist() == list(range(8))


def test_vectors(kernels, rng):
    floats = rng.standard_normal((16, 4)).astype(np.float32)
    pixels = rng.integers(0, 256, (16, 4)).astype(np.uint8)
    out, sums = np.zeros_like(floats), np.zeros((16, 2), np.int32)
    kernels["vectors"]((1,), (16,), (floats, out, pixels, sums))
    np.testing.assert_array_equal(out, floats[:, ::-1])
    np.testing.assert_array_equal(sums, pixels.reshape(16, 2, 2).sum(2))


def test_mixed_widths_are_no_race(kernels, rng):
    values = rng.integers(0, 256, 256).astype(np.uint8)
    out = np.zeros_like(values)
    kernels["mixed_widths"]((1,), (256,), (values, out))
    turned = values[::-1].reshape(32, 2, 4)[:, ::-1]
    np.testing.assert_array_equal(out, turned[:, :, ::-1].ravel())


def test_constant_table(kernels):
    out = np.zeros(64, np.int32)
    kernels["table"]((1,), (64,), (WORDS, out))
    np.testing.assert_array_equal(out, np.array([2, 3, 5, 7, 11, 13, 17, 19])[WORDS & 7])


def test_instances_and_defines(kernels):
    floats, shorts = np.zeros(4, np.float32), np.zeros(4, np.int16)
    kernels["instance<3, float>"]((1,), (4,), (floats,))
    kernels["instance<5, short>"]((1,), (4,), (shorts,))
    assert (floats == 3).all()
    assert (shorts == 5).all()
    launcher = EmulatorLauncher(folder=KERNELS)
    launcher.kernel(FILE, "instance<3, float>", ["FACTOR=7"])((1,), (4,), (floats,))
    assert (floats == 21).all()


@pytest.mark.parametrize("border", list(Border), ids=str)
@pytest.mark.parametrize("size", [(1, 1), (17, 70)])
def test_tiled_filter(kernels, border, size, rng):
    image = rng.integers(0, 50, size).astype(np.float32)
    taps = rng.integers(-5, 6, (3, 3)).astype(np.float32)
    out = np.full(size, np.nan, np.float32)
    number = np.int32(list(Border).index(border))
    shape = np.array([(size[1], size[0])], "i4,i4")
    grid = (-(-size[1] // 32), -(-size[0] // 8))
    arguments = (image, taps, out, shape, number)
    kernels["filter3x3<float, 32, 8>"](grid, (32, 8), arguments)
    rows, columns = (map_index(np.arange(-1, n + 1), n, border) for n in size)
    padded = image[np.ix_(rows, columns)] * np.outer(rows >= 0, columns >= 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    np.testing.assert_array_equal(out, np.einsum("yxij,ij->yx", windows, taps))


def test_launches_are_counted_by_name():
    launcher = EmulatorLauncher(folder=KERNELS)
    kernel = launcher.kernel(FILE, "instance<3, float>")
    assert not launcher.launches
    for _ in range(3):
        kernel((1,), (4,), (np.zeros(4, np.float32),))
    launcher.kernel(FILE, "instance<5, short>")((1,), (4,), (np.zeros(4, np.int16),))
    assert launcher.launches == {"instance": 4}


@pytest.mark.parametrize("is_checked", [False, True])
def test_views_of_arrays_keep_their_strides(plain, checked, is_checked):
    kernel = (checked if is_checked else plain)["optional_input"]
    base = np.arange(40, dtype=np.float32)
    out = np.zeros(40, np.float32)
    kernel((1,), (8,), (base[16:24], out[8:16]))
    np.testing.assert_array_equal(out[8:16], base[16:24])
    assert not out[:8].any()
    assert not out[16:].any()
    kernel((1,), (8,), (base[:8], base[8:16]))  # two views of one allocation
    np.testing.assert_array_equal(base[8:16], np.arange(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(4, np.float32),), "args must be 2 values, got 1"),
        ((1.5, np.zeros(4, np.float32)), r"args\[0\] must be an array, got float"),
        (
            (np.zeros(4), np.zeros(4, np.float32)),
            r"args\[0\] must be an array of 4-byte elements, got float64",
        ),
        ((None, np.broadcast_to(np.float32(0), 4)), r"args\[1\] must be writable"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(plain, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        plain["optional_input"]((1,), (4,), arguments)


def test_numbers_that_do_not_fit_are_refused(plain):
    out, image = np.zeros(7), WORDS.astype(np.float32)
    good = (np.int32(-3), np.uint32(4), 5, np.float32(0.5), 0.1, True, np.uint8(2))
    for place, wrong in [(0, -3), (1, np.float32(4)), (3, 0.5), (6, np.zeros(2, np.uint8))]:
        values = list(good)
        values[place] = wrong
        with pytest.raises(TypeError, match=rf"args\[{place + 1}\] must be"):
            plain["scalars"]((1,), (1,), (out, *values))
    with pytest.raises(TypeError, match=r"args\[2\] must be a struct of 24 bytes"):
        plain["affine"]((1,), (1,), (image, image.copy(), b"12345678"))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1,), (33, 32), "block must have at most 1024 threads"),
        ((0,), (1,), "grid must be one to three sizes of at least 1"),
        ((1, 65536), (1,), "grid must have at most 65535 blocks in y and z"),
    ],
)
def test_geometry_that_cuda_refuses_is_refused(plain, grid, block, message):
    with pytest.raises(ValueError, match=message):
        plain["turns"](grid, block, (np.zeros(1, np.int32), np.zeros(1, np.int32)))


def test_shared_memory_without_the_macro_does_not_compile(tmp_path):
    source = '#include "common/prelude.cuh"\n__global__ void f() { __shared__ int a[3]; }\n'
    (tmp_path / "bare.cu").write_text(source)
    with pytest.raises(CompileError, match="declare shared memory with SHARED_ARRAY"):
        EmulatorLauncher(folder=tmp_path).kernel("bare.cu", "f")


def test_requests_are_counted_where_lanes_part_and_meet(rng):
    kernel = EmulatorLauncher(counted=True, folder=KERNELS).kernel(FILE, "divergence")
    values = rng.integers(0, 50, (3, 40)).astype(np.float32)
    out = np.zeros(32, np.float32)
    kernel((1,), (32,), (values, out))
    lane = np.arange(32)
    before = np.concatenate([[0], np.cumsum(values[2])])[:32]
    np.testing.assert_array_equal(out, np.where(lane % 2, values[0, :32], before))
    lines = marked_lines(FILE)
    counts = {
        (c.line.line, c.space, c.access): (c.requests, c.transactions, c.ideal)
        for c in kernel.counts
    }
    assert counts == {
        # A row of 160 bytes: all lanes, then eight; 5 sectors.
        (lines["nested", False], "global", "read"): (6, 15, 15),
        (lines["nested", False], "shared", "write"): (6, 6, 6),
        (lines["odd", False], "shared", "read"): (1, 1, 1),
        # Turn i finds the even lanes above i, which read one word.
        (lines["even", False], "shared", "read"): (30, 30, 30),
        (lines["joined", False], "global", "write"): (1, 4, 4),
    }


def test_compile_error_carries_file_defines_and_log():
    launcher = EmulatorLauncher(folder=KERNELS)
    with pytest.raises(CompileError, match=r"(?s)features.*FACTOR=oops.*oops.*not declared"):
        launcher.kernel(FILE, "instance<3, float>", ["FACTOR=oops"])
