"""A site's films as arrays: labelled, split by patient, ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acm_core.config.sections import SiteConfig
from acm_core.data.labels import read_labels
from acm_core.data.prepared import prepare_films
from acm_core.data.splits import Split, load_or_create_salt, patient_numbers, split_of


@dataclass(frozen=True)
class FilmSet:
    """Films of one split.

    Attributes:
        images: float16 N×S×S in [0, 1], dense tissue bright.
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
        patients: int64 N; films of one patient share a number, which says nothing else.
    """

    images: NDArray[np.float16] = field(repr=False)
    labels: NDArray[np.float32] = field(repr=False)
    patients: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def labelled(self) -> NDArray[np.int64]:
        """Films labelled 1 or 0 for each finding (F)."""
        counts: NDArray[np.int64] = (~np.isnan(self.labels)).sum(axis=0).astype(np.int64)
        return counts


@dataclass(frozen=True)
class SiteFilms:
    """All of a site's films that are labelled for at least one of the run's findings.

    Attributes:
        set_aside: reason code → number of files that cannot be used.
        fingerprint: SHA-256 of the films' contents and how they were prepared.
    """

    train: FilmSet
    validation: FilmSet
    test: FilmSet
    set_aside: Mapping[str, int]
    fingerprint: str


def load_site(
    site: SiteConfig,
    findings: Sequence[str],
    image_size: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SiteFilms:
    """Read a site's labels and films; decoded films are kept in the site's state folder.

    Args:
        findings: F, the order of the label columns.
        image_size: S, pixels a side.
        progress: called with (films done, films in all) while films are decoded.

    Raises:
        LabelError: the label file is malformed.
        OSError: the label file or the state folder cannot be read or written.
    """
    table = read_labels(site.labels, findings, site.columns)
    used = np.flatnonzero(~np.isnan(table.labels).all(axis=1))
    films = prepare_films(
        [site.films / Path(table.images[row]) for row in used],
        image_size,
        site.state / "prepared",
        progress=progress,
    )
    rows = used[films.kept]
    salt = load_or_create_salt(site.state)
    patients = [table.patients[row] for row in rows]
    numbers = np.array(patient_numbers(patients), np.int64)
    splits = np.array([split_of(patient, salt) for patient in patients], dtype=object)

    def chosen(split: Split) -> FilmSet:
        of_split = np.flatnonzero(splits == split)
        return FilmSet(films.images[of_split], table.labels[rows[of_split]], numbers[of_split])

    return SiteFilms(
        chosen(Split.TRAIN), chosen(Split.VALIDATION), chosen(Split.TEST), films.set_aside, films.fingerprint
    )


def concatenate(sets: Sequence[FilmSet]) -> FilmSet:
    """One set of all films; patients of different sets stay different."""
    patients, offset = [], 0
    for films in sets:
        patients.append(films.patients + offset)
        offset += int(films.patients.max(initial=-1)) + 1
    return FilmSet(
        np.concatenate([films.images for films in sets]),
        np.concatenate([films.labels for films in sets]),
        np.concatenate(patients),
    )
