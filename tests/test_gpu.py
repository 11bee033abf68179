"""What only a device can show: the same answers as the emulator, streams, graphs, full memory."""

from __future__ import annotations

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.arrays import library
from gpuconv.errors import DeviceMemoryError
from tests.cuda_cases import every_call
from tests.image_cases import dtype_of, is_integer

pytestmark = pytest.mark.gpu

CALLS = every_call()
RNG = np.random.default_rng(11)
IMAGES = RNG.integers(0, 256, (3, 301, 411), np.uint8)
MAPS = RNG.normal(size=(2, 8, 60, 77)).astype(np.float32)
WEIGHTS = RNG.normal(size=(16, 8, 3, 3)).astype(np.float32)

ULPS = 4
"""Last places by which exp, tanh and their like may differ between CUDA and the C library."""


@pytest.mark.parametrize("name", CALLS)
def test_the_emulator_computes_what_the_device_does(cupy, emulator, name):
    with gpuconv.use_backend(emulator):
        emulated = CALLS[name]()
    with gpuconv.use_backend("cuda"):
        computed = CALLS[name]()
    several = isinstance(emulated, tuple)
    for one, other in zip(*((r if several else (r,)) for r in (emulated, computed)), strict=True):
        assert one.dtype == other.dtype
        if is_integer(one.dtype):
            np.testing.assert_array_equal(other, one)
        else:
            step = np.finfo(one.dtype).eps if one.dtype.name != "bfloat16" else 2**-7
            wide = [a.astype(np.float64) for a in (other, one)]
            np.testing.assert_allclose(*wide, rtol=ULPS * float(step), atol=1e-30)


def test_cupy_in_cupy_out_and_nothing_is_copied_back(cupy):
    device = cupy.asarray(IMAGES)
    result = filters.gaussian_blur(device, 2)
    assert library(result) == "cupy"
    expected = filters.gaussian_blur(IMAGES, 2, backend="numpy")
    np.testing.assert_array_equal(result.get(), expected)
    flipped = filters.gaussian_blur(device[:, ::-1, ::2], 2)
    again = filters.gaussian_blur(IMAGES[:, ::-1, ::2], 2, backend="numpy")
    np.testing.assert_array_equal(flipped.get(), again)


