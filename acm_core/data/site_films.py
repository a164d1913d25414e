"""A site's films as arrays: labelled, split by patient, ready to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import prepare, take_in
from acm_core.data.intake.manifest import Row
from acm_core.data.labels import read_labels
from acm_core.data.prepared import FilmStack
from acm_core.data.splits import Split, patient_numbers
from acm_core.data.terms import Accepted
from acm_core.groups import Attribute, age_band


@dataclass(frozen=True)
class FilmSet:
    """Films of one split.

    Attributes:
        images: float16 N×S×S in [0, 1], dense tissue bright.
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
        patients: int64 N; films of one patient share a number, which says nothing else.
    """

    images: FilmStack | NDArray[np.floating] = field(repr=False)
    labels: NDArray[np.float32] = field(repr=False)
    patients: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def labelled(self) -> NDArray[np.int64]:
        """Films labelled 1 or 0 for each finding (F)."""
        counts: NDArray[np.int64] = (~np.isnan(self.labels)).sum(axis=0).astype(np.int64)
        return counts


@dataclass(frozen=True)
class FeatureSet(FilmSet):
    """Films of which what a frozen trunk says is kept instead of the pixels.

    Attributes:
        images: float32 N×C×1×1, the last stage's features, averaged over positions.
    """

    images: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class FilmFacts:
    """What the manifest says of the films of one split.

    Attributes:
        shapes: int64 N×2, rows and columns of the film before it was prepared.
        views: N, "PA", "AP" or "unknown".
    """

    shapes: NDArray[np.int64] = field(repr=False)
    views: NDArray[np.str_] = field(repr=False)


@dataclass(frozen=True)
class SiteFilms:
    """All of a site's films that are labelled for at least one of the run's findings.

    Attributes:
        facts: of the films of each split.
        test_names: of the test films in their source; they stay at the site.
        test_groups: attribute → each test film's group.
        set_aside: reason code → number of files that cannot be used.
        fingerprint: of the dataset: the hash of the site's manifest.
    """

    train: FilmSet
    validation: FilmSet
    test: FilmSet
    facts: Mapping[Split, FilmFacts]
    test_names: tuple[str, ...] = field(repr=False)
    test_groups: Mapping[Attribute, NDArray[np.str_]] = field(repr=False)
    set_aside: Mapping[str, int]
    fingerprint: str


def load_site(
    site: SiteConfig,
    findings: Sequence[str],
    image_size: int,
    *,
    apart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SiteFilms:
    """Read a site's labels and films: what is new is taken in first, and prepared films are kept in its state folder.

    Args:
        findings: F, the order of the label columns; none: every film that the label file names, labelled or not.
        image_size: S, pixels a side.
        apart: judge each patient by the label file's id as if there were no other, as private training has to; else
            patients whom headers or films show to be one person are one.
        progress: called with (films done, films in all) while films are decoded.

    Raises:
        LabelError: the label file is malformed.
        OSError: the films, the label file or the state folder cannot be read or written.
    """
    taken = take_in(site, image_size=image_size, progress=progress)
    table = read_labels(site.labels, findings, site.label_map, Accepted.of(site.accept)).take(
        taken.label_rows
    )
    by_film = {row.film: row.apart() if apart else row for row in taken.rows}
    wanted = ~np.isnan(table.labels).all(axis=1) if findings else np.ones(len(table.labels), np.bool_)
    labelled = np.flatnonzero(wanted).tolist()
    reasons = Counter(by_film[taken.images[index]].reason for index in labelled)
    usable = [index for index in labelled if by_film[taken.images[index]].reason is None]
    names = [taken.names[taken.images[index]] for index in usable]
    prepared, contents = prepare(site, names, image_size, progress=progress)
    there = [(index, content) for index, content in zip(usable, contents, strict=True) if content is not None]
    rows = [by_film[taken.images[index]] for index, _ in there]
    numbers = np.array(patient_numbers([row.patient for row in rows]), np.int64)
    labels = table.labels[[index for index, _ in there]]

    def chosen(split: Split) -> FilmSet:
        of_split = np.flatnonzero([row.split == split for row in rows])
        films = prepared.stack([there[index][1] for index in of_split])
        return FilmSet(films, labels[of_split], numbers[of_split])

    return SiteFilms(
        chosen(Split.TRAIN),
        chosen(Split.VALIDATION),
        chosen(Split.TEST),
        {split: _facts([row for row in rows if row.split == split]) for split in Split},
        tuple(
            taken.names[taken.images[index]]
            for (index, _), row in zip(there, rows, strict=True)
            if row.split == Split.TEST
        ),
        _groups([row for row in rows if row.split == Split.TEST]),
        dict(sorted((reason.value, count) for reason, count in reasons.items() if reason is not None)),
        taken.fingerprint,
    )


def _groups(rows: Sequence[Row]) -> dict[Attribute, NDArray[np.str_]]:
    return {
        "sex": np.array([row.sex or "unknown" for row in rows], np.str_),
        "age": np.array([age_band(row.age) for row in rows], np.str_),
        "view": _views(rows),
    }


def _facts(rows: Sequence[Row]) -> FilmFacts:
    shapes = np.array([(row.rows, row.columns) for row in rows], np.int64).reshape(len(rows), 2)
    return FilmFacts(shapes, _views(rows))


def _views(rows: Sequence[Row]) -> NDArray[np.str_]:
    return np.array([row.view or "unknown" for row in rows], np.str_)


def concatenate(sets: Sequence[FilmSet]) -> FilmSet:
    """One set of all films; patients of different sets stay different."""
    patients, offset = [], 0
    for films in sets:
        patients.append(films.patients + offset)
        offset += int(films.patients.max(initial=-1)) + 1
    return FilmSet(
        np.concatenate([np.asarray(films.images) for films in sets]),
        np.concatenate([films.labels for films in sets]),
        np.concatenate(patients),
    )
