"""What can be told of films without looking at what they show: a model that is hardly above it has learnt no medicine.

Shortcuts are what a classifier may take in place of the finding (Geirhos et al., Nature Machine Intelligence 2020): a
film's mean grey, its size and shape, its border, its view. Each becomes a score for each finding with what the site's
training films say of it; the direction (bright is positive, or negative) is chosen there as well, never on the films
that are scored, on which it would lift an AUROC above one half.

Legend: N films, F findings, K features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from acm_core.figures import Estimate, ModelName, ShortcutFigures
from acm_core.shortcuts import SHORTCUTS, Features, Shortcut
from acm_core.training.metrics import Floats, Ints, evaluate_findings, resampled_aurocs, summarised
from acm_core.training.rounding import rounded_outward

_DIGITS = 3
_RIDGE = 0.1  # a film: the penalty grows with the films, and so does what they say
_TIE = 12  # digits: films alike in all features must have the same score, whatever the order of a sum


def shortcut_scores(train: Features, labels: Floats, scored: Features) -> dict[Shortcut, Floats]:
    """A score for each film and finding by each shortcut, higher where its features were a positive film's in training.

    Grey is a score as it is or turned round, whichever has the higher AUROC in training. A view's score is its films'
    share of positive ones, counted with one more film of the share of all, which a view that training has not seen gets
    too. Size and border are scored by ridge regression on the standardised features.

    Args:
        labels: of the training films, N × F of 1, 0 and NaN (not labelled).
        scored: the films to score, M.

    Returns:
        M × F each; a column is NaN where the training films lack one of the classes.
    """
    films, findings = len(scored.grey), labels.shape[1]
    scores: dict[Shortcut, Floats] = {name: np.full((films, findings), np.nan) for name in SHORTCUTS}
    for column in range(findings):
        known = np.flatnonzero(~np.isnan(labels[:, column]))
        positive = labels[known, column].astype(np.float64)
        if positive.all() or not positive.any():
            continue
        scores["grey"][:, column] = _oriented(train.grey[known], positive) * scored.grey
        scores["size"][:, column] = _ridge(train.size[known], positive, scored.size)
        scores["border"][:, column] = _ridge(train.border[known], positive, scored.border)
        scores["view"][:, column] = _shares(train.view[known], positive, scored.view)
    return scores


def evaluate_shortcuts(
    shortcuts: Mapping[Shortcut, Floats],
    models: Mapping[ModelName, Floats],
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int,
) -> dict[Shortcut, dict[str, ShortcutFigures]]:
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
    figures: dict[Shortcut, dict[str, ShortcutFigures]] = {}
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


def _shares(views: npt.NDArray[np.str_], positive: Floats, scored: npt.NDArray[np.str_]) -> Floats:
    overall = positive.mean()
    shares = np.full(len(scored), overall)
    for view in np.unique(views):
        of_view = positive[views == view]
        shares[scored == view] = (of_view.sum() + overall) / (len(of_view) + 1)
    return shares


def _ridge(features: Floats, positive: Floats, scored: Floats) -> Floats:
    """Ridge regression (Hoerl and Kennard 1970) of the class on standardised features; a constant one says nothing."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-9 * (1 + np.abs(mean)), spread, np.inf)
    standardised = (features - mean) / spread
    penalty = _RIDGE * len(positive) * np.eye(features.shape[1])
    coefficients = np.linalg.solve(
        standardised.T @ standardised + penalty, standardised.T @ (positive - positive.mean())
    )
    scores: Floats = np.round((scored - mean) / spread @ coefficients, _TIE)
    return scores
