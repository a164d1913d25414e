"""Whether a probability means what it says: reliability in bins, and the expected calibration error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Films whose score lies in one tenth of [0, 1].

    Attributes:
        films: how many.
        score: mean score.
        positive: share of positive films.
    """

    films: int
    score: float
    positive: float


@dataclass(frozen=True)
class Calibration:
    """Reliability by tenths of the score; None where a tenth holds no film.

    Attributes:
        error: expected calibration error (Naeini et al., AAAI 2015): the mean over films of |score − share of positive
            films| of their bins' means; None without films.
    """

    bins: tuple[ReliabilityBin | None, ...]
    error: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


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
