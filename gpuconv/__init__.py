"""Convolution and pooling at the speed of the memory they touch.

    import numpy as np
    from gpuconv import conv2d, filters, max_pool2d

    blurred = filters.gaussian_blur(photo, sigma=2)      # images: (..., H, W), any dtype
    maps = max_pool2d(conv2d(x, weight, padding=1), 2)   # feature maps: (N, C, H, W)
    gpuconv.stream("median_blur:size=5", files, "out")   # many images, decoding and all

CUDA kernels on GPU servers, NumPy everywhere else: the same functions, shapes and answers.
"""

import importlib as _importlib
import typing as _typing

from gpuconv import filters, kernels
from gpuconv._version import __version__
from gpuconv.backends import info, use_backend
from gpuconv.backends.numpy.threads import get_num_threads, set_num_threads
from gpuconv.conv import (
    conv1d,
    conv2d,
    conv2d_pool2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from gpuconv.errors import BackendUnavailableError, NotTileableError
from gpuconv.pipeline import Pipeline
from gpuconv.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    global_avg_pool,
    global_max_pool,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
    min_pool1d,
    min_pool2d,
    min_pool3d,
)

if _typing.TYPE_CHECKING:
    from gpuconv import scale
    from gpuconv.streams import apply_tiled, stream

__all__ = [
    "BackendUnavailableError",
    "NotTileableError",
    "Pipeline",
    "__version__",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "apply_tiled",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv2d_pool2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "filters",
    "get_num_threads",
    "global_avg_pool",
    "global_max_pool",
    "info",
    "kernels",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "min_pool1d",
    "min_pool2d",
    "min_pool3d",
    "scale",
    "set_num_threads",
    "stream",
    "use_backend",
]

_LATER = {"stream": "gpuconv.streams", "apply_tiled": "gpuconv.streams"}
"""Imported once they are asked for: who filters an array needs no image files."""


def __getattr__(name: str) -> _typing.Any:
    if name == "scale":
        return _importlib.import_module("gpuconv.scale")
    if name not in _LATER:
        raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")
    found = globals()[name] = getattr(_importlib.import_module(_LATER[name]), name)
    return found
