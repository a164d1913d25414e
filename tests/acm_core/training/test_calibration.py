"""Calibration against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from acm_core.training.calibration import BINS, calibrate


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
def test_bins_are_scikit_learns_and_the_error_their_weighted_distance(
    films: list[tuple[float, bool]],
) -> None:
    scores = np.array([film[0] for film in films])
    labels = np.array([float(film[1]) for film in films])
    calibration = calibrate(scores, labels)
    there = [one for one in calibration.bins if one is not None]
    positive, score = calibration_curve(labels, scores, n_bins=BINS, strategy="uniform")
    assert [one.positive for one in there] == pytest.approx(positive)
    assert [one.score for one in there] == pytest.approx(score)
    assert sum(one.films for one in there) == len(films)
    weights = np.array([one.films for one in there]) / len(films)
    assert calibration.error == pytest.approx((weights * np.abs(positive - score)).sum())


def test_on_paper() -> None:
    calibration = calibrate(np.array([0.05, 0.15, 0.15, 0.95, 0.4]), np.array([0, 0, 1, 1, np.nan]))
    second = calibration.bins[1]
    assert second is not None
    assert (second.films, second.score, second.positive) == (2, pytest.approx(0.15), 0.5)
    assert calibration.bins[4] is None
    assert calibration.error == pytest.approx((0.05 + 2 * 0.35 + 0.05) / 4)


def test_without_films() -> None:
    assert calibrate(np.zeros(0), np.zeros(0)).error is None


def test_a_score_that_is_no_probability() -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        calibrate(np.array([1.5]), np.array([1.0]))
