"""What a compressed frame says about itself, before a decoder believes it (ISO 10918-1, 14495-1, 15444-1)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_STANDALONE = (0x01, *range(0xD0, 0xD9))
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


class FrameSize(NamedTuple):
    """Rows, columns and components of one frame."""

    rows: int
    columns: int
    components: int


def code_stream_size(frame: bytes) -> FrameSize:
    """Size of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises:
        ValueError: the frame is none of these, or its header breaks off.
    """
    try:
        if frame.startswith(b"\xff\xd8"):
            return _jpeg_size(frame)
        return _jpeg2000_size(frame)
    except (IndexError, struct.error):
        raise ValueError("expected a JPEG or JPEG 2000 header, got one that breaks off") from None


def _jpeg_size(frame: bytes) -> FrameSize:
    offset = 2
    while True:
        if frame[offset] != 0xFF:
            raise ValueError("expected a JPEG marker, got other bytes")
        marker = frame[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _STANDALONE:
            offset += 2
        elif marker in _FRAME_HEADERS:
            rows, columns, components = struct.unpack_from(">HHB", frame, offset + 5)
            return FrameSize(rows, columns, components)
        else:
            offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]


def _jpeg2000_size(frame: bytes) -> FrameSize:
    offset = _code_stream_offset(frame) if frame.startswith(_JP2_SIGNATURE) else 0
    if frame[offset : offset + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("expected a JPEG 2000 code stream, got other bytes")
    x, y, x0, y0 = struct.unpack_from(">IIII", frame, offset + 8)
    components = struct.unpack_from(">H", frame, offset + 40)[0]
    return FrameSize(y - y0, x - x0, components)


def _code_stream_offset(frame: bytes) -> int:
    """PS3.5 A.4.4 wants a bare code stream; some devices wrap it in a JP2 file all the same."""
    offset = 0
    while frame[offset + 4 : offset + 8] != b"jp2c":
        length = struct.unpack_from(">I", frame, offset)[0]
        if length < 8:  # 0 and 1 have special meanings that pydicom's parser loops on for ever
            raise ValueError("expected a JP2 box of 8 bytes or more")
        offset += length
    return offset + 8
