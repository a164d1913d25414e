"""What can be told of films without looking at what they show: a model that is hardly above it has learnt no medicine.

Shortcuts are what a classifier may take in place of the finding (Geirhos et al., Nature Machine Intelligence 2020): a
film's mean grey, its size and shape, its border, its view. Each becomes a score for each finding with what other films
say of it; the direction (bright is positive, or negative) is chosen there as well, never on the films that are scored,
on which it would lift an AUROC above one half.

A run fits them on a site's training films, scores its test films, and compares the models with them. Preflight, which
has no model, uses all films: each fifth of the patients is scored by what the other four fifths say.

Legend: N films, F findings, K features, L levels of groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.figures import Estimate, ModelName, ShortcutFigures
from acm_core.randomness import stream
from acm_core.shortcuts import Features, Name
from acm_core.training.metrics import Floats, Ints, evaluate_findings, resampled_aurocs, summarised
from acm_core.training.rounding import rounded_outward

_DIGITS = 3
_RIDGE = 0.1  # a film: the penalty grows with the films, and so does what they say
_TIE = 12  # digits: films alike in all features must have the same score, whatever the order of a sum
_FOLDS = 5
_FILMS_A_CLASS = 1000
"""Films of a class that are looked at, chosen at random: their interval is within ±0.03."""
_FEWEST_PATIENTS = 10
"""Of a class, below which nothing is said of a finding: a fold would have one or two of them."""
FAR = 0.6
"""AUROC from which a shortcut tells so much that it is worth a sentence."""
_CHANCE = 0.05
"""Probability of a sentence, of all that could stand there, at a site where nothing tells anything."""


@dataclass(frozen=True)
class Alone:
    """How well a shortcut alone tells a finding, three digits.

    Attributes:
        auroc: over films of patients that it was not fitted on.
        low, high: 95 % interval, patients resampled; None where fewer than two resamples have both classes.
        far: whether it is at least `FAR`, and not by chance, of all the shortcuts and findings that were looked at.
    """

    auroc: float
    low: float | None
    high: float | None
    far: bool


def shortcut_scores(train: Features[Name], labels: Floats, scored: Features[Name]) -> dict[Name, Floats]:
    """A score for each film and finding by each shortcut, higher where its features were a positive film's in training.

    A level is a score as it is or turned round, whichever has the higher AUROC in training. A group's score is its
    films' share of positive ones, counted with one more film of the share of the group around it, which is all films
    for the widest; a group that training has not seen has the share of the one around it. Numbers are scored by ridge
    regression on the standardised features.

    Args:
        labels: of the training films, N × F of 1, 0 and NaN (not labelled).
        scored: the films to score, M.

    Returns:
        M × F each; a column is NaN where the training films lack one of the classes.
    """
    films, findings = len(scored), labels.shape[1]
    scores: dict[Name, Floats] = {name: np.full((films, findings), np.nan) for name in scored.names()}
    for column in range(findings):
        known = np.flatnonzero(~np.isnan(labels[:, column]))
        positive = labels[known, column].astype(np.float64)
        if positive.all() or not positive.any():
            continue
        for name, level in train.levels.items():
            scores[name][:, column] = _oriented(level[known], positive) * scored.levels[name]
        for name, numbers in train.numbers.items():
            scores[name][:, column] = _ridge(numbers[known], positive, scored.numbers[name])
        for name, groups in train.groups.items():
            scores[name][:, column] = _shares(groups[known], positive, scored.groups[name])
    return scores


def measure_alone(
    features: Features[Name],
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 200,
    seed: int,
) -> dict[str, dict[Name, Alone]]:
    """How well each shortcut alone tells each finding.

    A level is turned the way in which it tells more, so that its AUROC is at least one half. For all else patients are
    parted into five folds, and each fold's films are scored by what the other four say. Such films are compared within
    a fold alone: shares of other folds are lower for a fold that has more positive films, which would pull a comparison
    across folds below one half (Parker et al., BMC Bioinformatics 2007). The AUROC is the mean over folds, weighted by
    pairs of films. Where nothing is told it lies about one half, and may lie below.

    Args:
        labels: N × F of 1, 0 and NaN (not labelled).
        patients: N, the same number for films of the same patient.
        resamples: R, of the patients, of each fold for itself.

    Returns:
        Finding → shortcut → figures; nothing of a finding that fewer than ten patients have, or have not, or of a
        shortcut in which all films are alike.
    """
    order = stream(seed, "shortcuts", "patients").permutation(int(patients.max(initial=-1)) + 1)
    measured: dict[str, dict[Name, npt.NDArray[np.float64]]] = {}
    by_chance: dict[str, float] = {}
    for column, finding in enumerate(findings):
        rows = _some_of_each_class(labels[:, column], order[patients])
        truth, persons = labels[rows, column], order[patients[rows]]
        positives, negatives = (len(np.unique(persons[truth == label])) for label in (1, 0))
        if min(positives, negatives) < _FEWEST_PATIENTS:
            continue
        of_films = features.rows(rows), truth, persons
        measured[finding] = {**_turned(*of_films, resamples, seed), **_crossed(*of_films, resamples, seed)}
        # Where nothing is told, of one film a patient and class (Mann and Whitney 1947).
        by_chance[finding] = float(np.sqrt((positives + negatives + 1) / (12 * positives * negatives)))
    looked_at = sum(map(len, measured.values()))
    return {
        finding: {name: _alone(values, by_chance[finding], looked_at) for name, values in of_finding.items()}
        for finding, of_finding in measured.items()
        if of_finding
    }


def _some_of_each_class(labels: Floats, patients: Ints) -> Ints:
    """Labelled films, at most so many of each class, patient after patient in their order."""
    order = np.argsort(patients, kind="stable")
    chosen = np.zeros(len(order), np.bool_)
    for label in (1, 0):
        of_class = labels[order] == label
        chosen |= of_class & (of_class.cumsum() <= _FILMS_A_CLASS)
    return order[chosen]


def _turned(
    features: Features[Name], labels: Floats, patients: Ints, resamples: int, seed: int
) -> dict[Name, npt.NDArray[np.float64]]:
    """Level → 1 + R AUROCs of one finding."""
    levels = {name: level for name, level in features.levels.items() if _varies(level, labels)}
    aurocs = _columns_aurocs(levels, labels, patients, resamples, seed)
    return {name: values if values[0] >= 0.5 else 1 - values for name, values in aurocs.items()}


def _crossed(
    features: Features[Name], labels: Floats, patients: Ints, resamples: int, seed: int
) -> dict[Name, npt.NDArray[np.float64]]:
    """Number or group → 1 + R AUROCs of one finding, over folds."""
    fitted = Features({}, features.numbers, features.groups)
    areas: list[dict[Name, npt.NDArray[np.float64]]] = []
    weights: list[float] = []
    telling: set[Name] = set()
    for fold in range(_FOLDS):
        scored, others = np.flatnonzero(patients % _FOLDS == fold), np.flatnonzero(patients % _FOLDS != fold)
        truth = labels[scored]
        pairs = float((truth == 1).sum() * (truth == 0).sum())
        if not pairs or not 0 < labels[others].sum() < len(others):
            continue
        by_name = shortcut_scores(fitted.rows(others), labels[others][:, None], fitted.rows(scored))
        scores = {name: of_name[:, 0] for name, of_name in by_name.items()}
        telling |= {name for name, of_name in scores.items() if _varies(of_name, truth)}
        areas.append(_columns_aurocs(scores, truth, patients[scored], resamples, seed + fold))
        weights.append(pairs)
    return {
        name: _mean_over_folds([of_fold[name] for of_fold in areas], weights)
        for name in fitted.names()
        if name in telling
    }


def _columns_aurocs(
    scores: Mapping[Name, Floats], labels: Floats, patients: Ints, resamples: int, seed: int
) -> dict[Name, npt.NDArray[np.float64]]:
    """Name → 1 + R AUROCs of one finding, all over the same resamples; none where a class is missing."""
    if not scores:
        return {}
    columns = np.stack(list(scores.values()), axis=1)
    truth = np.repeat(labels[:, None], len(scores), axis=1)
    aurocs = resampled_aurocs(columns, truth, patients, list(scores), resamples=resamples, seed=seed)
    return {name: aurocs[name] for name in scores if name in aurocs}


def _mean_over_folds(
    areas: Sequence[npt.NDArray[np.float64]], weights: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Of 1 + R values each; a fold whose resample lacks a class does not count in it."""
    there = ~np.isnan(areas)
    shares = np.array(weights)[:, None] * there
    total = shares.sum(axis=0)
    sums = (shares * np.where(there, areas, 0)).sum(axis=0)
    means: npt.NDArray[np.float64] = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    return means


