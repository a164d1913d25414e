"""What of the site's test films can be told without medicine, beside its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acm_core.data.shortcut_features import shortcut_features
from acm_core.data.site_films import SiteFilms
from acm_core.data.splits import Split
from acm_core.training.shortcuts import ShortcutFigures, evaluate_shortcuts, shortcut_scores
from acm_core.training.subgroups import countable_findings


def report_shortcuts(
    films: SiteFilms,
    models: Mapping[str, NDArray[np.float32]],
    findings: Sequence[str],
    *,
    smallest: int,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Shortcuts fitted on the training films and measured on the test films, as they may leave.

    The AUROC of the view alone is a sum over the numbers of films with and without the finding by view: it is there
    only where these are (`countable_findings`).

    Args:
        models: name → scores on the test films, N × F.
        smallest: patients, with and without a finding, below which nothing is said of a group.

    Returns:
        JSON-ready, see `SiteReport.shortcuts`.
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
    return {
        shortcut: {finding: one.to_dict() for finding, one in by_finding.items()}
        for shortcut, by_finding in figures.items()
    }
