"""What stands out from its surroundings in a film: ribs and vessels, whatever the window and tone curve.

All chests are alike in the large, and all films of a device in their frame, so frames are left out of every mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Box = tuple[slice, slice]

EVEN = 0.02
"""Standard deviation, of [0, 1], up to which a row or column at a side is frame: JPEG leaves ripples in it."""
_LEAST_SIDE = 16
_LEAST_WEIGHT = np.float32(1e-3)


class Scale(NamedTuple):
    """What counts as detail.

    Attributes:
        side: S of the squares in which the film is looked at, in pixels.
        fine, coarse: widths (standard deviations of a Gaussian, in those pixels) between which detail lies.
        around: width within which its strength is taken.
        least: strength, of [0, 1], that counts as little.
    """

    side: int
    fine: float
    coarse: float
    around: float
    least: float


def local_contrast(film: NDArray[np.floating], inside: Box, around: Box, scale: Scale) -> NDArray[np.float32]:
    """H×W in [0, 1] → S×S of what is in a box, in units of the detail around; 0 where nothing is shown.

    Args:
        inside: rows and columns that show something, see `inside_frame`.
        around: rows and columns that are looked at.
    """
    there = np.zeros(film.shape, np.float32)
    there[inside] = 1
    square, shown = (_resized(values[around], scale.side) for values in (film.astype(np.float32), there))
    detail = (_mean(square, shown, scale.fine) - _mean(square, shown, scale.coarse)) * shown
    strength = np.sqrt(_mean(detail * detail, shown, scale.around)) + np.float32(scale.least)
    contrast: NDArray[np.float32] = detail / strength * shown
    return contrast


def inside_frame(film: NDArray[np.floating]) -> Box:
    """Rows and columns without those at the film's sides that are all one grey: letterbox, padding, collimation."""
    film = film.astype(np.float32)
    rows = np.flatnonzero(film.std(axis=1) > EVEN)
    columns = np.flatnonzero(film.std(axis=0) > EVEN)
    if len(rows) < _LEAST_SIDE or len(columns) < _LEAST_SIDE:
        return slice(0, film.shape[0]), slice(0, film.shape[1])
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _mean(values: NDArray[np.float32], shown: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """S×S: mean of what is shown around each pixel."""
    weight = np.maximum(gaussian_filter(shown, sigma), _LEAST_WEIGHT)
    mean: NDArray[np.float32] = gaussian_filter(values * shown, sigma) / weight
    return mean


def _resized(film: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(film))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
