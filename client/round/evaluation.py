"""Models measured side by side on the site's own test films: figures may leave, films and scores do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acm_core.config.sections import Delivered, FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.invented import are_invented
from acm_core.data.site_films import FilmSet, SiteFilms
from acm_core.federated.report import FindingReport, HistogramReport, ModelReport, SiteReport
from acm_core.figures import ModelName
from acm_core.histograms import ScoreHistogram
from acm_core.randomness import stream_seed
from acm_core.training.calibration import calibrate
from acm_core.training.metrics import (
    evaluate_findings,
    mean_auroc,
    operating_points,
    paired_difference,
)
from acm_core.training.subgroups import evaluate_groups
from client.round.kept_models import KeptModels, KeptScores
from client.round.shortcuts import measure_shortcuts

FEDERATED: Final = "federated"


def evaluate_models(
    scores: Mapping[ModelName, NDArray[np.float32]],
    films: SiteFilms,
    config: FederationConfig,
    site: SiteConfig,
    kept: KeptModels,
    delivered: Delivered | None = None,
) -> SiteReport:
    """How well each model does on the test films, with patient-bootstrap intervals.

    Args:
        scores: model → its probabilities for the test films, N×F.
        kept: where the scores stay, so that any two models of the run can be compared at the site afterwards.
        delivered: the model that the site has in the end.

    Returns:
        All that is known at the site; `released` says what of it leaves. The same resamples stand behind every figure.
        A finding without both classes among the test films has no AUROC.
    """
    test = films.test
    seed = stream_seed(config.seed, site.site, "bootstrap")
    resamples, smallest = config.evaluation.bootstrap, site.policy.smallest_group
    arguments = (test.labels, test.patients, config.findings)
    models: dict[ModelName, ModelReport] = {}
    if len(test) == 0:
        scores = {}
    if scores:
        kept.save_scores(
            films.fingerprint,
            KeptScores(test.labels, test.patients, {str(name): one for name, one in scores.items()}),
        )
    for name, values in scores.items():
        gain, subgroups = None, {}
        if name != "local_only" and "local_only" in scores:
            gain = paired_difference(values, scores["local_only"], *arguments, resamples=resamples, seed=seed)
        if name == FEDERATED:
            subgroups = {
                attribute: evaluate_groups(
                    values, *arguments, groups, smallest=smallest, resamples=resamples, seed=seed
                )
                for attribute, groups in films.test_groups.items()
            }
        models[name] = ModelReport(
            findings=_findings(values, test, config, seed),
            mean_auroc=mean_auroc(values, *arguments, resamples=resamples, seed=seed),
            gain=gain,
            subgroups=subgroups,
        )
    shortcuts = {}
    if FEDERATED in scores:
        shortcuts = measure_shortcuts(
            films,
            {name: values for name, values in scores.items() if name != "local_only"},
            config.findings,
            smallest=smallest,
            resamples=resamples,
            seed=seed,
        )
    return SiteReport(
        films=len(test),
        patients=len(np.unique(test.patients)),
        training_films=len(films.train),
        set_aside={str(reason): files for reason, files in films.set_aside.items()},
        models=models,
        delivered=delivered,
        fingerprint=films.fingerprint,
        smallest_group=smallest,
        shortcuts=shortcuts,
        invented=are_invented(site),
        about=site.about,
    )


def _findings(
    scores: NDArray[np.float32], test: FilmSet, config: FederationConfig, seed: int
) -> dict[str, FindingReport]:
    arguments = (scores, test.labels, test.patients, config.findings)
    resamples = config.evaluation.bootstrap
    metrics = evaluate_findings(*arguments, resamples=resamples, seed=seed)
    points = operating_points(*arguments, config.evaluation.specificities, resamples=resamples, seed=seed)
    described = {}
    for column, finding in enumerate(config.findings):
        of_finding, measured = (scores[:, column], test.labels[:, column]), metrics[finding]
        positives, negatives = ScoreHistogram.of(*of_finding).pairs()
        described[finding] = FindingReport(
            defined=measured.defined,
            auroc=measured.auroc,
            auprc=measured.auprc,
            positives=measured.positives,
            negatives=measured.negatives,
            operating_points=tuple(points[finding]),
            calibration=calibrate(*of_finding),
            histogram=HistogramReport(positives=tuple(positives), negatives=tuple(negatives)),
        )
    return described
