"""Image files for tests: pixels, metadata, and what is written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from gpuconv.image_io import Image, Page, read_image, write_image

Pixels = npt.NDArray[Any]


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Pixels:
    """Random pixels over the whole range of an integer dtype, or floats around 0."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def photo(height: int, width: int, seed: int = 0, dtype: Any = np.uint8) -> Pixels:
    """Soft shapes and some noise, as photographs have them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / (9 + c) + seed) + np.cos(x / (13 - c)) for c in range(3)]
    pixels = (np.stack(waves, axis=2) + 2) * 60 + rng.normal(0, 4, (height, width, 3))
    top = 255 if np.dtype(dtype).itemsize == 1 else 257 * 255
    return (pixels.clip(0, 255) * (top / 255)).astype(dtype)


def exif_bytes(turn: int = 1) -> bytes:
    """EXIF with a camera, an orientation, sizes and a place."""
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x013B] = "Camera", turn, "Zoé".encode()
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0xA002: 999, 0xA003: 777, 0x9003: "2024:01:02"})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif.tobytes()


def icc_profile(space: str = "sRGB") -> bytes:
    """A small colour profile."""
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()  # type: ignore[arg-type]


def save(path: Path, color: Pixels, alpha: Pixels | None = None) -> Path:
    """Write an image file of one page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image((Page(color, alpha),)))
    return path


def load(path: Path) -> Pixels:
    """The colours of the only page."""
    (page,) = read_image(path).pages
    return page.color


def folder_of_photos(folder: Path) -> Path:
    """A folder as users have it: formats, a subfolder, a broken image, other files."""
    save(folder / "a.png", noise(20, 30, 3))
    save(folder / "b.tif", noise(20, 31, dtype=np.uint16))
    save(folder / "sub" / "c.PNG", noise(9, 8))
    save(folder / "sub" / "deep" / "d.webp", noise(9, 8, 3))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "sub" / "broken.jpg").write_bytes(b"no image")
    return folder
