"""The public films that a start is made of: a folder taken in as a site does, and what is to be made of it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from acm_core.config.section import Section
from acm_core.config.sections import FindingName, ModelConfig, TrainingConfig
from acm_core.config.site import SiteConfig
from acm_core.data.labels import read_labels
from acm_core.data.site_films import FilmSet, concatenate, load_site
from acm_core.files import write_atomically
from acm_core.randomness import stream

NAME = "start"
"""Of the site that takes the films in, and of the streams of random numbers."""

Progress = Callable[[int, int], None]


class PretrainingError(RuntimeError):
    """No start can be made; the message says what to do."""


class Pretraining(Section):
    """What makes a start what it is, besides the films.

    Attributes:
        model: section of a run's file; its own start is left out.
        training: `epochs` is how many there are in all.
        findings: F; None: all that the label file labels both ways; none: learn without labels.
    """

    model: ModelConfig
    training: TrainingConfig
    findings: tuple[FindingName, ...] | None
    seed: int


@dataclass(frozen=True)
class PublicFilms:
    """Films of a public folder, split by patient.

    Attributes:
        name: of the folder.
        findings: F, the order of the label columns; none where nothing is learnt from labels.
        fingerprint: of the dataset: the hash of its manifest.
        licences: text of the label file's column `licence` → films.
        sources: the same of its column `source`.
    """

    name: str
    findings: tuple[str, ...]
    train: FilmSet
    held_out: FilmSet
    fingerprint: str
    licences: dict[str, int]
    sources: dict[str, int]

    @property
    def patients(self) -> int:
        """Whose films train."""
        return len(np.unique(self.train.patients))

    @property
    def held_out_patients(self) -> int:
        """The others."""
        return len(np.unique(self.held_out.patients))


def work_folder(output: Path) -> Path:
    """Where an unfinished start keeps its prepared films and where its training stands."""
    return output.with_name(f"{output.stem}.work")


def read_public_films(folder: Path, settings: Pretraining, work: Path, progress: Progress) -> PublicFilms:
    """Take in a folder with labels.csv as a site does.

    Raises:
        PretrainingError: there is no label file, or it does not label a finding asked for both ways.
        LabelError, OSError: as `load_site`.
    """
    labels = folder / "labels.csv"
    if not labels.is_file():
        raise PretrainingError(f"expected a folder with labels.csv and films, found none at {folder}")
    site = SiteConfig(site=NAME, films=folder, labels=labels, state=work / "state")
    salt = site.state / "salt"
    # Drawn from the seed, as in a simulation: public films need no secret, and the same command splits the same way.
    content = stream(settings.seed, NAME, "salt").bytes(32)
    write_atomically(salt, lambda path: path.write_bytes(content))
    findings = settings.findings
    if findings is None:
        table = read_labels(labels, None)
        findings = tuple(
            name for name, column in zip(table.findings, table.labels.T, strict=True) if _both(column)
        )
        if not findings:
            raise PretrainingError(
                f"expected a finding that {labels} labels 1 and 0, got none: give --without-labels"
            )
    films = load_site(site, findings, settings.model.image_size, progress=progress)
    held_out = concatenate([films.validation, films.test])
    for finding, column in zip(findings, films.train.labels.T, strict=True):
        if not _both(column):
            raise PretrainingError(
                f"expected training films with and without {finding} in {labels}, got one kind or none: leave it out"
            )
    if len(films.train) < 2 or len(held_out) < 2:
        raise PretrainingError(
            f"expected at least two films to train on and two to hold out, got {len(films.train)} and {len(held_out)}"
        )
    licences, sources = _column_values(labels, "licence"), _column_values(labels, "source")
    return PublicFilms(
        folder.resolve().name, findings, films.train, held_out, films.fingerprint, licences, sources
    )


def _both(column: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    return bool((column == 1).any() and (column == 0).any())


def _column_values(labels: Path, column: str) -> dict[str, int]:
    """Text → rows, the commonest first; {} where the file has no such column."""
    with labels.open(encoding="utf-8-sig", newline="") as file:
        values = Counter(text for row in csv.DictReader(file) if (text := (row.get(column) or "").strip()))
    return dict(values.most_common())
