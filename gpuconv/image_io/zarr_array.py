"""Zarr arrays (folders, format 2 and 3) through zarr-python 2 or 3."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpuconv.extras import need
from gpuconv.image_io.array_axes import axes_of, pages_of, shape_of
from gpuconv.image_io.metadata import ArrayLayout, Metadata
from gpuconv.image_io.parts import BAND_BYTES, LARGEST_SEGMENT, gather, regroup
from gpuconv.image_io.types import Header, Image, OpenImage, Page, PageSpec, Pixels

WRITING_BYTES = 64 << 20
"""What zarr-python holds while it packs chunks, as measured."""

_CHUNK = 512
_LARGEST_BLOCK = 64 << 20
_MOST_PAGES_A_CHUNK = 8
"""Pages come one after another: a chunk is packed again for each of its pages."""

_DECODED_TOGETHER = 10
"""Chunks that zarr-python 3 decodes at a time, unless told."""

_CHUNK_NAME = re.compile(r"c?[\d.]*")
"""The last part of a chunk's key: `3`, `0.3`, `c.0.3`, or `c` where there are no axes."""

_SPARE_BYTES = 1 << 20
"""What a chunk may unpack to beyond its size: checksums, or the padding of filters."""

_NOT_COMPRESSING = {"bytes", "transpose", "sharding_indexed", "crc32c"}

_LARGEST_METADATA = 16 << 20

_LARGE_PIXELS = 178_956_970
_LARGEST_EXPANSION = 100_000
"""How often larger than its folder a large array may be before it counts as a bomb."""


def kind_of(folder: Path) -> str | None:
    """ "array" or "group": what Zarr's metadata in a folder say it is; None without any."""
    if os.path.isfile(folder / ".zarray"):  # unlike Path.is_file, it never raises
        return "array"
    if os.path.isfile(folder / ".zgroup"):
        return "group"
    try:
        told = _metadata(folder / "zarr.json")
    except (OSError, ValueError, RecursionError):
        return None
    return str(told.get("node_type")) if isinstance(told, dict) else None


