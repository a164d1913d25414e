"""How well a model ranks films, per finding, with the uncertainty that comes from having seen these patients.

Legend: N films, F findings, P patients, R resamples. Intervals are 95 % percentile intervals of the bootstrap
over patients (Efron and Tibshirani 1993, chapter 13): films of one patient are not independent, so patients
are drawn with replacement and a film counts as often as its patient was drawn. A resample in which a class is
missing has no AUROC; it is dropped and counted. AUROC is the Mann-Whitney statistic, ties counted half
(Hanley and McNeil 1982); AUPRC is the average precision of scikit-learn, without interpolation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acm_core.figures import Estimate, OperatingPoint
from acm_core.randomness import stream

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

_INTERVAL = (0.025, 0.975)
_NORMAL_97_5 = 1.959963984540054
_ROUNDING = 1e-9
_BLOCK = 2_000_000  # film weights computed at a time: 16 MB an array


@dataclass(frozen=True)
class FindingMetrics:
    """One finding. AUROC and AUPRC are None ("not defined") unless both classes are there."""

    auroc: Estimate | None
    auprc: Estimate | None
    positives: int
    """Films labelled 1."""
    negatives: int
    """Films labelled 0."""

    @property
    def defined(self) -> bool:
        """Whether both classes are there."""
        return self.auroc is not None


def evaluate_findings(
    scores: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[str, FindingMetrics]:
    """AUROC and AUPRC of each finding.

    Args:
        scores: N × F, higher means more likely; only their order matters.
        labels: N × F of 1, 0 and NaN (not labelled).
        patients: N, the same number for films of the same patient.
        findings: F names.
        resamples: R; 0 gives values without intervals.
        seed: of the draws; the same seed and patients give the same resamples to every model.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, labels other than 1, 0 and NaN.
    """
    _check(scores, labels, patients, findings)
    counts, patient_of = _patient_counts(patients, resamples, seed)
    results = {}
    for column, finding in enumerate(findings):
        positives = int((labels[:, column] == 1).sum())
        negatives = int((labels[:, column] == 0).sum())
        areas = _areas(scores[:, column], labels[:, column], counts, patient_of)
        auroc, auprc = (None, None) if areas is None else (summarised(areas[0]), summarised(areas[1]))
        results[finding] = FindingMetrics(auroc, auprc, positives, negatives)
    return results


def operating_points(
    scores: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    specificities: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[str, list[OperatingPoint]]:
    """Sensitivity of each finding at fixed specificities; no points where a class is missing.

    Arguments and errors as in `evaluate_findings`. A resample chooses its own threshold, so that the interval has the
    uncertainty of that choice in it.
    """
    _check(scores, labels, patients, findings)
    counts, patient_of = _patient_counts(patients, resamples, seed)
    points: dict[str, list[OperatingPoint]] = {finding: [] for finding in findings}
    for column, finding in enumerate(findings):
        ranked = _ranked(scores[:, column], labels[:, column], patient_of)
        if ranked is None:
            continue
        negatives = np.cumsum(ranked.called(np.ones((1, len(ranked.patient))))[1], axis=1)
        for specificity in specificities:
            groups = int(_permitted(negatives, specificity).sum())  # from the highest score down
            threshold = float(ranked.scores[groups - 1]) if groups else None
            sensitivity = summarised(_sensitivities(ranked, counts, specificity))
            points[finding].append(OperatingPoint(specificity, threshold, sensitivity))
    return points


def mean_auroc(
    scores: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> Estimate | None:
    """Mean AUROC over the findings for which it is defined; None where there is none.

    Arguments and errors as in `evaluate_findings`. A resample counts only if it has both classes of each of
    these findings.
    """
    _check(scores, labels, patients, findings)
    means = _mean_aurocs(scores, labels, *_patient_counts(patients, resamples, seed))
    return None if means is None else summarised(means)


def paired_difference(
    scores_a: Floats,
    scores_b: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> Estimate | None:
    """Mean AUROC of model a less that of model b on the same films, both over the same resamples.

    Arguments and errors as in `evaluate_findings`; None where no finding is defined.
    """
    _check(scores_a, labels, patients, findings)
    _check(scores_b, labels, patients, findings)
    drawn = _patient_counts(patients, resamples, seed)
    means_a, means_b = _mean_aurocs(scores_a, labels, *drawn), _mean_aurocs(scores_b, labels, *drawn)
    return None if means_a is None or means_b is None else summarised(means_a - means_b)


def resampled_aurocs(
    scores: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """Finding → 1 + R AUROCs: of the films as they are, and of each resample, NaN where that lacks a class.

    The difference of two scores' arrays is paired; `summarised` makes a figure of it. Arguments and errors as in
    `evaluate_findings`; findings without both classes are left out.
    """
    _check(scores, labels, patients, findings)
    counts, patient_of = _patient_counts(patients, resamples, seed)
    areas = {
        finding: _areas(scores[:, column], labels[:, column], counts, patient_of)
        for column, finding in enumerate(findings)
    }
    return {finding: area[0] for finding, area in areas.items() if area is not None}


def summarised(values: npt.NDArray[np.float64]) -> Estimate:
    """The figure of 1 + R values: of the films as they are, then of the resamples, NaN where one lacks a class."""
    kept = values[1:][~np.isnan(values[1:])]
    dropped = len(values) - 1 - len(kept)
    if len(kept) < 2:
        return Estimate(float(values[0]), None, None, None, dropped)
    low, high = np.quantile(kept, _INTERVAL)
    return Estimate(float(values[0]), float(low), float(high), float(kept.std(ddof=1)), dropped)


def mean_over_sites(estimates: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Unweighted mean over sites and 95 % interval (normal), from independent (mean, standard error) pairs.

    The interval speaks of other patients of these sites, not of other sites.

    Raises:
        ValueError: no site, or a value that is not finite, or a negative standard error.
    """
    if not estimates:
        raise ValueError("expected the estimate of at least one site, got none")
    means, errors = np.asarray(estimates, dtype=np.float64).T
    if not np.isfinite(means).all() or not np.isfinite(errors).all() or (errors < 0).any():
        raise ValueError(
            "expected a finite mean and a standard error ≥ 0 of each site: leave out a site without them"
        )
    mean = float(means.mean())
    half = _NORMAL_97_5 * float(np.sqrt((errors**2).sum())) / len(estimates)
    return mean, mean - half, mean + half


