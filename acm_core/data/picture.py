"""PNG and JPEG films."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from acm_core.data.grey_levels import scaled_by_range
from acm_core.data.set_aside import FilmSetAside, SetAside

MAX_PIXELS = 2**25
"""Films with more pixels are set aside before decoding: twice what the largest flat-panel detectors deliver."""

_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B")
_GREY_TOLERANCE = 2
"""Grey levels of 255 by which the channels of a grey film stored as YCbCr JPEG may differ after rounding."""


def decode_picture(content: bytes) -> NDArray[np.float32]:
    """Decode a PNG or JPEG film to float32 H×W in [0, 1].

    8-bit films are taken as they are displayed (grey level / 255). 16-bit PNG do not say how many of their bits are
    used, so they are scaled by their own range. A grey film stored in three equal channels is accepted; opacity is
    ignored; an EXIF orientation is applied.

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
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        return scaled_by_range(np.asarray(image))
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    if image.mode in ("P", "RGB", "RGBA"):
        channels = np.asarray(image.convert("RGB"))
        if np.ptp(channels, axis=2).max() <= _GREY_TOLERANCE:
            return channels[..., 1].astype(np.float32) / np.float32(255)
    raise FilmSetAside(SetAside.COLOUR)
