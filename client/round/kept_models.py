"""What a site keeps of a run: optimiser, its own model, test scores, what a frozen trunk says, where training stands.

Every file has its SHA-256 with it. One that is damaged is named in the site's log and taken for one that is not there;
each `load_…` says what that means. A disk that cannot be read at the moment is an OSError and takes nothing away.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.federated.report import ModelReport
from acm_core.files import DamagedFileError, read_sealed, remove_unfinished, write_sealed
from acm_core.training.weights import load_sealed_arrays, save_sealed_arrays

log = logging.getLogger("acm_fed.client")

Kept = TypeVar("Kept")

_OPTIMIZER = "optimizer/"
_SCORES = "scores/"  # before the name of a model


@dataclass(frozen=True)
class SiteRun:
    """A run as a site tells it apart: by name and by the settings that decide what is trained."""

    name: str
    settings: str

    @classmethod
    def of(cls, config: FederationConfig) -> Self:
        """The run that `config` describes; its start is told by content, not by path."""
        settings = config.model_dump(mode="json", include={"seed", "findings", "privacy", "training"})
        settings |= {
            "model": config.model.shared().model_dump(mode="json"),
            "rounds": config.federation.rounds,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return cls(config.name, digest[:12])


@dataclass(frozen=True)
class KeptScores:
    """What models said of a site's N test films with F findings; it stays at the site.

    Attributes:
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
        patients: int64 N; films of one patient share a number.
        models: name → float32 N×F, higher means more likely.
    """

    labels: NDArray[np.float32]
    patients: NDArray[np.int64]
    models: dict[str, NDArray[np.float32]]


class KeptModels:
    """The models of one run under the site's state folder."""

    def __init__(self, state: Path, run: SiteRun) -> None:
        self._folder = state / "runs" / f"{run.name}-{run.settings}"

    def save_optimizer(self, number: int, arrays: Arrays) -> None:
        """Keep the optimiser's state after round `number`; the round before stays, in case this one is retried."""
        self._save_of_round("optimizer", number, arrays)

    def load_optimizer(self, *, before: int) -> Arrays:
        """The newest optimiser state of a round earlier than `before`; {}: the optimiser begins anew.

        Where it is damaged the round before has the next best: as for a site that missed a round.
        """
        return self._load_newest("optimizer", before)

    def save_received(self, arrays: Arrays) -> None:
        """Keep the global model that came last: the next may come as a difference to it."""
        remove_unfinished(self._folder)
        save_sealed_arrays(self._folder / "received.safetensors", arrays)

    def load_received(self) -> Arrays | None:
        """The global model that came last, or None: then the next has to come whole."""
        return _load(self._folder / "received.safetensors", load_sealed_arrays)

    def save_residual(self, number: int, arrays: Arrays) -> None:
        """Keep what rounding left out of the update of round `number`; the round before stays, as above."""
        self._save_of_round("residual", number, arrays)

    def load_residual(self, *, before: int) -> Arrays:
        """What rounding left out of the newest update of a round earlier than `before`; {} for none.

        Where it is damaged there is none: what the update before had left out has gone with the newest already.
        """
        newest = next(self._newest_first("residual", before), None)
        return (newest and _load(newest, load_sealed_arrays)) or {}

    def forget_rounds_from(self, number: int) -> None:
        """Remove what rounds leave for the next one, of round `number` and later, which is about to be trained.

        They are of a former run of this name, or of this round's earlier attempt: neither is looked for any more. What
        private training gave stays, for who asks for it again.
        """
        for what in ("optimizer", "residual"):
            for path, at in self._rounds(what).items():
                if at >= number:
                    path.unlink()

    def save_local_only(self, films: str, arrays: Arrays) -> None:
        """Keep the finished local-only model of a dataset; its checkpoint and what is of other datasets goes.

        Args:
            films: fingerprint of the dataset.
        """
        kept = self._local_only(films)
        save_sealed_arrays(kept, arrays)
        for path in self._folder.glob("local_only-*"):
            if path != kept:
                path.unlink()

    def load_local_only(self, films: str) -> Arrays | None:
        """The finished local-only model of this dataset, or None: then it is trained when it is asked for again."""
        return _load(self._local_only(films), load_sealed_arrays)

    def save_fine_tuned(self, of: str, arrays: Arrays) -> None:
        """Keep the fine-tuned model; another's goes.

        Args:
            of: what it was made of: dataset, shared model and settings.
        """
        kept = self._fine_tuned(of)
        save_sealed_arrays(kept, arrays)
        for path in self._folder.glob("fine_tuned-*"):
            if path != kept:
                path.unlink()

    def load_fine_tuned(self, of: str) -> Arrays | None:
        """The fine-tuned model that was made of this, or None: then it is made anew."""
        return _load(self._fine_tuned(of), load_sealed_arrays)

    def save_checkpoint(self, films: str, checkpoint: dict[str, Any]) -> None:
        """Keep where local-only training on a dataset stands."""
        _save_checkpoint(self._checkpoint(films), checkpoint)

    def load_checkpoint(self, films: str) -> dict[str, Any] | None:
        """Where local-only training on this dataset stood, or None: then it begins anew."""
        return _load(self._checkpoint(films), _load_checkpoint)

    def save_scores(self, films: str, scores: KeptScores) -> None:
        """Keep what models said of a dataset's test films, beside what others said before; other datasets' goes.

        Args:
            films: fingerprint of the dataset.
        """
        before = self.load_scores(films)
        models = scores.models if before is None else before.models | scores.models
        named = {f"{_SCORES}{model}": values for model, values in models.items()}
        kept = self._scores(films)
        save_sealed_arrays(kept, {"labels": scores.labels, "patients": scores.patients, **named})
        for path in self._folder.glob("scores-*"):
            if path != kept:
                path.unlink()

    def load_scores(self, films: str) -> KeptScores | None:
        """What models said of this dataset's test films, or None where nothing was kept."""
        arrays = _load(self._scores(films), load_sealed_arrays)
        if arrays is None:
            return None
        models = {
            name.removeprefix(_SCORES): values for name, values in arrays.items() if name.startswith(_SCORES)
        }
        return KeptScores(arrays["labels"], arrays["patients"], models)

    def save_update(self, number: int, request: str, arrays: Arrays, optimizer: Arrays) -> None:
        """Keep what private training gave to a request of round `number`, and drop its checkpoint.

        Whoever asks again gets the same weights: training again would cost privacy.

        Args:
            optimizer: the optimiser's state after it.
        """
        beside = {f"{_OPTIMIZER}{name}": array for name, array in optimizer.items()}
        save_sealed_arrays(self._update(number, request), {**arrays, **beside})
        self._forget("update", number)
        self._private_checkpoint.unlink(missing_ok=True)

    def load_update(self, number: int, request: str) -> tuple[Arrays, Arrays] | None:
        """What was given to the same request before, and the optimiser's state after it.

        None: then it is trained, and counted in the ledger, anew.
        """
        kept = _load(self._update(number, request), load_sealed_arrays)
        if kept is None:
            return None
        names = [name for name in kept if name.startswith(_OPTIMIZER)]
        optimizer = {name.removeprefix(_OPTIMIZER): kept.pop(name) for name in names}
        return kept, optimizer

    def save_private_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where a round of private training stands."""
        _save_checkpoint(self._private_checkpoint, checkpoint)

    def load_private_checkpoint(self) -> dict[str, Any] | None:
        """Where a round of private training stood, or None: then all its steps are taken, and counted, anew."""
        return _load(self._private_checkpoint, _load_checkpoint)

    def save_features(self, of: str, features: Arrays) -> None:
        """Keep what the run's frozen trunk says of the site's films; that of other films or trunks goes.

        Args:
            of: digest, in hex, of the films and the trunk.
        """
        kept = self._features(of)
        save_sealed_arrays(kept, features)
        for path in self._folder.glob("features-*"):
            if path != kept:
                path.unlink()

    def load_features(self, of: str) -> Arrays | None:
        """What the trunk says of these films, or None: then it is computed."""
        return _load(self._features(of), load_sealed_arrays)

    def save_report(self, report: ModelReport) -> None:
        """Keep the noised figures that were released for this run: a run has one release."""
        write_sealed(self._report, report.model_dump_json().encode())

    def load_report(self) -> ModelReport | None:
        """The noised figures released, or None: then others are released, and counted in the ledger."""
        content = _load(self._report, read_sealed)
        return None if content is None else ModelReport.model_validate_json(content)

    def save_gradient_check(self, versions: str) -> None:
        """Keep that the model's gradients by unit were right with these libraries."""
        write_sealed(self._folder / "gradients_checked", versions.encode())

    def load_gradient_check(self) -> str | None:
        """With which libraries the gradients were right, or None: then they are compared."""
        content = _load(self._folder / "gradients_checked", read_sealed)
        return None if content is None else content.decode()

    def _save_of_round(self, what: str, number: int, arrays: Arrays) -> None:
        save_sealed_arrays(self._folder / f"{what}-{number:05d}.safetensors", arrays)
        self._forget(what, number)

    def _load_newest(self, what: str, before: int) -> Arrays:
        """Of the newest undamaged file of a kind from rounds earlier than `before`; {} for none."""
        loaded = (_load(path, load_sealed_arrays) for path in self._newest_first(what, before))
        return next((arrays for arrays in loaded if arrays is not None), {})

    def _newest_first(self, what: str, before: int) -> Iterator[Path]:
        """The files of a kind from rounds earlier than `before`."""
        rounds = {number: path for path, number in self._rounds(what).items() if number < before}
        return (rounds[number] for number in sorted(rounds, reverse=True))

    def _forget(self, what: str, number: int) -> None:
        """Remove what is of other rounds than `number` and the newest before it; a run begun anew left later ones."""
        rounds = self._rounds(what)
        kept = sorted({at for at in rounds.values() if at <= number})[-2:]
        for path, at in rounds.items():
            if at not in kept:
                path.unlink()

    def _rounds(self, what: str) -> dict[Path, int]:
        """Every file of a kind, and its round."""
        return {path: int(path.stem.split("-")[1]) for path in self._folder.glob(f"{what}-*.safetensors")}

    def _update(self, number: int, request: str) -> Path:
        return self._folder / f"update-{number:05d}-{request[:16]}.safetensors"

    def _features(self, of: str) -> Path:
        return self._folder / f"features-{of[:16]}.safetensors"

    def _local_only(self, films: str) -> Path:
        return self._folder / f"local_only-{films[:16]}.safetensors"

    def _fine_tuned(self, of: str) -> Path:
        return self._folder / f"fine_tuned-{hashlib.sha256(of.encode()).hexdigest()[:16]}.safetensors"

    def _checkpoint(self, films: str) -> Path:
        return self._folder / f"local_only-{films[:16]}.checkpoint.pt"

    def _scores(self, films: str) -> Path:
        return self._folder / f"scores-{films[:16]}.safetensors"

    @property
    def _private_checkpoint(self) -> Path:
        return self._folder / "private.checkpoint.pt"

    @property
    def _report(self) -> Path:
        return self._folder / "noised_report.json"


def _load(path: Path, read: Callable[[Path], Kept]) -> Kept | None:
    """What `read` gives, or None where the file is missing or damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        log.error("%s: it is passed over; is this disk sound?", error)  # noqa: TRY400  # the text says it all
        return None


def _save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_sealed(path, content.getbuffer())


def _load_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(read_sealed(path)), weights_only=True)
    return checkpoint