def draw_patients(patients: int, resamples: int, seed: int) -> npt.NDArray[np.int32]:
    """R × P: how often each patient is drawn when P patients are drawn with replacement."""
    random = stream(seed, "metrics", "patient bootstrap")
    counts = np.zeros((resamples, patients), np.int32)
    for row in counts if patients else ():
        row[:] = np.bincount(random.integers(patients, size=patients), minlength=patients)
    return counts


def _patient_counts(patients: Ints, resamples: int, seed: int) -> tuple[npt.NDArray[np.int32], Ints]:
    """(1 + R) × P counts, the first row the patients as they are, and each film's column of them (N)."""
    distinct, patient_of = np.unique(patients, return_inverse=True)
    drawn = draw_patients(len(distinct), resamples, seed)
    return np.concatenate([np.ones((1, len(distinct)), np.int32), drawn]), patient_of


def _mean_aurocs(
    scores: Floats, labels: Floats, counts: npt.NDArray[np.int32], patient_of: Ints
) -> npt.NDArray[np.float64] | None:
    """1 + R means over the findings with both classes; NaN where a resample lacks one."""
    areas = [_areas(scores[:, f], labels[:, f], counts, patient_of) for f in range(labels.shape[1])]
    aurocs = [area[0] for area in areas if area is not None]
    return np.mean(aurocs, axis=0) if aurocs else None


