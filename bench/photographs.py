"""Photographs to measure with: those of scikit-image's wheel, as large as a camera's, with noise.

Enlarged photographs alone would be smoother than what a camera takes, and quicker to code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]

SUBJECTS = ("astronaut", "coffee", "chelsea", "rocket")
TEXTURES = ("grass", "gravel", "brick", "grass")
FORMATS = ("jpg", "png", "tif")

TEXTURE = 0.25
READ_NOISE, SHOT_NOISE = 4.0, 0.4
"""Variance in levels, and how much it grows with brightness."""


def photograph(number: int, height: int, width: int) -> Pixels:
    """(height, width, 3) uint8, the same for the same number."""
    import PIL.Image
    import skimage.data

    which, turn = number % len(SUBJECTS), number // len(SUBJECTS) % 4
    subject = PIL.Image.fromarray(getattr(skimage.data, SUBJECTS[which])())
    pixels = np.asarray(subject.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32)
    texture = getattr(skimage.data, TEXTURES[which])().astype(np.float32)
    texture -= texture.mean()
    repeats = (-(-height // texture.shape[0]), -(-width // texture.shape[1]))
    pixels = pixels + TEXTURE * np.tile(texture, repeats)[:height, :width, None]
    noise = np.random.default_rng(number).standard_normal(
        (height + 1, width + 1, 3), dtype=np.float32
    )
    noise = (noise[1:] + noise[:-1]) / 2  # neighbours share some, as after demosaicing
    noise = noise[:, 1:] + noise[:, :-1]
    pixels += noise * np.sqrt(READ_NOISE + SHOT_NOISE * np.maximum(pixels, 0)) / 2
    seen = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(seen[:: 1 - 2 * (turn // 2), :: 1 - 2 * (turn % 2)])


def make_folder(folder: Path, kind: str, count: int, megapixels: float) -> list[Path]:
    """Files of photographs 4:3, as other programs write them. Those that exist are kept."""
    import PIL.Image
    import tifffile

    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.{kind}" for number in range(count)]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        pixels = photograph(number, height, width)
        if kind == "tif":
            tifffile.imwrite(
                path, pixels, photometric="rgb", compression="zlib", predictor=True, metadata=None
            )
        elif kind == "png":
            PIL.Image.fromarray(pixels).save(path, compress_level=1)
        else:
            PIL.Image.fromarray(pixels).save(path, quality=95, subsampling="4:2:0")
    return paths
