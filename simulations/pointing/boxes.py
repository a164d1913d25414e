"""Boxes that radiologists drew on real films: where findings lie in what a model is shown, and who trained on them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import LabelMap, SiteConfig
from acm_core.data.film import read_film
from acm_core.data.intake.intake import take_in
from acm_core.data.label_file import LabelError
from acm_core.data.labels import read_labels
from acm_core.data.set_aside import FilmSetAside
from acm_core.data.shrink import Place, place_in_square, square_film
from acm_core.data.site_films import FilmSet
from acm_core.data.splits import Split
from acm_core.vocabulary import canonical
from simulations.pointing.films import Places, PlantedFilms

COLUMNS = ("site", "image", "finding", "x", "y", "width", "height")
_ROUNDING = 1e-3
_LABELS = "labels.csv"


class BoxesError(ValueError):
    """A file of boxes that cannot be used; the message says which line."""


@dataclass(frozen=True)
class BoxedFilms:
    """Real films and where their findings lie, by a radiologist.

    Attributes:
        planted: the films and, of each finding that has one, its boxes; the mirror side is that of the film.
        patients: N ids as the label files write them, one a film.
    """

    planted: PlantedFilms
    patients: tuple[str, ...] = field(repr=False)


def boxed_films(path: Path, findings: Sequence[str], image_size: int) -> BoxedFilms:
    """The films of a file of boxes that has one for any of these findings.

    Args:
        path: CSV with the columns `COLUMNS`: `site` is a folder beside the file with `labels.csv` and films, `image` a
            path in it, the rest fractions of the film's sides from its upper left corner.
        findings: F, the model's outputs.
        image_size: S.

    Raises:
        BoxesError: a line or film that cannot be used, or no box of these findings.
    """
    names = {canonical(finding) or finding: finding for finding in findings}
    films: dict[tuple[str, str], int] = {}
    images: list[NDArray[np.float16]] = []
    places_of: list[tuple[Place, str]] = []
    rows: dict[str, list[int]] = {finding: [] for finding in findings}
    corners: dict[str, list[list[float]]] = {finding: [] for finding in findings}
    of_sites: dict[str, Mapping[str, str]] = {}
    for line, row in _lines(path):
        finding = names.get(canonical(row["finding"]) or row["finding"])
        if finding is None:
            continue
        x, y, width, height = _fractions(line, row)
        site, image = row["site"], row["image"]
        if site not in of_sites:
            of_sites[site] = _patients(path.parent / site, line)
        if image not in of_sites[site]:
            raise BoxesError(
                f"line {line}: expected a film of {site}/{_LABELS}, got one that it does not list"
            )
        if (site, image) not in films:
            films[site, image] = len(images)
            pixels = _pixels(path.parent / site / image, line)
            images.append(square_film(pixels, image_size))
            places_of.append((place_in_square(pixels.shape, image_size), of_sites[site][image]))
        place, _ = places_of[films[site, image]]
        across = [place.left + share * place.columns for share in (x, x + width, 1 - x - width, 1 - x)]
        top, bottom = (place.top + share * place.rows for share in (y, y + height))
        rows[finding].append(films[site, image])
        corners[finding].append([top, across[0], bottom, across[1], top, across[2], bottom, across[3]])
    if not images:
        raise BoxesError(f"{path}: expected boxes of some of {', '.join(findings)}, got none")
    patients = tuple(patient for _, patient in places_of)
    _, numbers = np.unique(patients, return_inverse=True)
    labels = np.full((len(images), len(findings)), np.nan, np.float32)
    for column, finding in enumerate(findings):
        labels[rows[finding], column] = 1
    places = {
        finding: Places(np.array(rows[finding], np.int64), lying[:, :4], lying[:, 4:])
        for finding in findings
        if (lying := np.array(corners[finding], np.float64).reshape(-1, 8)).size
    }
    stack = FilmSet(np.stack(images), labels, numbers.astype(np.int64))
    return BoxedFilms(PlantedFilms(stack, places), patients)


def trained_on(sites: Sequence[SiteConfig], progress: Callable[[str, int, int], None]) -> frozenset[str]:
    """Patients, by the ids of the label files, whose films trained or validated a run at these sites.

    Args:
        progress: called with (site, films read, films in all).
    """
    seen: set[str] = set()
    for site in sites:
        taken = take_in(site, progress=lambda done, total, name=site.site: progress(name, done, total))  # type: ignore[misc]
        split_of = {row.film: row.split for row in taken.rows}
        seen |= {
            patient
            for patient, film in zip(taken.table.patients, taken.images, strict=True)
            if split_of[film] != Split.TEST
        }
    return frozenset(seen)


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream_in:
            reader = csv.DictReader(stream_in)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise BoxesError(
                    f"{path}: expected the columns {', '.join(COLUMNS)}, got none named {', '.join(missing)}"
                )
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise BoxesError(f"{path}: expected a CSV of boxes: {error.strerror}") from None


def _fractions(line: int, row: Mapping[str, str]) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(row[name]) for name in COLUMNS[3:])
    except (TypeError, ValueError):
        raise BoxesError(
            f"line {line}: expected numbers for x, y, width and height, got something else"
        ) from None
    if not (x >= 0 and y >= 0 and width > 0 and height > 0 and max(x + width, y + height) <= 1 + _ROUNDING):
        raise BoxesError(
            f"line {line}: expected a box within the film, as fractions of its sides, got {x:g}, {y:g}, {width:g}, "
            f"{height:g}"
        )
    return x, y, width, height


def _patients(folder: Path, line: int) -> dict[str, str]:
    """Image → patient."""
    try:
        table = read_labels(folder / _LABELS, None, LabelMap())
    except (OSError, LabelError) as error:
        raise BoxesError(
            f"line {line}: expected a folder beside the file of boxes with {_LABELS} and films: {error}"
        ) from None
    return dict(zip(table.images, table.patients, strict=True))


def _pixels(path: Path, line: int) -> NDArray[np.float32]:
    try:
        return read_film(path).pixels
    except (OSError, FilmSetAside) as error:
        raise BoxesError(f"line {line}: expected a film that can be read: {error}") from None
