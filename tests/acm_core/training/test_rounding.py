"""Rounded figures: near where they were, and never surer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_core.figures import Estimate
from acm_core.training.rounding import rounded_outward

FIGURES = st.floats(-1, 1)


@given(FIGURES, FIGURES, FIGURES, st.floats(0, 1), st.integers(1, 4))
def test_an_interval_never_gets_narrower_nor_an_error_smaller(
    value: float, low: float, high: float, error: float, digits: int
) -> None:
    rounded = rounded_outward(Estimate(value, low, high, error, 7), digits)
    assert rounded.low is not None
    assert rounded.high is not None
    assert rounded.standard_error is not None
    step = 10.0**-digits
    assert rounded.value == pytest.approx(value, abs=0.501 * step)
    assert low - 1.001 * step <= rounded.low <= low
    assert high <= rounded.high <= high + 1.001 * step
    assert error <= rounded.standard_error <= error + 1.001 * step
    assert rounded.low >= -1
    assert rounded.high <= 1
    assert rounded.dropped == 0
    assert rounded_outward(rounded, digits) == rounded


def test_what_is_missing_stays_missing() -> None:
    assert rounded_outward(Estimate(0.8126, None, None, None, 99), 3) == Estimate(0.813, None, None, None, 0)


def test_a_figure_on_a_step_stays_there() -> None:
    assert rounded_outward(Estimate(0.29, 0.29, 0.57, 0.07, 0), 2) == Estimate(0.29, 0.29, 0.57, 0.07, 0)
