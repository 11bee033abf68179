"""How large the picture is that a compressed strip or tile claims to hold, before it is decoded."""

from __future__ import annotations

import struct

_JPEG = (6, 7, 34892, 33007)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_PNG, _WEBP = 34933, 50001

CLAIMING = (*_JPEG, *_JPEG_2000, _PNG, _WEBP)
"""TIFF's numbers of the compressions that are known here."""

HEAD_BYTES = 64 << 10
"""Where in a strip or tile its size is looked for."""


def claimed_pixels(head: bytes, compression: int) -> int:
    """Height times width as the beginning of a codestream tells them; 0 where it does not."""
    find = {_PNG: _png, _WEBP: _webp} | dict.fromkeys(_JPEG, _jpeg)
    find |= dict.fromkeys(_JPEG_2000, _jpeg_2000)
    try:
        height, width = find[compression](head) if compression in find else (0, 0)
    except struct.error:
        return 0
    return height * width


def _jpeg(head: bytes) -> tuple[int, int]:
    """The largest frame: SOF markers but DHT, JPG and DAC, between segments of known length."""
    at, found = 2, (0, 0)
    while at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        marker = head[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            found = struct.unpack_from(">HH", head, at + 5)
        at += 2 + struct.unpack_from(">H", head, at + 2)[0]
    return found


def _jpeg_2000(head: bytes) -> tuple[int, int]:
    """The reference grid of the SIZ marker, which follows the start of the codestream."""
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return 0, 0
    width, height, left, top = struct.unpack_from(">IIII", head, start + 8)
    return max(0, height - top), max(0, width - left)


def _png(head: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", head, 16)
    return height, width


def _webp(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", head, 26))
    return height, width
