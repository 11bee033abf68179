"""Read and write image files: PNG, JPEG, WebP, TIFF, .npy and Zarr, upright, with what they carry.

JPEG is written at quality 95 without chroma subsampling; WebP without loss if the source had
none, else at quality 95; TIFF and Zarr compressed if the source was. TIFF, .npy and Zarr are also
read and written by parts, for images that are larger than the memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from gpuconv.extras import MissingExtraError, need
from gpuconv.image_io import array_axes, npy, pillow, tiff, zarr_array
from gpuconv.image_io.parts import BAND_BYTES, cut_page
from gpuconv.image_io.types import (
    BY_PARTS,
    FORMATS,
    Header,
    Image,
    ImageError,
    OpenImage,
    Page,
    PageSpec,
)
from gpuconv.memory import default_limit, format_bytes

__all__ = [
    "BY_PARTS",
    "FORMATS",
    "Header",
    "Image",
    "ImageError",
    "OpenImage",
    "Page",
    "PageSpec",
    "format_of",
    "misfit",
    "open_image",
    "read_image",
    "remove_leftovers",
    "replacing",
    "write_image",
    "write_parts",
    "write_peak_bytes",
]

_T = TypeVar("_T")

_MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", npy.MAGIC: "NPY"}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = {b"GIF8": "GIF", b"BM": "BMP", b"%PDF": "PDF", b"\0\0\0\x0cjP  ": "JPEG 2000"}
_HOLDS = {"PNG": ("uint8", "uint16"), "JPEG": ("uint8",), "WebP": ("uint8",)}
_LARGEST_SIDE = {"PNG": 2**31 - 1, "JPEG": 65_500, "WebP": 16_383, "TIFF": 2**32 - 1}


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The image format that a name stands for: "PNG", ...; None where it is none of them.

    A folder that holds a Zarr array is "Zarr" whatever its name.
    """
    if os.path.isdir(path) and zarr_array.kind_of(Path(path)) == "array":
        return "Zarr"
    return FORMATS.get(Path(path).suffix.lower())


def open_image(path: str | os.PathLike[str]) -> OpenImage:
    """Open an image, known by its content and not by its name; nothing is decoded yet.

    Pixels will be upright; palettes, CMYK and 1-bit pixels become grey or RGB; 16-bit and float
    pixels stay as they are. What it returns is a context manager and raises ImageErrors, too.

    Raises
    ------
    ImageError : the file is missing, unreadable, empty, not an image, damaged or a bomb.
    MissingExtraError : the packages that read such images are not installed.
    """
    with _telling(path):
        if os.path.isdir(path):
            return _Opened(path, _open_folder(path))
        file = _open_regular(path)
        try:
            return _Opened(path, _open_file(file))
        except BaseException:
            file.close()
            raise


def read_image(path: str | os.PathLike[str], *, memory_limit: int | None = None) -> Image:
    """Read an image, see `open_image`. `memory_limit` (bytes) is a quarter of what there is.

    Raises
    ------
    ImageError : as `open_image`, or it needs more memory than the limit.
    MissingExtraError : the packages that read such images are not installed.
    """
    limit = default_limit() if memory_limit is None else memory_limit
    with open_image(path) as image:
        if image.peak_bytes > limit:
            raise ImageError(
                path,
                f"needs about {format_bytes(image.peak_bytes)} in memory, "
                f"more than the limit of {format_bytes(limit)}",
            )
        return image.read()


def write_image(path: str | os.PathLike[str], image: Image) -> None:
    """Write an image in the format that the name stands for; the file appears when it is whole.

    Raises
    ------
    ImageError : the format cannot hold these pixels, or the file cannot be written.
    MissingExtraError : the packages that write images are not installed.
    """
    kind = _writable(path, image.header)
    if kind in ("NPY", "Zarr"):
        write_parts(path, image.header, map(cut_page, image.pages))
        return
    with _telling(path, kind), replacing(path) as file:
        if kind == "TIFF":
            tiff.write(file, image)
        else:
            pillow.write(file, kind, image)


