"""Models that stay at the site: its normalisation layers (FedBN) and the one it trained alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from acm_core.config.sections import FederationConfig
from acm_core.federated.update import Arrays
from acm_core.files import remove_unfinished, write_atomically, write_text_atomically
from acm_core.training.weights import load_arrays, save_arrays


@dataclass(frozen=True)
class SiteRun:
    """A run as a site tells it apart: by name and by the settings that decide what is trained."""

    name: str
    settings: str

    @classmethod
    def of(cls, config: FederationConfig) -> Self:
        """The run that `config` describes."""
        settings = config.model_dump(
            mode="json", include={"seed", "findings", "privacy", "model", "training"}
        )
        settings["rounds"] = config.federation.rounds
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return cls(config.name, digest[:12])


class KeptModels:
    """The models of one run under the site's state folder."""

    def __init__(self, state: Path, run: SiteRun) -> None:
        self._folder = state / "runs" / f"{run.name}-{run.settings}"

    def save_normalisation(self, number: int, arrays: Arrays) -> None:
        """Keep the normalisation layers after round `number`; the round before stays, in case this one is retried."""
        save_arrays(self._folder / f"normalisation-{number:05d}.safetensors", arrays)
        self._forget("normalisation", number)

    def load_normalisation(self, *, before: int) -> Arrays | None:
        """The newest normalisation layers of a round earlier than `before`, or None."""
        return self._newest("normalisation", before)

    def save_received(self, arrays: Arrays) -> None:
        """Keep the global model that came last: the next may come as a difference to it."""
        remove_unfinished(self._folder)
        save_arrays(self._folder / "received.safetensors", arrays)

    def load_received(self) -> Arrays | None:
        """The global model that came last, or None."""
        path = self._folder / "received.safetensors"
        return load_arrays(path) if path.exists() else None

    def save_residual(self, number: int, arrays: Arrays) -> None:
        """Keep what rounding left out of the update of round `number`; the round before stays, as above."""
        save_arrays(self._folder / f"residual-{number:05d}.safetensors", arrays)
        self._forget("residual", number)

    def load_residual(self, *, before: int) -> Arrays:
        """What rounding left out of the newest update of a round earlier than `before`; {} for none."""
        return self._newest("residual", before) or {}

    def forget_rounds_from(self, number: int) -> None:
        """Remove normalisation layers and residuals of round `number` and later, which is about to be trained.

        They are of a former run of this name, or of this round's earlier attempt: neither is looked for any more. What
        private training gave stays, for who asks for it again.
        """
        for what in ("normalisation", "residual"):
            for path, at in self._rounds(what).items():
                if at >= number:
                    path.unlink()

    def save_local_only(self, films: str, arrays: Arrays) -> None:
        """Keep the finished local-only model of a dataset; its checkpoint and what is of other datasets goes.

        Args:
            films: fingerprint of the dataset.
        """
        kept = self._local_only(films)
        save_arrays(kept, arrays)
        for path in self._folder.glob("local_only-*"):
            if path != kept:
                path.unlink()

    def load_local_only(self, films: str) -> Arrays | None:
        """The finished local-only model of this dataset, or None."""
        path = self._local_only(films)
        return load_arrays(path) if path.exists() else None

    def save_checkpoint(self, films: str, checkpoint: dict[str, Any]) -> None:
        """Keep where local-only training on a dataset stands."""
        write_atomically(self._checkpoint(films), lambda path: torch.save(checkpoint, path))

    def load_checkpoint(self, films: str) -> dict[str, Any] | None:
        """Where local-only training on this dataset stood, or None."""
        return _load(self._checkpoint(films))

    def save_update(self, number: int, request: str, arrays: Arrays) -> None:
        """Keep what private training gave to a request of round `number`, and drop its checkpoint.

        Whoever asks again gets the same weights: training again would cost privacy.
        """
        save_arrays(self._update(number, request), arrays)
        self._forget("update", number)
        self._private_checkpoint.unlink(missing_ok=True)

    def load_update(self, number: int, request: str) -> Arrays | None:
        """What was given to the same request before, or None."""
        path = self._update(number, request)
        return load_arrays(path) if path.exists() else None

    def save_private_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where a round of private training stands."""
        write_atomically(self._private_checkpoint, lambda path: torch.save(checkpoint, path))

    def load_private_checkpoint(self) -> dict[str, Any] | None:
        """Where a round of private training stood, or None."""
        return _load(self._private_checkpoint)

    def save_report(self, report: dict[str, Any]) -> None:
        """Keep the noised figures that were released for this run: a run has one release."""
        write_text_atomically(self._report, json.dumps(report))

    def load_report(self) -> dict[str, Any] | None:
        """The noised figures released, or None."""
        return json.loads(self._report.read_text(encoding="utf-8")) if self._report.exists() else None

    def save_gradient_check(self, versions: str) -> None:
        """Keep that the model's gradients by unit were right with these libraries."""
        write_text_atomically(self._folder / "gradients_checked", versions)

    def load_gradient_check(self) -> str | None:
        """With which libraries the gradients were right, or None."""
        path = self._folder / "gradients_checked"
        return path.read_text(encoding="utf-8") if path.exists() else None

    def _newest(self, what: str, before: int) -> Arrays | None:
        rounds = {number: path for path, number in self._rounds(what).items() if number < before}
        return load_arrays(rounds[max(rounds)]) if rounds else None

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

    def _local_only(self, films: str) -> Path:
        return self._folder / f"local_only-{films[:16]}.safetensors"

    def _checkpoint(self, films: str) -> Path:
        return self._folder / f"local_only-{films[:16]}.checkpoint.pt"

    @property
    def _private_checkpoint(self) -> Path:
        return self._folder / "private.checkpoint.pt"

    @property
    def _report(self) -> Path:
        return self._folder / "noised_report.json"


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint
