"""Canaries in one training run: guesses who was in the data, and what their number says of ε.

Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from acm_core.privacy.training import Mechanism

CANARIES = 1000
CONFIDENCE = 0.95
"""Of the canaries' lower bound on ε."""
_SIMULATED = 8
_GUESSED = (0, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 500)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Guesses:
    """The privacy test by canaries.

    Attributes:
        made, right: guesses, and those that were right.
        bound: ε is at least this, at the claimed δ and CONFIDENCE.
        most: the bound if all guesses had been right, which no test of so many guesses can exceed.
        at_half_noise: the bound that a simulated mechanism with half of the claimed noise gave.
    """

    made: int
    right: int
    bound: float
    most: float
    at_half_noise: float


def lower_bound(
    right: int, guesses: int, canaries: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """ε that (ε, δ) privacy must have at least, where so many guesses about independent canaries were right.

    Theorem 5.2: δ > 0 raises the binomial's tail, which bounds the chance of so many right guesses, by at most 2·m·δ
    times the largest mean of its probabilities just below. 0 where nothing can be said.

    Args:
        guesses: made on `canaries` = m, each included by a fair coin; the others were abstained from.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"expected right ≤ guesses ≤ canaries, got {right}, {guesses}, {canaries}")

    def chance(epsilon_: float) -> float:
        each = float(special.expit(epsilon_))
        below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, each))
        raised = float((below / np.arange(1, right + 1)).max(initial=0.0))
        return float(stats.binom.sf(right - 1, guesses, each)) + 2 * canaries * delta * raised

    if chance(0.0) >= 1 - confidence:
        return 0.0
    low, high = 0.0, 1.0
    while chance(high) < 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < 1 - confidence else (low, middle)
    return low


def guess(noised: Values, included: NDArray[np.bool_], mechanism: Mechanism, delta: float) -> Guesses:
    """Guess "in" for the most suspicious canaries and "out" for the least; how many was decided on a simulated run.

    Args:
        noised: each step's noised sum along each canary's direction in units of C, T×CANARIES.
        included: canary → whether it was in the data.
    """
    most_in, most_out, at_half_noise = _numbers(mechanism, len(noised), delta)
    right = _right(_scores(noised, mechanism), included, most_in, most_out)
    made = most_in + most_out
    bound, most = (lower_bound(number, made, CANARIES, delta) for number in (right, made))
    return Guesses(made, right, bound, most, at_half_noise)


def _scores(noised: Values, mechanism: Mechanism) -> Values:
    """T×M → M: log-likelihood ratio of in and out, were each step's sum what is claimed."""
    rate, sigma = mechanism.sampling_rate, mechanism.noise_multiplier
    evidence = (noised - 0.5) / sigma**2
    if rate < 1:
        evidence = np.logaddexp(math.log1p(-rate), math.log(rate) + evidence)
    scores: Values = evidence.sum(0)
    return scores


def _right(scores: Values, included: NDArray[np.bool_], most_in: int, most_out: int) -> int:
    order = np.argsort(scores)
    return int(included[order[len(order) - most_in :]].sum() + (~included[order[:most_out]]).sum())


def _numbers(mechanism: Mechanism, steps: int, delta: float) -> tuple[int, int, float]:
    """Guesses "in" and "out" that show most of a mechanism with half of the noise, and the bound they show."""
    rng = np.random.default_rng()
    runs = []
    for _ in range(_SIMULATED):
        included = rng.random(CANARIES) < 0.5
        noised = rng.standard_normal((steps, CANARIES)) * mechanism.noise_multiplier / 2
        noised += (rng.random((steps, CANARIES)) < mechanism.sampling_rate) & included
        runs.append((_scores(noised, mechanism), included))

    choices = [(most_in, most_out) for most_in in _GUESSED for most_out in _GUESSED if most_in + most_out]
    made = np.array([sum(choice) for choice in choices])
    rights = [[_right(scores, included, *choice) for choice in choices] for scores, included in runs]
    right = np.sum(rights, axis=0) // _SIMULATED
    # The bound for δ = 0 orders them as well, and is quick: Clopper and Pearson's.
    best = int(stats.beta.ppf(1 - CONFIDENCE, right, made - right + 1).argmax())
    return *choices[best], lower_bound(int(right[best]), int(made[best]), CANARIES, delta)
