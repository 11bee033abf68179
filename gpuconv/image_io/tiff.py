"""TIFF files: pages of any depth through tifffile, EXIF through Pillow.

tifffile fills the gaps of a damaged file with zeros; every gap is looked for here first.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuconv.image_io.metadata import (
    EXIF_IFD,
    EXIF_PREFIX,
    GPS_IFD,
    Metadata,
    Resolution,
    upright_exif,
)
from gpuconv.image_io.pillow import quietly
from gpuconv.image_io.types import MAX_PIXELS, Image, Page, Pixels

if TYPE_CHECKING:
    import PIL.Image
    import tifffile

_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_MIN_WHITE, _MIN_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_PHOTOMETRIC = (_MIN_WHITE, _MIN_BLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR)
_ASCII, _LONG = 2, 4
_INTEROPERABILITY = 0xA005
_TEXT_TAGS = (271, 272, 306, 315, 33432)
"""Make, model, date, artist, copyright."""

_LARGEST_EXPANSION = 100
"""How often larger than its file a page above MAX_PIXELS may be before it counts as a bomb."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else it writes to stderr


def read(file: IO[bytes]) -> Image:
    """Every page of a TIFF file, upright. Raises whatever the decoder raises."""
    import tifffile

    size = os.fstat(file.fileno()).st_size
    with tifffile.TiffFile(file, _multifile=False) as tiff:
        pages = list(tiff.pages)
        if not pages:
            raise ValueError("the file holds no page, or is truncated")
        _check_chain(tiff, size)
        first = pages[0]
        if not isinstance(first, tifffile.TiffPage):
            raise ValueError("the first page is broken")
        metadata = _metadata(tiff, first)
        stacked = _images_behind_one_page(tiff, first)
        if stacked is not None:
            found = [_finish(first, pixels) for pixels in stacked]
        else:
            found = [_read_page(page.aspage(), size) for page in pages]
        compressed = first.compression != 1
        lossless = first.compression not in (6, 7, 34712, 34887, 50002)
    file.seek(0)
    metadata = replace(metadata, exif=_read_exif(file))
    return Image(tuple(found), "TIFF", metadata, lossless, compressed)


def write(file: IO[bytes], image: Image) -> None:
    """Write every page, in the order given. `file` must be readable, too."""
    import tifffile

    metadata = image.metadata
    height, width = image.pages[0].color.shape[:2]
    exif = upright_exif(metadata.exif, width, height)
    texts, directories = _exif_parts(lambda found: found.load(EXIF_PREFIX + exif if exif else b""))
    tags: list[Any] = [
        (tag, _ASCII, 0, text.encode("latin-1"), True) for tag, text in texts.items()
    ]
    tags += [(tag - 1, _LONG, 1, 0, True) for tag in directories]  # links: see below
    total = sum(page.interleaved.nbytes for page in image.pages)
    with tifffile.TiffWriter(file, bigtiff=total > 2**32 - 2**26) as tiff:
        for page in image.pages:
            pixels = page.interleaved
            color = page.channels == 3
            extra = pixels.shape[2] - (3 if color else 1) if pixels.ndim == 3 else 0
            unspecified = extra - (page.alpha is not None)
            resolution, description = metadata.resolution, metadata.description
            tiff.write(
                pixels,
                photometric="rgb" if color else "minisblack",
                planarconfig="contig" if pixels.ndim == 3 else None,
                extrasamples=["unspecified"] * unspecified
                + ["unassalpha"] * (page.alpha is not None)
                if extra
                else None,
                compression="zlib" if image.compressed else None,
                predictor=image.compressed,
                iccprofile=metadata.profile_for(page.channels),
                description=None if description is None else description.encode(),
                resolution=None
                if resolution is None
                else (resolution.x.as_integer_ratio(), resolution.y.as_integer_ratio()),
                resolutionunit=None if resolution is None else resolution.unit,
                extratags=tags,
                software=False,
                metadata=None,
                contiguous=False,
            )
            metadata, tags = replace(metadata, exif=None, description=None), []  # told once
    if directories:
        _append_directories(file, directories)


