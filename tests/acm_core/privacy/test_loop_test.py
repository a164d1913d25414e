"""The privacy test passes what is sound and names what is not: every fault is planted in the loop that rounds run.

Nothing here can be seeded, the noise being the operating system's. A sound loop fails by chance at most once in a
thousand times; where a test expects it to pass it may try twice, so that the suite fails by chance once in a million.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from acm_core.privacy import loop_test as module
from acm_core.privacy.canaries import Guesses, lower_bound
from acm_core.privacy.gradients import ClippedSum
from acm_core.privacy.loop_test import Claim, LoopTest, check_loop
from acm_core.privacy.measurement import FALSE_ALARM
from acm_core.privacy.noise import GaussianNoise
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps


def claim(
    unit: Any = "patient", *, rate: float = 0.05, rounds: int = 4, steps: int = 10, views: int = 1
) -> Claim:
    return Claim(Mechanism(unit, 1.2, rate, 0.7, 64, 4, views), rounds, steps, 1e-5, "rdp")


def names(found: LoopTest) -> set[str]:
    return {check.name for check in found.failed}


def twice(check: Callable[[], LoopTest]) -> LoopTest:
    found = check()
    return check() if found.failed else found


@pytest.mark.parametrize(
    "claimed",
    [
        claim(),
        claim("film"),
        claim(rate=1.0, rounds=3, steps=1, views=3),
        claim(rate=0.001, rounds=2, steps=20),
        claim(rounds=1, steps=1),
    ],
    ids=["patients", "films", "everybody", "mostly empty batches", "one step"],
)
def test_a_sound_mechanism_passes(claimed: Claim) -> None:
    found = twice(lambda: check_loop(claimed))
    assert not found.failed
    assert [check.name for check in found.checks] == [
        "steps",
        "noise",
        "clipping norm",
        "sampling",
        "correlation",
        "canaries",
    ]
    assert found.guesses.bound <= found.epsilon
    assert found.guesses.bound <= found.guesses.most
    assert found.epsilon < found.measured_epsilon


def test_the_measured_epsilon_is_near_the_claimed_one() -> None:
    found = twice(lambda: check_loop(claim(rounds=10)))
    assert found.epsilon < found.measured_epsilon < 1.2 * found.epsilon


class QuarterNoise(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._private.noise_multiplier /= 4


class NoNoise(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._private._noise.add_to = lambda values, standard_deviation: None  # type: ignore[method-assign]


class NoNoiseInOneStep(PrivateTraining):
    """A round's first step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_to, calls = self._private._noise.add_to, iter(range(10**6))

        def sometimes(values: Tensor, standard_deviation: float) -> None:
            add_to(values, standard_deviation if next(calls) >= 2 else 1e-6)

        self._private._noise.add_to = sometimes  # type: ignore[method-assign]