def _alone(values: npt.NDArray[np.float64], by_chance: float, looked_at: int) -> Alone:
    figure = summarised(values)
    error = max(by_chance, figure.standard_error or 0.0)
    needed = NormalDist().inv_cdf(1 - _CHANCE / (2 * looked_at)) * error
    rounded = rounded_outward(figure, _DIGITS)
    far = figure.value >= FAR and figure.value - 0.5 > needed
    return Alone(rounded.value, rounded.low, rounded.high, far)


def evaluate_shortcuts(
    shortcuts: Mapping[Name, Floats],
    models: Mapping[ModelName, Floats],
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[Name, dict[str, ShortcutFigures]]:
    """AUROC of each shortcut and finding, and by how much each model is above it.

    Figures have three digits, intervals rounded outward, and no count of dropped resamples: a film's size or view is
    the same for many films, and from all digits the films of a size or view could be counted.

    Args:
        shortcuts: N × F each, as `shortcut_scores` gave them.
        models: name → N × F scores on the same films.
        labels, patients, findings, resamples, seed: as in `evaluate_findings`; the seed that the models are evaluated
            with makes the differences paired.

    Returns:
        shortcut → finding → figures.

    Raises:
        ValueError: as `evaluate_findings`.
    """
    drawn = {"resamples": resamples, "seed": seed}
    by_models = {
        name: resampled_aurocs(scores, labels, patients, findings, **drawn) for name, scores in models.items()
    }
    figures: dict[Name, dict[str, ShortcutFigures]] = {}
    for shortcut, scores in shortcuts.items():
        telling = [f for f in range(len(findings)) if _varies(scores[:, f], labels[:, f])]
        names = [findings[f] for f in telling]
        aurocs = resampled_aurocs(scores[:, telling], labels[:, telling], patients, names, **drawn)
        figures[shortcut] = {finding: _figures(finding, aurocs, by_models) for finding in findings}
    return figures


def _figures(
    finding: str,
    aurocs: Mapping[str, npt.NDArray[np.float64]],
    by_models: Mapping[ModelName, Mapping[str, npt.NDArray[np.float64]]],
) -> ShortcutFigures:
    if finding not in aurocs:
        return ShortcutFigures(None, {})
    own = aurocs[finding]
    margins = {name: _rounded(of_model[finding] - own) for name, of_model in by_models.items()}
    return ShortcutFigures(_rounded(own), margins)


def _rounded(values: npt.NDArray[np.float64]) -> Estimate:
    return rounded_outward(summarised(values), _DIGITS)


def _varies(scores: Floats, labels: Floats) -> bool:
    labelled = scores[~np.isnan(labels)]
    return len(labelled) > 0 and not np.isnan(labelled).any() and bool((labelled != labelled[0]).any())


def _oriented(feature: Floats, positive: Floats) -> float:
    """1 where the feature is higher in positive films, by AUROC, else −1."""
    films = np.arange(len(feature))
    auroc = evaluate_findings(feature[:, None], positive[:, None], films, ("",), resamples=0, seed=0)[
        ""
    ].auroc
    return 1.0 if auroc is None or auroc.value >= 0.5 else -1.0


def _shares(groups: npt.NDArray[Any], positive: Floats, scored: npt.NDArray[Any]) -> Floats:
    """Of groups N × L and M × L, M."""
    shares = np.full(len(scored), positive.mean())
    for level in range(groups.shape[1]):
        names, group_of = np.unique(groups[:, level], return_inverse=True)
        positives, films = np.bincount(group_of, positive), np.bincount(group_of)
        place = np.minimum(np.searchsorted(names, scored[:, level]), len(names) - 1)
        seen = names[place] == scored[:, level]
        place = place[seen]
        shares[seen] = (positives[place] + shares[seen]) / (films[place] + 1)
    return shares


def _ridge(features: Floats, positive: Floats, scored: Floats) -> Floats:
    """Ridge regression (Hoerl and Kennard 1970) of the class on standardised features; a constant one says nothing."""
    features = features.astype(np.float64)  # a constant has a spread of nearly 0 only in that
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-9 * (1 + np.abs(mean)), spread, np.inf)
    standardised = (features - mean) / spread
    penalty = _RIDGE * len(positive) * np.eye(features.shape[1])
    # Not by BLAS, whose threads wait for each other longer than so small a product takes.
    products = np.einsum("nk,nl->kl", standardised, standardised)
    coefficients = np.linalg.solve(products + penalty, standardised.T @ (positive - positive.mean()))
    scores: Floats = np.round((scored - mean) / spread @ coefficients, _TIE)
    return scores
