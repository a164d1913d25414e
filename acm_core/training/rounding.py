"""Figures with few decimals, none of which says more than it knew before."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from acm_core.figures import Estimate


def rounded_outward(estimate: Estimate, digits: int) -> Estimate:
    """The value to the nearest step of 10^−digits, its interval and standard error to steps that are no narrower.

    The count of dropped resamples is 0, since numbers of films can be estimated from it.
    """
    return Estimate(
        round(estimate.value, digits),
        _towards(estimate.low, digits, ROUND_FLOOR),
        _towards(estimate.high, digits, ROUND_CEILING),
        _towards(estimate.standard_error, digits, ROUND_CEILING),
        dropped=0,
    )


def _towards(figure: float | None, digits: int, rounding: str) -> float | None:
    """A figure that is on a step stays there, whatever its binary digits."""
    if figure is None:
        return None
    return float(Decimal(repr(figure)).quantize(Decimal(1).scaleb(-digits), rounding))
