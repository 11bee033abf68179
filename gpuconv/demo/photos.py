"""The demo's photographs: they come inside scikit-image's wheel, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage

from gpuconv.conv import conv2d
from gpuconv.demo.draw import Pixels
from gpuconv.image_io import read_image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def photograph_path(name: str) -> Path:
    """Where a photograph of scikit-image's wheel lies."""
    return Path(skimage.__file__).parent / "data" / name


def photograph(name: str) -> Pixels:
    """Its pixels: (H, W) or (H, W, 3), uint8."""
    return read_image(photograph_path(name)).pages[0].color


def brightness(pixels: Pixels) -> Pixels:
    """(H, W, 3) → (H, W) grey: a 1x1 convolution over the three colours."""
    grey = conv2d(pixels.astype(np.float32), LUMA[None, :, None, None], layout="NHWC")
    return as_pixels(grey[..., 0])


def as_pixels(values: Pixels) -> Pixels:
    """Sums as an image of 8 bits shows them: rounded and saturated."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