def write_parts(
    path: str | os.PathLike[str], header: Header, pages: Iterable[Iterable[Page]]
) -> None:
    """Write a TIFF, .npy or Zarr whose pages come as full-width bands, from top to bottom.

    header : size and kind of every page, what goes with them, and how they are laid out.

    Raises
    ------
    ImageError : the format cannot hold these pixels, or the file cannot be written.
    MissingExtraError : the packages that write images are not installed.
    Any error of `pages` itself.
    """
    kind = _writable(path, header)
    if kind not in BY_PARTS:
        raise ImageError(path, f"{kind} cannot be written by parts; write TIFF")
    source = _Source(pages)
    try:
        with _telling(path, kind):
            if kind == "Zarr":
                with _replacing_folder(Path(path)) as folder:
                    zarr_array.write_parts(folder, header, source)
            else:
                with replacing(path) as file:
                    write = tiff.write_parts if kind == "TIFF" else npy.write_parts
                    write(file, header, source)
    except ImageError:
        if source.failure is not None:
            raise source.failure from None
        raise


def misfit(kind: str, header: Header) -> str | None:
    """Why a format cannot hold such pages; None where it can."""
    side = max(max(page.height, page.width) for page in header.pages)
    if side > _LARGEST_SIDE.get(kind, side):
        return f"{kind} holds at most {_LARGEST_SIDE[kind]} pixels a side, not {side}"
    if kind in ("NPY", "Zarr"):
        return array_axes.misfit(kind, header)
    if kind == "TIFF":
        return None
    if len(header.pages) != 1:
        return f"{kind} holds one page, this image has {len(header.pages)}; write TIFF"
    (page,) = header.pages
    if page.dtype.name not in _HOLDS[kind]:
        better = "PNG or TIFF" if page.dtype == "uint16" else "TIFF"
        return f"{kind} cannot hold {page.dtype.name} pixels; write {better}"
    if page.channels not in (1, 3):
        return f"{kind} cannot hold {page.channels} colour channels; write TIFF"
    if page.alpha and kind == "JPEG":
        return "JPEG cannot hold an alpha channel; write PNG, WebP or TIFF"
    return None


