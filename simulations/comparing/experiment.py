"""The cells of the experiment: a context module, a task, so many training films, a seed."""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.config.section import Section
from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.data.site_films import FilmSet
from acm_core.files import write_text_atomically
from acm_core.nn import Classifier, build_classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import Schedule, make_optimizer, predict, train
from acm_core.training.metrics import draw_patients, resampled_aurocs
from simulations.comparing.films import (
    DELTA,
    GENERATOR,
    LEAST_AIR,
    STEPS,
    TASKS,
    Compared,
    Task,
    compared_films,
)
from simulations.tables.cells import DamagedCellError
from simulations.tables.intervals import Measured
from simulations.tables.replicates import RESAMPLES, pack, unpack

Context = Literal["none", "se", "cbam", "self_attention", "acm", "acm_mirrored"]
CONTEXTS: tuple[Context, ...] = ("none", "se", "cbam", "self_attention", "acm", "acm_mirrored")

EPOCHS = {200: 24, 800: 8}
"""Training films → epochs, so that both take about as many steps. Chosen on seeds that are not shown, as all here."""

SEEDS = (1, 2, 3, 4, 5)
TEST_FILMS = 600
MODEL = ModelConfig(architecture="resnet18", context="none", head="average", image_size=48)
TRAINING = TrainingConfig(learning_rate=1e-3, augment=False, precision="float32")

_FINDING = "unlike"
_BATCH = 100
_FARTHEST = 6.0  # that a logit is said to move: what a kept figure holds
_LEAST = 1e-6  # that a probability differs from 0 and 1 by: a logit of ±13.8


class Cell(NamedTuple):
    """One model to train and measure; `films` of training."""

    context: Context
    task: Task
    films: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return "-".join(map(str, self))


class Figure(Section):
    """A value and its resampled values, as `pack` writes them."""

    value: float
    resampled: str

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Figure:
        """From 1 + R values."""
        return cls(value=round(float(values[0]), 6), resampled=pack(values[1:]))

    @property
    def measured(self) -> Measured:
        """As tables take it."""
        return Measured(self.value, unpack(self.resampled))


class CellFile(Section):
    """What is kept of a cell.

    Attributes:
        settings: all that decides the figures; a cell with others is trained anew.
        auroc: on the test films.
        pasted_auroc: on the same films with another healthy lung pasted on one side, against the labels that they have
            then.
        moved: how far pasting moves a film's logit on average: 1 is the way from a film to one of the other label.
        loss: of the last epoch.
        seconds: of the processor, in training.
    """

    settings: dict[str, Any]
    auroc: Figure
    pasted_auroc: Figure
    moved: Figure
    loss: float
    seconds: float


def settings(cell: Cell) -> dict[str, Any]:
    """All that decides a cell's figures, JSON-ready."""
    return {
        **cell._asdict(),
        "epochs": EPOCHS[cell.films],
        "test_films": TEST_FILMS,
        "resamples": RESAMPLES,
        "model": MODEL.model_dump(mode="json", exclude={"context", "weights"}),
        "training": TRAINING.model_dump(mode="json", exclude={"epochs"}),
        "films_made": {"generator": GENERATOR, "steps": STEPS, "delta": DELTA, "least_air": LEAST_AIR},
    }


def every_cell() -> list[Cell]:
    """The whole experiment; what shares films stands together."""
    return [
        Cell(context, task, films, seed)
        for seed in SEEDS
        for task in TASKS
        for films in EPOCHS
        for context in CONTEXTS
    ]


def write_cell(folder: Path, cell: Cell, file: CellFile) -> None:
    """Keep a finished cell."""
    write_text_atomically(_path(folder, cell), json.dumps(file.model_dump(mode="json"), indent=1) + "\n")


def read_cell(folder: Path, cell: Cell) -> CellFile | None:
    """The finished cell; None where there is none, or one with other settings.

    Raises:
        DamagedCellError: its file cannot be read.
    """
    path = _path(folder, cell)
    try:
        file = CellFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedCellError(
            f"{path}: expected a cell as `python -m simulations.comparing` writes it; remove it, and the cell is "
            f"trained again: {error}"
        ) from None
    return file if file.settings == settings(cell) else None


def _path(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.json"


def run_cell(cell: Cell) -> CellFile:
    """Train the cell's model and measure it; takes about half a minute of one core.

    The context modules of one task, size and seed see the same films in the same order; each seed has training and test
    films of its own.
    """
    training = _films(cell.task, max(EPOCHS), cell.seed, "training").films
    chosen = FilmSet(
        training.images[: cell.films], training.labels[: cell.films], training.patients[: cell.films]
    )
    model = build_classifier(MODEL.model_copy(update={"context": cell.context}), 1, seed=cell.seed)
    model = model.to(memory_format=torch.channels_last)
    epochs = EPOCHS[cell.films]
    started = time.process_time()
    loss = train(
        model,
        make_optimizer(model, TRAINING),
        chosen,
        TRAINING,
        Schedule(0, epochs, epochs),
        seeds=lambda epoch: stream_seed(cell.seed, "comparing", "epoch", epoch),
        device=torch.device("cpu"),
    )
    seconds = time.process_time() - started
    test = _films(cell.task, TEST_FILMS, cell.seed, "test")
    before, after = _logits(model, test.films), _logits(model, test.pasted)
    seed = stream_seed(cell.seed, "comparing", "resamples")
    return CellFile(
        settings=settings(cell),
        auroc=_auroc(before, test.films, seed),
        pasted_auroc=_auroc(after, test.pasted, seed),
        moved=Figure.of(moved(before, after, test.films.labels[:, 0] == 1, seed)),
        loss=round(loss, 4),
        seconds=round(seconds, 1),
    )


def moved(
    before: NDArray[np.float64], after: NDArray[np.float64], positive: NDArray[np.bool_], seed: int
) -> NDArray[np.float64]:
    """1 + R shares: mean |after − before| over the mean distance between films of different labels.

    NaN where that distance is 0, and never more than 6.

    Args:
        before, after: N logits.
        positive: N.
        seed: of the resamples of films, as in `acm_core.training.metrics`.
    """
    weights = np.concatenate(
        [np.ones((1, len(before)), np.int32), draw_patients(len(before), RESAMPLES, seed)]
    )
    ones, noughts = weights[:, positive], weights[:, ~positive]
    apart = np.abs(before[positive][:, None] - before[~positive][None])
    distance = ((ones @ apart) * noughts).sum(1) / np.maximum(ones.sum(1) * noughts.sum(1), 1)
    way = weights @ np.abs(after - before) / weights.sum(1)
    shares: NDArray[np.float64] = np.divide(way, distance, out=np.full(len(way), np.nan), where=distance > 0)
    return np.asarray(np.minimum(shares, _FARTHEST))


# All context modules of a task and seed are trained one after the other: two tasks are kept, training and test.
@lru_cache(maxsize=4)
def _films(task: Task, count: int, seed: int, split: str) -> Compared:
    return compared_films(task, count, MODEL.image_size, seed, split)


def _logits(model: Classifier, films: FilmSet) -> NDArray[np.float64]:
    probabilities, _ = predict(model, films, _BATCH, torch.device("cpu"))
    return torch.logit(torch.from_numpy(probabilities[:, 0]).double(), eps=_LEAST).numpy()


def _auroc(logits: NDArray[np.float64], films: FilmSet, seed: int) -> Figure:
    aurocs = resampled_aurocs(
        logits[:, None], films.labels, films.patients, [_FINDING], resamples=RESAMPLES, seed=seed
    )
    return Figure.of(aurocs[_FINDING])
