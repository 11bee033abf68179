"""Optional packages: what to install when one is missing."""

from __future__ import annotations

import importlib

_PACKAGES = {"PIL": "pillow", "skimage": "scikit-image"}


class MissingExtraError(ImportError):
    """A part of gpuconv needs packages that are not installed; the message says which."""


def need(purpose: str, extra: str, *modules: str) -> None:
    """Import `modules`, or raise a MissingExtraError that says what to install."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module:
                raise
            package = _PACKAGES.get(module, module)
            raise MissingExtraError(
                f"{purpose} needs {package}, which is not installed: pip install 'gpuconv[{extra}]'"
            ) from error