class _Ranked(NamedTuple):
    """The labelled films of one finding by falling score; films of equal score form a group, one threshold each."""

    positive: npt.NDArray[np.bool_]
    patient: Ints
    starts: Ints  # of the groups
    scores: Floats  # of the groups

    def blocks(self, counts: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.float64]]:
        """Weights of the films, rows × films, for some rows of patient counts after the other."""
        rows = max(1, _BLOCK // len(self.patient))
        for first in range(0, len(counts), rows):
            yield counts[first : first + rows, self.patient].astype(np.float64)

    def called(
        self, weights: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Positives and negatives in each group, rows × groups each."""
        positives = np.add.reduceat(weights * self.positive, self.starts, axis=1)
        return positives, np.add.reduceat(weights * ~self.positive, self.starts, axis=1)


def _ranked(scores: Floats, labels: Floats, patient_of: Ints) -> _Ranked | None:
    """None unless both classes are there."""
    labelled = np.flatnonzero(~np.isnan(labels))
    order = labelled[np.argsort(scores[labelled], kind="stable")[::-1]]
    ranked, positive = scores[order], labels[order] == 1
    if not positive.any() or positive.all():
        return None
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    return _Ranked(positive, patient_of[order], starts, ranked[starts])


def _areas(
    scores: Floats, labels: Floats, counts: npt.NDArray[np.int32], patient_of: Ints
) -> npt.NDArray[np.float64] | None:
    """2 × (1 + R): AUROC and AUPRC for each row of patient counts; None unless both classes are there.

    NaN where a row gives a class no weight. The films are sorted once; each row only changes their weights.
    """
    ranked = _ranked(scores, labels, patient_of)
    if ranked is None:
        return None
    return np.concatenate(
        [_weighted_areas(*ranked.called(weights)) for weights in ranked.blocks(counts)], axis=1
    )


def _weighted_areas(
    positives: npt.NDArray[np.float64], negatives: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """2 × rows, of the weights of groups of equal score by falling score (rows × groups)."""
    true_positives, false_positives = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    all_positives, all_negatives = true_positives[:, -1], false_positives[:, -1]
    below = all_negatives[:, None] - false_positives
    wins = (positives * (2 * below + negatives)).sum(axis=1)
    called = true_positives + false_positives
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    both = (all_positives > 0) & (all_negatives > 0)
    empty = np.full(len(positives), np.nan)
    auroc = np.divide(wins, 2 * all_positives * all_negatives, out=empty.copy(), where=both)
    auprc = np.divide((positives * precision).sum(axis=1), all_positives, out=empty, where=both)
    return np.stack([auroc, auprc])


def _sensitivities(
    ranked: _Ranked, counts: npt.NDArray[np.int32], specificity: float
) -> npt.NDArray[np.float64]:
    """1 + R: the most positives that a threshold finds which calls at most 1 − specificity of the negatives."""
    values = []
    for weights in ranked.blocks(counts):
        positives, negatives = (group.cumsum(axis=1) for group in ranked.called(weights))
        allowed = _permitted(negatives, specificity)
        found = np.where(allowed, positives, 0).max(axis=1)
        both = (positives[:, -1] > 0) & (negatives[:, -1] > 0)
        values.append(np.divide(found, positives[:, -1], out=np.full(len(found), np.nan), where=both))
    return np.concatenate(values)


def _permitted(false_positives: npt.NDArray[np.float64], specificity: float) -> npt.NDArray[np.bool_]:
    """Whether enough negatives lie below each threshold, of cumulative counts (rows × groups)."""
    return false_positives <= (1 - specificity) * false_positives[:, -1:] + _ROUNDING


def _check(scores: Floats, labels: Floats, patients: Ints, findings: Sequence[str]) -> None:
    shape = (len(patients), len(findings))
    if scores.shape != shape or labels.shape != shape or patients.ndim != 1:
        raise ValueError(
            f"expected scores and labels of shape {shape} (films × findings), "
            f"got {scores.shape} and {labels.shape}"
        )
    if not np.issubdtype(patients.dtype, np.integer):
        raise ValueError(f"expected patients as integers, got {patients.dtype}")
    for column, finding in enumerate(findings):
        bad = int((~np.isfinite(scores[:, column])).sum())
        if bad:
            raise ValueError(
                f"expected finite scores for {finding}, got {bad} NaN or infinite: look at the training loss"
            )
        strange = ~(np.isnan(labels[:, column]) | np.isin(labels[:, column], (0, 1)))
        if strange.any():
            raise ValueError(f"expected labels 1, 0 or NaN for {finding}, got {int(strange.sum())} others")