class OpenZarr(OpenImage):
    """A Zarr array whose metadata were read."""

    def __init__(self, folder: Path) -> None:
        need("reading Zarr arrays", "zarr", "zarr")
        import zarr

        version = 2 if (folder / ".zarray").is_file() else 3
        codecs = set(_codecs(_metadata(folder / (".zarray" if version == 2 else "zarr.json"))))
        if "pickle" in codecs:
            raise ValueError("a Zarr array of Python objects (pickled) is refused")
        stored_bytes, largest_chunk = _check_folder(folder, codecs)
        if version == 3 and not _has_format_3():
            raise ValueError("a Zarr array of format 3 needs zarr-python 3")
        options: dict[str, Any] = {"zarr_format": version} if _has_format_3() else {}
        self._array: Any = zarr.open_array(str(folder.absolute()), mode="r", **options)
        shape, dtype = tuple(map(int, self._array.shape)), np.dtype(self._array.dtype)
        specs = pages_of(shape, dtype)
        pixels = sum(spec.pixels for spec in specs)
        if pixels > _LARGE_PIXELS and prod(shape) > stored_bytes * _LARGEST_EXPANSION:
            size = f"{pixels / 1e6:.0f} megapixels in {stored_bytes} bytes"
            raise ValueError(f"a decompression bomb: {size}")
        self._axes = axes_of(shape)
        chunks = tuple(map(int, self._array.chunks))
        shards = getattr(self._array, "shards", None)
        layout = ArrayLayout(
            self._axes,
            version,
            chunks,
            None if shards is None else tuple(map(int, shards)),
            json.dumps(dict(self._array.attrs)),
        )
        compressed = not codecs <= _NOT_COMPRESSING
        metadata = Metadata(layout=layout)
        self.header = Header(specs, "Zarr", metadata, compressed=compressed)
        chunk_bytes = prod(chunks) * dtype.itemsize
        if largest_chunk > chunk_bytes + _SPARE_BYTES:
            told = f"a chunk of {chunk_bytes} bytes that unpacks to {largest_chunk}"
            raise ValueError(f"a decompression bomb: {told}")
        self._chunk_rows = chunks[self._axes.index("H")]
        self.by_parts = chunk_bytes <= LARGEST_SEGMENT
        row_bytes = specs[0].nbytes // specs[0].height
        band = min(specs[0].nbytes, max(self._chunk_rows * row_bytes, BAND_BYTES))
        chunks_a_band = max(1, min(_DECODED_TOGETHER, band // chunk_bytes))
        needed = 2 * band + chunks_a_band * chunk_bytes * 3 // 2 + min(2 * BAND_BYTES, band)
        self.peak_bytes = self.header.nbytes + needed

    def read(self) -> Image:
        header = self.header
        pages = tuple(
            gather(spec, partial(self.read_part, i), self._chunk_rows)
            for i, spec in enumerate(header.pages)
        )
        return Image(pages, "Zarr", header.metadata, compressed=header.compressed)

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        wanted = {
            "N": page,
            "H": slice(rows.start, rows.stop),
            "W": slice(columns.start, columns.stop),
            "C": slice(None),
        }
        pixels: Pixels = np.asarray(self._array[tuple(wanted[axis] for axis in self._axes)])
        spec = self.header.pages[page]
        return Page.split(pixels.astype(spec.dtype, copy=False), alpha=spec.alpha)

    def close(self) -> None:
        pass


def write_parts(folder: Path, header: Header, pages: Iterable[Iterable[Page]]) -> None:
    """Write one array of pages that come as full-width bands into an empty folder."""
    axes, _ = shape_of(header)
    array = _create(folder, header)
    rows = (array.shards if getattr(array, "shards", None) else array.chunks)[axes.index("H")]
    for i, (spec, page) in enumerate(zip(header.pages, pages, strict=True)):
        row = 0
        for block in regroup(spec, page, _block_rows(spec, rows)):
            place = {"N": i, "H": slice(row, row + len(block))}
            shape = (*block.shape[:2], -1) if "C" in axes else block.shape[:2]
            array[tuple(place.get(axis, slice(None)) for axis in axes)] = block.reshape(shape)
            row += len(block)


def _create(folder: Path, header: Header) -> Any:
    """An array for such pages, laid out like the source's if that was one."""
    import zarr

    axes, shape = shape_of(header)
    source = header.metadata.layout or ArrayLayout(axes)
    size = dict(zip(axes, shape, strict=True))
    normal = {"N": 1, "H": min(_CHUNK, size["H"]), "W": min(_CHUNK, size["W"])}
    chunks = tuple(normal.get(axis, size[axis]) for axis in axes)
    shards, attributes = None, json.loads(source.attributes)
    if source.axes == axes and source.chunks is not None:
        chunks, shards = source.chunks, source.shards
        if axes[0] == "N":
            chunks = (min(chunks[0], _MOST_PAGES_A_CHUNK), *chunks[1:])
            shards = None if chunks != source.chunks else shards
    else:
        attributes.pop("_ARRAY_DIMENSIONS", None)
    options: dict[str, Any] = {"shape": shape, "dtype": header.pages[0].dtype, "chunks": chunks}
    if not _has_format_3():
        options |= {} if header.compressed else {"compressor": None}
        array = zarr.create(store=str(folder), write_empty_chunks=True, fill_value=0, **options)
        array.attrs.put(attributes)
        return array
    options |= {} if header.compressed else {"compressors": None}
    options |= {"zarr_format": source.zarr_format or 3, "shards": shards}
    options |= {"fill_value": 0, "attributes": attributes, "config": {"write_empty_chunks": True}}
    return zarr.create_array(str(folder.absolute()), **options)


def _block_rows(spec: PageSpec, chunk_rows: int) -> int:
    """Rows that are written together: those of a chunk, or fewer where they are too much."""
    return max(1, min(chunk_rows, _LARGEST_BLOCK * spec.height // spec.nbytes))


def _metadata(path: Path) -> Any:
    """A JSON file of Zarr's; pipes and what is too large are refused."""
    if not path.is_file() or path.stat().st_size > _LARGEST_METADATA:
        raise ValueError(f"{path.name} is missing or too large")
    return json.loads(path.read_bytes())


def _has_format_3() -> bool:
    import zarr

    return hasattr(zarr, "create_array")


def _codecs(told: Any) -> Iterator[str]:
    """The name of every codec that Zarr's metadata mention, at any depth."""
    if isinstance(told, dict):
        for key in ("id", "name"):
            name = str(told.get(key, ""))
            if name:
                yield "pickle" if "pickle" in name else name
        for value in told.values():
            yield from _codecs(value)
    elif isinstance(told, list):
        for value in told:
            yield from _codecs(value)


def _check_folder(folder: Path, codecs: set[str]) -> tuple[int, int]:
    """Bytes stored in a folder, and those that its largest chunk says it unpacks to, if it says so.

    Refused: pipes and devices, which may wait, and cut Blosc chunks, where Blosc reads on.
    """
    tell = None if "sharding_indexed" in codecs else _UNPACKED.get(_only(codecs))
    total, largest, folders = 0, 0, [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                name = os.path.relpath(entry.path, folder)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_file():
                    raise ValueError(f"{name} in its folder is not a regular file")
                else:
                    size = entry.stat().st_size
                    total += size
                    if tell is not None and _CHUNK_NAME.fullmatch(entry.name):
                        with open(entry.path, "rb", buffering=0) as file:
                            try:
                                largest = max(largest, tell(file, size))
                            except (struct.error, IndexError) as error:
                                raise ValueError(f"chunk {name} is truncated") from error
    return total, largest


def _only(codecs: set[str]) -> str:
    """The codec that unpacks the chunks, if there is just one that could."""
    found = codecs & _UNPACKED.keys()
    return found.pop() if len(found) == 1 else ""


def _blosc_bytes(file: IO[bytes], size: int) -> int:
    """Blosc tells both sizes: unpacked in bytes 4 to 7, packed in 12 to 15."""
    unpacked, _, packed = struct.unpack("<III", file.read(16)[4:])
    if packed > size:
        raise IndexError
    return int(unpacked)


def _gzip_bytes(file: IO[bytes], size: int) -> int:
    """RFC 1952: the last four bytes."""
    file.seek(max(0, size - 4))
    (unpacked,) = struct.unpack("<I", file.read(4))
    return int(unpacked)


def _lz4_bytes(file: IO[bytes], size: int) -> int:
    """numcodecs puts the size before the stream."""
    (unpacked,) = struct.unpack("<I", file.read(4))
    return int(unpacked)


def _zstd_bytes(file: IO[bytes], size: int) -> int:
    """RFC 8878, 3.1.1.1: the frame's content size, where it is told."""
    head = file.read(18)
    flags = head[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    told = int.from_bytes(head[start : start + width], "little")
    return told + 256 if width == 2 else told


_UNPACKED = {"blosc": _blosc_bytes, "gzip": _gzip_bytes, "lz4": _lz4_bytes, "zstd": _zstd_bytes}
"""Codec → how a chunk tells what it unpacks to."""
