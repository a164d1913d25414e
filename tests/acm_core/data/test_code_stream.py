"""The size that a compressed frame states is the one its encoder wrote."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acm_core.data.code_stream import FrameSize, code_stream_size


def encoded(rows: int, columns: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns))
    if kind.startswith("JPEG2000"):
        image.save(buffer, "JPEG2000", no_jp2=kind.endswith("bare"))
    else:
        image.save(buffer, "JPEG", progressive=kind.endswith("progressive"))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "JPEG2000 bare", "JPEG2000"])
@settings(max_examples=8, deadline=None)
@given(st.integers(2, 70), st.integers(2, 70))
def test_size_of_real_frames(kind: str, rows: int, columns: int) -> None:
    assert code_stream_size(encoded(rows, columns, kind)) == FrameSize(rows, columns, 1, 8)


JPEG_LS = b"\xff\xd8\xff\xff\xf7" + struct.pack(">HBHHB", 11, 12, 300, 200, 1) + b"\1\x11\0"
SCAN = b"\xff\xda\0\6\1\1\0\0"


def test_jpeg_ls_and_offset_of_the_image_area() -> None:
    assert code_stream_size(JPEG_LS + SCAN) == FrameSize(300, 200, 1, 12)
    siz = (
        b"\xff\x4f\xff\x51"
        + struct.pack(">HHIIII", 41, 0, 220, 330, 20, 30)
        + bytes(16)
        + struct.pack(">HB", 3, 0x80 | 15)  # signed
    )
    assert code_stream_size(siz) == FrameSize(300, 200, 3, 16)


@pytest.mark.parametrize(
    "frame",
    [
        JPEG_LS,  # no scan
        JPEG_LS + b"\0" + SCAN,
        JPEG_LS + JPEG_LS[3:] + SCAN,
        JPEG_LS[:2] + SCAN + JPEG_LS[2:],
        JPEG_LS + b"\xff\xe0\0\x10JFIF\0\2" + bytes(8) + SCAN,
    ],
    ids=["no scan", "stray bytes", "two frame headers", "scan first", "JFIF 2"],
)
def test_a_header_out_of_order_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        code_stream_size(frame)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "]),
    st.binary(max_size=60),
)
def test_other_bytes_end_in_a_size_or_a_value_error(beginning: bytes, rest: bytes) -> None:
    try:
        assert isinstance(code_stream_size(beginning + rest), FrameSize)
    except ValueError as error:
        assert str(error).startswith("expected")


@pytest.mark.parametrize("length", [0, 1, 7])
def test_boxes_without_length_do_not_loop(length: int) -> None:
    with pytest.raises(ValueError, match="JP2 box"):
        code_stream_size(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + struct.pack(">I", length) + b"free" + bytes(20))
