"""Launches of the CUDA convolutions, and what their kernels meet that the engine's tests do not."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cuda import conv, conv_transpose, launch
from gpuconv.backends.cuda.launch import SHARED_BYTES
from tests import reference
from tests.emulator import EmulatorBackend
from tests.image_cases import assert_equal, assert_within
from tests.launchers import recorded, zeros
from tests.map_cases import random_maps, random_values

# ---------------------------------------------------------------- launches


@pytest.mark.parametrize(
    ("algorithm", "groups", "kernel"),
    [("auto", 1, "conv_gemm"), ("auto", 64, "conv_direct"), ("gemm", 64, "conv_gemm")],
)
def test_a_convolution_is_one_launch_of_its_algorithm(algorithm, groups, kernel):
    x, w = zeros(8, 64, 30, 31), zeros(64, 64 // groups, 3, 3)
    (one,) = recorded(lambda: gpuconv.conv2d(x, w, groups=groups, algorithm=algorithm))
    assert one.variant.kernel == kernel
    assert one.block == (conv.THREADS, 1, 1)
    assert one.variant in set(conv.variants())


def test_blocks_of_the_gemm_hold_positions_of_the_whole_batch():
    x, w = zeros(10, 6, 9, 9), zeros(130, 6, 2, 2)
    (one,) = recorded(lambda: gpuconv.conv2d(x, w))
    positions, channels = 10 * 8 * 8, 130
    assert one.grid == (-(-positions // conv.TILE) * -(-channels // conv.TILE), 1, 1)
    assert one.arguments[-1]["positions"] == positions


def test_channels_run_along_lanes_where_they_lie_side_by_side():
    w = zeros(5, 4, 3, 3)
    first, last = np.zeros((2, 4, 8, 9), np.float32), np.zeros((2, 8, 9, 4), np.float32)
    for x, layout, expected in (
        (first, "NCHW", "false"),
        (last, "NHWC", "true"),
        (last.transpose(0, 3, 1, 2), "NCHW", "true"),
        (first.transpose(0, 2, 3, 1), "NHWC", "false"),
    ):
        (one,) = recorded(lambda x=x, layout=layout: gpuconv.conv2d(x, w, layout=layout))
        assert one.variant.arguments[0] == expected


def test_strides_beyond_32_bits_reach_the_kernel():
    as_strided = np.lib.stride_tricks.as_strided
    x, w = np.zeros(1, np.int8), zeros(4, 3, 5, 1, dtype=np.int8)
    x = as_strided(x, (2, 3, 70_000, 65_536), (2**40, 2**33, 65_536, 1))
    (one,) = recorded(lambda: gpuconv.conv2d(x, w))
    packed = one.arguments[-1]
    assert packed["conv"]["input"].tolist() == (2**40, 2**33, 0, 65_536, 1)
    assert packed["positions"] == 2 * 69_996 * 65_536
    assert one.grid[0] == packed["jobs"] == packed["positions"] // conv.TILE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (31, 31), (1, 900), (900, 1), (200, 300)])
@pytest.mark.parametrize("plane", [(1, 1), (7, 7), (40, 2000), (1, 5000)])
def test_a_part_of_a_direct_convolution_fits_into_shared_memory(plane, size, dtype):
    sides = [n + k - 1 for n, k in zip(plane, size, strict=True)]
    x, w = zeros(2, 300, *sides, dtype=dtype), zeros(300, 1, *size, dtype=dtype)
    for layout in ("NCHW", "NHWC"):
        maps = np.moveaxis(x, 1, -1) if layout == "NHWC" else x
        (one,) = recorded(
            lambda maps=maps, layout=layout: gpuconv.conv2d(maps, w, groups=300, layout=layout)
        )
        packed = one.arguments[-1]
        assert 0 < one.shared_bytes <= SHARED_BYTES
        assert packed["pitch"] > 0
        assert packed["rows"] <= size[0]
        assert packed["columns"] <= size[1]


def test_small_planes_share_a_block_of_a_direct_convolution():
    x, w = zeros(1, 70_000, 3), zeros(70_000, 1, 2)
    (one,) = recorded(lambda: gpuconv.conv1d(x, w, groups=70_000))
    assert one.grid[0] == -(-70_000 // conv.THREADS)


def test_windows_too_far_apart_for_shared_memory_are_read_from_memory():
    x, w = zeros(1, 1, 30_001, 30_001), zeros(1, 1, 2, 2)
    (one,) = recorded(lambda: gpuconv.conv2d(x, w, stride=10_000))
    assert one.arguments[-1]["pitch"] == 0


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (4, 1, 3), (1, 3, 1)])
def test_a_transposed_convolution_is_a_launch_a_phase(rank, kernel, stride, dilation):
    x, w = zeros(2, 4, *[9] * rank), zeros(4, 5, *[kernel] * rank)
    function = getattr(gpuconv, f"conv_transpose{rank}d")
    launches = recorded(lambda: function(x, w, stride=stride, dilation=dilation))
    phases = min(stride, kernel) ** rank
    bare = kernel < stride  # then some outputs have no taps
    assert len(launches) == phases + bare
    positions = [one.arguments[-1]["positions"] for one in launches[bare:]]
    if not bare:
        assert sum(positions) == 2 * ((8 * stride) + (kernel - 1) * dilation + 1) ** rank


def test_the_phases_of_an_axis_hold_every_tap_and_no_output_twice():
    for size in range(1, 6):
        for stride in range(1, 6):
            for dilation in range(1, 4):
                window = gpuconv.window.AxisWindow(size, stride, dilation, (2, 1))
                outputs = window.transposed_outputs(4, 0)
                if outputs < 1:
                    continue
                phases = list(conv_transpose._phases(window, outputs))
                taps = [t for p in phases for t in range(size)[p.taps]]
                places = [o for p in phases for o in range(outputs)[p.outputs]]
                assert len(taps) == len(set(taps)) <= size
                assert len(places) == len(set(places)) == sum(p.count for p in phases)


# ---------------------------------------------------------------- kernels


@pytest.fixture(scope="module")
def emulator():
    return EmulatorBackend(checked=True)


def same_as_numpy(emulator, function, *arrays, **arguments):
    """Integers: bit for bit what NumPy's backend gives."""
    expected = function(*arrays, backend="numpy", **arguments)
    result = function(*arrays, backend=emulator, **arguments)
    assert_equal(result, expected, expected.dtype)


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_tiles_and_chunks_meet_without_a_seam(algorithm, layout, emulator):
    """More channels than a tile of either kernel, more taps than a chunk, odd ends of all."""
    channels = 37 if algorithm == "gemm" else 3
    x = random_maps(layout, channels, (9, 70), "int16")
    w = random_values((67, channels, 2, 3), "int8")
    named = {"layout": layout, "padding": 1, "algorithm": algorithm}
    same_as_numpy(emulator, gpuconv.conv2d, x, w, **named)


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_blocks_take_jobs_in_turn(algorithm, layout, emulator, monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    x, w = random_maps(layout, 66, (9, 70), "uint8"), random_values((132, 1, 3, 3), "int8")
    named = {"layout": layout, "groups": 66, "algorithm": algorithm}
    same_as_numpy(emulator, gpuconv.conv2d, x, w, **named)


@pytest.mark.emulator
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [
        ((40, 60), 1, 1),  # part after part of the taps
        ((3, 3), 1, (20, 30)),  # a part a row of taps
        ((2, 2), (90, 100), 1),  # read from memory
    ],
)
def test_direct_convolutions_have_windows_of_any_reach(kernel, stride, dilation, layout, emulator):
    sizes = (170, 190) if kernel == (2, 2) else (45, 65)
    x = random_maps(layout, 3, sizes, "int32")
    w = random_values((3, 1, *kernel), "int32")
    same_as_numpy(
        emulator,
        gpuconv.conv2d,
        x,
        w,
        **{"groups": 3, "stride": stride, "dilation": dilation, "layout": layout},
        **{"padding": 5, "padding_mode": "reflect"},
    )


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 1), (1, 1, 40), (5, 40, 3), (2, 3, 130)])
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_maps_of_any_shape(shape, algorithm, emulator):
    x, w = random_values((2, 4, *shape), "int8"), random_values((8, 2, 3, 3, 3), "uint8")
    for border in ("wrap", "symmetric"):
        same_as_numpy(
            emulator,
            gpuconv.conv3d,
            x,
            w,
            **{"groups": 2, "padding": 4, "padding_mode": border, "stride": (1, 2, 1)},
            algorithm=algorithm,
        )


