"""Models measured side by side on the site's own test films: the figures leave, the films and scores do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from acm_core.config.sections import FederationConfig
from acm_core.data.site_films import SiteFilms
from acm_core.nn import Classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import predict
from acm_core.training.metrics import Estimate, evaluate_findings, mean_auroc, paired_difference

Report = dict[str, Any]


def evaluate_models(
    models: Mapping[str, Classifier],
    films: SiteFilms,
    config: FederationConfig,
    site: str,
    device: torch.device,
) -> Report:
    """AUROC and AUPRC of each model on the test films, with patient-bootstrap intervals.

    Returns:
        JSON-ready: `films` and `patients` of the test split, `training_films`, `set_aside` (reason → files),
        `models` (name → `findings`, `mean_auroc`, and `gain` over the local-only model where both are there; the
        same resamples behind every figure). A finding without both classes among the test films has no AUROC.
    """
    test = films.test
    report: Report = {
        "films": len(test),
        "patients": len(np.unique(test.patients)),
        "training_films": len(films.train),
        "set_aside": dict(films.set_aside),
        "models": {},
    }
    if len(test) == 0:
        return report
    seed = stream_seed(config.seed, site, "bootstrap")
    resamples = config.evaluation.bootstrap
    scores = {
        name: predict(model, test, config.training.batch_size, device)[0] for name, model in models.items()
    }
    for name, values in scores.items():
        arguments = (test.labels, test.patients, config.findings)
        findings = evaluate_findings(values, *arguments, resamples=resamples, seed=seed)
        gain = None
        if name != "local_only" and "local_only" in scores:
            gain = paired_difference(values, scores["local_only"], *arguments, resamples=resamples, seed=seed)
        report["models"][name] = {
            "findings": {finding: metrics.to_dict() for finding, metrics in findings.items()},
            "mean_auroc": _dict(mean_auroc(values, *arguments, resamples=resamples, seed=seed)),
            "gain": _dict(gain),
        }
    return report


def _dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_dict()
