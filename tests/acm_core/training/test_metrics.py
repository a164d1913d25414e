"""Metrics against scikit-learn and against the naive bootstrap that copies films."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from acm_core.figures import Estimate
from acm_core.training.metrics import (
    FindingMetrics,
    draw_patients,
    evaluate_findings,
    mean_auroc,
    mean_over_sites,
    operating_points,
    paired_difference,
)

Array = npt.NDArray[Any]


def films(
    seed: int, count: int, findings: int = 2, ties: int = 5, signal: float = 1.0
) -> tuple[Array, Array, Array]:
    """Scores with many ties, labels with gaps, several films a patient."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, findings)).astype(np.float32)
    scores = np.round((rng.standard_normal((count, findings)) + signal * labels) * ties) / ties
    labels[rng.random((count, findings)) < 0.2] = np.nan
    return scores, labels, rng.integers(0, max(1, count // 2), count)


def both_classes(labels: Array) -> bool:
    return bool((labels == 1).any() and (labels == 0).any())


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 60), ties=st.sampled_from([1, 3, 1000]))
@settings(max_examples=60, deadline=None)
def test_values_equal_scikit_learn(seed: int, count: int, ties: int) -> None:
    scores, labels, patients = films(seed, count, ties=ties)
    results = evaluate_findings(scores, labels, patients, ("a", "b"), resamples=0, seed=0)
    for column, result in enumerate(results.values()):
        known = ~np.isnan(labels[:, column])
        truth, score = labels[known, column], scores[known, column]
        assert result.positives == (truth == 1).sum()
        assert result.negatives == (truth == 0).sum()
        assert result.defined == both_classes(truth)
        if result.auroc is None or result.auprc is None:
            assert result.auroc is result.auprc is None
            continue
        assert result.auroc.value == pytest.approx(roc_auc_score(truth, score), abs=1e-14)
        assert result.auprc.value == pytest.approx(average_precision_score(truth, score), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_the_weighted_bootstrap_equals_copying_films(seed: int) -> None:
    """The same draws, done naively: the films of a patient drawn k times are copied k times."""
    scores, labels, patients = films(seed, 24)
    resamples = 120
    distinct, patient_of = np.unique(patients, return_inverse=True)
    naive: dict[str, list[list[float]]] = {"auroc": [[], []], "auprc": [[], []]}
    means, dropped = [], [0, 0]
    for counts in draw_patients(len(distinct), resamples, seed):
        copies = np.repeat(np.arange(len(scores)), counts[patient_of])
        aurocs = []
        for column in range(2):
            known = copies[~np.isnan(labels[copies, column])]
            truth, score = labels[known, column], scores[known, column]
            if not both_classes(truth):
                dropped[column] += 1
                continue
            aurocs.append(float(roc_auc_score(truth, score)))
            naive["auroc"][column].append(aurocs[-1])
            naive["auprc"][column].append(float(average_precision_score(truth, score)))
        if len(aurocs) == 2:
            means.append(np.mean(aurocs))

    def check(estimate: Estimate | None, expected: list[Any], lost: int) -> None:
        assert estimate is not None
        low, high = np.quantile(expected, [0.025, 0.975])
        assert estimate.low == pytest.approx(low, abs=1e-12)
        assert estimate.high == pytest.approx(high, abs=1e-12)
        assert estimate.standard_error == pytest.approx(np.std(expected, ddof=1), abs=1e-12)
        assert estimate.dropped == lost

    names = ("a", "b")
    results = evaluate_findings(scores, labels, patients, names, resamples=resamples, seed=seed)
    for column, name in enumerate(names):
        check(results[name].auroc, naive["auroc"][column], dropped[column])
        check(results[name].auprc, naive["auprc"][column], dropped[column])
    mean = mean_auroc(scores, labels, patients, names, resamples=resamples, seed=seed)
    check(mean, means, resamples - len(means))


def test_resamples_without_a_class_are_dropped_and_counted() -> None:
    scores = np.array([[0.9], [0.1], [0.2]])
    labels = np.array([[1.0], [0.0], [0.0]])
    result = evaluate_findings(scores, labels, np.array([7, 8, 9]), ("a",), resamples=2000, seed=1)["a"]
    assert result.auroc is not None
    # No positive: (2/3)³; only positives: (1/3)³.
    assert result.auroc.dropped / 2000 == pytest.approx(9 / 27, abs=0.05)
    assert (result.auroc.value, result.auroc.low, result.auroc.high) == (1.0, 1.0, 1.0)


def test_patients_are_drawn_and_not_films() -> None:
    """A hundred copies of each film add no information: the interval stays as wide as without the copies."""
    scores, labels, patients = films(3, 40)
    once = mean_auroc(scores, labels, patients, ("a", "b"), seed=5)
    copied = mean_auroc(
        np.repeat(scores, 100, 0), np.repeat(labels, 100, 0), np.repeat(patients, 100), ("a", "b"), seed=5
    )
    assert once is not None
    assert copied is not None
    assert (copied.low, copied.high) == (pytest.approx(once.low), pytest.approx(once.high))


@pytest.mark.parametrize("only", [1.0, 0.0, np.nan])
def test_one_class_is_not_defined_and_never_a_half(only: float) -> None:
    scores, labels, patients = films(0, 30)
    labels[:, 1] = only
    results = evaluate_findings(scores, labels, patients, ("a", "b"), resamples=50, seed=0)
    assert results["a"].defined
    assert not results["b"].defined
    assert results["b"] == FindingMetrics(None, None, 30 if only == 1 else 0, 30 if only == 0 else 0)
    mean = mean_auroc(scores, labels, patients, ("a", "b"), resamples=50, seed=0)
    assert mean == results["a"].auroc


def test_nothing_defined_gives_no_mean() -> None:
    scores, labels, patients = films(0, 6)
    labels[:] = np.nan
    assert mean_auroc(scores, labels, patients, ("a", "b"), seed=0) is None
    assert paired_difference(scores, scores, labels, patients, ("a", "b"), seed=0) is None
    nobody = evaluate_findings(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, int), ("a",), seed=0)
    assert not nobody["a"].defined


