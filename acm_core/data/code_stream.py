"""What a compressed frame says about itself, before a decoder believes it (ISO 10918-1, 14495-1, 15444-1)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_STANDALONE = (0x01, *range(0xD0, 0xD9))
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SCAN, _APP0 = 0xDA, 0xE0
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "


class FrameSize(NamedTuple):
    """Rows, columns and components of one frame, and bits a sample."""

    rows: int
    columns: int
    components: int
    bits: int


def code_stream_size(frame: bytes) -> FrameSize:
    """Size of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises:
        ValueError: the frame is none of these, or its header breaks off or is not in order up to the samples.
    """
    try:
        if frame.startswith(b"\xff\xd8"):
            return _jpeg_size(frame)
        return _jpeg2000_size(frame)
    except (IndexError, struct.error):
        raise ValueError("expected a JPEG or JPEG 2000 header, got one that breaks off") from None


def _jpeg_size(frame: bytes) -> FrameSize:
    # All segments up to the scan: at what libjpeg only warns of there, gdcm ends the process.
    offset, size = 2, None
    while True:
        if frame[offset] != 0xFF:
            raise ValueError("expected a JPEG marker, got other bytes")
        marker = frame[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _STANDALONE:
            offset += 2
        else:
            length = struct.unpack_from(">H", frame, offset + 2)[0]
            segment = frame[offset + 4 : offset + 2 + length]
            if marker in _FRAME_HEADERS:
                if size is not None:
                    raise ValueError("expected one JPEG frame header, got two")
                bits, rows, columns, components = struct.unpack_from(">BHHB", segment)
                size = FrameSize(rows, columns, components, bits)
            elif marker == _APP0 and segment.startswith(b"JFIF\0") and segment[5] != 1:
                raise ValueError("expected JFIF 1, got another version")
            elif marker == _SCAN:
                if size is None:
                    raise ValueError("expected a JPEG frame header before the scan")
                return size
            offset += 2 + length


def _jpeg2000_size(frame: bytes) -> FrameSize:
    offset = _code_stream_offset(frame) if frame.startswith(_JP2_SIGNATURE) else 0
    if frame[offset : offset + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("expected a JPEG 2000 code stream, got other bytes")
    x, y, x0, y0 = struct.unpack_from(">IIII", frame, offset + 8)
    components, precision = struct.unpack_from(">HB", frame, offset + 40)
    return FrameSize(y - y0, x - x0, components, (precision & 0x7F) + 1)


def _code_stream_offset(frame: bytes) -> int:
    """PS3.5 A.4.4 wants a bare code stream; some devices wrap it in a JP2 file all the same."""
    offset = 0
    while frame[offset + 4 : offset + 8] != b"jp2c":
        length = struct.unpack_from(">I", frame, offset)[0]
        if length < 8:  # 0 and 1 have special meanings that pydicom's parser loops on for ever
            raise ValueError("expected a JP2 box of 8 bytes or more")
        offset += length
    return offset + 8
