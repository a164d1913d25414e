"""Histograms in place of scores: nothing lost that a curve needs, and they add up over sites."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from acm_core.histograms import BINS, ScoreHistogram, thresholds

Floats = npt.NDArray[np.float64]


def films(seed: int, count: int, separation: float, spread: float = 1.5) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.3).astype(np.float64)
    logits = random.normal(-1, spread, count) + separation * spread * labels
    return 1 / (1 + np.exp(-logits)), labels


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("spread", [0.3, 1.5])
@pytest.mark.parametrize("seed", range(5))
def test_pooled_auroc_of_several_sites_is_that_of_all_their_scores(
    seed: int, spread: float, separation: float
) -> None:
    sites = [films(10 * seed + i, count, separation, spread) for i, count in enumerate((60, 150, 400))]
    scores, labels = (np.concatenate(parts) for parts in zip(*sites, strict=True))
    pooled = ScoreHistogram.merged(ScoreHistogram.of(*site) for site in sites).auroc
    assert pooled == pytest.approx(roc_auc_score(labels, scores), abs=0.002)


@given(
    places=st.lists(st.tuples(st.integers(0, BINS - 1), st.booleans()), min_size=1, max_size=60),
)
def test_scores_that_lie_on_the_bins_give_scikit_learns_figures(places: list[tuple[int, bool]]) -> None:
    scores = np.array([thresholds()[place] for place, _ in places])
    labels = np.array([float(positive) for _, positive in places])
    histogram = ScoreHistogram.of(scores, labels)
    both = 0 < labels.sum() < len(labels)
    if not both:
        assert histogram.auroc is None
        with pytest.raises(ValueError, match="expected films of both classes"):
            histogram.roc()
    else:
        assert histogram.auroc == pytest.approx(roc_auc_score(labels, scores))
        expected = roc_curve(labels, scores, drop_intermediate=False)[:2]
        assert rounded(histogram.roc()) == rounded(expected)
    if labels.any():
        precision, recall, _ = precision_recall_curve(labels, scores)
        assert rounded(histogram.precision_recall()) == rounded((recall[:-1], precision[:-1]))


def rounded(curve: Any) -> set[tuple[float, float]]:
    return {(round(float(x), 9), round(float(y), 9)) for x, y in zip(*curve, strict=True)}


def test_what_is_not_labelled_is_left_out_and_what_lies_beyond_is_in_the_last_bins() -> None:
    scores = np.array([0.0, 1e-30, 1.0, 0.5, 0.5])
    histogram = ScoreHistogram.of(scores, np.array([1.0, 0.0, 1.0, np.nan, 0.0]))
    assert histogram.pairs() == ([(0, 1), (BINS - 1, 1)], [(0, 1), (BINS // 2, 1)])
    again = ScoreHistogram.from_pairs(*histogram.pairs())
    assert (again.positives == histogram.positives).all()
    assert (again.negatives == histogram.negatives).all()


def test_histograms_of_nobody() -> None:
    nobody = ScoreHistogram.merged([])
    assert nobody.auroc is None
    with pytest.raises(ValueError, match="at least one positive"):
        nobody.precision_recall()


@pytest.mark.parametrize("score", [-0.1, 1.1, np.nan])
def test_a_score_that_is_no_probability(score: float) -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        ScoreHistogram.of(np.array([score]), np.array([1.0]))


@pytest.mark.parametrize("pairs", [[(BINS, 1)], [(-1, 1)], [(3, 1), (3, 2)], [(3, 0)]])
def test_bins_that_are_none(pairs: Any) -> None:
    with pytest.raises(ValueError, match="expected each of the bins"):
        ScoreHistogram.from_pairs(pairs, [])
