"""Steps in which everybody takes part are accounted exactly: two other libraries, and arithmetic of many digits."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal, localcontext

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from acm_core.privacy.accounting import NoisedSteps, epsilon, noise_multiplier
from acm_core.privacy.gaussian import composed_mean, gaussian_epsilon, gaussian_mean

means = st.floats(math.log(1e-9), math.log(300)).map(math.exp)
deltas = st.floats(math.log(1e-10), math.log(0.2)).map(math.exp)
epsilons = st.floats(math.log(1e-3), math.log(1e5)).map(math.exp)


def tail(at: Decimal) -> Decimal:
    """P(N(0, 1) > at) for at of any sign, to 40 digits: by its series near zero, by Lentz's fraction beyond."""
    if at < 0:
        return 1 - tail(-at)
    density = (-at * at / 2).exp() / (2 * PI).sqrt()
    if at < 6:
        term = total = at
        for k in range(1, 400):
            term = term * at * at / (2 * k + 1)
            total += term
        return Decimal("0.5") - density * total
    fraction = at
    for k in range(400, 0, -1):
        fraction = at + k / fraction
    return density / fraction


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def exact_delta(epsilon_: float, mean: float) -> Decimal:
    """Balle and Wang, theorem 8, as it stands there."""
    with localcontext() as context:
        context.prec = 110
        e, m = Decimal(epsilon_), Decimal(mean)
        return tail(e / m - m / 2) - e.exp() * tail(e / m + m / 2)


@given(mean=means, delta=deltas)
@settings(max_examples=60, deadline=None)
def test_epsilon_is_never_below_the_truth_and_hardly_above(mean: float, delta: float) -> None:
    found = gaussian_epsilon(mean, delta)
    assert exact_delta(found, mean) <= Decimal(delta)
    if found > 0:
        assert exact_delta(found * (1 - 1e-4), mean) > Decimal(delta)


@pytest.mark.parametrize(("mean", "delta"), [(1e-6, 1e-8), (9e-6, 1e-10), (1e-8, 1e-10), (2e-5, 1e-7)])
def test_noise_far_above_what_is_hidden_is_bounded_too(mean: float, delta: float) -> None:
    found = gaussian_epsilon(mean, delta)
    assert exact_delta(found, mean) <= Decimal(delta)
    assert exact_delta(found * (1 - 1e-4), mean) > Decimal(delta)


@given(target=epsilons, delta=deltas)
@settings(max_examples=60, deadline=None)
def test_the_noise_for_an_epsilon_is_enough_and_hardly_more(target: float, delta: float) -> None:
    mean = gaussian_mean(target, delta)
    assert exact_delta(target, mean) <= Decimal(delta)
    assert exact_delta(target, mean * (1 + 1e-5)) > Decimal(delta)


@given(target=epsilons, delta=deltas, steps=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_a_planned_run_costs_what_was_asked_for(target: float, delta: float, steps: int) -> None:
    try:
        sigma = noise_multiplier(target, delta, 1.0, steps)
    except ValueError as error:
        assert "noise multiplier up to 10000" in str(error)
        return
    spent = epsilon([NoisedSteps(sigma, 1.0, 1)] * steps, delta)
    assert target * (1 - 1e-5) <= spent <= target


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 4.0, 12.0])
def test_another_library_says_the_same(mean: float, delta: float) -> None:
    loss = pld.privacy_loss_mechanism.GaussianPrivacyLoss(1 / mean)
    found = gaussian_epsilon(mean, delta)
    assert loss.get_delta_for_epsilon(found) == pytest.approx(delta if found else 2 * tail_of(mean), rel=1e-5)


def tail_of(mean: float) -> float:
    return 0.5 * math.erf(mean / 2 / math.sqrt(2))


@pytest.mark.parametrize(
    "history",
    [[(9.0, 15)], [(4.0, 1)], [(20.0, 40), (8.0, 5)], [(3.0, 2), (30.0, 100), (1.5, 1)]],
    ids=str,
)
def test_steps_of_several_noises_compose_as_numerical_accountants_say(
    history: list[tuple[float, int]],
) -> None:
    found = epsilon([NoisedSteps(sigma, 1.0, steps) for sigma, steps in history], 1e-5)
    assert found == gaussian_epsilon(composed_mean(history), 1e-5)
    distribution = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    prv = PRVAccountant()
    for sigma, steps in history:
        distribution.compose(dp_accounting.GaussianDpEvent(sigma), steps)
        prv.history.append((sigma, 1.0, steps))
    # Both are upper bounds that are a little loose.
    assert found == pytest.approx(distribution.get_epsilon(1e-5), rel=2e-3)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        assert found <= prv.get_epsilon(1e-5, eps_error=0.01) <= found + 0.03


def test_one_sampled_step_among_them_is_left_to_the_accountants() -> None:
    full, sampled = NoisedSteps(6.0, 1.0, 3), NoisedSteps(6.0, 0.999, 3)
    assert epsilon([full], 1e-5) < epsilon([full, sampled], 1e-5) <= epsilon([full, full], 1e-5) * 1.01


@pytest.mark.parametrize(("mean", "expected"), [(1e-300, 0.0), (1e-12, 0.0), (1e300, math.inf)])
def test_the_ends_of_the_scale(mean: float, expected: float) -> None:
    assert gaussian_epsilon(mean, 1e-5) == expected