def _read_page(page: tifffile.TiffPage, file_size: int) -> Page:
    """Decode one page, after looking for what a damaged file would leave out."""
    pixels = page.imagewidth * page.imagelength
    wanted = pixels * page.samplesperpixel * -(-page.bitspersample // 8)
    if pixels > MAX_PIXELS and wanted > file_size * _LARGEST_EXPANSION:
        raise ValueError(
            f"a decompression bomb: {pixels / 1e6:.0f} megapixels in a file of {file_size} bytes"
        )
    if page.photometric not in _PHOTOMETRIC:
        raise ValueError(f"TIFF pixels of kind {page.photometric!r} are not supported")
    if page.imagedepth != 1:
        raise ValueError("TIFF volumes are not supported; store the planes as pages")
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not segments or any(
        offset <= 0 or count <= 0 or offset + count > file_size for offset, count in segments
    ):
        raise ValueError("the file is truncated: pixel data is missing")
    return _finish(page, page.asarray())


def _finish(page: tifffile.TiffPage, pixels: Pixels) -> Page:
    """Decoded samples of a page → grey or RGB, straight alpha, upright."""
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"TIFF pixels of dtype {pixels.dtype} are not supported")
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif page.bitspersample < 8 and page.photometric != _PALETTE and pixels.dtype == np.uint8:
        pixels = pixels * np.uint8(255 // (2**page.bitspersample - 1))
    if page.photometric == _PALETTE:
        if page.colormap is None:
            raise ValueError("the palette is missing")
        pixels = (np.asarray(page.colormap)[:, pixels] >> 8).astype(np.uint8)
        pixels = np.moveaxis(pixels, 0, -1)
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    kinds = tuple(int(kind) for kind in page.extrasamples)
    expected = {_RGB: 3, _YCBCR: 3, _SEPARATED: 4}.get(page.photometric, 1)
    has_alpha = samples == expected + 1 and (
        kinds[:1] in ((_ASSOCIATED_ALPHA,), (_UNASSOCIATED_ALPHA,)) or expected == 3
    )
    found = Page.split(pixels, alpha=has_alpha)
    color, alpha = found.color, found.alpha
    if page.photometric == _MIN_WHITE:
        color = np.invert(color) if color.dtype.kind == "u" else -color
    if page.photometric == _SEPARATED:
        color = _cmyk_to_rgb(color)
    if alpha is not None and kinds[:1] == (_ASSOCIATED_ALPHA,):
        color = _unmultiply(color, alpha)
    tag = page.tags.get(274)
    turn = int(tag.value) if tag is not None else 1
    return Page(color, alpha).upright(turn if 1 <= turn <= 8 else 1)


def _cmyk_to_rgb(pixels: Pixels) -> Pixels:
    if pixels.dtype.kind != "u" or pixels.ndim != 3 or pixels.shape[2] != 4:
        raise ValueError("CMYK pixels must be four 8- or 16-bit samples")
    top = int(np.iinfo(pixels.dtype).max)
    ink = pixels.astype(np.float64) / top
    rgb = (1 - ink[..., :3]) * (1 - ink[..., 3:])
    return np.rint(rgb * top).astype(pixels.dtype)


def _unmultiply(color: Pixels, alpha: Pixels) -> Pixels:
    """Colours that were multiplied by alpha, as they were before."""
    weight = alpha if color.ndim == 2 else alpha[..., None]
    top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    straight = color * (top / np.maximum(weight, 1e-30 if top == 1 else 1).astype(np.float64))
    if color.dtype.kind == "f":
        return straight.astype(color.dtype)
    return np.clip(np.rint(straight), 0, top).astype(color.dtype)


def _images_behind_one_page(
    tiff: tifffile.TiffFile, first: tifffile.TiffPage
) -> list[Pixels] | None:
    """ImageJ and tifffile may describe a whole stack by its first page; None where they don't."""
    if not ((tiff.is_imagej or tiff.is_shaped) and len(tiff.pages) == 1 and len(tiff.series) == 1):
        return None
    series = tiff.series[0]
    count = series.size // max(1, first.size)
    if count <= 1:
        return None
    pixels = series.asarray()
    return list(pixels.reshape((count, *first.shape)))


def _check_chain(tiff: tifffile.TiffFile, file_size: int) -> None:
    """The last page found must be the last there is."""
    form = tiff.tiff
    handle = tiff.filehandle
    last = tiff.pages[len(tiff.pages) - 1]
    handle.seek(last.offset)
    count = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    handle.seek(last.offset + form.tagnosize + count * form.tagsize)
    link = handle.read(form.offsetsize)
    if len(link) < form.offsetsize or struct.unpack(form.offsetformat, link)[0] != 0:
        raise ValueError("the file is truncated: pages are missing")


def _metadata(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Metadata:
    described_by_a_program = tiff.is_imagej or tiff.is_shaped or tiff.is_ome
    description = page.description if not described_by_a_program else ""
    icc = page.tags.get(34675)
    return Metadata(
        icc_profile=None if icc is None else bytes(icc.value),
        resolution=_resolution(page),
        description=description or None,
    )


def _resolution(page: tifffile.TiffPage) -> Resolution | None:
    x, y, unit = (page.tags.get(tag) for tag in (282, 283, 296))
    if x is None or y is None:
        return None
    try:
        across, down = Fraction(*x.value), Fraction(*y.value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if across <= 0 or down <= 0:
        return None
    return Resolution(across, down, 2 if unit is None else int(unit.value))


def _read_exif(file: IO[bytes]) -> bytes | None:
    """The camera's part of a TIFF's tags as EXIF; None where there is none or it is broken."""
    texts, directories = _exif_parts(lambda exif: exif.load_from_fp(file))
    if not texts and not directories:
        return None
    head = b"II*\0" + struct.pack("<I", 8)
    links = dict.fromkeys(directories, 0)
    at = len(head) + len(_directory_bytes(texts | links, head, 8))
    blocks = []
    for link, tags in directories.items():
        blocks.append(_directory_bytes(tags, head, at))
        links[link] = at
        at += len(blocks[-1])
    return head + _directory_bytes(texts | links, head, 8) + b"".join(blocks)


def _exif_parts(
    load: Callable[[PIL.Image.Exif], None],
) -> tuple[dict[int, Any], dict[int, dict[int, Any]]]:
    """EXIF as TIFF holds it: text tags, and the EXIF and GPS directories by their links.

    Nothing where the tags are broken: Pillow raises anything then, and the pixels are sound.
    """
    import PIL.Image

    found = PIL.Image.Exif()
    try:
        with quietly():
            load(found)
            texts = {tag: found[tag] for tag in _TEXT_TAGS if isinstance(found.get(tag), str)}
            pairs = {link: dict(found.get_ifd(link)) for link in (EXIF_IFD, GPS_IFD)}
            pairs[EXIF_IFD].pop(_INTEROPERABILITY, None)  # a link, which would lead astray
            for tags in (texts, *pairs.values()):
                _directory_bytes(tags, b"II*\0" + bytes(4), 0)
    except Exception:
        return {}, {}
    return texts, {link: tags for link, tags in pairs.items() if tags}


def _append_directories(file: IO[bytes], directories: dict[int, dict[int, Any]]) -> None:
    """Put EXIF and GPS directories at the end of a TIFF and link page one to them.

    tifffile does not write these links; it was given placeholders, each numbered one less, which
    become the links here.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        entries = {tag: tiff.pages.first.tags[tag - 1] for tag in directories}
        places = {tag: (entry.offset, entry.valueoffset) for tag, entry in entries.items()}
        order, version = tiff.byteorder, tiff.tiff.version
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", version)
    head += struct.pack(order + "HHQ", 8, 0, 0) if version == 43 else bytes(4)
    for tag, values in directories.items():
        offset = file.seek(0, os.SEEK_END)
        offset += file.write(bytes(offset % 2))
        file.write(_directory_bytes(values, head, offset))
        code, link = places[tag]
        file.seek(code)
        file.write(struct.pack(order + "H", tag))
        file.seek(link)
        file.write(struct.pack(order + "I", offset))


def _directory_bytes(values: dict[int, Any], head: bytes, offset: int) -> bytes:
    """A directory as it stands at `offset` in a TIFF that begins with `head`."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    ifd = ImageFileDirectory_v2(ifh=head)
    for tag, value in values.items():
        text = isinstance(value, str)
        ifd[tag] = value.encode("latin-1") if text else value  # as Pillow decoded it
        if text:
            ifd.tagtype[tag] = _ASCII
    return bytes(ifd.tobytes(offset))
