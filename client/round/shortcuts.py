"""What of the site's test films can be told without medicine, beside its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from acm_core.data.shortcut_features import shortcut_features
from acm_core.data.site_films import SiteFilms
from acm_core.data.splits import Split
from acm_core.figures import ModelName, ShortcutFigures
from acm_core.shortcuts import ReportedShortcut
from acm_core.training.shortcuts import evaluate_shortcuts, shortcut_scores
from acm_core.training.subgroups import countable_findings


def measure_shortcuts(
    films: SiteFilms,
    models: Mapping[ModelName, NDArray[np.float32]],
    findings: Sequence[str],
    *,
    smallest: int,
    resamples: int,
    seed: int,
) -> dict[ReportedShortcut, dict[str, ShortcutFigures]]:
    """Shortcuts fitted on the training films and measured on the test films, as they may leave.

    The AUROC of the view alone is a sum over the numbers of films with and without the finding by view: it is there
    only where these are (`countable_findings`).

    Args:
        models: name → scores on the test films, N × F.
        smallest: patients, with and without a finding, below which nothing is said of a group.

    Returns:
        Shortcut → finding → figures.
    """
    test, facts = films.test, films.facts
    train = shortcut_features(films.train.images, facts[Split.TRAIN])
    scored = shortcut_features(test.images, facts[Split.TEST])
    figures = evaluate_shortcuts(
        shortcut_scores(train, films.train.labels, scored),
        models,
        test.labels,
        test.patients,
        findings,
        resamples=resamples,
        seed=seed,
    )
    countable = countable_findings(test.labels, test.patients, facts[Split.TEST].views, smallest=smallest)
    for finding, shown in zip(findings, countable, strict=True):
        if not shown:
            figures["view"][finding] = ShortcutFigures(None, {})
    return figures
