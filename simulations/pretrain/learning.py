"""A start from one folder of public films: trained epoch by epoch, measured on films held out, written with a card.

Everything that is needed to go on after an interruption lies in a folder beside the output, which goes when the start
is whole.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from acm_core.files import (
    DamagedFileError,
    file_sha256,
    read_sealed,
    write_sealed,
    write_text_atomically,
)
from acm_core.nn import Classifier, Origin, build_classifier, finding_rows, fit_projection
from acm_core.randomness import stream_seed
from acm_core.training.features import pooled_features
from acm_core.training.local import deterministic_kernels, make_optimizer, predict, train_epoch
from acm_core.training.metrics import FindingMetrics, evaluate_findings
from acm_core.training.self_supervised import SelfSupervised, train_epoch_without_labels
from acm_core.training.weights import get_arrays, save_arrays
from client.round.device import best_device
from simulations.pretrain.card import Start, start_card
from simulations.pretrain.films import NAME, Pretraining, PretrainingError, PublicFilms, work_folder

_RESAMPLES = 1000
_MOST_AXES = 256  # above, a private head of some hundred patients hears noise alone


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
            "seed": stream_seed(settings.seed, NAME, epoch, "films"),
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
                seed=stream_seed(settings.seed, NAME, "bootstrap"),
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


def _directions(features: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    spread = np.linalg.svd(centred, compute_uv=False) ** 2
    total = float((spread**2).sum())
    return 0.0 if total == 0 else float(spread.sum()) ** 2 / total
