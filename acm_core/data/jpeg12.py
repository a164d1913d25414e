"""JPEG Extended with 12 bits (PS3.5 A.4.1) for pydicom, by libjpeg-turbo as imagecodecs carries it; gdcm refuses it."""

from __future__ import annotations

from importlib.util import find_spec

from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("imagecodecs",)}


def is_available(uid: str) -> bool:
    """Whether the plugin reads a transfer syntax; pydicom asks."""
    return uid == JPEGExtended12Bit and find_spec("imagecodecs") is not None


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """The pixels of one frame, little endian, 16 bits each."""
    import imagecodecs

    decoded = imagecodecs.jpeg8_decode(frame)
    runner.set_option("bits_allocated", 8 * decoded.dtype.itemsize)
    return bytes(decoded.astype(decoded.dtype.newbyteorder("<")).tobytes())