def write_peak_bytes(kind: str, spec: PageSpec) -> int:
    """Memory that `write_image` needs for a page besides its pixels, by estimate."""
    if kind == "TIFF":
        return tiff.write_peak_bytes(spec)
    if kind in BY_PARTS:
        return min(spec.nbytes, 2 * BAND_BYTES if kind == "NPY" else zarr_array.WRITING_BYTES)
    return pillow.write_peak_bytes(kind, spec)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` when the block ends well, and vanishes when it does not."""
    temporary = _temporary(Path(path).parent)
    try:
        with temporary.open("xb+") as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: str | os.PathLike[str], *, mine: bool = False) -> None:
    """Delete what processes of this host that are no more left unfinished in a folder.

    mine : what this process has not finished, too.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        found = re.fullmatch(r"\.gpuconv-([0-9a-f]+)-(\d+)-[0-9a-f]+\.tmp", entry.name)
        if found is None or found[1] != _host():
            continue
        if not _is_running(int(found[2])) or (mine and int(found[2]) == os.getpid()):
            _remove(Path(entry.path))


class _Opened(OpenImage):
    """An open image whose errors name its file."""

    def __init__(self, path: str | os.PathLike[str], image: OpenImage) -> None:
        self._path, self._image = path, image
        self.header, self.by_parts = image.header, image.by_parts
        self.peak_bytes = image.peak_bytes

    def read(self) -> Image:
        with _telling(self._path):
            return self._image.read()

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        with _telling(self._path):
            return self._image.read_part(page, rows, columns)

    def close(self) -> None:
        self._image.close()


class _Source:
    """Pages that come from elsewhere; what fails there is not the fault of the writer."""

    def __init__(self, pages: Iterable[Iterable[Page]]) -> None:
        self._pages = pages
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Iterator[Page]]:
        for page in self._noted(self._pages):
            yield self._noted(page)

    def _noted(self, items: Iterable[_T]) -> Iterator[_T]:
        try:
            yield from items
        except Exception as error:
            self.failure = error
            raise


@contextlib.contextmanager
def _telling(path: str | os.PathLike[str], written_as: str | None = None) -> Iterator[None]:
    """Errors of decoders (of encoders where a format is written) as ImageErrors."""
    told = "decoded" if written_as is None else f"written as {written_as}"
    hostile = np.errstate(all="ignore") if written_as is None else contextlib.nullcontext()
    try:
        with hostile:
            yield
    except (ImageError, MissingExtraError):
        raise
    except OSError as error:
        if error.errno is not None:
            done = "read" if written_as is None else "written"
            raise ImageError(path, f"cannot be {done}: {os.strerror(error.errno)}") from error
        raise ImageError(path, f"cannot be {told}: {error}") from error
    except MemoryError as error:
        raise ImageError(path, f"cannot be {told}: not enough memory") from error
    except ValueError as error:
        raise ImageError(path, f"cannot be {told}: {error}") from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = str(error)
        if written_as is None:
            reason = f"the file is damaged ({type(error).__name__}: {reason:.80})"
        raise ImageError(path, f"cannot be {told}: {reason}") from error


def _open_folder(path: str | os.PathLike[str]) -> OpenImage:
    kind = zarr_array.kind_of(Path(path))
    if kind == "group":
        inside = sorted(p.name for p in Path(path).iterdir() if p.is_dir())
        names = f", such as {Path(path) / inside[0]}" if inside else ""
        raise ImageError(path, f"is a Zarr group: name one of its arrays{names}")
    if kind != "array" and (Path(path) / "zarr.json").is_file():
        raise ImageError(path, "cannot be decoded: its zarr.json is broken")
    if kind != "array":
        raise ImageError(path, "cannot be read: Is a directory")
    return zarr_array.OpenZarr(Path(path))


def _open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading, unless it is a folder, pipe or device: those may wait for ever."""
    wait_not = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait_not))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError(path, "cannot be read: not a regular file")
    return file


def _open_file(file: IO[bytes]) -> OpenImage:
    head = file.read(16)
    file.seek(0)
    if not head:
        raise ValueError("the file is empty")
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if kind == "NPY":
        return npy.OpenNpy(file)
    need("reading images", "image", "PIL", "tifffile", "imagecodecs")
    if head[:4] in _TIFF_MAGIC:
        return tiff.OpenTiff(file)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        kind = "WebP"
    if kind is None:
        other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
        what = f"not a PNG, JPEG, WebP, TIFF or NPY image{f' but {other}' if other else ''}"
        raise ValueError(what)
    return pillow.open_compressed(file, kind)


def _writable(path: str | os.PathLike[str], header: Header) -> str:
    """The format that a name stands for, if it holds such pages."""
    kind = FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise ImageError(path, f"its name must end in {', '.join(FORMATS)}")
    if kind == "Zarr":
        need("writing Zarr arrays", "zarr", "zarr")
    elif kind != "NPY":
        need("writing images", "image", "PIL", "tifffile", "imagecodecs")
    reason = misfit(kind, header)
    if reason:
        raise ImageError(path, reason)
    return kind


@contextlib.contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for the folder of a Zarr array; it replaces nothing but a Zarr array."""
    if path.is_dir() and zarr_array.kind_of(path) != "array" and any(path.iterdir()):
        raise ImageError(path, "cannot be written: a folder that is no Zarr array has this name")
    temporary, old = _temporary(path.parent), _temporary(path.parent)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(old)
        try:
            temporary.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise
    finally:
        _remove(temporary)
        _remove(old)


def _temporary(folder: Path) -> Path:
    """A name for what is not finished, that tells whose it is."""
    return folder / f".gpuconv-{_host()}-{os.getpid()}-{secrets.token_hex(6)}.tmp"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not harmless
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
