"""Where the CUDA source lies: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

import hashlib
from functools import cache
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


@cache
def digest() -> str:
    """A name for the text of all CUDA source: caches of compiled kernels must know it."""
    folder, total = kernels_folder(), hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*.cu*") if p.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]
