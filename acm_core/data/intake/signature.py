"""A film as a few hundred numbers by which copies of it are found among many: its local contrast, coarsely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acm_core.data.intake.local_contrast import Scale, inside_frame, local_contrast
from acm_core.data.shrink import shrink

SIGNATURE_SIDE = 16
SIGNATURE_BYTES = 2 * SIGNATURE_SIDE**2
_SCALE = Scale(side=64, fine=1.0, coarse=3.0, around=6.0, least=0.01)
_FRAME_SIDE = 320
_LEVELS = 32
"""Steps a unit of contrast."""


def signature_of(film: NDArray[np.float32]) -> NDArray[np.int8]:
    """H×W in [0, 1] → 2×16×16: the film where it lies in its frame, and what is inside the frame alone.

    The first does not hang on where exactly the frame is seen to end, which a new encoding moves in films that grow
    dark towards their sides; the second not on what frame was put around the film.
    """
    reduced = _reduced(film)
    inside, everything = inside_frame(reduced), np.s_[:, :]
    contrast = np.stack([local_contrast(reduced, inside, around, _SCALE) for around in (everything, inside)])
    cells = _SCALE.side // SIGNATURE_SIDE
    coarse = contrast.reshape(2, SIGNATURE_SIDE, cells, SIGNATURE_SIDE, cells).mean((2, 4))
    steps: NDArray[np.int8] = np.clip(np.rint(coarse * _LEVELS), -127, 127).astype(np.int8)
    return steps


def _reduced(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """H×W with at most 320 pixels along the longer side: a frame is found at any size, and at this one quickly."""
    longest = max(pixels.shape)
    if longest <= _FRAME_SIDE:
        return pixels
    rows, columns = (max(1, round(side * _FRAME_SIDE / longest)) for side in pixels.shape)
    return shrink(pixels, rows, columns)
