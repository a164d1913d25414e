"""Films are turned as Patient Orientation says, exactly: every pixel keeps its value (PS3.3 C.7.6.1.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from acm_core.data.film import decode_film
from acm_core.data.set_aside import FilmSetAside, SetAside

WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096", "BitsStored": 12}

# What a device does to a film that stands upright, and the directions that its rows and columns then have.
MADE = [
    (["L", "F"], lambda film: film),
    (["R", "F"], lambda film: film[:, ::-1]),
    (["L", "H"], lambda film: film[::-1]),
    (["R", "H"], lambda film: film[::-1, ::-1]),
    (["F", "L"], lambda film: film.T),
    (["F", "R"], np.rot90),
    (["H", "L"], lambda film: np.rot90(film, -1)),
    (["H", "R"], lambda film: film[::-1, ::-1].T),
    (["LF", "FR"], lambda film: film),
]


@pytest.mark.parametrize(("directions", "made"), MADE, ids=["/".join(one[0]) for one in MADE])
def test_a_turned_or_mirrored_film_is_set_upright(
    dicom: Callable[..., bytes],
    ramp: np.ndarray,
    directions: list[str],
    made: Callable[[np.ndarray], np.ndarray],
) -> None:
    upright = decode_film(dicom(ramp, **WINDOW)).pixels
    stored = np.ascontiguousarray(made(ramp))
    film = decode_film(dicom(stored, PatientOrientation=directions, **WINDOW)).pixels
    assert np.array_equal(film, upright)
    assert film.flags.c_contiguous


def test_pixels_are_made_square_before_the_film_is_turned(
    dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    lying = np.ascontiguousarray(ramp.T)
    film = decode_film(dicom(lying, PatientOrientation=["F", "L"], PixelAspectRatio=[1, 2], **WINDOW)).pixels
    assert film.shape == (80, 32)


@pytest.mark.parametrize("says", [None, "", "L", ["X", "Y"], ["L", "F", "A"]])
def test_where_it_says_nothing_the_film_stays(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: str | list[str] | None
) -> None:
    film = decode_film(dicom(ramp, PatientOrientation=says, **WINDOW)).pixels
    assert np.array_equal(film, decode_film(dicom(ramp, **WINDOW)).pixels)


@pytest.mark.parametrize("says", [["L", "R"], ["F", "H"], ["L", "P"], ["A", "F"]])
def test_directions_that_no_frontal_film_has(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: list[str]
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(ramp, PatientOrientation=says, **WINDOW))
    assert verdict.value.reason is SetAside.CONTRADICTION
    assert verdict.value.value == f"Patient Orientation {says[0]}/{says[1]}"
