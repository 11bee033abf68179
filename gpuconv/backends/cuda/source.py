"""Where the CUDA source lies: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path


def kernels_folder() -> Path:
    """The folder `kernels_cu`.

    Raises
    ------
    FileNotFoundError : the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "kernels_cu", package.parent / "kernels_cu"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"kernels_cu is missing beside {package}: reinstall gpuconv")
