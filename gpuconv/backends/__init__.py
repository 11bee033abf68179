"""Who carries out a plan: the registry of backends, the rule of "auto", and `run`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import combinations
from typing import Any, Protocol

from gpuconv.arrays import (
    Array,
    Spec,
    as_output,
    finish_output,
    like,
    on_device,
    shares_memory,
)
from gpuconv.backends.cuda import CudaBackend
from gpuconv.backends.numpy import NumpyBackend
from gpuconv.backends.numpy.threads import blas_kernels, get_num_threads
from gpuconv.errors import BackendUnavailableError
from gpuconv.plan import Plan
from gpuconv.plan.check import check_out

NAMES = ("auto", "cuda", "numpy")


class Backend(Protocol):
    """What can carry out plans. Arrays are the backend's own: NumPy's, or CuPy's."""

    name: str

    def scope(self, array: Array) -> AbstractContextManager[Any]:
        """Where work on `array` belongs."""

    def adopt(self, argument: str, array: Array) -> Any:
        """An argument as an array of the backend's own, without a copy."""

    def empty(self, spec: Spec, like: Any) -> Any:
        """An array for a result that lives where the adopted array `like` does."""

    def run(self, plan: Plan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Fill `outputs` from `inputs`."""

    def lane(self, device: int | None = None) -> AbstractContextManager[Lane]:
        """What one of several threads works in: its share of the machine, or a stream of its own.

        device : number of the CUDA device; None for the current one.
        """


class Lane(Protocol):
    """The way of one thread's images to where they are computed, and back."""

    def upload(self, array: Any) -> Any:
        """A host array as one of the backend's own, where it computes without further copies."""

    def download(self, array: Any) -> Any:
        """A result as a NumPy array."""


BackendLike = str | Backend | None

_default: ContextVar[BackendLike] = ContextVar("gpuconv_backend", default=None)
_numpy = NumpyBackend()
_cuda = CudaBackend()


@contextmanager
def use_backend(backend: BackendLike) -> Iterator[None]:
    """Make `backend` ("auto", "cuda", "numpy" or an instance) the default inside a with block.

    Holds for the current thread or task alone; an argument `backend=` still wins.

    Raises
    ------
    ValueError : the name is unknown.
    """
    _check(backend, "backend")
    token = _default.set(backend)
    try:
        yield
    finally:
        _default.reset(token)


def _check(backend: BackendLike, argument: str) -> None:
    known = backend is None or (isinstance(backend, str) and backend in NAMES)
    if not known and not (hasattr(backend, "run") and hasattr(backend, "empty")):
        raise ValueError(
            f"{argument} must be one of {', '.join(NAMES)} or a backend instance, got {backend!r}"
        )


def resolve(backend: BackendLike, arrays: Iterable[Array]) -> Backend:
    """The backend for a call: its argument, else `use_backend`, else GPUCONV_BACKEND, else auto.

    A named backend is used or refused, never replaced.
    """
    _check(backend, "backend")
    if backend is None:
        backend = _default.get()
    if backend is None:
        backend = os.environ.get("GPUCONV_BACKEND") or "auto"
        _check(backend, "GPUCONV_BACKEND")
    if not isinstance(backend, str):
        return backend
    device = any(map(on_device, arrays))
    if backend == "numpy":
        if device:
            raise BackendUnavailableError(
                "numpy", "an array lives on a CUDA device", "copy it to the host first"
            )
        return _numpy
    if backend == "cuda" or device:
        _cuda.require()
        return _cuda
    return _cuda if _cuda.status().available else _numpy


def run(plan: Plan, *arrays: Array | None, out: Any = None, backend: BackendLike = None) -> Any:
    """Carry out `plan` over `arrays` and return its result, or a tuple of its results.

    `arrays` come in the order of `plan.operands`; None stands for one that was not given. Results
    live where the first array lives, in its library's type.
    """
    given = {n: a for n, a in zip(plan.operands, arrays, strict=True) if a is not None}
    chosen = resolve(backend, given.values())
    name, first = next(iter(given.items()))
    specs = plan.memo.get("outputs")
    if specs is None:
        specs = plan.memo["outputs"] = plan.outputs
    wanted = (None,) * len(specs) if out is None else _as_tuple(out)
    if len(wanted) != len(specs):
        raise ValueError(f"out must be {len(specs)} arrays, got {len(wanted)}")
    with chosen.scope(first):
        inputs = {name: chosen.adopt(name, array) for name, array in given.items()}
        adopted = list(inputs.values())
        targets = [
            chosen.empty(spec, adopted[0])
            if array is None
            else _target(chosen, spec, array, name, first, inputs)
            for spec, array in zip(specs, wanted, strict=True)
        ]
        if out is not None and any(shares_memory(*two) for two in combinations(targets, 2)):
            raise ValueError("out must be arrays apart from each other, got overlapping ones")
        chosen.run(plan, adopted, targets)
        results = [
            like(first, target) if array is None else _written(array, target)
            for target, array in zip(targets, wanted, strict=True)
        ]
    return tuple(results) if len(results) > 1 else results[0]


def _target(
    backend: Backend, spec: Spec, out: Array, name: str, first: Array, inputs: Mapping[str, Any]
) -> Any:
    """An `out` of the caller as an array of the backend's own: it fits, and lives with `first`."""
    device = on_device(out)
    if device != on_device(first):
        place = "one on a CUDA device" if device else "one on the host"
        raise ValueError(f"out must live where {name} does, got {place}")
    target = backend.adopt("out", out) if device else as_output(out)
    check_out(target, spec, inputs.items())
    return target


def _written(out: Array, target: Any) -> Array:
    """The caller's `out`, once `target` holds the result."""
    if not on_device(out):
        finish_output(out, target)
    return out


def _as_tuple(out: Any) -> tuple[Any, ...]:
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def info() -> dict[str, Any]:
    """What this machine offers and what "auto" would pick, as plain data (`gpuconv info`)."""
    import platform

    import numpy

    from gpuconv._version import __version__

    cuda = _cuda.status()
    picked = "cuda" if cuda.available else "numpy"
    why = (
        f"a CUDA device is usable: {cuda.devices[0]}"
        if cuda.available
        else f"cuda is not available: {cuda.reason}"
    )
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "backends": [
            {
                "name": "cuda",
                "available": cuda.available,
                "reason": cuda.reason,
                "remedy": cuda.remedy,
                "devices": list(cuda.devices),
            },
            {
                "name": "numpy",
                "available": True,
                "reason": "",
                "remedy": "",
                "devices": [f"CPU: {get_num_threads()} threads, {blas_kernels()}"],
            },
        ],
        "auto": {"backend": picked, "why": why},
    }
