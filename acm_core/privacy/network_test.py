"""The privacy test with the run's own network: noise, clipping and rows of every layer.

The loop of a round, `PrivateTraining`, takes a few steps with made-up patients: one of one film, one of several, many,
and nobody. A white box reads each step's sum and what is released of it. It sees what the canaries' small model has
not: convolutions, norms, biases, weights that need many draws of noise, and a process that is forked in between. The
rows go into a real ledger in a temporary folder. No film of the site is read and nothing is charged to its ledger.
"""

from __future__ import annotations

import math
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from acm_core.config.sections import TrainingConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.privacy.accounting import Plan
from acm_core.privacy.gradients import UnitGradients, clipped_sum_of_films
from acm_core.privacy.ledger import Ledger, verify
from acm_core.privacy.measurement import (
    FALSE_ALARM,
    ROUNDING,
    USED_AGAIN,
    Check,
    closest,
    effect,
    one_thread,
    two_sided,
)
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps
from acm_core.privacy.units import Units

_SIDE = 40
_STEPS = 5  # of each of the four groups of patients
_BLOCK = 2**15
"""Numbers whose noise is judged together: less than is drawn at a time, so that a half that has none is seen."""
_ABOVE = 10.0  # times C: how far a unit's gradient is above it at least
_PATIENCE_SECONDS = 120  # for the step of a forked process
_TESTS = 4
_LEVEL = FALSE_ALARM / _TESTS
_SHORT = 1e-2

_NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class _Step:
    """What was seen of a step, in units of C.

    Attributes:
        length: ‖sum‖ before noise.
        squares: (parameter, first number of a stretch) → Σ noise² there, and of how many numbers.
        noise: of all parameters one after another, float32.
        recorded: whether the ledger's row was there before the noise.
    """

    length: float
    squares: dict[tuple[str, int], tuple[float, int]]
    noise: NDArray[np.float32]
    recorded: bool

    @classmethod
    def of(cls, sums: dict[str, Tensor] | None, noised: dict[str, Tensor], norm: float) -> Self:
        length, squares, parts = 0.0, {}, []
        for name, released in noised.items():
            made = torch.zeros_like(released) if sums is None else sums[name]
            length += float(made.double().square().sum())
            noise = ((released.double() - made.double()) / norm).flatten()
            for start in range(0, len(noise), _BLOCK):
                stretch = noise[start : start + _BLOCK]
                squares[name, start] = float(stretch.square().sum()), len(stretch)
            parts.append(noise.float())
        return cls(math.sqrt(length) / norm, squares, torch.cat(parts).numpy(), sums is not None)


def check_network(
    model: Classifier,
    findings: int,
    training: TrainingConfig,
    mechanism: Mechanism,
    loop: type[PrivateTraining] = PrivateTraining,
) -> tuple[Check, ...]:
    """Test `loop` with a run's network; a sound one fails with a probability of at most FALSE_ALARM.

    Args:
        model: with any weights; it is not changed to speak of.
        findings: F.
        training: the run's; its rate is set to nearly nothing.
        mechanism: the run's; everybody takes part in every step, and C is lowered until it binds.
    """
    with one_thread():  # others would be lost by the fork, and waited for
        return _checked(_Watched(model, findings, training, mechanism, loop), mechanism)


def _checked(watched: _Watched, mechanism: Mechanism) -> tuple[Check, ...]:
    several = max(2, min(mechanism.films_per_patient, 3)) if mechanism.unit == "patient" else 1
    one = watched.steps([1])
    many = watched.steps([several])
    crowd = watched.steps([1, several, 1])
    nobody = watched.steps([])
    parted = watched.in_a_fork([1])
    steps = [*one, *many, *crowd, *nobody]
    return (
        _rows(steps, 4 * _STEPS),
        _noise(steps, nobody, mechanism.noise_multiplier),
        _repetition([*(group[0].noise for group in (one, many, crowd, nobody) if group), *parted]),
        _clipping({"of one film": one, f"of {several} films": many}, crowd, nobody),
    )


