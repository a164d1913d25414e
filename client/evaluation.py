"""Models measured side by side on the site's own test films: the figures leave, the films and scores do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acm_core.config.sections import FederationConfig, SiteConfig
from acm_core.data.site_films import FilmSet, SiteFilms
from acm_core.histograms import ScoreHistogram
from acm_core.randomness import stream_seed
from acm_core.training.calibration import calibrate
from acm_core.training.metrics import (
    Estimate,
    evaluate_findings,
    mean_auroc,
    operating_points,
    paired_difference,
)
from acm_core.training.subgroups import evaluate_groups
from client.kept_models import KeptModels, KeptScores
from client.shortcuts import report_shortcuts

Report = dict[str, Any]

FEDERATED = "federated"


def evaluate_models(
    scores: Mapping[str, NDArray[np.float32]],
    films: SiteFilms,
    config: FederationConfig,
    site: SiteConfig,
    kept: KeptModels,
) -> Report:
    """How well each model does on the test films, with patient-bootstrap intervals.

    Args:
        scores: model → its probabilities for the test films, N×F.
        kept: where the scores stay, so that any two models of the run can be compared at the site afterwards.

    Returns:
        JSON-ready, see `SiteReport`. The same resamples stand behind every figure. A finding without both classes
        among the test films has no AUROC.
    """
    test = films.test
    report: Report = {
        "films": len(test),
        "patients": len(np.unique(test.patients)),
        "training_films": len(films.train),
        "set_aside": dict(films.set_aside),
        "fingerprint": films.fingerprint,
        "smallest_group": site.policy.smallest_group,
        "models": {},
        "shortcuts": {},
    }
    if len(test) == 0:
        return report
    seed = stream_seed(config.seed, site.site, "bootstrap")
    resamples = config.evaluation.bootstrap
    if scores:
        kept.save_scores(films.fingerprint, KeptScores(test.labels, test.patients, dict(scores)))
    for name, values in scores.items():
        arguments = (test.labels, test.patients, config.findings)
        gain = None
        if name != "local_only" and "local_only" in scores:
            gain = paired_difference(values, scores["local_only"], *arguments, resamples=resamples, seed=seed)
        report["models"][name] = {
            "findings": _findings(values, test, config, seed),
            "mean_auroc": _dict(mean_auroc(values, *arguments, resamples=resamples, seed=seed)),
            "gain": _dict(gain),
        }
        if name == FEDERATED:
            report["models"][name]["subgroups"] = {
                attribute: {
                    group: figures.to_dict()
                    for group, figures in evaluate_groups(
                        values,
                        *arguments,
                        groups,
                        smallest=site.policy.smallest_group,
                        resamples=resamples,
                        seed=seed,
                    ).items()
                }
                for attribute, groups in films.test_groups.items()
            }
    if FEDERATED in scores:
        report["shortcuts"] = report_shortcuts(
            films,
            {name: values for name, values in scores.items() if name != "local_only"},
            config.findings,
            smallest=site.policy.smallest_group,
            resamples=resamples,
            seed=seed,
        )
    return report


def _findings(
    scores: NDArray[np.float32], test: FilmSet, config: FederationConfig, seed: int
) -> dict[str, dict[str, Any]]:
    arguments = (scores, test.labels, test.patients, config.findings)
    resamples = config.evaluation.bootstrap
    metrics = evaluate_findings(*arguments, resamples=resamples, seed=seed)
    points = operating_points(*arguments, config.evaluation.specificities, resamples=resamples, seed=seed)
    described = {}
    for column, finding in enumerate(config.findings):
        of_finding = scores[:, column], test.labels[:, column]
        histogram = ScoreHistogram.of(*of_finding)
        positives, negatives = histogram.pairs()
        described[finding] = {
            **metrics[finding].to_dict(),
            "operating_points": [point.to_dict() for point in points[finding]],
            "calibration": calibrate(*of_finding).to_dict(),
            "histogram": {"positives": positives, "negatives": negatives},
        }
    return described


def _dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_dict()
