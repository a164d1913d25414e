"""PNG and JPEG films."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from acm_core.data.grey_levels import scaled_by_range
from acm_core.data.set_aside import FilmSetAside, SetAside

MAX_PIXELS = 2**25
"""Films with more pixels are set aside before decoding: twice what the largest flat-panel detectors deliver."""

_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B")
_GREY_TOLERANCE = 2
"""Grey levels of 255 by which the channels of a grey film stored as YCbCr JPEG may differ after rounding."""
_COLOURED = 0.005
"""Share of a grey film's pixels that may be in colour: a marker, a measured line."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""
_PNG = b"\x89PNG"
_PNG_BITS, _PNG_CHANNELS = 24, 25
"""Places of IHDR's bit depth and colour type (PNG, 11.2.1)."""


def decode_picture(content: bytes) -> NDArray[np.float32]:
    """Decode a PNG or JPEG film to float32 H×W in [0, 1].

    8-bit films are taken as they are displayed (grey level / 255). 16-bit PNG do not say how many of their bits are
    used, so they are scaled by their own range. A grey film stored in three equal channels is accepted, and one with a
    coloured mark of a few pixels; opacity is ignored; an EXIF orientation is applied.

    Raises:
        FilmSetAside: TOO_LARGE, MULTI_FRAME or COLOUR. Pillow's own exceptions mean that it is damaged.
    """
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise FilmSetAside(SetAside.TOO_LARGE) from None
    if image.width * image.height > MAX_PIXELS:
        raise FilmSetAside(SetAside.TOO_LARGE, f"{image.height}×{image.width}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise FilmSetAside(SetAside.MULTI_FRAME, f"{frames} frames")
    if content.startswith(_PNG) and content[_PNG_BITS] == 16 and content[_PNG_CHANNELS] != 0:
        return scaled_by_range(_oriented(_sixteen_bit_channels(content), image))
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        return scaled_by_range(np.asarray(image))
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    if image.mode in ("P", "RGB", "RGBA"):
        return _grey(np.asarray(image.convert("RGB")), 255).astype(np.float32) / np.float32(255)
    raise FilmSetAside(SetAside.COLOUR, image.mode)


def _sixteen_bit_channels(content: bytes) -> NDArray[np.unsignedinteger]:
    """Grey with opacity, RGB or RGBA of 16 bits, of which Pillow keeps the upper 8."""
    import imagecodecs  # takes as long to import as all else here, and few films need it

    channels: NDArray[np.uint16] = imagecodecs.png_decode(content)
    if channels.ndim == 2:
        return channels
    if channels.shape[2] <= 2:
        return channels[..., 0]
    return _grey(channels[..., :3], int(channels[..., :3].max()))


def _grey(channels: NDArray[np.unsignedinteger], white: int) -> NDArray[np.unsignedinteger]:
    """The grey of three channels that are equal, apart from a few pixels in colour."""
    coloured = np.ptp(channels, axis=2) > max(_GREY_TOLERANCE * white / 255, _GREY_TOLERANCE)
    count = int(np.count_nonzero(coloured))
    if count > _COLOURED * coloured.size:
        raise FilmSetAside(SetAside.COLOUR, "colour")
    grey = channels[..., 1].copy()
    if count:
        grey[coloured] = np.rint(channels[coloured] @ _LUMA).astype(channels.dtype)
    return grey


def _oriented(pixels: NDArray[np.unsignedinteger], image: Image.Image) -> NDArray[np.unsignedinteger]:
    """As `ImageOps.exif_transpose`, which knows 8 bits a channel only."""
    orientation = image.getexif().get(Base.Orientation, 1)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
