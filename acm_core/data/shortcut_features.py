"""What of a film can tell its finding and is no medicine: its grey, its size and shape, its border, its view."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acm_core.data.prepared import FilmStack
from acm_core.data.shrink import place_in_square, shrink
from acm_core.data.site_films import FilmFacts
from acm_core.shortcuts import Features

_CELLS = 10
_RING = np.pad(np.zeros((_CELLS - 2, _CELLS - 2), bool), 1, constant_values=True)


def shortcut_features(images: FilmStack | NDArray[np.float16], facts: FilmFacts) -> Features:
    """The features of N prepared films, of each film alone and without the black that makes it a square.

    Grey: the film's mean. Size: logarithms of its rows × columns and of its rows / columns before it was prepared.
    Border: the mean grey of the 36 outer cells of 10 × 10, going round the film's outer tenth.

    Args:
        images: N×S×S in [0, 1], see `square_film`.
    """
    appearance = np.array(
        [_appearance(images[film], facts.shapes[film]) for film in range(len(images))], np.float64
    ).reshape(len(images), 1 + int(_RING.sum()))
    rows, columns = np.log(facts.shapes.astype(np.float64)).T
    size = np.stack([rows + columns, rows - columns], axis=1)
    return Features(appearance[:, 0], size, appearance[:, 1:], facts.views)


def _appearance(square: NDArray[np.float16], shape: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean grey, then the border's cells."""
    place = place_in_square((int(shape[0]), int(shape[1])), len(square))
    rows, columns = slice(place.top, place.top + place.rows), slice(place.left, place.left + place.columns)
    film = square[rows, columns].astype(np.float32)
    return np.array([film.mean(dtype=np.float64), *shrink(film, _CELLS, _CELLS)[_RING]])
