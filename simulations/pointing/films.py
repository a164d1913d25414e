"""Phantom films that no model was trained on, and where their findings lie in what a model is shown."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import LabelMap
from acm_core.data.film import read_film
from acm_core.data.labels import read_labels
from acm_core.data.shrink import Place, place_in_square, square_film
from acm_core.data.site_films import FilmSet
from acm_core.randomness import stream_seed
from simulations.phantoms import LABELS, HospitalSpec, write_hospital
from simulations.phantoms.writing import LABEL_FILE, TRUTH_FILE

# No run has this seed, so that no model has seen these patients; every model is shown the same ones.
_SEED = stream_seed(0, "pointing")
_CORNERS = ("top", "left", "bottom", "right")


@dataclass(frozen=True)
class Places:
    """The films that have one finding, and where it lies.

    Attributes:
        rows: n, of the films.
        finding, mirror: n×4, the finding's box and the same place on the other side: top, left, bottom, right in
            pixels of the S×S film.
    """

    rows: NDArray[np.int64]
    finding: NDArray[np.float64]
    mirror: NDArray[np.float64]


@dataclass(frozen=True)
class PlantedFilms:
    """Films and, of each finding, its places."""

    films: FilmSet = field(repr=False)
    places: dict[str, Places] = field(repr=False)


def planted_films(
    hospitals: Sequence[HospitalSpec],
    findings: Sequence[str],
    image_size: int,
    patients: int,
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> PlantedFilms:
    """Films of these hospitals' machines, of patients that no run has.

    Args:
        findings: F, the model's outputs.
        image_size: S.
        patients: of each hospital.
        folder: where the films are written; those that are there are used again.
        progress: called with (hospital, films written, films in all).
    """
    images: list[NDArray[np.float16]] = []
    labels: list[NDArray[np.float32]] = []
    patient_ids: list[str] = []
    rows: dict[str, list[int]] = {finding: [] for finding in findings}
    boxes: dict[str, list[list[float]]] = {finding: [] for finding in findings}
    for hospital in hospitals:
        spec = hospital.model_copy(update={"patients": patients, "labels": LABELS})
        written = write_hospital(
            spec,
            folder / spec.name,
            _SEED,
            progress=lambda done, total, name=spec.name: progress(name, done, total),  # type: ignore[misc]
        )
        table = read_labels(written / LABEL_FILE, findings, LabelMap())
        row_of, places = {}, {}
        for image in table.images:
            pixels = read_film(written / image).pixels
            row_of[image] = len(images)
            places[image] = (pixels.shape, place_in_square(pixels.shape, image_size))
            images.append(square_film(pixels, image_size))
        labels.append(table.labels)
        patient_ids.extend(table.patients)
        with (written / TRUTH_FILE).open(encoding="utf-8", newline="") as stream_in:
            for truth in csv.DictReader(stream_in):
                if truth["finding"] in rows:
                    shape, place = places[truth["image"]]
                    rows[truth["finding"]].append(row_of[truth["image"]])
                    boxes[truth["finding"]].append(
                        [*_box(truth, "", shape, place), *_box(truth, "mirror_", shape, place)]
                    )
    _, numbers = np.unique(patient_ids, return_inverse=True)
    return PlantedFilms(
        FilmSet(np.stack(images), np.concatenate(labels), numbers.astype(np.int64)),
        {
            finding: Places(np.array(rows[finding], np.int64), corners[:, :4], corners[:, 4:])
            for finding in findings
            if (corners := np.array(boxes[finding], np.float64).reshape(-1, 8)).size
        },
    )


def _box(truth: dict[str, str], prefix: str, shape: tuple[int, ...], place: Place) -> list[float]:
    """top, left, bottom, right in the square film, from those in the stored one."""
    top, left, bottom, right = (int(truth[prefix + corner]) for corner in _CORNERS)
    down, across = place.rows / shape[0], place.columns / shape[1]
    return [
        place.top + top * down,
        place.left + left * across,
        place.top + bottom * down,
        place.left + right * across,
    ]
