"""The CUDA backend: every plan as launches of our own kernels.

    plan → launches (geometry and packed parameters, pure Python) → launcher

The launcher is CuPy's, or in tests the emulator, which runs the same source on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from gpuconv.arrays import Spec, on_device, to_numpy
from gpuconv.backends.cuda.cupy_launcher import CupyLauncher, Status, probe
from gpuconv.backends.cuda.launch import Launcher
from gpuconv.backends.cuda.pieces import PIECE_BYTES, Piece, cut_operands, pieces
from gpuconv.backends.cuda.prepared import MOST_LAYOUTS, carry_out, layout, prepare
from gpuconv.errors import BackendUnavailableError
from gpuconv.plan import ChainPlan, Plan, UnpoolPlan
from gpuconv.plan.filters import ImagePlan

USABLE = Status(True)

_numbers = count()
"""Plans keep what is prepared for a backend by its number: they do not keep the backend."""


class CudaBackend:
    """Runs plans as CUDA kernels; refuses with a reason where it cannot.

    Arrays on the device are computed where they are. Host arrays pass through the device in
    pieces of about `piece_bytes`.
    """

    name = "cuda"
    chains = True
    """Pipelines pass it whole chains (`ChainPlan`)."""

    def __init__(self, launcher: Launcher | None = None, piece_bytes: int = PIECE_BYTES) -> None:
        self._given = launcher is not None
        if launcher is not None:
            self.launcher = launcher
        self._number = next(_numbers)
        self._piece_bytes = piece_bytes

    @cached_property
    def launcher(self) -> Launcher:
        """What runs the kernels: CuPy, unless another was given."""
        self.require()
        return CupyLauncher()

    def status(self) -> Status:
        """Whether this machine can run it."""
        return USABLE if self._given else probe()

    def require(self) -> None:
        """Raise BackendUnavailableError unless this machine can run it."""
        status = self.status()
        if not status.available:
            raise BackendUnavailableError(self.name, status.reason, status.remedy)

    def scope(self, array: Any) -> AbstractContextManager[Any]:
        """Where work on `array` belongs: its device, and its library's current stream."""
        return self.launcher.scope(array)

    def adopt(self, argument: str, array: Any) -> Any:
        """An argument as an array of the device's, or of NumPy's where it lives on the host."""
        if on_device(array):
            return self.launcher.adopt(argument, array)
        return to_numpy(argument, array)

    def empty(self, spec: Spec, like: Any) -> Any:
        """An array for a result that lives where `like` does."""
        if self.launcher.owns(like):
            return self.launcher.empty(spec.shape, spec.dtype)
        return np.empty(spec.shape, spec.dtype)

    def lane(self, device: int | None = None) -> AbstractContextManager[Any]:
        """A stream of its own on a device: copies of one lane overlap kernels of the others."""
        return self.launcher.lane(device)

    def run(self, plan: Plan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Carry out `plan`: fill `outputs` from `inputs`."""
        if any(0 in output.shape for output in outputs):
            return
        launcher = self.launcher
        if isinstance(plan, UnpoolPlan) and isinstance(inputs[1], np.ndarray):
            plan.check_indices(inputs[1])
        if launcher.owns(inputs[0]):
            others = [a if launcher.owns(a) else launcher.upload(a) for a in inputs[1:]]
            self._launch(plan, [inputs[0], *others], outputs)
            return
        if isinstance(plan, ChainPlan) and not plan.fits_pieces(self._piece_bytes):
            self._run_steps(plan, inputs[0], outputs[0])
            return
        cut = cut_operands(plan)
        whole = [a if launcher.owns(a) else launcher.upload(a) for a in inputs[cut:]]
        for piece in pieces(plan, [*inputs[:cut], *whole], outputs, self._piece_bytes):
            self._run_piece(piece)

    def _run_steps(self, plan: ChainPlan, images: Any, target: Any) -> None:
        """A chain over images too large for a piece, which cannot be cut: step after step."""
        result = images
        for step in plan.steps:
            read = step.images if isinstance(step, ImagePlan) else step.input
            source, (spec,) = result.reshape(read.shape), step.outputs
            result = np.empty(spec.shape, spec.dtype)
            self.run(step, [source], [result])
        target[...] = result.reshape(target.shape)

    def _run_piece(self, piece: Piece) -> None:
        """Upload, compute, download. On return the device's memory is free for the next piece."""
        launcher = self.launcher
        inputs = [a if launcher.owns(a) else launcher.upload(a) for a in piece.inputs]
        results = [launcher.empty(spec.shape, spec.dtype) for spec in piece.plan.outputs]
        self._launch(piece.plan, inputs, results)
        for result, target in zip(results, piece.outputs, strict=True):
            launcher.download(result[piece.keep], target)
        piece.finish()

    def _launch(self, plan: Plan, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        launcher, arrays = self.launcher, [*inputs, *outputs]
        key = (self._number, launcher.device(arrays[0]), *map(layout, arrays))
        steps = plan.memo.get(key)
        if steps is None:
            # A machine without a GPU needs no families.
            from gpuconv.backends.cuda.families import FAMILIES

            family = FAMILIES[type(plan)]
            steps = prepare(family, plan, inputs, outputs, launcher)
            if steps is None:
                for launch in family(plan, inputs, outputs, launcher):
                    launcher.launch(launcher.ready(launch, plan), (), plan)
                return
            if len(plan.memo) > MOST_LAYOUTS:
                plan.memo.clear()
            plan.memo[key] = steps
        carry_out(steps, plan, arrays, launcher)
