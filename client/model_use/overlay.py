"""Maps laid over a film: one colour for where the model looked, another for what it compared that with."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# Orange and blue of Okabe and Ito, told apart with any kind of colour vision; on grey films neither is a tissue's.
ABOVE, BELOW = (230, 120, 0), (30, 140, 255)
_LEAST = 1e-30
_SIDE = 64  # of a map as it is handed to the page, which scales it smoothly
_STRONGEST = 0.75  # opacity of a map's largest value: the film stays visible below it


def scaled(values: Floats, side: int) -> Floats:
    """Values over a square, with another side, smoothly."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)


def tint(map_: Floats, limit: float, kind: Literal["above", "below", "both"]) -> Pixels:
    """A map h×w as colour over a whole square film, 64×64×4; opacity, the last, grows with |value| up to `limit`.

    Values above 0 are orange and values below 0 blue; a map of one sign, of kind "below", is blue.
    """
    values = scaled(map_.astype(np.float32), _SIDE) / max(limit, _LEAST)
    if kind == "below":
        values = -values
    opacity = 255 * _STRONGEST * np.clip(np.abs(values), 0, 1)
    colour = np.where(values[..., None] >= 0, np.array(ABOVE), np.array(BELOW))
    tinted: Pixels = np.rint(np.concatenate([colour, opacity[..., None]], axis=2)).astype(np.uint8)
    return tinted


def grey(film: Floats) -> Pixels:
    """A film H×W in [0, 1] as H×W of 255."""
    pixels: Pixels = np.rint(255 * np.clip(film, 0, 1)).astype(np.uint8)
    return pixels


def png(pixels: Pixels) -> str:
    """PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return b64encode(file.getvalue()).decode("ascii")
