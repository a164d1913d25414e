"""Shutters hide what the standard says, counted pixel by pixel (PS3.3 C.7.6.11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from acm_core.data.film import decode_film
from acm_core.data.set_aside import FilmSetAside, SetAside

WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096", "BitsStored": 12}
RECTANGLE: dict[str, Any] = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 11,
    "ShutterRightVerticalEdge": 50,
    "ShutterUpperHorizontalEdge": 6,
    "ShutterLowerHorizontalEdge": 70,
}
CIRCLE: dict[str, Any] = {
    "ShutterShape": "CIRCULAR",
    "CenterOfCircularShutter": [40, 32],
    "RadiusOfCircularShutter": 20,
}
POLYGON: dict[str, Any] = {
    "ShutterShape": "POLYGONAL",
    "VerticesOfThePolygonalShutter": [6, 11, 6, 50, 70, 50, 70, 11],
}


def inside(shape: tuple[int, int], seen: Callable[[int, int], bool]) -> np.ndarray:
    return np.array([[seen(row + 1, column + 1) for column in range(shape[1])] for row in range(shape[0])])


def in_rectangle(row: int, column: int) -> bool:
    return 6 <= row <= 70 and 11 <= column <= 50


def in_circle(row: int, column: int) -> bool:
    return (row - 40) ** 2 + (column - 32) ** 2 <= 400


@pytest.mark.parametrize(
    ("says", "seen"),
    [
        (RECTANGLE, in_rectangle),
        (CIRCLE, in_circle),
        (POLYGON, in_rectangle),
        (
            {**RECTANGLE, **CIRCLE, "ShutterShape": ["RECTANGULAR", "CIRCULAR"]},
            lambda row, column: in_rectangle(row, column) and in_circle(row, column),
        ),
    ],
    ids=["rectangle", "circle", "polygon", "two"],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_pixels_outside_are_black_and_the_others_as_they_were(
    dicom: Callable[..., bytes],
    ramp: np.ndarray,
    says: dict[str, Any],
    seen: Callable[[int, int], bool],
    photometric: str,
) -> None:
    how = {**WINDOW, "PhotometricInterpretation": photometric}
    bare = decode_film(dicom(ramp, **how)).pixels
    film = decode_film(dicom(ramp, **how, **says)).pixels
    assert np.array_equal(film, np.where(inside(ramp.shape, seen), bare, 0))


def test_the_presentation_value_is_shown_in_their_place(
    dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    film = decode_film(dicom(ramp, **WINDOW, **RECTANGLE, ShutterPresentationValue=32768)).pixels
    assert film[0, 0] == pytest.approx(32768 / 65535)


def test_hidden_pixels_do_not_decide_the_contrast(dicom: Callable[..., bytes]) -> None:
    """A white plate around a narrow range of greys: without a window the range is that of what is seen."""
    inner = np.linspace(500, 900, 65 * 40).round().astype(np.uint16).reshape(65, 40)
    plate = np.full((80, 64), 4095, np.uint16)
    plate[5:70, 10:50] = inner
    film = decode_film(dicom(plate, BitsStored=12, **RECTANGLE)).pixels
    alone = decode_film(dicom(inner, BitsStored=12)).pixels
    assert film[5:70, 10:50] == pytest.approx(alone, abs=1e-6)
    assert film[0, 0] == 0


@pytest.mark.parametrize(
    "says",
    [
        {"ShutterShape": "BITMAP"},
        {"ShutterShape": ""},
        {**RECTANGLE, **{name: 0 for name in RECTANGLE if name.endswith("Edge")}},
        {key: value for key, value in RECTANGLE.items() if key != "ShutterShape"},
    ],
)
def test_what_is_no_shutter_hides_nothing(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any]
) -> None:
    assert np.array_equal(
        decode_film(dicom(ramp, **WINDOW, **says)).pixels, decode_film(dicom(ramp, **WINDOW)).pixels
    )


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({**RECTANGLE, "ShutterLeftVerticalEdge": 60}, SetAside.CONTRADICTION),
        ({**CIRCLE, "CenterOfCircularShutter": [900, 900]}, SetAside.CONTRADICTION),
        ({**RECTANGLE, "ShutterLeftVerticalEdge": None}, SetAside.INCOMPLETE_HEADER),
        ({**POLYGON, "VerticesOfThePolygonalShutter": [1, 1, 5, 5]}, SetAside.INCOMPLETE_HEADER),
    ],
)
def test_a_shutter_that_cannot_be_laid_is_told(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], reason: SetAside
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(ramp, **WINDOW, **says))
    assert verdict.value.reason is reason
