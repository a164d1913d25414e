"""A trained model's answers for a folder of films, written down as they come, so that a stopped run goes on."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.config.site import SiteConfig
from acm_core.data.intake.judgement import unusable_view
from acm_core.data.intake.readers import read_files
from acm_core.data.set_aside import SetAside
from acm_core.data.source.film_source import FilmSource, FoundFile
from acm_core.data.source.folder import FolderSource
from acm_core.data.splits import load_or_create_salt
from acm_core.data.terms import Accepted
from acm_core.deployment import Deployment, OperatingPoint, load_model
from acm_core.files import write_atomically
from acm_core.nn import Classifier, normalised
from acm_core.processes import usable_cores
from client.round.device import use_device

Progress = Callable[[int, int], None]
Row = dict[str, str]

_PROGRESS_SECONDS = 2.0


class PredictionError(Exception):
    """What was asked for cannot be done; the message says what to do."""


def predict_folder(
    site: SiteConfig, model: Path, films: Path, table: Path, specificity: float, progress: Progress
) -> tuple[Deployment, int, int]:
    """Write `table`: a row a file of `films`, by name.

    Columns: `file`; `not_used`, why (see `SetAside`), or empty; for each finding its probability under the finding's
    name, and under `… at specificity …` present or absent, empty where the model has no threshold for it; `model`,
    which it was, and whether it learnt from invented films.

    Args:
        model: folder that server.export wrote, or the site's own under its state folder.
        progress: called with (files done, files in all).

    Returns:
        Which model it was, films answered, files that could not be used.

    Raises:
        DeploymentError, ModelMismatchError: the model's folder cannot be used.
        PredictionError: no film there, or no threshold for that specificity.
        OSError: the films cannot be read or the table cannot be written.
    """
    deployment, members = load_model(model)
    points = _operating_points(deployment, specificity)
    kept = _Kept(table)
    source = FolderSource(films, without=[table, kept.path])
    files = source.every_file()
    if not files:
        raise PredictionError(f"{films}: expected films in the folder, found no file")
    device = use_device(site)
    members = tuple(one.to(device).to(memory_format=torch.channels_last) for one in members)
    about = {
        "model": list(deployment.files.values()),
        "called": deployment.summary,
        "specificity": specificity,
        "unknown_view": site.unknown_view,
    }
    with kept.opened(about):
        waiting = [file for file in files if not kept.has(file)]
        said = time.monotonic()
        for file, reason, film in usable_films(site, source, waiting, deployment.model.image_size):
            scores = None if film is None else _probabilities(members, film, device)
            kept.add(file, _row(deployment, points, specificity, file, reason, scores))
            if time.monotonic() - said >= _PROGRESS_SECONDS:
                said = time.monotonic()
                progress(sum(map(kept.has, files)), len(files))
        rows = [kept.row(file) for file in files]
    _write(table, rows)
    kept.path.unlink()
    progress(len(files), len(files))
    aside = sum(bool(row["not_used"]) for row in rows)
    return deployment, len(files) - aside, aside


def _operating_points(deployment: Deployment, specificity: float) -> dict[str, OperatingPoint]:
    """Finding → the one for this specificity, of the findings for which the model has one."""
    known = {point.specificity for points in deployment.operating_points.values() for point in points}
    if known and specificity not in known:
        offered = ", ".join(f"{one:g}" for one in sorted(known))
        raise PredictionError(f"--specificity: expected one of {offered}, got {specificity:g}")
    return {
        finding: point
        for finding, points in deployment.operating_points.items()
        for point in points
        if point.specificity == specificity
    }


def usable_films(
    site: SiteConfig, source: FilmSource, files: Sequence[FoundFile], side: int
) -> Iterator[tuple[FoundFile, SetAside | None, NDArray[np.float16] | None]]:
    """Each file with its film, S×S in [0, 1], or with the reason why it is not used."""
    salt = load_or_create_salt(site.state)
    names, accepted = (file.name for file in files), Accepted.of(site.accept)
    for answer in read_files(source, names, salt, side, workers=usable_cores(), accepted=accepted):
        reason = answer.reading.reason
        if reason is None:
            reason = unusable_view(answer.reading.view, site.unknown_view)
        yield files[answer.index], reason, None if reason else answer.film


@torch.no_grad()
def _probabilities(
    members: Sequence[Classifier], film: NDArray[np.float16], device: torch.device
) -> list[float]:
    """The members' mean for one film by itself: in a batch the last digits would depend on the films beside it."""
    image = torch.from_numpy(film.astype(np.float32))[None, None]
    image = image.to(device, memory_format=torch.channels_last)
    of_each = torch.stack([torch.sigmoid(one(normalised(image)).logits)[0] for one in members])
    row: list[float] = of_each.mean(0).cpu().tolist()
    return row


def _row(
    deployment: Deployment,
    points: dict[str, OperatingPoint],
    specificity: float,
    file: FoundFile,
    reason: SetAside | None,
    scores: list[float] | None,
) -> Row:
    row = {"file": file.name, "not_used": "" if reason is None else reason.value}
    for index, finding in enumerate(deployment.findings):
        score = None if scores is None else scores[index]
        row[finding] = "" if score is None else f"{score:.6f}"
        called = ""
        if score is not None and finding in points:
            called = "present" if points[finding].calls_positive(score) else "absent"
        row[f"{finding} at specificity {specificity:g}"] = called
    return {**row, "model": deployment.summary}


def _write(table: Path, rows: Sequence[Row]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(table, write)


class _Kept:
    """Rows that are done, beside the table until it is whole; of the same model and specificity only."""

    def __init__(self, table: Path) -> None:
        self.path = table.with_name(f".{table.name}.unfinished")
        self._rows: dict[str, tuple[list[int], Row]] = {}

    @contextmanager
    def opened(self, about: dict[str, object]) -> Iterator[None]:
        """Take up what a stopped run with the same `about` left, and add to it."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        with suppress(ValueError):  # the last line, where the run was killed over it
            for number, line in enumerate(lines):
                kept = json.loads(line)
                if number == 0 and kept != about:
                    break
                if number:
                    self._rows[kept["row"]["file"]] = (kept["stamp"], kept["row"])
        with self.path.open("w", encoding="utf-8") as self._file:
            self._put(about)
            for stamp, row in self._rows.values():
                self._put({"stamp": stamp, "row": row})
            yield

    def has(self, file: FoundFile) -> bool:
        """Whether the file, as it is now, is done."""
        return self._rows.get(file.name, ([], {}))[0] == list(file.stamp)

    def row(self, file: FoundFile) -> Row:
        """What was answered for the file."""
        return self._rows[file.name][1]

    def add(self, file: FoundFile, row: Row) -> None:
        """Write a row down."""
        self._rows[file.name] = (list(file.stamp), row)
        self._put({"stamp": file.stamp, "row": row})
        self._file.flush()

    def _put(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")