def test_a_stream_of_cupy_is_used_and_not_waited_for(cupy):
    device = cupy.asarray(IMAGES)
    expected = filters.median_blur(IMAGES, 15, backend="numpy")
    large = cupy.zeros((64, 2160, 3840), np.uint8)
    filters.median_blur(device, 15)  # compiles
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        done = cupy.cuda.Event()
        filters.median_blur(large, 15)
        result = filters.median_blur(device, 15)
        done.record(stream)
        waiting = not done.done
    stream.synchronize()
    assert waiting
    np.testing.assert_array_equal(result.get(), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
def test_torch_tensors_stay_torchs_on_their_current_stream(cupy, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind = getattr(torch, dtype)
    with torch.cuda.stream(torch.cuda.Stream()):
        tensor = torch.arange(2 * 3 * 40 * 50, device="cuda").reshape(2, 3, 40, 50) % 101
        tensor = tensor.to(kind)
        result = gpuconv.max_pool2d(tensor, 3, 2, padding=1)
        expected = torch.nn.functional.max_pool2d(tensor.float(), 3, 2, padding=1).to(kind)
        out = torch.empty_like(result)
        assert gpuconv.max_pool2d(tensor, 3, 2, padding=1, out=out) is out
        assert torch.equal(result, expected)
        assert torch.equal(out, expected)
    assert result.device == tensor.device
    assert result.dtype == kind


@pytest.mark.parametrize(
    "call",
    [
        lambda x: filters.gaussian_blur(x, 2),
        lambda x: filters.filter2d(x, np.random.default_rng(1).normal(size=(11, 9))),
        lambda x: filters.median_blur(x, 5),
        lambda x: filters.morph_open(x, 7),
        lambda x: gpuconv.max_pool2d(x, 2),
    ],
)
def test_calls_can_be_captured_in_a_graph(cupy, call):
    device = cupy.asarray(IMAGES.astype(np.float32))
    expected = call(device).get()  # the warm-up
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        result = call(device)
        graph = stream.end_capture()
        device[...] = cupy.asarray(IMAGES.astype(np.float32)[::-1])
        graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(result.get(), expected[::-1])


def test_a_full_device_is_told_and_host_arrays_still_pass(cupy):
    huge = cupy.broadcast_to(cupy.zeros((1, 1), np.float32), (1 << 20, 1 << 20))
    with pytest.raises(DeviceMemoryError, match=r"has no room for \d+ more bytes .* are free"):
        filters.box_blur(huge, 3)
    assert filters.box_blur(IMAGES, 3, backend="cuda").shape == IMAGES.shape


@pytest.mark.parametrize("size", [(7, 9), (15, 15), (31, 31), (40, 33)])
@pytest.mark.parametrize("channel_axis", [None, -1])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_tensor_cores_compute_what_numpy_does(cupy, dtype, channel_axis, size, rng):
    # What `gpuconv.plan.gpu.PROVEN` waits for, with the calls above that ask for tensor cores.
    images = IMAGES.astype(dtype) if channel_axis is None else IMAGES[..., :3].astype(dtype)
    kernel = rng.normal(size=size) + 0.3
    kernel /= np.abs(kernel).sum()
    keywords = {"channel_axis": channel_axis, "border": "wrap"}
    given = {"algorithm": "tensor", "precision": "tf32" if dtype == "float32" else "ieee"}
    result = filters.filter2d(cupy.asarray(images), kernel, **given, **keywords).get()
    if dtype == "uint8":
        expected = filters.filter2d(images, kernel, **keywords, backend="numpy")
        np.testing.assert_array_equal(result, expected)
        return
    expected = filters.filter2d(images.astype(np.float64), kernel, **keywords, backend="numpy")
    # Σ|w| is 1, pixels are below 256; float16 rounds its result, tf32 each product.
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=256 * 2.0**-10)


@pytest.mark.parametrize("size", [(5, 9), (17, 17), (33, 25)])
@pytest.mark.parametrize("channels", [None, 3])
def test_separable_kernels_on_tensor_cores_are_exact(cupy, channels, size, rng):
    images = IMAGES.astype(np.uint8)[..., : IMAGES.shape[-1] // 16 * 16]
    if channels:
        images = np.ascontiguousarray(np.broadcast_to(images[..., None], (*images.shape, channels)))
    column, row = (rng.random(n) / n for n in size)
    keywords = {"channel_axis": -1 if channels else None, "border": "symmetric"}
    device = cupy.asarray(images)
    result = filters.separable_filter2d(device, column, row, algorithm="tensor", **keywords)
    expected = filters.separable_filter2d(images, column, row, **keywords, backend="numpy")
    np.testing.assert_array_equal(result.get(), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [(5, 9), (17, 17), (33, 25)])
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.usefixtures("cupy")
def test_separable_kernels_of_floats_on_tensor_cores(channels, size, dtype, rng):
    images = IMAGES[..., : IMAGES.shape[-1] // 16 * 16].astype(dtype_of(dtype))
    images[:, 20, 30], images[:, 40, 7] = np.nan, -np.inf
    if channels:
        images = np.ascontiguousarray(np.broadcast_to(images[..., None], (*images.shape, channels)))
    column, row = (rng.normal(size=n) / n for n in size)
    keywords = {"channel_axis": -1 if channels else None, "border": "symmetric"}
    given = keywords | {"algorithm": "tensor", "backend": "cuda"}
    result = filters.separable_filter2d(images, column, row, **given)
    wide = images.astype(np.float64)
    expected = filters.separable_filter2d(wide, column, row, **keywords, backend="numpy")
    # Pixels are below 256, Σ|w| about 1; an eighth of the type's own step is more than enough.
    step = 2.0**-11 if dtype == "float16" else 2.0**-8
    np.testing.assert_allclose(
        result.astype(np.float64), expected, rtol=1.01 * step, atol=256 * step / 8
    )


@pytest.mark.parametrize("size", [12, 31])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_long_strips_on_tensor_cores_are_like_short_ones(cupy, dtype, size, rng):
    image = cupy.asarray(IMAGES[0, :, : IMAGES.shape[-1] // 16 * 16].astype(dtype))
    column, row = (rng.random(n) / n for n in (size, 7))
    short = filters.separable_filter2d(image, column, row, algorithm="tensor")
    many = cupy.repeat(image[None], 150, axis=0)  # strips of one image have 16 rows
    long = filters.separable_filter2d(many, column, row, algorithm="tensor")
    assert bool((long == short).all())


def test_arrays_of_more_than_2_31_elements(cupy):
    height, width = 46_500, 47_000
    device = cupy.arange(height * width, dtype=cupy.uint64).astype(cupy.uint8)
    device = device.reshape(height, width)
    result = filters.gaussian_blur(device, 1)
    for rows in (slice(0, 40), slice(height - 40, height)):
        part = device[rows].get()
        expected = filters.gaussian_blur(part, 1, backend="numpy")
        inner = slice(0, 30) if rows.start == 0 else slice(10, 40)
        np.testing.assert_array_equal(result[rows][inner].get(), expected[inner])


def test_more_planes_than_a_grid_is_high(cupy):
    device = cupy.arange(70_000 * 12, dtype=cupy.uint8).reshape(70_000, 3, 4)
    expected = filters.median_blur(device.get(), 3, backend="numpy")
    np.testing.assert_array_equal(filters.median_blur(device, 3).get(), expected)
    pooled = gpuconv.max_pool2d(device[:, None], (2, 2))
    np.testing.assert_array_equal(
        pooled.get(), gpuconv.max_pool2d(device.get()[:, None], (2, 2), backend="numpy")
    )


def test_every_device_computes_its_own_arrays(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    expected = gpuconv.conv2d(MAPS, WEIGHTS, backend="numpy")
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(number):
            x, w = cupy.asarray(MAPS), cupy.asarray(WEIGHTS)
        result = gpuconv.conv2d(x, w)
        assert result.device.id == number
        np.testing.assert_allclose(result.get(), expected, rtol=1e-4, atol=1e-4)
    with cupy.cuda.Device(0):
        other = cupy.asarray(MAPS)
    with pytest.raises(ValueError, match=r"^weight must live on CUDA device 0"):
        gpuconv.conv2d(other, w)


def test_a_named_backend_is_the_device(cupy):
    assert gpuconv.info()["auto"]["backend"] == "cuda"
    result = gpuconv.conv2d(MAPS, WEIGHTS, padding=1)
    assert type(result) is np.ndarray
    expected = gpuconv.conv2d(MAPS, WEIGHTS, padding=1, backend="numpy")
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_lanes_carry_many_images_at_a_time(cupy, rng):
    images = [rng.integers(0, 256, (200 + i, 300), np.uint8) for i in range(24)]
    steps = gpuconv.Pipeline("gaussian_blur:sigma=2", "median_blur:size=5", "sobel")
    results = [None] * len(images)
    done = gpuconv.stream(steps, images, results, backend="cuda", jobs=6)
    assert [outcome.status for outcome in done] == ["done"] * len(images)
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, steps(image, backend="numpy"))


def test_lanes_keep_their_streams(cupy):
    backend = gpuconv.backends.resolve("cuda", [])
    streams = set()
    for _ in range(4):
        with backend.lane() as lane:
            streams.add(cupy.cuda.get_current_stream().ptr)
            device = lane.upload(IMAGES)
            assert isinstance(device, cupy.ndarray)
            np.testing.assert_array_equal(lane.download(device), IMAGES)
    assert len(streams) == 1
    assert cupy.cuda.Stream.null.ptr not in streams


@pytest.mark.parametrize("border", ["reflect", "wrap", "constant"])
def test_tiles_on_the_device_are_the_whole(cupy, border):
    steps = gpuconv.Pipeline(f"box_blur:size=7,border={border}", "max_pool2d:kernel_size=2")
    found = gpuconv.apply_tiled(steps, IMAGES, backend="cuda", tile=37)
    np.testing.assert_array_equal(found, steps(IMAGES, backend="numpy"))


def test_chunks_of_cupy_stay_on_the_device(cupy):
    da = pytest.importorskip("dask.array", reason="Dask is not installed")
    source = da.from_array(cupy.asarray(IMAGES[0]), chunks=(90, 128), asarray=False)
    mapped = gpuconv.scale.map("gaussian_blur:sigma=3,border=wrap", source)
    result = mapped.compute(scheduler="synchronous")
    assert isinstance(result, cupy.ndarray)
    expected = filters.gaussian_blur(IMAGES[0], 3, border="wrap", backend="numpy")
    np.testing.assert_array_equal(result.get(), expected)
