"""Round state on disk: saved whole after every round, checked by hash, continued with --resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.files import file_sha256, remove_unfinished, write_text_atomically
from acm_core.training.weights import load_arrays, save_arrays
from server.round.run_folder import expect_same_run, run_identity

_KEPT_ROUNDS = 2
_BESIDE = ("frozen", "average", "residual", "step")  # attributes of the state that are saved beside the model


@dataclass(frozen=True)
class RoundState:
    """The global model after `round` rounds and the record of each of them.

    Attributes:
        arrays: what trains of it.
        frozen: the rest of it, the same in every round.
        average: the moving average of the models, where one is kept.
        residual: what rounding has kept from the sites so far, see `encode`.
        step: what the server's step remembers, see `ServerStep`; empty before the first round.
    """

    round: int
    arrays: Arrays
    records: tuple[dict[str, Any], ...]
    average: Arrays = field(default_factory=dict)
    residual: Arrays = field(default_factory=dict)
    frozen: Arrays = field(default_factory=dict)
    step: Arrays = field(default_factory=dict)

    @property
    def final(self) -> Arrays:
        """The whole model that the run gives if this is its last round."""
        return {**(self.average or self.arrays), **self.frozen}


class StateStore:
    """The states of one run: `round-00003.safetensors` with `round-00003.json` beside it, the last two kept."""

    def __init__(self, folder: Path, config: FederationConfig) -> None:
        self._folder = folder
        self._identity = run_identity(config)

    def save(self, state: RoundState) -> None:
        """Write `state` so that a crash at any point leaves it or an earlier one whole."""
        remove_unfinished(self._folder)
        model, description = self._paths(state.round)
        beside = {f"{kind}/{name}": array for kind in _BESIDE for name, array in getattr(state, kind).items()}
        save_arrays(model, {**state.arrays, **beside})
        write_text_atomically(
            description,
            json.dumps(
                {
                    "round": state.round,
                    "sha256": file_sha256(model),
                    "run": self._identity,
                    "records": state.records,
                }
            ),
        )
        for old in sorted(self._folder.glob("round-*.json"))[:-_KEPT_ROUNDS]:
            old.with_suffix(".safetensors").unlink(missing_ok=True)
            old.unlink()

    def load(self, damaged: Callable[[int], object]) -> RoundState | None:
        """The newest undamaged state, or None where there is none.

        Args:
            damaged: called with the round of each state that is passed over because it is damaged.

        Raises:
            ResumeError: the state belongs to another run.
        """
        for description in sorted(self._folder.glob("round-*.json"), reverse=True):
            try:
                saved = json.loads(description.read_text(encoding="utf-8"))
                model = description.with_suffix(".safetensors")
                whole = file_sha256(model) == saved["sha256"]
                arrays = load_arrays(model)
                beside = {kind: _taken(arrays, f"{kind}/") for kind in _BESIDE}
                state = RoundState(saved["round"], arrays, tuple(saved["records"]), **beside)
                identity = saved["run"]
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                whole = False
            if not whole:
                damaged(int(description.stem.removeprefix("round-")))
                continue
            expect_same_run(identity, self._identity)
            return state
        return None

    def clear(self) -> None:
        """Forget the run."""
        for path in self._folder.glob("round-*"):
            path.unlink()

    def _paths(self, number: int) -> tuple[Path, Path]:
        stem = self._folder / f"round-{number:05d}"
        return stem.with_suffix(".safetensors"), stem.with_suffix(".json")


def _taken(arrays: Arrays, prefix: str) -> Arrays:
    """Those of a prefix, without it and no longer in `arrays`."""
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}
