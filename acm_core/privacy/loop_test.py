"""The privacy test of the training loop: canaries that would be found were they not hidden, and a white box that
measures whether the mechanism is what is claimed.

The loop of a round, `PrivateTraining`, trains a linear model on made-up patients, each with a weight of its own in both
of two layers (clipping must bind the layers together) and a gradient far above C. A coin says whether a patient is in;
whoever sees the noised sums guesses. No film of the site is read and nothing is charged to its ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from torch import Tensor, nn

from acm_core.config.sections import TrainingConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.nn.classifier import ClassifierOutput
from acm_core.privacy.accounting import Accountant, NoisedSteps, epsilon
from acm_core.privacy.canaries import CANARIES, Guesses, Values, guess
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

MOST_STEPS, _FEWEST_STEPS = 500, 20
_MOST_DRAWN = 20_000
"""Canaries drawn in all steps together, about: enough to measure, and seconds."""
_SIDE = 64
_TESTS = 9
"""Of chance: 3 of noise, 1 of clipping, 3 of sampling, 2 of correlation."""
_LEVEL = FALSE_ALARM / _TESTS
_ALLOWANCE = 1e-3
"""Of a unit's norm, that may be added to it for rounding, so that the unit is clipped a little more than need be."""
_FILMS_AT_ONCE = 128
_MOST_FILMS, _MOST_VIEWS = 8, 2
_ABOVE = 1000.0  # times C: the gradients before clipping


