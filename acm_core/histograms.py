"""Scores as counts in fixed bins: what leaves a site in place of scores, and the curves that are drawn of it.

A score is a probability p. The bins are of equal width in ln(p / (1 − p)), so that they are as fine at p = 0.001 as at
0.5, and the same at every site: histograms add up. Two films in one bin count as a tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]

BINS = 1000
"""Of 0.02 each, from −10 to 10; the outermost ones take what lies beyond."""

_EDGE = 10.0
_WIDTH = 2 * _EDGE / BINS
_ROUNDING = 1e-9


def thresholds() -> npt.NDArray[np.float64]:
    """The probability at the lower end of each bin (BINS); 0 for the first."""
    logits = -_EDGE + _WIDTH * np.arange(BINS)
    ends: npt.NDArray[np.float64] = 1 / (1 + np.exp(-logits))
    ends[0] = 0.0
    return ends


@dataclass(frozen=True)
class ScoreHistogram:
    """Films of each class in each bin (BINS each)."""

    positives: Counts
    negatives: Counts

    @classmethod
    def of(cls, scores: Floats, labels: Floats) -> Self:
        """Count films.

        Args:
            scores: N probabilities.
            labels: N of 1, 0 and NaN (not labelled, which is left out).

        Raises:
            ValueError: a score that is no probability.
        """
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError("expected probabilities from 0 to 1, got others or NaN")
        bins = np.searchsorted(thresholds(), scores.astype(np.float64), side="right") - 1
        return cls(*(np.bincount(bins[labels == label], minlength=BINS).astype(np.int64) for label in (1, 0)))

    @classmethod
    def merged(cls, histograms: Iterable[Self]) -> Self:
        """The films of all together; of none where there is none."""
        several = list(histograms)
        empty = np.zeros(BINS, np.int64)
        return cls(
            sum((one.positives for one in several), empty), sum((one.negatives for one in several), empty)
        )

    @classmethod
    def from_pairs(cls, positives: Sequence[tuple[int, int]], negatives: Sequence[tuple[int, int]]) -> Self:
        """From (bin, films) pairs as `pairs` gives them.

        Raises:
            ValueError: a bin that is none, or twice there.
        """
        return cls(_filled(positives), _filled(negatives))

    def pairs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(bin, films) of the bins that hold any, positives and negatives."""
        return _pairs(self.positives), _pairs(self.negatives)

    @property
    def auroc(self) -> float | None:
        """The Mann-Whitney statistic, ties counted half; None unless both classes are there."""
        pairs = int(self.positives.sum()) * int(self.negatives.sum())
        if not pairs:
            return None
        below = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (below + self.negatives / 2)).sum() / pairs)

    def operating_point(self, specificity: float) -> tuple[float, float] | None:
        """The lowest threshold with at least this specificity, and its sensitivity; None unless both classes are there.

        The threshold is a probability at or above which a film is called positive, 1 where no bin's lower end has that
        specificity.
        """
        if not self.positives.any() or not self.negatives.any():
            return None
        wrongly = np.cumsum(self.negatives[::-1])[::-1] / self.negatives.sum()
        permitted = np.flatnonzero(wrongly <= 1 - specificity + _ROUNDING)
        if not len(permitted):
            return 1.0, 0.0
        lowest = int(permitted[0])
        return float(thresholds()[lowest]), float(self.positives[lowest:].sum() / self.positives.sum())

    def roc(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """False and true positive rates at falling thresholds, from (0, 0) to (1, 1).

        Raises:
            ValueError: a class is missing.
        """
        called, wrongly = _from_above(self.positives), _from_above(self.negatives)
        if not called[-1] or not wrongly[-1]:
            raise ValueError("expected films of both classes, got one class alone")
        return wrongly / wrongly[-1], called / called[-1]

    def precision_recall(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Recall and precision at falling thresholds that call at least one film positive.

        Raises:
            ValueError: there is no positive film.
        """
        called, wrongly = _from_above(self.positives), _from_above(self.negatives)
        if not called[-1]:
            raise ValueError("expected at least one positive film, got none")
        some = called + wrongly > 0
        return called[some] / called[-1], called[some] / (called + wrongly)[some]


def _filled(pairs: Sequence[tuple[int, int]]) -> Counts:
    counts = np.zeros(BINS, np.int64)
    for place, films in pairs:
        if not 0 <= place < BINS or counts[place] or films < 1:
            raise ValueError(f"expected each of the bins 0 to {BINS - 1} once with at least one film")
        counts[place] = films
    return counts


def _pairs(counts: Counts) -> list[tuple[int, int]]:
    return [(int(place), int(counts[place])) for place in np.flatnonzero(counts)]


def _from_above(counts: Counts) -> Counts:
    """Films at or above the lower end of each bin, the highest bin first, and 0 before."""
    return np.concatenate([[0], np.cumsum(counts[::-1])])