class NoNoiseOnOneWeight(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_to = self._private._noise.add_to

        def mostly(values: Tensor, standard_deviation: float) -> None:
            last = values[..., -1].clone()
            add_to(values, standard_deviation)
            values[..., -1] = last

        self._private._noise.add_to = mostly  # type: ignore[method-assign]


class TwiceTheClippingNorm(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        clipped_sum = self._gradients.clipped_sum
        self._gradients.clipped_sum = lambda norm: clipped_sum(2 * norm)  # type: ignore[method-assign]


class ClippedLayerByLayer(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        clipped_sum = self._gradients.clipped_sum

        def each(norm: float) -> ClippedSum:
            clipped = clipped_sum(norm)
            return ClippedSum(
                {name: g * math.sqrt(2) for name, g in clipped.gradients.items()}, clipped.norms
            )

        self._gradients.clipped_sum = each  # type: ignore[method-assign]


class FilmsOfOnePatientApart(PrivateTraining):
    """A patient's films are in several units."""

    def _clipped_sum(self, batch: list[NDArray[np.int64]]) -> dict[str, Tensor]:
        return super()._clipped_sum([np.array([film]) for films in batch for film in films])


class LargerAfterTheRecord(PrivateTraining):
    """What the ledger's row is written for is not what is released."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_noise = self._private.add_noise

        def larger() -> None:
            for weight in self._gradients.parameters.values():
                weight.summed_grad *= 4  # type: ignore[attr-defined]
            add_noise()

        self._private.add_noise = larger  # type: ignore[method-assign]


class Seeded(GaussianNoise):
    """The same stream wherever it starts."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(1)
        super().__init__()

    def add_to(self, values: Tensor, standard_deviation: float) -> None:
        values.add_(torch.randn(values.shape, generator=self._generator), alpha=standard_deviation)


class SameNoiseEachRound(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._private._noise = Seeded()


class SameNoiseForBothLayers(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        drawn: list[Tensor] = []
        times: list[int] = []

        def again(values: Tensor, standard_deviation: float) -> None:
            noise = drawn.pop() if drawn else torch.randn(values.shape)
            values.add_(noise, alpha=standard_deviation)
            times.append(0)
            if len(times) % 2:
                drawn.append(noise)

        self._private._noise.add_to = again  # type: ignore[method-assign]


class UnrecordedStep(PrivateTraining):
    def run(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        rows = iter(range(steps.last - steps.first))
        super().run(steps, lambda: record() if next(rows) else None, after)


class RecordedTooLate(PrivateTraining):
    """As many rows as steps, one of them a step late."""

    def run(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        times = iter([0, 2, *[1] * (steps.last - steps.first - 2)])

        def late() -> None:
            for _ in range(next(times)):
                record()

        super().run(steps, late, after)


class EmptyBatchesSkipped(PrivateTraining):
    def run(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        draw = self._sampler.draw
        for step in range(steps.first, steps.last):
            drawn = draw()
            if drawn:
                self._sampler.draw = lambda drawn=drawn: drawn  # type: ignore[misc]
                super().run(Steps(step, step + 1, steps.total), record, after)


class ShuffledLoader(PrivateTraining):
    """Every patient once an epoch, in batches of one size."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        films, rng = self._sampler._films, np.random.default_rng()
        size = round(self._mechanism.sampling_rate * len(films))
        order: list[int] = []

        def batch() -> list[NDArray[np.int64]]:
            if len(order) < size:
                order[:] = rng.permutation(len(films)).tolist()
            return [films[order.pop()] for _ in range(size)]

        self._sampler.draw = batch  # type: ignore[method-assign]


class SamePatientsEachRound(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        films, rng = self._sampler._films, np.random.default_rng(1)
        rate = self._mechanism.sampling_rate
        self._sampler.draw = lambda: [films[k] for k in np.flatnonzero(rng.random(len(films)) < rate)]  # type: ignore[method-assign]


class DrawnTwiceAsOften(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sampler._rate *= 2


class DividedByTheBatchDrawn(PrivateTraining):
    """A private number in place of the public one."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        draw = self._sampler.draw

        def counted() -> list[NDArray[np.int64]]:
            drawn = draw()
            self._private.expected_batch_size = max(1, len(drawn))
            return drawn

        self._sampler.draw = counted  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "named", "means"),
    [
        (QuarterNoise, "noise", "everywhere"),
        (NoNoise, "noise", "protected less"),
        (NoNoiseInOneStep, "noise", "of 8 of 80 steps and layers"),
        (NoNoiseOnOneWeight, "noise", "on 2 of "),
        (TwiceTheClippingNorm, "clipping norm", "by 2 times the clipping norm"),
        (ClippedLayerByLayer, "clipping norm", "by 1.41 times the clipping norm"),
        (FilmsOfOnePatientApart, "clipping norm", "times the clipping norm claimed"),
        (LargerAfterTheRecord, "clipping norm", "times the clipping norm claimed"),
        (SameNoiseEachRound, "correlation", "used again"),
        (SameNoiseForBothLayers, "correlation", "used again"),
        (UnrecordedStep, "steps", "4 of 40 steps were taken without a row in the ledger"),
        (RecordedTooLate, "steps", "4 of 40 steps were taken without a row in the ledger"),
        (ShuffledLoader, "sampling", ""),
        (SamePatientsEachRound, "sampling", "not drawn independently"),
        (DrawnTwiceAsOften, "sampling", "drawn more often"),
        (DividedByTheBatchDrawn, "noise", "standard deviation"),
    ],
)
def test_a_planted_fault_is_named(fault: type[PrivateTraining], named: str, means: str) -> None:
    found = check_loop(claim(), fault)
    assert named in names(found)
    assert means in next(check.meaning for check in found.failed if check.name == named)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (QuarterNoise, "noise"),
        (NoNoise, "noise"),
        (TwiceTheClippingNorm, "clipping norm"),
        (ClippedLayerByLayer, "clipping norm"),
        (SameNoiseEachRound, "correlation"),
        (UnrecordedStep, "steps"),
        (RecordedTooLate, "steps"),
    ],
)
def test_a_planted_fault_is_named_where_everybody_takes_part_in_every_step(
    fault: type[PrivateTraining], named: str
) -> None:
    assert named in names(check_loop(claim(rate=1.0, rounds=5, steps=3), fault))


def test_skipped_empty_batches_are_named() -> None:
    found = check_loop(claim(rate=0.001, rounds=2, steps=20), EmptyBatchesSkipped)
    assert "steps" in names(found)
    assert "40 steps were planned" in found.failed[0].meaning


@pytest.mark.parametrize("fault", [QuarterNoise, NoNoise, TwiceTheClippingNorm])
def test_the_white_box_says_what_a_fault_costs(fault: type[PrivateTraining]) -> None:
    found = check_loop(claim(), fault)
    assert found.measured_epsilon > 1.5 * found.epsilon


def test_no_noise_is_seen_by_the_canaries_alone() -> None:
    found = check_loop(Claim(Mechanism("patient", 8.0, 0.3, 1.0, 64), 4, 10, 1e-5, "rdp"), NoNoise)
    assert found.epsilon < found.guesses.bound
    assert "canaries" in names(found)


def test_a_bound_above_the_claim_is_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = iter([9.0, 0.0, 9.0, 9.0])

    def guess(*seen: object) -> Guesses:
        return Guesses(10, 10, next(bounds), 9.0, 9.0)

    monkeypatch.setattr(module, "guess", guess)
    small = claim(rounds=2, steps=5)
    assert "canaries" not in names(check_loop(small))
    assert "canaries" in names(check_loop(small))


def test_long_runs_are_tested_in_part() -> None:
    mechanism = claim().mechanism
    assert claim().shortened() == claim()
    short = Claim(mechanism, 3, 5000, 1e-5).shortened()
    assert short.rounds == 2
    assert short.steps <= module.MOST_STEPS
    assert Claim(mechanism, 5000, 1, 1e-5).shortened().steps <= module.MOST_STEPS
    everybody = Claim(Mechanism("patient", 9.0, 1.0, 1.0, 64), 1000, 1, 1e-5).shortened()
    assert 20 <= everybody.steps < 100
    assert short.epsilon < Claim(mechanism, 3, 5000, 1e-5).epsilon


# The lower bound.


@pytest.mark.parametrize(
    ("right", "guesses", "canaries", "delta", "expected"),
    [
        (1000, 1000, 1000, 0.0, 5.809),  # (e^ε / (1 + e^ε))^1000 = 0.05
        (75, 100, 1000, 1e-4, 0.673),  # the paper, appendix D
        (50, 100, 1000, 0.0, 0.0),
        (0, 0, 1000, 0.0, 0.0),
        (0, 100, 1000, 1e-5, 0.0),
        (100, 100, 1000, 0.5, 0.0),
    ],
)
def test_lower_bound_of_known_cases(
    right: int, guesses: int, canaries: int, delta: float, expected: float
) -> None:
    assert lower_bound(right, guesses, canaries, delta) == pytest.approx(expected, abs=1e-3)


def test_lower_bound_without_delta_is_that_of_a_binomial() -> None:
    found = lower_bound(90, 120, 1000, 0.0)
    exact = stats.binomtest(90, 120).proportion_ci(0.9, method="exact").low  # one side of 5 %
    assert found == pytest.approx(math.log(exact / (1 - exact)), abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    guesses=st.integers(1, 300),
    share=st.floats(0, 1),
    more=st.integers(0, 20),
    delta=st.sampled_from([0.0, 1e-7, 1e-5, 1e-3]),
)
def test_more_right_guesses_never_show_less(guesses: int, share: float, more: int, delta: float) -> None:
    right = int(share * guesses)
    fewer = lower_bound(right, guesses, 400, delta)
    assert lower_bound(min(right + more, guesses), guesses, 400, delta) >= fewer - 1e-4
    assert lower_bound(right, guesses, 400, delta, confidence=0.99) <= fewer + 1e-4
    assert lower_bound(right, guesses, 400, 2 * delta) <= fewer + 1e-4


def test_more_right_guesses_than_guesses_are_refused() -> None:
    with pytest.raises(ValueError, match="expected right ≤ guesses ≤ canaries"):
        lower_bound(5, 4, 10, 0.0)


def test_randomised_response_keeps_its_epsilon() -> None:
    """The bound is above the truth in at most 5 % of experiments; here 400, with the chance of a miss below 1e-6."""
    truth, rng = 1.0, np.random.default_rng(3)
    right = rng.binomial(200, math.exp(truth) / (1 + math.exp(truth)), 400)
    too_high = {v for v in set(right.tolist()) if lower_bound(v, 200, 200, 0.0) > truth}
    assert np.isin(right, list(too_high)).mean() < 0.11


# Chance.


@pytest.mark.parametrize(
    ("trials", "rate", "count"), [(500, 0.1, 40), (40, 0.1, 500), (20, 0.01, 500), (500, 0.9, 5)]
)
def test_the_spread_of_fair_coins_is_rarely_called_unlikely(trials: int, rate: float, count: int) -> None:
    rng = np.random.default_rng(5)
    chances = [module._spread(rng.binomial(trials, rate, count), trials, rate) for _ in range(300)]
    assert np.mean(np.array(chances) < 0.05) <= 0.05
    assert min(chances) > FALSE_ALARM / 10
