"""The CuPy launcher over a CuPy whose device is the emulator."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.arrays import shares_memory
from gpuconv.backends.cuda import CudaBackend
from gpuconv.backends.cuda.cupy_launcher import CupyLauncher
from gpuconv.errors import DeviceMemoryError, KernelError
from tests import fake_cupy
from tests.cuda_cases import assert_same, every_call
from tests.emulator import EmulatorBackend

IMAGES = np.random.default_rng(5).integers(0, 256, (2, 37, 45), np.uint8)
pytestmark = pytest.mark.emulator


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setattr(fake_cupy.RawModule, "failure", None)
    return CudaBackend(CupyLauncher())


def test_the_fake_has_no_name_that_cupy_lacks():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: .ci/cupy runs this")
    for name, value in vars(fake_cupy.cuda).items():
        real = getattr(cupy.cuda, name)
        inner = vars(value) if isinstance(value, SimpleNamespace) else ()
        assert [n for n in inner if not hasattr(real, n)] == []
    for name in ("ndarray", "empty", "asarray", "from_dlpack", "RawModule", "is_available"):
        assert hasattr(cupy, name)
    own = [n for n in vars(fake_cupy.ndarray) if not n.startswith("_")]
    assert [n for n in own if not hasattr(cupy.ndarray, n)] == []


def test_device_arrays_stay_on_the_device(backend):
    device = fake_cupy.asarray(IMAGES)
    result = filters.median_blur(device, 3, backend=backend)
    assert isinstance(result, fake_cupy.ndarray)
    expected = filters.median_blur(IMAGES, 3, backend="numpy")
    np.testing.assert_array_equal(result.get(), expected)
    out = fake_cupy.empty(IMAGES.shape, np.uint8)
    assert filters.median_blur(device[:, ::-1], 3, out=out, backend=backend) is out
    np.testing.assert_array_equal(out.get(), expected[:, ::-1])


def test_host_arrays_come_back_as_host_arrays(backend):
    result = filters.median_blur(IMAGES, 3, backend=backend)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, filters.median_blur(IMAGES, 3, backend="numpy"))


def test_every_kind_of_call_passes_through_the_launcher(backend):
    for name, call in every_call().items():
        with gpuconv.use_backend(backend):
            result = call()
        with gpuconv.use_backend(EmulatorBackend()):
            expected = call()
        try:
            assert_same(result, expected)
        except AssertionError as error:
            error.add_note(name)
            raise


def test_a_kernel_is_compiled_once(backend):
    made = fake_cupy.RawModule.made
    for size in (IMAGES, IMAGES[:, :9], IMAGES[0]):
        filters.rank_filter(size, 1, 2, backend=backend)
    assert fake_cupy.RawModule.made == made + 1


def test_weights_are_uploaded_once(backend):
    launcher = backend.launcher
    weights = np.arange(9, dtype=np.float32)
    assert launcher.constant(weights) is launcher.constant(weights.copy())
    assert launcher.constant(weights) is not launcher.constant(weights.reshape(3, 3))
    for number in range(400):
        launcher.constant(np.array([number]))
    assert launcher.constant(weights).shape == (9,)
    assert len(launcher._constants) <= 256


def test_a_full_device_is_told_with_size_and_remedy(backend):
    image = np.zeros((1, 1), np.uint8)
    huge = np.broadcast_to(image, (1 << 14, 1 << 14))
    device = fake_cupy.ndarray(huge)
    with pytest.raises(DeviceMemoryError, match=r"no room for 268435456 more bytes .*numpy"):
        filters.median_blur(device, 3, backend=backend)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (fake_cupy.CompileException("rank.cu(3): error: x"), r"does not compile .*report this"),
        (
            fake_cupy.CompileException("could not open source file cuda_fp16.h"),
            r"does not compile .*pip install 'gpuconv\[cuda12\]'",
        ),
        (fake_cupy.CUDADriverError("CUDA_ERROR_UNKNOWN"), r"cannot be launched .*nvidia-smi"),
        (RuntimeError("CUDA_PATH is not set"), r"install CUDA's headers"),
    ],
)
def test_failures_tell_kernel_plan_and_remedy(backend, monkeypatch, failure, told):
    monkeypatch.setattr(fake_cupy.RawModule, "failure", failure)
    with pytest.raises(KernelError, match=told) as caught:
        filters.rank_filter(IMAGES, 1, 2, backend=backend)
    assert "rank.cu: rank_any<uint8, uint8, uint8>" in str(caught.value)
    assert "RankPlan(uint8 (2, 37, 45)" in str(caught.value)
    assert str(failure) in str(caught.value)


def test_out_lives_where_the_input_does(backend):
    device = fake_cupy.asarray(IMAGES)
    with pytest.raises(ValueError, match=r"^out must live where images does, got one on the host"):
        filters.median_blur(device, 3, out=np.empty_like(IMAGES), backend=backend)
    with pytest.raises(ValueError, match=r"^out must live where .* got one on a CUDA device"):
        filters.median_blur(IMAGES, 3, out=device, backend=backend)
    with pytest.raises(ValueError, match=r"^out must not share memory with images"):
        filters.median_blur(device, 3, out=device, backend=backend)


def test_shares_memory_follows_the_strides_of_device_arrays():
    array = fake_cupy.asarray(IMAGES)
    assert shares_memory(array, array[:, 3:])
    assert not shares_memory(array[..., ::2], array[..., 1::2])
    assert not shares_memory(array, IMAGES)


def test_arrays_of_two_devices_do_not_mix(backend, monkeypatch):
    x = fake_cupy.asarray(np.ones((1, 1, 5, 5), np.float32))
    w = fake_cupy.asarray(np.ones((1, 1, 3, 3), np.float32))
    w.device = fake_cupy.Device(1)
    with pytest.raises(ValueError, match=r"^weight must live on CUDA device 0, got "):
        gpuconv.conv2d(x, w, backend=backend)


def test_weights_of_filters_may_live_on_the_device(backend):
    from gpuconv.plan.filters import plan_filter

    common = {"border": "reflect", "value": 0, "channel_axis": None, "out_dtype": None}
    kernel = np.arange(9.0).reshape(3, 3)
    plan = plan_filter(IMAGES, fake_cupy.asarray(kernel), **common)
    assert plan == plan_filter(IMAGES, kernel, **common)


def test_lanes_reuse_their_streams_and_carry_images_both_ways(backend):
    made = fake_cupy.Stream.made
    for _ in range(3):
        with backend.lane(0) as lane:
            device = lane.upload(IMAGES[:, ::-1])
            assert isinstance(device, fake_cupy.ndarray)
            result = lane.download(filters.median_blur(device, 3, backend=backend))
            assert type(result) is np.ndarray
            expected = filters.median_blur(IMAGES[:, ::-1], 3, backend="numpy")
            np.testing.assert_array_equal(result, expected)
    assert fake_cupy.Stream.made == made + 1


def test_lanes_refuse_a_device_that_is_not_there(backend):
    with pytest.raises(ValueError, match=r"device must be one of 0 to 0, got 3"):
        backend.lane(3).__enter__()


def test_a_stream_of_images_passes_through_the_device(backend):
    results = [None] * 4
    images = [IMAGES, IMAGES[0], IMAGES.astype(np.float32), IMAGES[:, :9]]
    pipeline = gpuconv.Pipeline("median_blur:size=3", "max_pool2d:kernel_size=2")
    done = gpuconv.stream(pipeline, images, results, backend=backend, jobs=2)
    assert [outcome.status for outcome in done] == ["done"] * 4
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, pipeline(image, backend="numpy"))


def test_an_image_that_the_device_has_no_room_for_passes_in_pieces(backend, monkeypatch):
    monkeypatch.setattr(fake_cupy, "DEVICE_BYTES", IMAGES.nbytes - 1)
    monkeypatch.setattr(backend, "_piece_bytes", IMAGES.nbytes // 2)
    results = {}
    (done,) = gpuconv.stream("box_blur:size=3", [IMAGES], results, backend=backend)
    assert done.status == "done"
    expected = filters.box_blur(IMAGES, 3, backend="numpy")
    np.testing.assert_array_equal(results[0], expected)


def test_tiles_pass_through_the_device(backend):
    pipeline = gpuconv.Pipeline("median_blur:size=3,border=wrap", "avg_pool2d:kernel_size=2")
    result = gpuconv.apply_tiled(pipeline, IMAGES, backend=backend, tile=7)
    np.testing.assert_array_equal(result, pipeline(IMAGES, backend="numpy"))