def test_results_are_ready_for_json() -> None:
    scores, labels, patients = films(1, 50)
    for result in evaluate_findings(scores, labels, patients, ("a", "b"), resamples=50, seed=0).values():
        again = json.loads(json.dumps(asdict(result), allow_nan=False))
        assert set(again["auroc"]) == {"value", "low", "high", "standard_error", "dropped"}
    mean = mean_auroc(scores, labels, patients, ("a", "b"), resamples=0, seed=0)
    assert mean is not None
    assert json.loads(json.dumps(asdict(mean)))["low"] is None


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    scores, labels, patients = films(2, 60)
    first, again, other = (mean_auroc(scores, labels, patients, ("a", "b"), seed=s) for s in (4, 4, 5))
    assert first == again != other


def test_paired_difference_is_narrower_than_the_models_apart() -> None:
    scores, labels, patients = films(9, 200, ties=1000)
    worse = scores + 0.3 * np.random.default_rng(0).standard_normal(scores.shape)
    names = ("a", "b")
    difference = paired_difference(scores, worse, labels, patients, names, seed=0)
    a, b = (mean_auroc(s, labels, patients, names, seed=0) for s in (scores, worse))
    assert difference is not None
    assert a is not None
    assert b is not None
    assert difference.value == pytest.approx(a.value - b.value)
    assert a.standard_error is not None
    assert b.standard_error is not None
    assert difference.standard_error is not None
    assert difference.standard_error < 0.6 * np.hypot(a.standard_error, b.standard_error)
    nothing = paired_difference(scores, 2 * scores + 1, labels, patients, names, seed=0)
    assert nothing == Estimate(0.0, 0.0, 0.0, 0.0, nothing.dropped if nothing else 0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Normal scores one unit apart have AUROC Φ(1/√2) = 0.7602."""
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.arange(120)[:, None] % 2.0
        scores = rng.standard_normal((120, 1)) + labels
        estimate = mean_auroc(scores, labels, np.arange(120), ("a",), resamples=200, seed=seed)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        hits += estimate.low <= 0.7602499 <= estimate.high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_an_error(value: float) -> None:
    scores, labels, patients = films(0, 10)
    scores[3, 1] = value
    for call in (evaluate_findings, mean_auroc):
        with pytest.raises(ValueError, match="expected finite scores for b, got 1 NaN or infinite"):
            call(scores, labels, patients, ("a", "b"), seed=0)
    with pytest.raises(ValueError, match="finite scores for b"):
        paired_difference(np.zeros_like(scores), scores, labels, patients, ("a", "b"), seed=0)


def test_what_does_not_fit_is_an_error() -> None:
    scores, labels, patients = films(0, 10)
    with pytest.raises(ValueError, match=r"shape \(10, 3\) \(films × findings\), got \(10, 2\)"):
        evaluate_findings(scores, labels, patients, ("a", "b", "c"), seed=0)
    with pytest.raises(ValueError, match="expected patients as integers, got float64"):
        evaluate_findings(scores, labels, patients + 0.5, ("a", "b"), seed=0)
    labels[0, 0] = 0.5
    with pytest.raises(ValueError, match="expected labels 1, 0 or NaN for a, got 1 others"):
        evaluate_findings(scores, labels, patients, ("a", "b"), seed=0)


def test_sites_are_averaged_as_independent() -> None:
    mean, low, high = mean_over_sites([(0.8, 0.03), (0.6, 0.04)])
    assert mean == pytest.approx(0.7)
    assert high - mean == pytest.approx(1.959964 * 0.05 / 2)
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize("sites", [[], [(np.nan, 0.1)], [(0.7, -0.1)], [(0.7, np.inf)]])
def test_sites_without_an_estimate_are_an_error(sites: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        mean_over_sites(sites)


def test_a_thousand_resamples_of_five_findings_take_under_a_second() -> None:
    scores, labels, patients = films(0, 300, findings=5, ties=1000)
    started = time.process_time()
    evaluate_findings(scores, labels, patients, tuple("abcde"), seed=0)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("seed", range(6))
def test_a_sensitivity_is_the_highest_on_scikit_learns_curve_at_that_specificity(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random((80, 1)) < 0.4).astype(float)
    scores = np.round(random.normal(labels, 1.0), 1 if seed % 2 else 6)
    wanted = (0.5, 0.8, 0.95, 1.0)
    patients = np.arange(80) // 2
    points = operating_points(scores, labels, patients, ("a",), wanted, resamples=30, seed=1)["a"]
    false_rate, true_rate, at = roc_curve(labels[:, 0], scores[:, 0], drop_intermediate=False)
    for specificity, point in zip(wanted, points, strict=True):
        allowed = 1 - false_rate >= specificity - 1e-12
        assert point.sensitivity.value == pytest.approx(true_rate[allowed].max())
        assert point.threshold == (at[allowed][-1] if allowed.sum() > 1 else None)
        assert point.sensitivity.low is not None
        assert point.sensitivity.high is not None
        assert point.sensitivity.low <= point.sensitivity.high


def test_resamples_of_sensitivity_are_those_of_copied_films() -> None:
    random = np.random.default_rng(3)
    labels = (random.random((30, 1)) < 0.5).astype(float)
    scores = random.normal(labels, 1.0)
    patients = np.arange(30) // 3
    (point,) = operating_points(scores, labels, patients, ("a",), (0.8,), resamples=200, seed=5)["a"]
    values = []
    for drawn in draw_patients(10, 200, 5):
        copied = np.repeat(np.arange(30), drawn[patients])
        if 0 < labels[copied].sum() < len(copied):
            false_rate, true_rate, _ = roc_curve(
                labels[copied, 0], scores[copied, 0], drop_intermediate=False
            )
            values.append(true_rate[1 - false_rate >= 0.8 - 1e-12].max())
    assert point.sensitivity.standard_error == pytest.approx(np.std(values, ddof=1))


def test_one_class_has_no_operating_point() -> None:
    none = operating_points(np.ones((3, 1)), np.ones((3, 1)), np.arange(3), ("a",), (0.8,), seed=0)
    assert none == {"a": []}
