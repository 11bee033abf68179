"""An image file whose format can only be decoded whole: PNG, JPEG, WebP."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from gpuconv.image_io.metadata import Metadata, orientation
from gpuconv.image_io.types import Header, Image, OpenImage, Page, PageSpec, Pixels


@dataclass
class WholeImage(OpenImage):
    """An open file; `decode` makes its bytes interleaved pixels, not yet turned upright.

    The pixels must be what `header` says, but for the turn.
    """

    file: IO[bytes]
    header: Header
    peak_bytes: int
    decode: Callable[[bytes], Pixels]
    by_parts: bool = False

    def read(self) -> Image:
        """The whole image. Raises whatever the decoder raises."""
        (spec,) = self.header.pages
        self.file.seek(0)
        page = Page.split(self.decode(self.file.read()), alpha=spec.alpha)
        page = page.upright(orientation(self.header.metadata.exif))
        if PageSpec.of(page) != spec:
            raise ValueError("the file is damaged: its pixels are not what its header says")
        return Image((page,), self.header.format, self.header.metadata, self.header.lossless)

    def read_part(self, page: int, rows: range, columns: range) -> Page:
        """Nothing: these formats have no parts."""
        raise ValueError(f"{self.header.format} files can only be read whole")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def whole_image(
    file: IO[bytes],
    kind: str,
    stored: PageSpec,
    metadata: Metadata,
    decode: Callable[[bytes], Pixels],
    *,
    lossless: bool,
    workspace_bytes: int,
) -> WholeImage:
    """An open file of one page.

    stored : the page before it is turned upright.
    workspace_bytes : what `decode` holds at its peak beyond the file's bytes and its result.
    """
    turn = orientation(metadata.exif)
    height, width = stored.height, stored.width
    if turn in (5, 6, 7, 8):
        height, width = width, height
    upright = PageSpec(height, width, stored.channels, stored.dtype, stored.alpha)
    decoding = os.fstat(file.fileno()).st_size + stored.nbytes + workspace_bytes
    copying = 2 * stored.nbytes if stored.alpha or turn != 1 else 0
    header = Header((upright,), kind, metadata, lossless)
    return WholeImage(file, header, max(decoding, copying), decode)
