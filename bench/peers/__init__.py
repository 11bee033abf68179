"""Who can do a case: gpuconv, and the libraries it is compared with, one file a library.

Semantics are matched to ours: the border `reflect` (SciPy's `mirror`, OpenCV's BORDER_REFLECT_101),
the same kernels and radius, the same number of threads. What can't be matched is told in a note.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.peers.common import Call, Library, UnsupportedError
from bench.peers.kornia import Kornia
from bench.peers.ndimage import CuPy, SciPy
from bench.peers.onnxruntime import OnnxRuntime
from bench.peers.opencv import OpenCV
from bench.peers.ours import GpuConv, GpuConvCuda
from bench.peers.pytorch import Torch, TorchCuda
from bench.peers.skimage import CuCIM, SkImage
from bench.peers.torchvision import TorchVision

OURS: dict[str, type[Library]] = {"numpy": GpuConv, "cuda": GpuConvCuda}
"""gpuconv by backend."""

PEERS: dict[str, type[Library]] = {
    peer.name: peer
    for peer in (
        *(SciPy, OpenCV, Torch, SkImage, OnnxRuntime),
        *(CuPy, CuCIM, TorchCuda, Kornia, TorchVision),
    )
}

__all__ = ["OURS", "PEERS", "Call", "Library", "UnsupportedError", "find"]


def find(names: Iterable[str], threads: int) -> tuple[list[Library], dict[str, str]]:
    """The peers of these names that work here, started, and why each of the others does not."""
    found: list[Library] = []
    missing: dict[str, str] = {}
    for name in names:
        peer = PEERS[name]()
        reason = peer.missing()
        if reason is None:
            try:
                peer.start(threads)
            except Exception as error:  # a broken installation is that peer's alone
                reason = f"{type(error).__name__}: {error}"
        if reason is None:
            found.append(peer)
        else:
            missing[name] = reason
    return found, missing
