"""Display Shutter (DICOM PS3.3 C.7.6.11): what of a film is hidden when it is shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from acm_core.data.header import header_numbers, header_text
from acm_core.data.set_aside import FilmSetAside, SetAside

_EDGES = (
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
)
_WHITE = 65535


def hidden_pixels(header: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """H×W, true where a shutter lies; None where there is none.

    Shutters are rectangular, circular or polygonal, in rows and columns that are counted from 1. Of several shapes a
    pixel has to be inside all. A bitmap shutter (C.7.6.15) is not applied. Edges that are all zero are no shutter.

    Raises:
        FilmSetAside: INCOMPLETE_HEADER where a shape lacks its place, BAD_NUMBER, CONTRADICTION where nothing is left.
    """
    hidden: NDArray[np.bool_] | None = None
    for name in header_text(header, "ShutterShape").split():
        if name not in _SHAPES:
            continue
        outside = _SHAPES[name](header, shape)
        if outside is not None:
            hidden = outside if hidden is None else hidden | outside
    if hidden is not None and hidden.all():
        raise FilmSetAside(SetAside.CONTRADICTION, "a shutter that hides the whole film")
    return hidden


def presentation_value(header: Dataset) -> float:
    """Grey in [0, 1] that takes the place of hidden pixels: Shutter Presentation Value, a P-Value; else black."""
    value = max(header_numbers(header, "ShutterPresentationValue"), default=0.0)
    return float(np.clip(value / _WHITE, 0, 1))


def _rectangle(header: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    edges = [_numbers(header, keyword, 1)[0] for keyword in _EDGES]
    if not any(edges):
        return None
    top, bottom, left, right = edges
    rows, columns = (np.arange(1, count + 1) for count in shape)
    return ((rows < top) | (rows > bottom))[:, None] | ((columns < left) | (columns > right))[None]


def _circle(header: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    row, column = _numbers(header, "CenterOfCircularShutter", 2)[:2]
    radius = _numbers(header, "RadiusOfCircularShutter", 1)[0]
    if not (row or column or radius):
        return None
    rows, columns = (np.arange(1, count + 1, dtype=np.float64) for count in shape)
    outside: NDArray[np.bool_] = (rows - row)[:, None] ** 2 + (columns - column)[None] ** 2 > radius**2
    return outside


def _polygon(header: Dataset, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    vertices = _numbers(header, "VerticesOfThePolygonalShutter", 6)
    if not any(vertices):
        return None
    mask = Image.new("1", (shape[1], shape[0]), 1)
    corners = [(column - 1, row - 1) for row, column in zip(vertices[::2], vertices[1::2], strict=False)]
    ImageDraw.Draw(mask).polygon(corners, fill=0, outline=0)
    return np.asarray(mask, np.bool_)


def _numbers(header: Dataset, keyword: str, least: int) -> tuple[float, ...]:
    numbers = header_numbers(header, keyword)
    if len(numbers) < least:
        raise FilmSetAside(SetAside.INCOMPLETE_HEADER, keyword)
    return numbers


_SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