@pytest.mark.emulator
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_transposed_convolution_leaves_taps_outside_out(layout, groups, emulator):
    """An infinite weight is not multiplied by what is not there."""
    x, w = (
        random_maps(layout, 4, (5, 70), "float32"),
        random_values((4, 4 // groups, 3, 4), "float32"),
    )
    w = w.copy()
    w[1, 0, 2, 3] = np.inf
    arguments = {"stride": (1, 2), "padding": 1, "groups": groups, "layout": layout}
    result = gpuconv.conv_transpose2d(x, w, backend=emulator, **arguments)
    expected = reference.conv_transpose(x, w, **arguments)
    finite = np.isfinite(expected)
    assert np.sum(~finite) > 0
    assert np.sum(finite) > 0
    np.testing.assert_array_equal(result[~finite], expected[~finite])
    np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-5, atol=1e-5)


@pytest.mark.emulator
@pytest.mark.parametrize("algorithm", ["gemm", "direct"])
def test_every_activation_in_every_float(algorithm, emulator):
    for dtype in ("float16", "float64"):
        x, w = random_values((1, 2, 5, 6), dtype), random_values((4, 1, 3, 3), dtype)
        for activation in (*gpuconv.plan.conv.ACTIVATIONS, (-0.5, 0.75)):
            named = {"groups": 2, "activation": activation, "algorithm": algorithm}
            result = gpuconv.conv2d(x, w, backend=emulator, **named)
            expected = reference.conv(x, w, groups=2, activation=activation)
            bound = 2 * reference.bound(x, w, groups=2) + 8 * reference.EPSILON[dtype]
            assert_within(result, expected, bound, dtype)


@pytest.mark.emulator
def test_calls_launch_what_was_told():
    emulator = EmulatorBackend()
    x, w = random_values((1, 4, 6, 6), "float32"), random_values((4, 4, 3, 3), "float32")
    with gpuconv.use_backend(emulator):
        gpuconv.conv2d(x, w)
        gpuconv.conv2d(x, w[:, :1], groups=4)
        gpuconv.conv_transpose2d(x, w, stride=2)
    assert emulator.launches == {"conv_gemm": 1 + 4, "conv_direct": 1}
