"""The dispatcher: who carries out a call, and what comes back."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest

import gpuconv
from gpuconv import filters
from gpuconv.backends import resolve
from gpuconv.backends.cuda.cupy_launcher import Status, probe
from gpuconv.backends.numpy import NumpyBackend

IMAGE = np.arange(48, dtype=np.float32).reshape(6, 8)


class Recorder(NumpyBackend):
    """A backend instance that counts its runs."""

    name = "recorder"

    def __init__(self) -> None:
        self.plans = []

    def run(self, plan, inputs, outputs):
        self.plans.append(plan)
        super().run(plan, inputs, outputs)


class FakeDeviceArray:
    """An array that says it lives on a CUDA device."""

    shape, dtype = (6, 8), np.dtype(np.float32)

    @property
    def __cuda_array_interface__(self):
        return {"version": 3}


def test_resolve_auto_picks_numpy_where_cuda_is_not_usable():
    assert resolve("auto", [IMAGE]).name == ("cuda" if probe().available else "numpy")


@pytest.mark.skipif(probe().available, reason="CUDA works here")
def test_named_cuda_never_falls_back():
    with pytest.raises(
        gpuconv.BackendUnavailableError, match=r"'cuda' is not available: .*; "
    ) as e:
        filters.box_blur(IMAGE, 3, backend="cuda")
    assert e.value.reason
    assert e.value.remedy


@pytest.mark.skipif(probe().available, reason="CUDA works here")
def test_device_arrays_are_not_computed_on_the_host():
    with pytest.raises(gpuconv.BackendUnavailableError):
        filters.box_blur(FakeDeviceArray(), 3)
    with pytest.raises(gpuconv.BackendUnavailableError, match="lives on a CUDA device"):
        filters.box_blur(FakeDeviceArray(), 3, backend="numpy")


@pytest.mark.parametrize("bad", ["cupy", "", 3, object()])
def test_unknown_backend_is_a_value_error(bad):
    with pytest.raises(ValueError, match=r"^backend must be one of auto, cuda, numpy .*, got "):
        filters.box_blur(IMAGE, 3, backend=bad)
    with (
        pytest.raises(ValueError, match=r"^backend must be"),
        gpuconv.use_backend(bad),
    ):
        pass


def test_backend_argument_takes_an_instance():
    recorder = Recorder()
    result = filters.box_blur(IMAGE, 3, backend=recorder)
    assert len(recorder.plans) == 1
    assert np.array_equal(result, filters.box_blur(IMAGE, 3))


def test_use_backend_holds_inside_its_block_and_nests():
    outer, inner = Recorder(), Recorder()
    with gpuconv.use_backend(outer):
        filters.box_blur(IMAGE, 3)
        with gpuconv.use_backend(inner):
            filters.box_blur(IMAGE, 3)
            filters.box_blur(IMAGE, 3, backend="numpy")
        with pytest.raises(ZeroDivisionError), gpuconv.use_backend(inner):
            raise ZeroDivisionError
        filters.box_blur(IMAGE, 3)
    filters.box_blur(IMAGE, 3)
    assert (len(outer.plans), len(inner.plans)) == (2, 1)


def test_use_backend_is_the_threads_own():
    recorder, seen = Recorder(), []
    with gpuconv.use_backend(recorder):
        thread = threading.Thread(target=lambda: seen.append(resolve(None, [IMAGE]).name))
        thread.start()
        thread.join()
    assert seen == [resolve("auto", [IMAGE]).name]


def test_environment_sets_the_default(monkeypatch):
    monkeypatch.setenv("GPUCONV_BACKEND", "numpy")
    assert resolve(None, [IMAGE]).name == "numpy"
    monkeypatch.setenv("GPUCONV_BACKEND", "nonsense")
    with pytest.raises(ValueError, match=r"^GPUCONV_BACKEND must be one of .*, got 'nonsense'"):
        filters.box_blur(IMAGE, 3)


def test_info_tells_what_auto_picks_and_why():
    info = gpuconv.info()
    assert info["version"] == gpuconv.__version__
    assert info["auto"]["backend"] in {"numpy", "cuda"}
    assert info["auto"]["why"]
    for backend in info["backends"]:
        assert backend["available"] or (backend["reason"] and backend["remedy"])


def test_status_is_looked_up_once():
    assert isinstance(probe(), Status)
    assert probe() is probe()


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**__import__("os").environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_cupy_without_a_driver_is_told_with_its_remedy():
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed: .ci/cupy runs this in a venv that has it")
    if probe().available:
        pytest.skip("a CUDA device works here")
    assert "no CUDA driver" in probe().reason
    assert filters.box_blur(IMAGE, 3).shape == IMAGE.shape


def test_a_broken_cupy_is_a_reason_and_no_crash(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcuda is missing\\nlong story')")
    code = (
        "import gpuconv, numpy; a = numpy.ones((4, 4));"
        "gpuconv.filters.box_blur(a, 3); print(gpuconv.info()['backends'][0]['reason'])"
    )
    reason = run_python(code, PYTHONPATH=f"{tmp_path}")
    assert reason == "CuPy cannot be imported (libcuda is missing)"


def test_cupy_is_not_imported_with_gpuconv(tmp_path):
    (tmp_path / "cupy.py").write_text("raise SystemExit('imported')")
    assert run_python("import gpuconv; print('fine')", PYTHONPATH=f"{tmp_path}") == "fine"


def test_numpy_scalars_in_arrays_keep_byte_order_and_type():
    swapped = IMAGE.astype(IMAGE.dtype.newbyteorder())
    result = filters.box_blur(swapped, 3)
    assert result.dtype.isnative
    assert np.array_equal(result, filters.box_blur(IMAGE, 3))


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.arange(48, dtype=torch.float32).reshape(6, 8)
    result = filters.box_blur(tensor, 3)
    assert isinstance(result, torch.Tensor)
    assert np.array_equal(result.numpy(), filters.box_blur(tensor.numpy(), 3))
    out = torch.empty_like(tensor)
    assert filters.box_blur(tensor, 3, out=out) is out
    assert torch.equal(out, result)


def test_torch_bfloat16_is_rounded_once():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.arange(48, dtype=torch.float32).reshape(1, 1, 6, 8).to(torch.bfloat16)
    weight = torch.full((1, 1, 3, 3), 1 / 9).to(torch.bfloat16)
    result = gpuconv.conv2d(tensor, weight)
    assert result.dtype == torch.bfloat16
    expected = gpuconv.conv2d(tensor.float().numpy(), weight.float().numpy())
    assert torch.equal(result, torch.from_numpy(expected).to(torch.bfloat16))
    out = torch.empty_like(result)
    assert gpuconv.conv2d(tensor, weight, out=out) is out
    assert torch.equal(out, result)


def test_torch_bfloat16_gives_the_dtype_asked_for():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensor = (torch.arange(48.0) / 7).reshape(1, 1, 6, 8).to(torch.bfloat16)
    weight = torch.full((1, 1, 3, 3), 1 / 9).to(torch.bfloat16)
    for name in ("float32", "float16", "float64", "bfloat16"):
        dtype = ml_dtypes.bfloat16 if name == "bfloat16" else name
        wide = filters.gaussian_blur(tensor.float().numpy(), 1, out_dtype=dtype)
        for result in (
            filters.gaussian_blur(tensor, 1, out_dtype=dtype),
            filters.gaussian_blur([tensor], 1, out_dtype=dtype)[0],
        ):
            assert result.dtype == getattr(torch, name)
            np.testing.assert_array_equal(result.double().numpy(), wide.astype(np.float64))
        assert gpuconv.conv2d(tensor, weight, out_dtype=dtype).dtype == getattr(torch, name)
        assert gpuconv.conv2d_pool2d(tensor, weight, out_dtype=dtype).dtype == getattr(torch, name)


def test_torch_negative_views_keep_their_sign():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.complex(torch.zeros(6, 8), torch.arange(48.0).reshape(6, 8)).conj().imag
    assert tensor.is_neg()
    expected = filters.box_blur(tensor.resolve_neg(), 3)
    assert torch.equal(filters.box_blur(tensor, 3), expected)
    assert torch.equal(filters.filter2d(tensor, torch.ones(3, 3)).sign(), expected.sign())
    with pytest.raises(TypeError, match=r"^out must be an array, got a negative view"):
        filters.box_blur(expected, 3, out=tensor)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_outputs_may_not_lie_in_images_read_later(dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    first, second, third = torch.ones(3, 6, 6, dtype=getattr(torch, dtype)).unbind()
    for call in (
        lambda: filters.box_blur([first, second], 3, out=[second, third]),
        lambda: gpuconv.Pipeline("box_blur:size=3")([first, second], out=[second, third]),
    ):
        with pytest.raises(ValueError, match=r"^out must not share memory with images, got"):
            call()


def test_torch_that_requires_a_gradient_is_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    image, out = torch.ones(4, 4, requires_grad=True), torch.empty(4, 4)
    for call in (
        lambda: filters.box_blur(image, 3),
        lambda: filters.box_blur([image], 3, out=[out]),
        lambda: gpuconv.Pipeline("box_blur:size=3", "sobel")(image, out=out),
    ):
        with pytest.raises(TypeError, match=r"^images must not require a gradient, .*detach"):
            call()


def test_torch_parameters_serve_where_no_gradients_are_recorded():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = torch.nn.Conv2d(2, 3, 3)
    maps = torch.arange(50.0).reshape(1, 2, 5, 5)
    for dtype in (torch.float32, torch.bfloat16):
        weights = layer.to(dtype).weight, layer.bias
        expected = gpuconv.conv2d(maps.to(dtype), *(w.detach() for w in weights))
        for off in (torch.no_grad(), torch.inference_mode()):
            with off:
                result = gpuconv.conv2d(maps.to(dtype), *weights)
            assert torch.equal(result, expected)
            assert not result.requires_grad


def test_jax_in_jax_out():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    array = jax.numpy.asarray(IMAGE)
    result = filters.box_blur(array, 3)
    assert isinstance(result, jax.Array)
    assert np.array_equal(np.asarray(result), filters.box_blur(IMAGE, 3))


class Speaker:
    """An array of a library that speaks DLPack and nothing else."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __array_namespace__(self):
        return self

    def from_dlpack(self, other):
        return Speaker(np.from_dlpack(other))


def test_dlpack_in_the_same_library_out():
    result = filters.box_blur(Speaker(IMAGE), 3)
    assert isinstance(result, Speaker)
    assert np.array_equal(result.array, filters.box_blur(IMAGE, 3))


def test_out_must_be_an_array_that_fits():
    with pytest.raises(ValueError, match=r"^out must have shape \(6, 8\), got \(6, 7\)"):
        filters.box_blur(IMAGE, 3, out=np.empty((6, 7), np.float32))
    with pytest.raises(ValueError, match=r"^out must have dtype float32, got float64"):
        filters.box_blur(IMAGE, 3, out=np.empty((6, 8)))
    image = IMAGE.copy()
    with pytest.raises(ValueError, match=r"^out must not share memory with "):
        filters.box_blur(image, 3, out=image)
    frozen = np.empty_like(IMAGE)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match=r"^out must be writeable, got "):
        filters.box_blur(IMAGE, 3, out=frozen)
