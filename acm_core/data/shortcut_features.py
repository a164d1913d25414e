"""What of a film can tell its finding and is no medicine: what a run sees in prepared films, what the intake wrote."""

from __future__ import annotations

from array import array
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acm_core.data.appearance import APPEARANCE, appearance
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import Reading
from acm_core.data.prepared import FilmStack
from acm_core.data.shrink import place_in_square
from acm_core.data.site_films import FilmFacts
from acm_core.shortcuts import Features, ReportedShortcut, Shortcut

_FOLDERS = 6
"""Folders within each other that are looked at."""
_DECADE = 10


def shortcut_features(
    images: FilmStack | NDArray[np.float16], facts: FilmFacts
) -> Features[ReportedShortcut]:
    """The features of N prepared films, of each film alone and without the black that makes it a square.

    Grey and border: see `appearance`. Size: logarithms of its rows × columns and of its rows / columns before it was
    prepared.

    Args:
        images: N×S×S in [0, 1], see `square_film`.
    """
    films = (_out_of_square(images[film], facts.shapes[film]) for film in range(len(images)))
    grey, border = _grey_and_border(np.array([appearance(film) for film in films], np.float64))
    return Features(
        {"grey": grey}, {"size": _size(facts.shapes), "border": border}, {"view": facts.views[:, None]}
    )


class IntakeFeatures:
    """The features of the films that the intake has read, from what it wrote of each: no film is opened again.

    Grey, border and size as in `shortcut_features`. The groups are the file's type, the device, the view, the sex, the
    age's decade, the acquisition's year, and the file's folders from the widest on. A silent header is a group as well.
    """

    def __init__(self) -> None:
        self._appearance = array("H")
        self._shapes = array("q")
        self._groups: dict[Shortcut, array[int]] = {
            name: array("q") for name in ("kind", "device", "view", "sex", "age", "year", "folder")
        }
        self._numbers: dict[tuple[Shortcut, object], int] = {}

    def add(self, path: str, row: Row, reading: Reading) -> None:
        """A film that is used, with its path in the films folder."""
        self._appearance.extend(reading.appearance)
        self._shapes.extend((row.rows or 1, row.columns or 1))
        self._group("kind", reading.kind)
        self._group("device", reading.device)
        self._group("view", row.view)
        self._group("sex", row.sex)
        self._group("age", None if row.age is None else int(row.age // _DECADE))
        self._group("year", reading.year)
        folders = PurePosixPath(path).parts[:-1][:_FOLDERS]
        for depth in range(1, _FOLDERS + 1):
            self._group("folder", folders[:depth])

    def features(self) -> Features[Shortcut]:
        """Of the films, in the order in which they were added."""
        grey, border = _grey_and_border(np.array(self._appearance, np.float32) / 65535)
        shapes = np.array(self._shapes, np.int64).reshape(-1, 2)
        groups = {
            name: np.array(of_films, np.int64).reshape(len(shapes), _FOLDERS if name == "folder" else 1)
            for name, of_films in self._groups.items()
        }
        return Features({"grey": grey}, {"size": _size(shapes), "border": border}, groups)

    def _group(self, shortcut: Shortcut, value: object) -> None:
        self._groups[shortcut].append(self._numbers.setdefault((shortcut, value), len(self._numbers)))


def _out_of_square(square: NDArray[np.float16], shape: NDArray[np.int64]) -> NDArray[np.float32]:
    place = place_in_square((int(shape[0]), int(shape[1])), len(square))
    rows, columns = slice(place.top, place.top + place.rows), slice(place.left, place.left + place.columns)
    return square[rows, columns].astype(np.float32)


def _grey_and_border(seen: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    of_films = seen.reshape(-1, APPEARANCE)
    return of_films[:, 0], of_films[:, 1:]


def _size(shapes: NDArray[np.int64]) -> NDArray[np.float64]:
    rows, columns = np.log(shapes.astype(np.float64)).T
    return np.stack([rows + columns, rows - columns], axis=1)