@dataclass(frozen=True)
class Claim:
    """What is claimed of some rounds of steps; every number is public.

    Attributes:
        delta: δ of ε.
    """

    mechanism: Mechanism
    rounds: int
    steps_per_round: int
    delta: float
    accountant: Accountant = "prv"

    @property
    def steps(self) -> int:
        """Noised steps."""
        return self.rounds * self.steps_per_round

    @property
    def epsilon(self) -> float:
        """ε of these steps."""
        noised = NoisedSteps(self.mechanism.noise_multiplier, self.mechanism.sampling_rate, self.steps)
        return epsilon([noised], self.delta, self.accountant)

    def shortened(self) -> Claim:
        """What of a run is tested: at most MOST_STEPS, fewer if many patients take part in each; of two rounds, if the
        run has as many. Fewer steps have a smaller ε.
        """
        drawn = self.mechanism.sampling_rate * CANARIES / 2
        most = int(min(MOST_STEPS, max(_FEWEST_STEPS, _MOST_DRAWN / drawn)))
        rounds = min(self.rounds, max(2, most // self.steps_per_round))
        return replace(self, rounds=rounds, steps_per_round=min(self.steps_per_round, max(1, most // rounds)))


@dataclass(frozen=True)
class LoopTest:
    """What the privacy test of the loop found.

    Attributes:
        epsilon: claimed of the tested steps.
        measured_epsilon: of the steps seen, with noise, clipping norm and sampling rate at the worse ends of their
            intervals; it takes the draws to be independent.
    """

    claim: Claim
    epsilon: float
    measured_epsilon: float
    checks: tuple[Check, ...]
    guesses: Guesses

    @property
    def failed(self) -> tuple[Check, ...]:
        """The claims that do not stand."""
        return tuple(check for check in self.checks if not check.passed)


def check_loop(claim: Claim, training: type[PrivateTraining] = PrivateTraining) -> LoopTest:
    """Test `training`, the loop that rounds run.

    A sound mechanism fails with a probability of at most FALSE_ALARM by its measurements and (1 − CONFIDENCE)² by its
    canaries: where nothing but their bound is above the claim, all is done once more.
    """
    with one_thread():
        found = _checked(claim, training)
        if [check.name for check in found.failed] == ["canaries"]:
            found = _checked(claim, training)
    return found


def _checked(claim: Claim, training: type[PrivateTraining]) -> LoopTest:
    seen = _observe(claim, training)
    noise, sigmas = _noise(seen)
    clipping, norm = _clipping(seen)
    sampling, rate = _sampling(seen)
    guesses = guess(seen.canaries, seen.included, claim.mechanism, claim.delta)
    claimed = claim.epsilon
    measured = math.inf
    if sigmas[0] > 0:
        steps = NoisedSteps(sigmas[0] / norm, min(rate, 1.0), len(seen.released))
        measured = epsilon([steps], claim.delta, claim.accountant)
    checks = (
        _steps(seen),
        noise,
        clipping,
        sampling,
        _correlation(seen),
        _canaries(guesses, claimed, claim.delta),
    )
    return LoopTest(claim, claimed, measured, checks, guesses)


# One run with canaries.


class _Canaries(nn.Module):
    """logit = gain·(a·x + b·x), a and b one weight a pixel."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first = nn.Linear(_SIDE**2, 1, bias=False)
        self.second = nn.Linear(_SIDE**2, 1, bias=False)
        self._gain = gain
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        for weight in self.parameters():
            weight.zero_()

    def forward(self, x: Tensor) -> ClassifierOutput:
        pixels = x.flatten(1)
        logits = self._gain * (self.first(pixels) + self.second(pixels))
        return ClassifierOutput(logits, logits.new_zeros(len(x)))


@dataclass
class _Seen:
    """What the white box sees, in units of C.

    Attributes:
        included: canary → whether its patient is in the data (CANARIES).
        sums: a step's sum before noise, 2×_SIDE²; None where the step was not recorded.
        released: a step's noised sum, as the update took it.
        recorded: rows of the ledger.
    """

    claim: Claim
    included: NDArray[np.bool_]
    sums: list[Values | None] = field(default_factory=list)
    released: list[Values] = field(default_factory=list)
    recorded: int = 0

    @property
    def untouched(self) -> Values:
        """Noise on the weights that no canary has, T×2×D."""
        return np.array(self.released).reshape(-1, 2, _SIDE**2)[:, :, CANARIES:]

    @property
    def canaries(self) -> Values:
        """The noised sum along each canary's direction, T×CANARIES: 1 or 0 and noise σ."""
        both: Values = np.array(self.released).reshape(-1, 2, _SIDE**2)[:, :, :CANARIES].sum(1)
        return both / math.sqrt(2)

    @property
    def contributions(self) -> tuple[Values, Values]:
        """What each included canary gave to each recorded step, T×n, and the noised sum along its direction."""
        rows = [row for row, made in enumerate(self.sums) if made is not None]
        made = np.array([self.sums[row] for row in rows]).reshape(-1, 2, _SIDE**2)[:, :, :CANARIES]
        norms: Values = np.sqrt(np.square(made).sum(1))
        return norms[:, self.included], self.canaries[rows][:, self.included]


def _observe(claim: Claim, training: type[PrivateTraining]) -> _Seen:
    mechanism = replace(claim.mechanism, augmentations=min(claim.mechanism.augmentations, _MOST_VIEWS))
    seen = _Seen(claim, np.random.default_rng().random(CANARIES) < 0.5)
    films = _films(np.flatnonzero(seen.included), mechanism)
    plain = TrainingConfig(
        batch_size=_FILMS_AT_ONCE,
        optimizer="sgd",
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        orthogonality=0.0,
        precision="float32",
        augment=False,
    )
    for number in range(claim.rounds):
        model = _Canaries(_ABOVE * mechanism.clipping_norm)
        loop = training(cast(Classifier, model), films, plain, mechanism, torch.device("cpu"))
        watch = _Watch(seen, model, loop.optimizer)
        first = number * claim.steps_per_round
        loop.run(Steps(first, first + claim.steps_per_round, claim.steps), watch.record, lambda _: None)
    return seen


class _Watch:
    """Reads the sum when the ledger's row is written, and the noised sum off the weights that an update changed."""

    def __init__(self, seen: _Seen, model: _Canaries, optimizer: torch.optim.Optimizer) -> None:
        self._seen, self._model = seen, model
        self._sum: Values | None = None
        optimizer.register_step_post_hook(self._updated)

    def record(self) -> None:
        norm = self._seen.claim.mechanism.clipping_norm
        made = [getattr(weight, "summed_grad", None) for weight in self._model.parameters()]
        zeros = np.zeros(_SIDE**2)
        self._sum = (
            np.stack([zeros if s is None else s.detach().double().numpy().ravel() for s in made]) / norm
        )
        self._seen.recorded += 1

    def _updated(self, *_: Any) -> None:
        mechanism = self._seen.claim.mechanism
        weights = np.stack([weight.detach().double().numpy().ravel() for weight in self._model.parameters()])
        self._seen.released.append(-weights * mechanism.expected_batch / mechanism.clipping_norm)
        self._seen.sums.append(self._sum)
        self._sum = None
        self._model.reset()


def _films(canaries: NDArray[np.int64], mechanism: Mechanism) -> FilmSet:
    """1, 2, 1 and more films than the cap permits a patient, all with one bright pixel, the patient's own."""
    sizes = np.ones(len(canaries), np.int64)
    if mechanism.unit == "patient":
        sizes = np.resize([1, 2, 1, min(mechanism.films_per_patient + 1, _MOST_FILMS)], len(canaries))
    images = np.full((sizes.sum(), _SIDE**2), 0.5, np.float16)  # 0 once normalised
    images[np.arange(len(images)), canaries.repeat(sizes)] = 1.0
    return FilmSet(
        images.reshape(-1, _SIDE, _SIDE),
        np.zeros((len(images), 1), np.float32),
        np.arange(len(canaries)).repeat(sizes),
    )


# What the white box measures. A check fails where the chance of what it saw, or of worse, is below its level.


def _steps(seen: _Seen) -> Check:
    planned, taken = seen.claim.steps, len(seen.released)
    unrecorded = sum(made is None for made in seen.sums)
    measured = f"{taken} taken, {seen.recorded} recorded"
    if unrecorded:
        meaning = (
            f"{unrecorded} of {taken} steps were taken without a row in the ledger before their noise: the patients "
            "have spent more than the ledger says"
        )
    elif taken != planned or seen.recorded != planned:
        meaning = (
            f"{planned} steps were planned, {taken} taken and {seen.recorded} recorded: where a step is left out, as "
            "for a batch that nobody was drawn for, its absence tells that without noise"
        )
    else:
        meaning = ""
    return Check("steps", f"{planned}, each recorded first", measured, meaning)


def _noise(seen: _Seen) -> tuple[Check, tuple[float, float]]:
    """The check, and the interval of the noise's standard deviation."""
    sigma = seen.claim.mechanism.noise_multiplier
    squares = np.square(seen.untouched)
    if not squares.size:
        silent = Check("noise", f"{sigma:.4g}·C", "nothing", "no step was taken, so no noise was seen")
        return silent, (0.0, 0.0)
    total = float(squares.sum())
    low, high = (
        math.sqrt(total / float(stats.chi2.ppf(at, squares.size))) for at in (1 - _LEVEL / 2, _LEVEL / 2)
    )
    mean = math.sqrt(total / squares.size)
    everywhere = two_sided(stats.chi2, total / sigma**2, squares.size) < _LEVEL
    steps, weights = (_unlikely_noise(squares.sum(axis), squares.shape[axis], sigma) for axis in (2, 0))
    meaning = ""
    if everywhere or steps or weights:
        # What is wrong in a few places pulls the whole along.
        if 0 < steps < squares.shape[0]:
            where = f"of {steps} of {2 * squares.shape[0]} steps and layers"
        elif 0 < weights < squares[0].size / 2:
            where = f"on {weights} of {squares[0].size} weights"
        else:
            where = "everywhere"
        why = effect(mean, sigma)
        meaning = f"the noise {where} has another standard deviation than the {sigma:.4g}·C claimed: {why}"
    measured = f"{mean:.4g}·C ({low:.4g} … {high:.4g})"
    return Check("noise", f"{sigma:.4g}·C", measured, meaning), (low, high)


def _clipping(seen: _Seen) -> tuple[Check, float]:
    """The check, and the largest contribution that is possible, over C."""
    norm = seen.claim.mechanism.clipping_norm
    made, noised = seen.contributions
    took_part = made > 0
    if not took_part.any():
        return Check("clipping norm", f"{norm:.4g}", "nobody was drawn, so nothing was clipped"), 1.0
    largest, smallest = float(made.max()), float(made[took_part].min())
    # Once more behind the noise: whatever changed the sum after it was seen shows here.
    released = float(noised[took_part].mean())
    error = seen.claim.mechanism.noise_multiplier / math.sqrt(float(took_part.sum()))
    reach = float(stats.norm.isf(_LEVEL / 2)) * error
    measured = f"{norm * largest:.4g}; in the noised sum {norm * released:.4g} (± {norm * reach:.2g})"
    meaning = ""
    if largest > 1 + ROUNDING or released > 1 + reach:
        times = largest if largest > 1 + ROUNDING else released
        meaning = f"a patient changes a sum by {times:.3g} times the clipping norm claimed: the noise hides too little"
    elif smallest < 1 - _ALLOWANCE or released < 1 - reach:
        meaning = (
            f"gradients far above the clipping norm came to {min(smallest, released):.3g} times of it: nobody is less "
            "protected, but the sum is wrong"
        )
    worst = max(largest, released + reach) if meaning else largest
    return Check("clipping norm", f"{norm:.4g}", measured, meaning), worst


def _sampling(seen: _Seen) -> tuple[Check, float]:
    """The check, and the upper end of the sampling rate's interval."""
    rate = seen.claim.mechanism.sampling_rate
    taken = seen.contributions[0] > 0
    if not taken.size:
        return Check("sampling", f"{rate:.4g}", "nothing", "no recorded step was taken"), 1.0
    drawn, chances = int(taken.sum()), taken.size
    low = float(stats.beta.ppf(_LEVEL / 2, drawn, chances - drawn + 1)) if drawn else 0.0
    high = float(stats.beta.isf(_LEVEL / 2, drawn + 1, chances - drawn)) if drawn < chances else 1.0
    below, above = stats.binom.cdf(drawn, chances, rate), stats.binom.sf(drawn - 1, chances, rate)
    meaning = ""
    if 2 * min(below, above) < _LEVEL:
        more = drawn > chances * rate
        effect = "patients are drawn more often than ε counts on" if more else "ε is not for this rate"
        meaning = f"patients took part at rate {drawn / chances:.4g} where {rate:.4g} is claimed: {effect}"
    elif any(_spread(taken.sum(1 - axis), taken.shape[1 - axis], rate) < _LEVEL for axis in (0, 1)):
        meaning = (
            "patients are not drawn independently, each with a coin of its own a step: the sizes of the batches or the "
            "times that a patient took part vary otherwise (as with a shuffled list or a seed used again), and ε, "
            "which counts on such coins, is not theirs"
        )
    return Check("sampling", f"{rate:.4g}", f"{drawn / chances:.4g} ({low:.4g} … {high:.4g})", meaning), high


def _correlation(seen: _Seen) -> Check:
    """Between the noise of any two steps, and of the two layers."""
    claimed = "0 between any two steps"
    rows = seen.untouched.reshape(-1, _SIDE**2 - CANARIES).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if len(rows) < 2 or not (lengths > 0).all():
        return Check("correlation", claimed, "no noise to compare")
    rows /= lengths
    largest, chance = closest(rows)
    freedom = rows.shape[1]
    all_together = float(np.square(rows.sum(0, dtype=np.float64)).sum()) * freedom / len(rows)
    meaning = ""
    if chance < _LEVEL:
        meaning = f"the noise of two steps has correlation {largest:.3g}, {USED_AGAIN}"
    elif two_sided(stats.chi2, all_together, freedom) < _LEVEL:
        meaning = "the noise of different steps adds up or cancels, which ε does not count on"
    return Check("correlation", claimed, f"at most {largest:.2g}", meaning)


def _canaries(guesses: Guesses, claimed: float, delta: float) -> Check:
    meaning = ""
    if guesses.bound > claimed:
        meaning = (
            f"{guesses.right} of {guesses.made} guesses who was in the data were right, more than ε = "
            f"{claimed:.3g} permits: what is released tells more about patients than is claimed"
        )
    return Check("canaries", f"ε = {claimed:.4g} at δ = {delta:g}", f"ε ≥ {guesses.bound:.4g}", meaning)


def _unlikely_noise(sums: Values, freedom: int, sigma: float) -> int:
    """How many of these sums of squares are not of that noise, each at its share of the level (Bonferroni)."""
    chances = two_sided(stats.chi2, sums / sigma**2, freedom)
    return int((chances * sums.size < _LEVEL).sum())


def _spread(counts: NDArray[np.int64], trials: int, rate: float) -> float:
    """Bound on the chance that as many binomial counts vary as much or more, or as little or less (Chernoff)."""
    if rate == 1:
        return 1.0
    values = np.arange(trials + 1)
    log_chances = stats.binom.logpmf(values, trials, rate)
    variance = trials * rate * (1 - rate)
    squares = np.square(values - trials * rate) / variance
    seen = float(np.square(counts - trials * rate).sum()) / variance
    sign = 1 if seen > len(counts) else -1

    def log_bound(log_slope: float) -> float:
        slope = sign * math.exp(log_slope)
        return len(counts) * float(special.logsumexp(log_chances + slope * squares)) - slope * seen

    found = optimize.minimize_scalar(log_bound, bounds=(-12.0, 6.0), method="bounded")
    return min(1.0, 2 * math.exp(min(0.0, float(found.fun))))
