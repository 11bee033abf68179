"""TIFF and Zarr files of every kind, as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from gpuconv.image_io import Page
from tests.image_files import Pixels, noise


def same(page: Page, wanted: Page, place: Any = ...) -> None:
    """A page is a rectangle of another one, bit for bit."""
    assert page.color.dtype == wanted.color.dtype
    np.testing.assert_array_equal(page.color, wanted.color[place])
    assert (page.alpha is None) == (wanted.alpha is None)
    if page.alpha is not None and wanted.alpha is not None:
        np.testing.assert_array_equal(page.alpha, wanted.alpha[place])


ZARR_FORMATS = (2, 3) if hasattr(zarr, "create_array") else (2,)


def make_zarr(path: Path, array: Pixels, version: int = 2, **options: Any) -> Any:
    """A Zarr array by zarr-python 2 or 3."""
    options = {"shape": array.shape, "dtype": array.dtype, "chunks": array.shape} | options
    if len(ZARR_FORMATS) == 2:
        made: Any = zarr.create_array(path, zarr_format=version, **options)  # type: ignore[arg-type]
    else:
        attributes = options.pop("attributes", {})
        options.pop("shards", None)
        made = zarr.create(store=str(path), **options)
        made.attrs.put(attributes)
    made[...] = array
    return made


KINDS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "grey8": ((40, 50), "u1", {"photometric": "minisblack"}),
    "rgb8": ((40, 50, 3), "u1", {"photometric": "rgb"}),
    "rgba8": ((40, 50, 4), "u1", {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "premultiplied": ((40, 50, 4), "u1", {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
    "grey_alpha16": ((40, 50, 2), "u2", {"extrasamples": ["unassalpha"]}),
    "rgb16": ((40, 50, 3), "u2", {"photometric": "rgb"}),
    "planes": ((3, 40, 50), "u2", {"photometric": "rgb", "planarconfig": "separate"}),
    "cmyk": ((40, 50, 4), "u1", {"photometric": "separated"}),
    "float16": ((40, 50), "f2", {"photometric": "minisblack"}),
    "float32": ((40, 50, 3), "f4", {"photometric": "rgb"}),
    "float64": ((40, 50), "f8", {"photometric": "minisblack"}),
    "int32": ((40, 50), "i4", {"photometric": "minisblack"}),
    "white_is_zero": ((40, 50), "u1", {"photometric": "miniswhite"}),
}
WAYS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "deflate strips": {"compression": "zlib", "predictor": True, "rowsperstrip": 9},
    "deflate tiles": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
    "lzw": {"compression": "lzw", "rowsperstrip": 5},
    "zstd tiles": {"compression": "zstd", "tile": (32, 16)},
    "one deflate strip": {"compression": "zlib", "rowsperstrip": 40},
}


def write_tiff(path: Path, kind: str, way: str, **more: Any) -> None:
    """A TIFF by tifffile."""
    shape, dtype, options = KINDS[kind]
    more = {"metadata": None} | WAYS[way] | options | more
    pixels = noise(*shape, dtype=dtype)
    if kind == "premultiplied":
        pixels[..., 3] |= 1
    tifffile.imwrite(path, pixels, **more)
