"""A start from one folder of public films: trained epoch by epoch, measured on films held out, written with a card.

Everything that is needed to go on after an interruption lies in a folder beside the output, which goes when the start
is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acm_core.config.section import Section
from acm_core.config.sections import FindingName, ModelConfig, TrainingConfig
from acm_core.config.site import SiteConfig
from acm_core.data.labels import read_labels
from acm_core.data.site_films import FilmSet, concatenate, load_site
from acm_core.files import (
    DamagedFileError,
    file_sha256,
    read_sealed,
    write_atomically,
    write_sealed,
    write_text_atomically,
)
from acm_core.nn import Classifier, Origin, build_classifier, finding_rows, fit_projection
from acm_core.randomness import stream, stream_seed
from acm_core.training.features import pooled_features
from acm_core.training.local import deterministic_kernels, make_optimizer, predict, train_epoch
from acm_core.training.metrics import FindingMetrics, evaluate_findings
from acm_core.training.self_supervised import SelfSupervised, train_epoch_without_labels
from acm_core.training.weights import get_arrays, save_arrays
from client.round.device import best_device
from simulations.start_card import start_card

_NAME = "start"
_RESAMPLES = 1000
_MOST_AXES = 256  # above, a private head of some hundred patients hears noise alone

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


@dataclass(frozen=True)
class Start:
    """A start that was written.

    Attributes:
        path, card, sha256: of the file, of the page beside it, of the file's content.
        figures: finding → how well the start does on the films held out.
        directions: independent directions that the pooled features of these films have: (Σλ)²/Σλ² over the
            eigenvalues of their covariance; about 1 says that the features have collapsed.
    """

    path: Path
    card: Path
    sha256: str
    figures: dict[str, FindingMetrics]
    directions: float


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
    site = SiteConfig(site=_NAME, films=folder, labels=labels, state=work / "state")
    salt = site.state / "salt"
    # Drawn from the seed, as in a simulation: public films need no secret, and the same command splits the same way.
    content = stream(settings.seed, _NAME, "salt").bytes(32)
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


class Learner:
    """A model in training: with labels, or its trunk alone without.

    Args:
        folder: for where training stands.
    """

    def __init__(self, settings: Pretraining, films: PublicFilms, folder: Path) -> None:
        self._settings, self._films = settings, films
        self._checkpoint = folder / "checkpoint.pt"
        described = f"{settings.model_dump_json()} {films.fingerprint} {films.findings}"
        self._identity = hashlib.sha256(described.encode()).hexdigest()
        self.device = best_device()
        seed = stream_seed(settings.seed, "model")
        model = build_classifier(settings.model, max(len(films.findings), 1), seed=seed)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        self.model: Classifier = model
        self._whole = model if films.findings else SelfSupervised(model, settings.seed).to(self.device)
        self._optimizer = make_optimizer(self._whole, settings.training)

    def resume(self) -> int:
        """Epochs that are done.

        Raises:
            PretrainingError: what is there was trained with other settings or films.
        """
        try:
            saved = torch.load(io.BytesIO(read_sealed(self._checkpoint)), weights_only=True)
        except (FileNotFoundError, DamagedFileError):
            return 0
        if saved["identity"] != self._identity:
            raise PretrainingError(
                f"expected in {self._checkpoint.parent} a start begun with the same films and settings, got another: "
                "give the command that began it, or choose another --output, or remove the folder"
            )
        self._whole.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        epochs: int = saved["epochs"]
        return epochs

    def train(self, epoch: int) -> float:
        """Train epoch number `epoch`, from 0, keep where training stands, and return the mean loss.

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        settings = self._settings
        place: dict[str, Any] = {
            "epoch": epoch,
            "total_epochs": settings.training.epochs,
            "seed": stream_seed(settings.seed, _NAME, epoch, "films"),
            "device": self.device,
        }
        with deterministic_kernels():
            if isinstance(self._whole, SelfSupervised):
                loss = train_epoch_without_labels(
                    self._whole, self._optimizer, self._films.train, settings.training, **place
                )
            else:
                loss = train_epoch(self.model, self._optimizer, self._films.train, settings.training, **place)
        content = io.BytesIO()
        saved = {"model": self._whole.state_dict(), "optimizer": self._optimizer.state_dict()}
        torch.save({"identity": self._identity, "epochs": epoch + 1, **saved}, content)
        write_sealed(self._checkpoint, content.getbuffer())
        return loss


def write_start(output: Path, settings: Pretraining, films: PublicFilms, learner: Learner) -> Start:
    """Measure on the films held out, write the start and its card, and remove the work folder."""
    batch, device = settings.training.batch_size, learner.device
    figures: dict[str, FindingMetrics] = {}
    with deterministic_kernels():
        if films.findings:
            figures = evaluate_findings(
                predict(learner.model, films.held_out, batch, device)[0],
                films.held_out.labels,
                films.held_out.patients,
                films.findings,
                resamples=_RESAMPLES,
                seed=stream_seed(settings.seed, _NAME, "bootstrap"),
            )
        features = pooled_features(learner.model, films.held_out, batch, device)
        centre, axes = _projection(pooled_features(learner.model, films.train, batch, device))
    origin = Origin(findings=films.findings, model=settings.model, made_from=_made_from(settings, films))
    arrays = get_arrays(learner.model, without=() if films.findings else finding_rows(learner.model))
    arrays |= {"projection.centre": centre, "projection.axes": axes}
    save_arrays(output, arrays, origin.metadata())
    card = output.with_suffix(".md")
    start = Start(output, card, file_sha256(output), figures, _directions(features))
    write_text_atomically(card, start_card(start, settings, films))
    shutil.rmtree(work_folder(output))
    return start


def _projection(features: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Any, Any]:
    """Centre and axes for a projected head: as many axes as the films permit, of which a run takes the first."""
    films, channels = features.shape
    return fit_projection(features, min(_MOST_AXES, films - 1, channels))


def _made_from(settings: Pretraining, films: PublicFilms) -> str:
    learnt = "without labels"
    if films.findings:
        count = len(films.findings)
        learnt = f"with labels of {count} finding{'' if count == 1 else 's'}"
    shown = "".join(letter for letter in films.name if letter.isprintable())[:100]
    return (
        f"{len(films.train)} films of {films.patients} patients in {shown}, {learnt}, "
        f"{settings.training.epochs} epochs, seed {settings.seed}"
    )


def _both(column: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    return bool((column == 1).any() and (column == 0).any())


def _directions(features: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    spread = np.linalg.svd(centred, compute_uv=False) ** 2
    total = float((spread**2).sum())
    return 0.0 if total == 0 else float(spread.sum()) ** 2 / total


def _column_values(labels: Path, column: str) -> dict[str, int]:
    """Text → rows, the commonest first; {} where the file has no such column."""
    with labels.open(encoding="utf-8-sig", newline="") as file:
        values = Counter(text for row in csv.DictReader(file) if (text := (row.get(column) or "").strip()))
    return dict(values.most_common())