class _Seen:
    """Reads the sum when the ledger's row is written, and the noised sum before the update."""

    def __init__(self, model: Classifier, loop: PrivateTraining, mechanism: Mechanism) -> None:
        self._parameters = UnitGradients(model).parameters
        self._norm, self._batch = mechanism.clipping_norm, mechanism.expected_batch
        self._sums: dict[str, Tensor] | None = None
        self._step: _Step | None = None
        loop.optimizer.register_step_pre_hook(self._released)

    def step(self, loop: PrivateTraining, record: Callable[[], None]) -> _Step:
        """Take one step."""

        def recorded() -> None:
            record()
            made = {name: getattr(weight, "summed_grad", None) for name, weight in self._parameters.items()}
            self._sums = {
                name: torch.zeros_like(self._parameters[name]) if grads is None else grads.clone()
                for name, grads in made.items()
            }

        self._sums = self._step = None
        loop.run(Steps(0, 1, 1), recorded, lambda _: None)
        if self._step is None:
            raise NoStepError
        return self._step

    def _released(self, *_: Any) -> None:
        noised = {
            name: weight.grad * self._batch
            for name, weight in self._parameters.items()
            if weight.grad is not None
        }
        self._step = _Step.of(self._sums, noised, self._norm)


class NoStepError(RuntimeError):
    """The loop was asked for a step and took none."""


class _Watched:
    """Runs the loop and sees every number of its steps."""

    def __init__(
        self,
        model: Classifier,
        findings: int,
        training: TrainingConfig,
        mechanism: Mechanism,
        loop: type[PrivateTraining],
    ) -> None:
        changes = {
            "learning_rate": 1e-12,
            "optimizer": "sgd",
            "momentum": 0.0,
            "weight_decay": 0.0,
            "augment": False,
        }
        self._training = training.model_copy(update=changes)
        self._model, self._findings, self._loop = model, findings, loop
        self._rng = np.random.default_rng()
        lowest = min(mechanism.clipping_norm, self._shortest() / _ABOVE)
        self._mechanism = replace(mechanism, sampling_rate=1.0, clipping_norm=lowest, augmentations=1)

    def steps(self, sizes: list[int]) -> list[_Step]:
        """_STEPS steps in which patients of so many films take part, each with a row in a ledger of their own."""
        with TemporaryDirectory() as folder, self._ledger(Path(folder) / "privacy") as ledger:
            plan = ledger.admit(self._plan())
            permit = ledger.begin_round(plan, 1, steps=_STEPS, model="0" * 64)
            taken = list(self._taken(sizes, _STEPS, permit.record))
            written = len(verify(Path(folder) / "privacy").steps())
        return [
            replace(step, recorded=step.recorded and number < written) for number, step in enumerate(taken)
        ]

    def in_a_fork(self, sizes: list[int]) -> list[NDArray[np.float32]]:
        """The noise of one step, once in a forked process and once here, of one loop that was begun before."""
        reading, writing = os.pipe()
        loop, seen = self._begun(sizes)
        if (child := os.fork()) == 0:
            try:
                signal.alarm(_PATIENCE_SECONDS)
                os.close(reading)
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(seen.step(loop, lambda: None).noise.tobytes())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            of_child = np.frombuffer(pipe.read(), np.float32)
        os.waitpid(child, 0)
        if not len(of_child):
            raise NoStepError
        return [of_child, seen.step(loop, lambda: None).noise]

    def _taken(self, sizes: list[int], count: int, record: Callable[[], None]) -> Iterator[_Step]:
        loop, seen = self._begun(sizes)
        for number in range(count):
            step = seen.step(loop, record)
            # One of a group is enough to look for repetitions in, and each is as large as the model.
            yield replace(step, noise=step.noise if number == 0 else _NOTHING)

    def _begun(self, sizes: list[int]) -> tuple[PrivateTraining, _Seen]:
        films = self._films(sizes)
        loop = self._loop(self._model, films, self._training, self._mechanism, torch.device("cpu"))
        return loop, _Seen(self._model, loop, self._mechanism)

    def _films(self, sizes: list[int]) -> FilmSet:
        count = sum(sizes)
        return FilmSet(
            self._rng.random((count, _SIDE, _SIDE)).astype(np.float16),
            self._rng.integers(0, 2, (count, self._findings)).astype(np.float32),
            np.arange(len(sizes)).repeat(sizes),
        )

    def _shortest(self) -> float:
        """Norm of a made-up film's gradient, or of the least of a few."""
        films = self._films([1, 1, 1])
        images = torch.from_numpy(np.asarray(films.images)).float()[:, None]
        summed = clipped_sum_of_films(
            UnitGradients(self._model.train()),
            self._model,
            (images - 0.5).to(memory_format=torch.channels_last),
            torch.from_numpy(films.labels),
            Units((1, 1, 1)),
            self._training.orthogonality,
            self._training.loss,
            math.inf,
        )
        return float(summed.norms.min())

    def _plan(self) -> Plan:
        mechanism = self._mechanism
        return Plan(
            run="privacy_test",
            settings="privacy_test",
            unit=mechanism.unit,
            sigma=mechanism.noise_multiplier,
            q=1.0,
            clipping_norm=mechanism.clipping_norm,
            expected_batch=mechanism.expected_batch,
            steps_per_round=_STEPS,
            rounds=1,
            epsilon=1e9,
            delta=1e-5,
        )

    def _ledger(self, folder: Path) -> Ledger:
        return Ledger.open(
            folder,
            site="privacy_test",
            unit=self._mechanism.unit,
            fingerprint="0" * 64,
            delta=1e-5,
            budget=1e9,
        )


