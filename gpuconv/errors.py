"""The exceptions that gpuconv adds to Python's ValueError and TypeError."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """A backend asked for by name cannot run here; the message says why and what to do."""

    def __init__(self, backend: str, reason: str, remedy: str) -> None:
        super().__init__(f"backend {backend!r} is not available: {reason}; {remedy}")
        self.backend = backend
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[BackendUnavailableError], tuple[str, str, str]]:
        return BackendUnavailableError, (self.backend, self.reason, self.remedy)


class KernelError(RuntimeError):
    """A CUDA kernel could not be compiled or launched; the message names it and the remedy."""


class DeviceMemoryError(MemoryError):
    """The device has no room for an array; the message says how much was asked for."""


class NotTileableError(ValueError):
    """Operations that cannot be computed by parts; the message says why."""
