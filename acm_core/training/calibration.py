"""Whether a probability means what it says: reliability in bins, and the expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.figures import Calibration, ReliabilityBin

Floats = npt.NDArray[np.floating[Any]]

BINS = 10


def calibrate(scores: Floats, labels: Floats) -> Calibration:
    """Calibration of one finding's scores.

    Args:
        scores: N probabilities.
        labels: N of 1, 0 and NaN (not labelled, which is left out).

    Raises:
        ValueError: a score that is no probability.
    """
    labelled = ~np.isnan(labels)
    scores, positive = scores[labelled].astype(np.float64), labels[labelled] == 1
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("expected probabilities from 0 to 1, got others or NaN")
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores)  # an edge belongs to the lower bin
    bins = tuple(_bin(scores[place == i], positive[place == i]) for i in range(BINS))
    error = None
    if len(scores):
        error = sum(one.films * abs(one.score - one.positive) for one in bins if one) / len(scores)
    return Calibration(bins, error)


def _bin(scores: Floats, positive: npt.NDArray[np.bool_]) -> ReliabilityBin | None:
    if not len(scores):
        return None
    return ReliabilityBin(len(scores), float(scores.mean()), float(positive.mean()))
