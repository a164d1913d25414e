"""The Gaussian mechanism without sampling, exactly: what any number of full-batch steps cost together.

A step in which everybody takes part (q = 1) is a Gaussian mechanism of mean μ = 1/σ: it tells a unit's presence as
well as one number tells N(0, 1) from N(μ, 1). Steps compose to one such mechanism with μ² = Σ 1/σ² (Dong, Roth and Su,
JRSS-B 2022, corollary 3.3), and its δ at each ε has a closed form (Balle and Wang, ICML 2018, theorem 8). That is no
approximation. What under-reports is the central limit theorem for *sampled* steps, which also goes by "GDP" and is
used nowhere here.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

_ROUNDING = 1e-9
"""How much too small a computed δ may be, relative: what is returned is on the safe side of it."""
_FLAT = 1e-5
_FARTHEST = 39.0  # standard deviations: beyond is nothing in float64


def composed_mean(steps: list[tuple[float, int]]) -> float:
    """μ of all steps together.

    Args:
        steps: (σ, how many) of each kind, σ > 0.
    """
    return math.sqrt(math.fsum(count / sigma / sigma for sigma, count in steps))


def gaussian_epsilon(mean: float, delta: float) -> float:
    """The smallest ε ≥ 0 at `delta` of the Gaussian mechanism with `mean` μ > 0; never below it, at most 1e-6 above."""
    low, high = max(-mean / 2, -_FARTHEST), float(-ndtri(delta))
    if _log_delta(low, mean) <= math.log(delta):
        return max(mean * (low + mean / 2), 0.0)
    step = _ROUNDING
    while _log_delta(high, mean) > math.log(delta):
        high, step = high + step, 2 * step
    offset = float(brentq(lambda at: _log_delta(at, mean) - math.log(delta), low, high, xtol=1e-12))
    while _log_delta(offset, mean) > math.log(delta):
        offset += 1e-12 * max(1.0, abs(offset))
    return mean * (offset + mean / 2) * (1 + _ROUNDING)


def gaussian_mean(epsilon: float, delta: float) -> float:
    """The largest μ with which the Gaussian mechanism costs `epsilon` > 0 at `delta`; never above it."""

    def excess(log_mean: float) -> float:
        mean = math.exp(log_mean)
        return _log_delta(epsilon / mean - mean / 2, mean) - math.log(delta)

    far = float(-ndtri(delta))
    root = math.sqrt(far * far + 2 * epsilon)
    # Here the first of the two terms of δ alone reaches it.
    low = math.log(2 * epsilon / (far + root) if far > 0 else root - far)
    high, low = low + 1, low - _ROUNDING
    while excess(high) <= 0:
        high += 1
    while excess(low) > 0:
        low -= 1
    found = float(brentq(excess, low, high, xtol=1e-12))
    while gaussian_epsilon(math.exp(found), delta) > epsilon:
        found -= _ROUNDING
    return math.exp(found)


def _log_delta(offset: float, mean: float) -> float:
    """log δ at ε = μ·(t + μ/2), t = `offset` ≥ −μ/2: Φ(−t) − e^ε·Φ(−t − μ), where nothing overflows or cancels.

    With erfcx both terms have the factor e^(−t²/2)/2.
    """
    at, beyond = offset / math.sqrt(2), (offset + mean) / math.sqrt(2)
    if mean < _FLAT:  # the two are nearly equal; erfcx is convex, so its slope at t is a bound
        difference = mean / math.sqrt(2) * (2 / math.sqrt(math.pi) - 2 * at * float(erfcx(at)))
    elif offset < 0:
        value = float(ndtr(-offset)) - 0.5 * math.exp(-at * at) * float(erfcx(beyond))
        return math.log(value) + _ROUNDING
    else:
        difference = float(erfcx(at) - erfcx(beyond))
    return math.log(0.5 * max(difference, math.ulp(0.0))) - at * at + _ROUNDING
