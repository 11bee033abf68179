"""CuPy: the device, its memory and its compiler. The only room that imports it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv.arrays import library, on_device, resolved, without_gradient
from gpuconv.backends.cuda.launch import SHARED_BYTES, DeviceArray, Launch, Place, Variant
from gpuconv.backends.cuda.source import digest, kernels_folder
from gpuconv.dtypes import DType
from gpuconv.errors import DeviceMemoryError, KernelError
from gpuconv.plan import Plan

OPTIONS = ("-std=c++17", "-fmad=false", "--device-int128")
"""As bench/nvrtc.py has them; CuPy adds -ftz=true and the architecture."""

CONSTANTS = 256
"""Small arrays of weights that stay on a device."""


HERE = nullcontext()
"""The current device and stream."""


@dataclass(frozen=True, slots=True)
class Status:
    """Whether CUDA can be used; if not, the reason and the remedy."""

    available: bool
    reason: str = ""
    remedy: str = ""
    devices: tuple[str, ...] = ()


@cache
def probe() -> Status:
    """Look for CuPy, a driver and a device. Looked up once a process."""
    if find_spec("cupy") is None:
        return Status(
            False, "CuPy is not installed", "install it with: pip install 'gpuconv[cuda12]'"
        )
    try:
        import cupy

        usable = bool(cupy.is_available())
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Status(
            False,
            f"CuPy cannot be imported ({first})",
            "reinstall it with: pip install --force-reinstall 'gpuconv[cuda12]'",
        )
    if not usable:
        return Status(
            False,
            "CuPy finds no CUDA driver or no device",
            "install an NVIDIA driver (nvidia-smi must list a device) or use backend='numpy'",
        )
    devices = tuple(
        cupy.cuda.runtime.getDeviceProperties(i)["name"].decode()
        for i in range(cupy.cuda.runtime.getDeviceCount())
    )
    return Status(True, devices=devices)


class CupyLane:
    """Copies between host and device on the current stream, through pinned memory.

    Other threads' kernels run meanwhile. CuPy's pool keeps the pinned buffers for the next image.
    """

    def __init__(self, launcher: CupyLauncher, cupy: Any) -> None:
        self._launcher = launcher
        self._cupy = cupy
        self._going_up: list[npt.NDArray[Any]] = []

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """A copy on the device. Does not wait for it."""
        staged = self._pinned(array.shape, array.dtype)
        np.copyto(staged, array)
        device = self._launcher.empty(array.shape, array.dtype)
        device.set(staged)
        self._going_up.append(staged)
        return device

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """A copy in pinned memory, once all work on this stream is done."""
        if not self._launcher.owns(array):
            return np.asarray(array)
        result = self._pinned(array.shape, array.dtype)
        array.get(out=result)
        self._cupy.cuda.get_current_stream().synchronize()
        self._going_up.clear()
        return result

    def _pinned(self, shape: Sequence[int], dtype: DType) -> npt.NDArray[Any]:
        count = int(np.prod(shape, dtype=np.int64))
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
        return np.frombuffer(memory, dtype, count).reshape(tuple(shape))


@dataclass(frozen=True, slots=True)
class Ready:
    """A launch whose kernel is compiled for the device, but for its arrays.

    places : (number of an argument, number of its array, bytes from there).
    """

    kernel: Any
    arguments: list[Any]
    places: tuple[tuple[int, int, int], ...]
    launch: Launch


class CupyLauncher:
    """Runs launches on CuPy's current device and stream."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._kernels: dict[tuple[int, Variant], Any] = {}
        self._shared_bytes: dict[tuple[int, Variant], int] = {}
        self._constants: OrderedDict[tuple[Any, ...], DeviceArray] = OrderedDict()
        self._streams: dict[int, list[Any]] = {}

    def owns(self, array: Any) -> bool:
        """Whether it is a CuPy array."""
        return isinstance(array, self._cupy.ndarray)

    def adopt(self, argument: str, array: Any) -> DeviceArray:
        """An array on a CUDA device, of CuPy or any library that speaks DLPack, as CuPy's."""
        if not self.owns(array):
            array = self._view(resolved(argument, without_gradient(argument, array)))
        here = self._cupy.cuda.runtime.getDevice()
        if array.device.id != here:
            raise ValueError(f"{argument} must live on CUDA device {here}, got {array.device}")
        return array

    def _view(self, array: Any) -> DeviceArray:
        if library(array) == "torch" and str(array.dtype) == "torch.bfloat16":
            import torch
            from ml_dtypes import bfloat16

            return self._cupy.from_dlpack(array.view(torch.int16)).view(bfloat16)
        if hasattr(array, "__dlpack__"):
            return self._cupy.from_dlpack(array)
        return self._cupy.asarray(array)

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        """The array's device, and for PyTorch its current stream there; CuPy keeps its own."""
        if self.owns(array):
            device = array.device.id
        elif not on_device(array):
            return HERE
        elif library(array) == "torch":
            return self._torch_scope(array)
        else:
            device = self._view(array).device.id
        if device == self._cupy.cuda.runtime.getDevice():
            return HERE
        return self._cupy.cuda.Device(device)  # type: ignore[no-any-return]

    def _torch_scope(self, array: Any) -> AbstractContextManager[Any]:
        import torch

        cuda, device = self._cupy.cuda, array.device.index
        pointer = torch.cuda.current_stream(array.device).cuda_stream
        if cuda.runtime.getDevice() == device and cuda.get_current_stream().ptr == pointer:
            return HERE
        return self._on_stream(device, pointer)

    @contextmanager
    def _on_stream(self, device: int, pointer: int) -> Iterator[None]:
        cuda = self._cupy.cuda
        with ExitStack() as stack:
            stack.enter_context(cuda.Device(device))
            stream = cuda.ExternalStream(pointer, device) if pointer else cuda.Stream.null
            stack.enter_context(stream)
            yield

    def device(self, array: DeviceArray) -> int:
        """The number of an array's device."""
        return int(array.device.id)

    @property
    def tensor_cores(self) -> bool:
        """Whether the current device has those of sm_80 and later."""
        return int(self._cupy.cuda.Device().compute_capability) >= 80

    def empty(self, shape: Sequence[int], dtype: DType) -> DeviceArray:
        """An array from CuPy's pool."""
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise self._full(prod(shape) * dtype.itemsize) from error

    def upload(self, array: npt.NDArray[Any]) -> DeviceArray:
        """A contiguous copy of a host array."""
        try:
            return self._cupy.asarray(array, order="C")
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            raise self._full(array.nbytes) from error

    def constant(self, array: npt.NDArray[Any]) -> DeviceArray:
        """A copy that stays on the device: later calls, and captured graphs, find it there."""
        device = self._cupy.cuda.Device()
        key = (device.id, array.dtype.str, array.shape, array.tobytes())
        found = self._constants.get(key)
        if found is None:
            found = self.upload(array)
            # Another stream may ask for it next.
            self._cupy.cuda.get_current_stream().synchronize()
            self._constants[key] = found
            while len(self._constants) > CONSTANTS:
                self._constants.popitem(last=False)
        else:
            self._constants.move_to_end(key)
        return found

    def download(self, array: DeviceArray, target: npt.NDArray[Any]) -> None:
        """Copy into a host array of any strides."""
        target[...] = array.get()

    @contextmanager
    def lane(self, device: int | None) -> Iterator[CupyLane]:
        """A stream of the current thread's own, with pinned buffers."""
        cuda = self._cupy.cuda
        count = cuda.runtime.getDeviceCount()
        if device is not None and not 0 <= device < count:
            raise ValueError(f"device must be one of 0 to {count - 1}, got {device}")
        with cuda.Device(device):
            # Streams are kept: CuPy's pool holds memory for each, also for those that are gone.
            idle = self._streams.setdefault(cuda.runtime.getDevice(), [])
            stream = idle.pop() if idle else cuda.Stream(non_blocking=True)
            try:
                with stream:
                    yield CupyLane(self, self._cupy)
            finally:
                stream.synchronize()
                idle.append(stream)

    def ready(self, launch: Launch, plan: Plan) -> Ready:
        """A launch whose kernel is compiled, its parameters as the driver takes them."""
        try:
            kernel = self._kernel(launch)
        except self._errors as error:
            raise KernelError(_told(error, launch, plan)) from error
        # CuPy would wrap the parameters anew for every launch.
        wrapped = getattr(self._cupy.cuda.function, "CNumpyArray", None)
        arguments, places = list(launch.arguments), []
        for number, argument in enumerate(arguments):
            if isinstance(argument, Place):
                places.append((number, argument.array, argument.offset))
            elif isinstance(argument, np.ndarray) and wrapped is not None:
                arguments[number] = wrapped(argument)
        return Ready(kernel, arguments, tuple(places), launch)

    def launch(self, ready: Ready, arrays: Sequence[DeviceArray], plan: Plan) -> None:
        """Enqueue a kernel on the current stream."""
        arguments, launch = ready.arguments.copy(), ready.launch
        for number, array, offset in ready.places:
            whole = arrays[array]
            arguments[number] = whole.data + offset if offset else whole
        try:
            ready.kernel(launch.grid, launch.block, arguments, launch.shared_bytes)
        except self._errors as error:
            raise KernelError(_told(error, launch, plan)) from error

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        """What goes wrong when a kernel is compiled, loaded or launched."""
        cuda = self._cupy.cuda
        return (
            cuda.compiler.CompileException,
            cuda.driver.CUDADriverError,
            cuda.runtime.CUDARuntimeError,
            cuda.nvrtc.NVRTCError,
            RuntimeError,
            OSError,
        )

    def _kernel(self, launch: Launch) -> Any:
        """The kernel on the current device; CuPy keeps it on disk, by its source's digest too."""
        key = (self._cupy.cuda.runtime.getDevice(), launch.variant)
        kernel = self._kernels.get(key)
        if kernel is None:
            module = self._cupy.RawModule(
                code=f'#include "{launch.variant.file}"\n',
                options=(*OPTIONS, f"-I{kernels_folder()}", f"-DGPUCONV_SOURCE=0x{digest()}"),
                name_expressions=(launch.variant.name,),
            )
            kernel = self._kernels[key] = module.get_function(launch.variant.name)
        if launch.shared_bytes > self._shared_bytes.get(key, SHARED_BYTES):
            # Launches that were prepared before may need less: it only grows.
            kernel.max_dynamic_shared_size_bytes = launch.shared_bytes
            self._shared_bytes[key] = launch.shared_bytes
        return kernel.kernel

    def _full(self, wanted: int) -> DeviceMemoryError:
        """What to raise where the device has no room: what was wanted, and what there is."""
        runtime = self._cupy.cuda.runtime
        free, total = runtime.memGetInfo()
        return DeviceMemoryError(
            f"CUDA device {runtime.getDevice()} has no room for {wanted} more "
            f"bytes ({free} of {total} are free); free arrays there "
            "(cupy.get_default_memory_pool().free_all_blocks() gives back what CuPy keeps), "
            "pass host arrays, which are streamed, or use backend='numpy'"
        )


def _told(error: Exception, launch: Launch, plan: Plan) -> str:
    """The kernel, the plan, the remedy, and the compiler's log where there is one."""
    text = str(error).strip() or type(error).__name__
    if type(error).__name__ == "CompileException":
        what, remedy = "does not compile", "reinstall gpuconv, or report this log"
        if "cuda_fp16.h" in text or "could not open source file" in text:
            remedy = "install CUDA's headers: pip install 'gpuconv[cuda12]'"
    elif isinstance(error, OSError) or "header" in text.lower() or "CUDA_PATH" in text:
        what, remedy = (
            "cannot be compiled here",
            "install CUDA's headers: pip install 'gpuconv[cuda12]'",
        )
    else:
        what, remedy = (
            "cannot be launched",
            "check the device with nvidia-smi, or use backend='numpy'",
        )
    geometry = f"grid {launch.grid}, block {launch.block}, {launch.shared_bytes} bytes shared"
    return f"{launch.variant} {what} ({geometry}) for {plan!r}; {remedy}\n{text}"