def _rows(steps: list[_Step], planned: int) -> Check:
    recorded = sum(step.recorded for step in steps)
    meaning = ""
    if (len(steps), recorded) != (planned, planned):
        meaning = (
            f"{planned} steps were planned, {len(steps)} taken and {recorded} written to a ledger before their noise "
            "was drawn: what the ledger says is not what patients have spent"
        )
    return Check("rows", f"{planned}, each written first", f"{len(steps)} taken, {recorded} written", meaning)


def _noise(steps: list[_Step], nobody: list[_Step], sigma: float) -> Check:
    """Of each layer over all steps, of each stretch of a large one, and of the steps that nobody took part in."""
    parts: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for step in steps:
        for (name, start), square in step.squares.items():
            parts[f"of {name}"].append(square)
            parts[f"of {name}, numbers {start:,} to {start + square[1] - 1:,}"].append(square)
    for step in nobody:
        parts["of steps with nobody"] += step.squares.values()
    sums = {where: (sum(s for s, _ in some), sum(n for _, n in some)) for where, some in parts.items()}
    chances = {
        where: float(two_sided(stats.chi2, total / sigma**2, count)) for where, (total, count) in sums.items()
    }
    oddest = min(chances, key=chances.__getitem__)
    deviation = math.sqrt(sums[oddest][0] / sums[oddest][1])
    meaning = ""
    if chances[oddest] * len(chances) < _LEVEL:
        why = effect(deviation, sigma)
        meaning = f"the noise {oddest} is {deviation:.4g}·C where {sigma:.4g}·C is claimed: {why}"
    measured = f"{len(sums):,} parts, the oddest {deviation:.4g}·C"
    return Check("noise of each layer", f"{sigma:.4g}·C", measured, meaning)


def _repetition(noises: list[NDArray[np.float32]]) -> Check:
    """Whether two stretches of noise, anywhere in a step, in two steps or in a forked process, are alike."""
    blocks = []
    for noise in noises:
        width = min(_BLOCK, len(noise))
        blocks += [noise[at : at + width] for at in range(0, len(noise) - width + 1, width)] if width else []
    shortest = min((len(block) for block in blocks), default=0)
    rows = np.array([block[:shortest] for block in blocks], np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    claimed = "0 between any two stretches"
    if len(rows) < 2 or not (lengths > 0).all():
        return Check("repetition", claimed, "no noise to compare", "a stretch has no noise at all")
    rows /= lengths
    largest, chance = closest(rows)
    meaning = ""
    if chance < _LEVEL:
        meaning = f"two stretches of noise have correlation {largest:.3g}, {USED_AGAIN}"
    return Check("repetition", claimed, f"at most {largest:.2g} of {len(rows):,} stretches", meaning)


def _clipping(single: dict[str, list[_Step]], crowd: list[_Step], nobody: list[_Step]) -> Check:
    """A step of one patient is as long as C, one of three no longer than 3·C, one of nobody nothing."""
    longest = {whose: max(step.length for step in steps) for whose, steps in single.items()}
    shortest = min(step.length for steps in single.values() for step in steps)
    meaning = ""
    for whose, length in longest.items():
        if length > 1 + ROUNDING:
            meaning = (
                f"a patient {whose} adds {length:.4g} times the clipping norm: less is hidden than ε says"
            )
    if not meaning and max(step.length for step in crowd) > 3 * (1 + ROUNDING):
        meaning = "three patients add more than three times the clipping norm: less is hidden than ε says"
    if not meaning and (shortest < 1 - _SHORT or any(step.length for step in nobody)):
        meaning = "a step's sum is not that of the patients drawn for it"
    measured = ", ".join(f"{length:.6g} {whose}" for whose, length in longest.items())
    return Check("clipping of each unit", "1, times C", measured, meaning)
