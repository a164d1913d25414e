"""A film as its patient stands before the reader, with square pixels (DICOM PS3.3 C.7.6.1.1.1, C.7.6.3.1.7)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from acm_core.data.header import header_numbers, header_text
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.shrink import shrink

_MAX_ASPECT, _SAME_ASPECT = 4.0, 0.01
_DIRECTIONS = frozenset("LRAPHF")


def square_pixels(grey: NDArray[np.float32], header: Dataset) -> NDArray[np.float32]:
    """H×W with pixels as wide as high (C.7.6.3.1.7): the axis with the narrower pixels is averaged down.

    Pixel Aspect Ratio goes before Pixel Spacing and Imager Pixel Spacing, each given as vertical, horizontal. A
    difference below a hundredth is left alone.

    Raises:
        FilmSetAside: CONTRADICTION for a ratio that no detector has.
    """
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        try:
            vertical, horizontal = header_numbers(header, keyword)
        except (FilmSetAside, ValueError):
            continue
        if not (vertical > 0 and horizontal > 0):
            continue
        ratio = vertical / horizontal
        if not 1 / _MAX_ASPECT <= ratio <= _MAX_ASPECT:
            raise FilmSetAside(SetAside.CONTRADICTION, f"{keyword} of {vertical:g} to {horizontal:g}")
        rows, columns = grey.shape
        if abs(ratio - 1) <= _SAME_ASPECT:
            return grey
        if ratio > 1:
            return shrink(grey, rows, max(1, round(columns / ratio)))
        return shrink(grey, max(1, round(rows * ratio)), columns)
    return grey


def upright(grey: NDArray[np.float32], header: Dataset) -> NDArray[np.float32]:
    """The film turned and mirrored so that rows run to the patient's left and columns to the feet, without resampling.

    Patient Orientation (C.7.6.1.1.1) says where rows and columns run; of compound directions the first letter counts.
    Where it is silent, or holds no directions, the film stays as it is.

    Raises:
        FilmSetAside: CONTRADICTION for directions that no frontal film has.
    """
    directions = header_text(header, "PatientOrientation").split()
    if len(directions) != 2 or not _DIRECTIONS.issuperset("".join(directions)):
        return grey
    across, down = (direction[0] for direction in directions)
    if across in "HF":
        grey, across, down = grey.T, down, across
    if across not in "LR" or down not in "HF":
        raise FilmSetAside(SetAside.CONTRADICTION, f"Patient Orientation {'/'.join(directions)}")
    if across == "R":
        grey = grey[:, ::-1]
    if down == "H":
        grey = grey[::-1]
    return np.ascontiguousarray(grey)
