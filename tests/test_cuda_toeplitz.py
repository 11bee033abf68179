"""Dense filters on tensor cores: bands of weights, parts of integers, rolling and still sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import cases, nvrtc, prediction
from bench.devices import device_of
from gpuconv import filters
from gpuconv.backends import run
from gpuconv.backends.cuda import linear, toeplitz
from gpuconv.backends.cuda.source import kernels_folder
from gpuconv.plan import gpu, tensor
from gpuconv.plan.filters import plan_filter, plan_gradient
from gpuconv.quantize import plan_stencil
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import (
    COMMON,
    assert_equal,
    assert_within,
    dtype_of,
    is_integer,
    random_images,
    refuse,
    spread,
)
from tests.launchers import Uploads
from tests.matrix import pairwise
from tests.nvrtc import compile_cuda, machine_code, require_nvrtc

DECADES = np.geomspace(1, 1e20, 81).reshape(9, 9)

DTYPES = ("uint8", "float16", "bfloat16", "float32")
TF32 = 2.0**-10
"""Spacing of its numbers at 1."""


def taps(height, width, seed=0, gain=0.9):
    """A kernel of Σ|w| = gain that no product of a column and a row resembles."""
    kernel = np.random.default_rng([seed, height, width]).normal(size=(height, width)) + 0.4
    return gain * kernel / np.abs(kernel).sum()


def precision_of(dtype):
    """What tensor cores must be allowed for images of a dtype."""
    return "tf32" if dtype == "float32" else "ieee"


def planned(images, kernel, **keywords):
    dtype = keywords.pop("dtype", images.dtype.name)
    given = {"algorithm": "tensor", "precision": precision_of(dtype)}
    return plan_filter(images, kernel, **(COMMON | given | keywords))


class OnTensorCores(Uploads):
    tensor_cores = True


def launched(plan, images, launcher=None):
    output = np.empty(images.shape, plan.images.out_dtype)
    (launch,) = linear.launches(plan, [images], [output], launcher or OnTensorCores())
    return launch


def zeros(shape, dtype="float16"):
    return np.zeros(shape, dtype_of(dtype))


# ---------------------------------------------------------------- plans and launches


@pytest.mark.parametrize(
    ("dtype", "size", "name"),
    [
        ("uint8", (7, 7), "toeplitz_roll<uint8, 8>"),
        ("uint8", (31, 31), "toeplitz_roll<uint8, 32>"),
        ("float16", (8, 9), "toeplitz_roll<float16, 16>"),
        ("float16", (1, 15), "toeplitz_roll<float16, 8>"),
        ("bfloat16", (15, 2), "toeplitz_roll<bfloat16, 16>"),
        ("float32", (16, 20), "toeplitz_roll<float, 32>"),
        ("float32", (32, 32), "toeplitz_still<float, 32>"),
        ("uint8", (63, 63), "toeplitz_still<uint8, 32>"),
    ],
)
def test_fewer_rows_than_sums_roll(dtype, size, name):
    images = zeros((2, 64, 300), dtype)
    launch = launched(planned(images, taps(*size)), images)
    assert launch.variant.name == name
    assert launch.variant in set(toeplitz.variants())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (31, 31), (63, 63), (120, 120), (7, 255), (255, 7)])
def test_weights_fit_into_shared_memory_or_are_left_to_the_general_kernel(size, dtype, channels):
    images = np.broadcast_to(zeros((), dtype), (40, 50, channels))
    kernel = taps(*size, gain=0.3)
    plan = planned(images, kernel, channel_axis=-1)
    (launch,) = linear.launches(plan, [images], [images], OnTensorCores())
    assert launch.shared_bytes <= toeplitz.MOST_SHARED_BYTES
    params = launch.arguments[-1]
    if launch.variant.kernel == "toeplitz_still":
        assert params["chunk"] >= 1
    if launch.variant.kernel == "toeplitz_roll":
        assert params["chunk"] == params["slabs"]


def test_tensor_cores_are_used_where_asked_for_and_there():
    images, kernel = zeros((64, 300)), taps(15, 15)

    class Old(Uploads):
        tensor_cores = False

    def kernel_of(launcher=None, **keywords):
        plan = plan_filter(images, kernel, **(COMMON | keywords))
        return launched(plan, images, launcher).variant.kernel

    assert kernel_of(algorithm="tensor") == "toeplitz_roll"
    assert kernel_of(Old(), algorithm="tensor") == "dense_any"
    assert kernel_of(algorithm="direct") == "dense_any"
    assert kernel_of() == "dense_any"


def test_arrays_of_another_dtype_are_left_to_the_general_kernel():
    images = zeros((20, 300))
    plan = planned(images, taps(15, 15))
    assert launched(plan, images.astype(np.uint8)).variant.kernel == "dense_any"


def test_auto_waits_for_a_gpu_to_prove_them(monkeypatch):
    images = zeros((64, 300))
    plan = plan_filter(images, taps(15, 15), **COMMON)
    assert plan.on_gpu.form == "strip"
    assert "of the time; not picked before their tests have passed on a GPU" in repr(plan)
    monkeypatch.setattr(gpu, "PROVEN", True)
    assert plan.on_gpu.form == "tensor"
    assert "banded products on tensor cores (0." in repr(plan)
    assert launched(plan, images).variant.kernel == "toeplitz_roll"


@pytest.mark.parametrize(
    ("dtype", "kernel", "form"),
    [
        ("float32", taps(15, 15), "strip"),
        ("float32", taps(16, 16), "general"),
        ("float64", taps(15, 15), "general"),
        ("float16", taps(3, 3), "strip"),
        ("float16", taps(5, 7), "tensor"),
        ("float16", np.outer(np.arange(1, 16), np.arange(1, 16)), "separable"),
        ("uint8", taps(9, 9), "tensor"),
        ("uint8", taps(40, 40), "tensor"),
        ("uint16", taps(9, 9), "strip"),
    ],
)
def test_the_form_with_the_least_time_is_chosen(dtype, kernel, form, monkeypatch):
    monkeypatch.setattr(gpu, "PROVEN", True)
    assert plan_filter(zeros((64, 64), dtype), kernel, **COMMON).on_gpu.form == form


def test_a_kernel_as_fast_as_a_copy_needs_no_tensor_cores(monkeypatch):
    monkeypatch.setattr(gpu, "PROVEN", True)
    plan = plan_filter(zeros((64, 64)), taps(1, 7), **COMMON)
    assert plan.on_gpu.form == "general"
    assert "tensor cores would take 1.0 times as long" in plan.story


@pytest.mark.parametrize(
    ("images", "kernel", "keywords"),
    [
        (zeros((9, 9), "float32"), taps(9, 9), {"precision": "ieee"}),
        (zeros((9, 9), "float64"), taps(9, 9), {}),
        (zeros((9, 9), "int8"), taps(9, 9), {}),
        (zeros((9, 9)), taps(5, 5), {}),
        (zeros((9, 9)), taps(1, 256), {}),
        (zeros((9, 9)), np.outer([1, 2, 3], np.arange(40)), {}),
        (zeros((9, 9)), taps(9, 9), {"out_dtype": "float32"}),
        (zeros((9, 9)), DECADES * taps(9, 9), {}),
        (zeros((9, 9), "uint8"), np.rint(taps(9, 9) * 2**40), {}),
    ],
)
def test_tensor_cores_refuse_what_they_cannot_compute(images, kernel, keywords):
    refuse(ValueError, "algorithm", lambda: planned(images, kernel, **keywords))


@pytest.mark.parametrize("argument", ["algorithm", "precision"])
def test_algorithm_and_precision_are_names(argument):
    refuse(ValueError, argument, lambda: filters.filter2d(zeros((9, 9)), [[1]], **{argument: "x"}))


def test_numpy_computes_the_same_whatever_the_algorithm():
    images = random_images((20, 30), "float32")
    expected = filters.filter2d(images, taps(9, 9), backend="numpy")
    for algorithm in ("direct", "tensor"):
        keywords = {"algorithm": algorithm, "precision": "tf32"}
        result = filters.filter2d(images, taps(9, 9), **keywords, backend="numpy")
        assert_equal(result, expected, "float32")


def test_gradients_take_no_tensor_cores(monkeypatch):
    monkeypatch.setattr(gpu, "PROVEN", True)
    plan = plan_gradient(zeros((9, 9)), (1, 2, 1), None, **COMMON)
    assert plan.on_gpu.form == "separable"


def test_strips_share_the_rows_of_an_image():
    images = zeros((3, 1000, 520))
    launch = launched(planned(images, taps(15, 15)), images)
    params = launch.arguments[-1]
    assert params["across"] == 3
    assert (params["down"] - 1) * params["rows"] < 1000 <= params["down"] * params["rows"]
    assert params["jobs"] == 3 * params["down"] * 3
    assert launch.grid == (-(-int(params["jobs"]) // 4), 1, 1)


# ---------------------------------------------------------------- weights


def split(kernel, dtype, precision="ieee"):
    stencil = plan_stencil(np.asarray(kernel, np.float64), dtype_of(dtype))
    return stencil, tensor.split(stencil, dtype_of(dtype), precision)


CENTRE = np.pad([[1]], 4)
WHOLE = {
    "small": (np.rint(taps(9, 9) * 400), 1, 1),
    "one large": (np.rint(taps(9, 9) * 400) + 5001 * CENTRE, 1, 2),
    "the largest": (65791 * CENTRE, 1, 2),
    "past 2^24": (np.rint(taps(31, 31) * 2**22), 2, 1),
    "past 2^24, one large": (np.rint(taps(9, 9) * 2**21) + 6_000_001 * CENTRE, 2, 2),
    "many": (np.rint(taps(100, 90) * 2**22.9), 4, 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_integers_are_exact_sums_of_parts(name):
    kernel, parts, most = WHOLE[name]
    kernel = kernel.copy()
    kernel[0, 0] += 1  # of no rank 1
    stencil, terms = split(kernel, "uint8")
    assert (len(terms.parts), len(terms.parts[0])) == (parts, most)
    total = 0
    for number, part in enumerate(terms.parts):
        own = sum(term.astype(np.int64) for term in part)
        total = total + (own << terms.bits * number)
        assert 255 * np.abs(own).sum() < 2**24
        for term in part:
            np.testing.assert_array_equal(term.astype(np.float16), term)
            assert np.all(term * own >= 0)
    np.testing.assert_array_equal(total, stencil.dense.array)


@pytest.mark.parametrize(
    ("dtype", "precision", "bits", "count"),
    [
        ("float16", "ieee", 22, 2),
        ("float16", "tf32", 11, 1),
        ("bfloat16", "ieee", 16, 2),
        ("float32", "tf32", 11, 1),
    ],
)
@pytest.mark.parametrize("scale", [1, 1e-12, 1e12])
def test_floats_are_sums_of_terms(dtype, precision, bits, count, scale):
    kernel = taps(9, 9) * scale
    _, terms = split(kernel, dtype, precision)
    ((*arrays,),) = terms.parts
    assert len(arrays) == count
    kept = np.ldexp(sum(a.astype(np.float64) for a in arrays), -terms.scale)
    assert np.all(abs(kept - kernel) <= 2.0**-bits * abs(kernel) + 2.0**-38 * abs(kernel).max())
    if dtype == "float16":
        assert all(np.array_equal(a.astype(np.float16), a) for a in arrays)
    else:
        dropped = np.uint32(0xFFFF if dtype == "bfloat16" else 0x1FFF)
        assert not any((a.view(np.uint32) & dropped).any() for a in arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_few_bits_need_one_term(dtype):
    _, terms = split(np.arange(81.0).reshape(9, 9) % 11 - 4, dtype)
    assert terms.count == 1


# ---------------------------------------------------------------- on the emulator


def check(images, kernel, dtype, **keywords):
    """A call on the emulator against NumPy: integers bit by bit, floats within the contract."""
    backend = EmulatorBackend()
    precision = precision_of(dtype)
    result = filters.filter2d(
        images, kernel, algorithm="tensor", precision=precision, **keywords, backend=backend
    )
    assert {name.partition("_")[0] for name in backend.launches} == {"toeplitz"}
    if is_integer(images.dtype):
        expected = filters.filter2d(images, kernel, **keywords, backend="numpy")
        assert_equal(result, expected, dtype)
        return
    wide = images.astype(np.float64)
    expected = filters.filter2d(wide, kernel, **keywords, backend="numpy")
    keywords.pop("delta", None)
    bound = spread(kernel, images, **keywords)
    bound *= TF32 / reference.EPSILON["float32"] if precision == "tf32" else 1
    assert_within(result, expected, bound, dtype)
    # What two terms of the weights and sums in float32 leave is the result's own rounding.
    if dtype == "float16":
        near = np.abs(expected) * 2.0**-11 + bound * 2.0**-9 + 2.0**-24
        assert np.all(np.abs(result - expected) <= near)


AXES = {
    "dtype": list(DTYPES),
    "kernel": [(7, 7), (15, 15), (15, 7), (9, 21), (31, 31), (33, 8), (63, 63), (7, 31)],
    "shape": [(1, 1), (3, 20), (40, 256), (33, 257), (70, 130), (17, 515)],
    "layout": [1, 2, 3, 4, "planes"],
    "border": ["reflect", "wrap", "constant", "edge", "symmetric"],
}
QUICK = AXES | {
    "kernel": [(7, 7), (15, 15), (31, 31), (34, 10)],
    "dtype": ["uint8", "float16"],
    "shape": [(1, 1), (3, 20), (40, 64), (33, 71), (5, 260)],
}


def matches(case):
    dtype, layout = case["dtype"], case["layout"]
    shape = (2, *case["shape"]) if layout == "planes" else (*case["shape"], layout)
    images = random_images(shape, dtype)
    keywords = {"border": case["border"], "value": 37.5}
    if layout != "planes":
        keywords["channel_axis"] = -1
    check(images, taps(*case["kernel"]), dtype, **keywords)


def case_name(case):
    return "-".join(map(str, case.values()))


@pytest.mark.emulator
@pytest.mark.parametrize("case", pairwise(QUICK, seed=4), ids=case_name)
def test_tensor_cores_compute_what_numpy_does(case):
    matches(case)


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("case", pairwise(AXES, seed=5), ids=case_name)
def test_tensor_cores_compute_what_numpy_does_in_every_kernel(case):
    matches(case)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("size", [(15, 14), (35, 9)])
def test_other_floats(dtype, size):
    check(random_images((2, 37, 140), dtype), taps(*size), dtype, border="symmetric")


@pytest.mark.emulator
@pytest.mark.parametrize("anchor", [(0, 0), (8, 12), (3, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_a_window_begins_anywhere(dtype, anchor):
    images = random_images((30, 45, 3), dtype)
    check(images, taps(9, 13), dtype, anchor=anchor, border="wrap", channel_axis=-1)


@pytest.mark.emulator
@pytest.mark.parametrize("height", [7, 8, 9, 14, 15])
def test_a_kernel_of_fewer_rows_than_sums(height):
    check(random_images((50, 40), "float16"), taps(height, 9), "float16")


@pytest.mark.emulator
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32, 33, 64, 65])
def test_strips_of_any_height(rows, monkeypatch):
    monkeypatch.setattr(toeplitz, "FEWEST_ROWS", 16)
    for size in ((15, 9), (34, 9)):
        check(random_images((rows, 24), "uint8"), taps(*size), "uint8", border="edge")


EXTREMES = {
    "integers of two terms": np.rint(taps(9, 9) * 30000),
    "wide, of two parts": taps(9, 9, gain=200.0),
    "integers past 2^24": np.rint(taps(15, 8) * 2**22),
    "four parts": np.rint(taps(60, 58) * 2**22.9),
}


@pytest.mark.emulator
@pytest.mark.parametrize("delta", [0, 3, -0.5, -40])
@pytest.mark.parametrize("name", EXTREMES)
def test_integer_sums_are_exact(name, delta):
    kernel = EXTREMES[name]
    kernel = kernel / 2.0 ** np.ceil(np.log2(np.abs(kernel).sum())) if delta else kernel
    images = random_images((20, 36), "uint8")
    check(images, kernel, "uint8", delta=delta)
    check(np.full((5, 9), 255, np.uint8), np.abs(kernel), "uint8", border="edge", delta=delta)


@pytest.mark.emulator
def test_a_delta_that_no_sum_holds_is_left_to_the_general_kernel():
    images, backend = random_images((9, 20), "uint8"), EmulatorBackend()
    keywords = {"delta": 0.3}
    result = filters.filter2d(images, taps(9, 9), algorithm="tensor", **keywords, backend=backend)
    assert set(backend.launches) == {"dense_any"}
    expected = filters.filter2d(images, taps(9, 9), **keywords, backend="numpy")
    assert_equal(result, expected, "uint8")


@pytest.mark.emulator
def test_ieee_keeps_what_tf32_does_not():
    images = random_images((20, 140), "float16")
    kernel = taps(15, 15)
    wide = filters.filter2d(images.astype(np.float64), kernel, backend="numpy")
    off = {}
    for precision in ("ieee", "tf32"):
        keywords = {"precision": precision, "algorithm": "tensor"}
        result = filters.filter2d(images, kernel, **keywords, backend=EmulatorBackend())
        assert_within(result, wide, spread(kernel, images), "float16")
        off[precision] = np.mean(np.abs(result - wide))
    assert off["ieee"] < off["tf32"]


STRANGE = [(np.nan, 5, 60), (np.inf, 0, 0), (-np.inf, 39, 131)]


@pytest.mark.emulator
@pytest.mark.parametrize("size", [(9, 15), (15, 9), (33, 9)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nan_and_inf_reach_the_windows_that_hold_them(dtype, size):
    kernel = taps(*size)
    kernel[2, 3] = 0
    images = random_images((40, 132), dtype).copy()
    for value, y, x in STRANGE:
        images[y, x] = value
    keywords = {"border": "constant", "value": 1.0}
    backend = EmulatorBackend()
    given = {"algorithm": "tensor", "precision": precision_of(dtype)}
    result = filters.filter2d(images, kernel, **given, **keywords, backend=backend)
    expected = filters.filter2d(images.astype(np.float64), kernel, **keywords, backend="numpy")
    for told in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(told(result), told(expected))
    whole = np.isfinite(expected)
    assert 0 < whole.sum() < whole.size
    tame = np.where(np.isfinite(images), images, 0)
    bound = spread(kernel, tame, **keywords)
    bound *= TF32 / reference.EPSILON["float32"] if dtype == "float32" else 1
    assert np.all(np.abs(result[whole] - expected[whole]) <= bound[whole])


@pytest.mark.emulator
def test_a_border_of_infinity_reaches_the_edges_alone():
    images = random_images((30, 40), "float16")
    keywords = {"border": "constant", "value": np.inf, "algorithm": "tensor"}
    result = filters.filter2d(images, np.abs(taps(9, 9)), **keywords, backend=EmulatorBackend())
    inside = np.zeros((30, 40), bool)
    inside[4:-4, 4:-4] = True
    np.testing.assert_array_equal(np.isfinite(result), inside)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_arrays_may_lie_anyhow(dtype):
    kernel = taps(15, 9)
    large = random_images((2, 50, 301), dtype)
    for view in (large[:, ::-1, 1:], large[:, 3:, ::2], large.swapaxes(1, 2)):
        check(view, kernel, dtype)
    backend = EmulatorBackend(checked=True)
    out = np.full((2, 50, 304), 7, large.dtype)
    filters.filter2d(large, kernel, algorithm="tensor", out=out[..., 2:303], backend=backend)
    assert backend.launches == {"toeplitz_roll": 1}
    again = filters.filter2d(large, kernel, algorithm="tensor", backend=EmulatorBackend())
    assert_equal(out[..., 2:303], again, dtype)
    assert np.all(out[..., :2] == 7)
    assert np.all(out[..., 303:] == 7)


@pytest.mark.emulator
def test_a_launch_of_several_rounds_computes_the_same(monkeypatch):
    images = random_images((2, 90, 520), "uint8")
    kernels = (taps(15, 15), taps(33, 20), taps(9, 9, gain=200.0))
    plans = [planned(images, kernel) for kernel in kernels]
    expected = [run(plan, images, backend=EmulatorBackend()) for plan in plans]
    monkeypatch.setattr("gpuconv.backends.cuda.launch.MOST_BLOCKS", 1)
    for plan, whole in zip(plans, expected, strict=True):
        plan.memo.clear()
        assert_equal(run(plan, images, backend=EmulatorBackend()), whole, "uint8")


# ---------------------------------------------------------------- machine code


@pytest.mark.parametrize(("size", "goal"), [(15, 300), (31, 100)])
@pytest.mark.parametrize("dtype", ["u8", "f16"])
def test_an_h200_is_predicted_to_reach_the_goals(dtype, size, goal):
    # Gpx/s of DESIGN section 7, over eight images. Two terms for float16: weights of float32.
    weights = taps(size, size).astype(np.float32)
    case = cases.filter2d(dtype, (8, 2160, 3840), size, "tensor")
    device = device_of("H200", "sm_90")
    try:
        found = prediction.predict(replace(case, weights=lambda rng: (weights,)), device)
    except nvrtc.MissingToolError as missing:
        pytest.skip(str(missing))
    assert {limits.variant.kernel for limits in found.limits} == {"toeplitz_roll"}
    assert found.rate(found.seconds) >= goal
    assert found.limits[0].occupancy.warps >= 8


def test_the_kernels_are_made_of_matrix_products():
    require_nvrtc()
    name, path = "toeplitz_roll<float16, 16>", kernels_folder() / toeplitz.FILE
    code = machine_code(compile_cuda(path, "sm_90", [name]).cubin)
    for instruction in ("HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128", "LDS.64"):
        assert instruction in code, instruction
    old = machine_code(compile_cuda(path, "sm_75", [name]).cubin)
    assert "HMMA" not in old
    assert "BPT.TRAP" in old
