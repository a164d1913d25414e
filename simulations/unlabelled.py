"""What the models know of findings that a hospital never labelled: synthetic films have a truth to ask."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from acm_core.randomness import stream_seed
from acm_core.training.metrics import evaluate_findings
from client.round.kept_models import KeptModels, SiteRun
from simulations.phantoms.findings import FINDINGS
from simulations.phantoms.writing import TRUTH_FILE
from simulations.settings import SimulationConfig


def evaluate_unlabelled(
    config: SimulationConfig, sites: dict[str, SiteConfig]
) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """AUROC of every model on the test films, for the findings that the hospital does not label.

    Returns:
        site → finding → model → estimate with its patient-bootstrap interval, of the synthetic hospitals that leave
        findings of the run out.
    """
    run = SiteRun.of(config.federation_config())
    found = {}
    for hospital in config.simulation.hospitals:
        unlabelled = [name for name in config.findings if name in FINDINGS and name not in hospital.labels]
        if unlabelled:
            site = sites[hospital.name]
            found[hospital.name] = _at_site(config, site, run, unlabelled)
    return found


def _at_site(
    config: FederationConfig, site: SiteConfig, run: SiteRun, findings: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    films = load_site(site, config.findings, config.model.image_size)
    kept = KeptModels(site.state, run).load_scores(films.fingerprint)
    if kept is None:
        return {}
    columns = [config.findings.index(finding) for finding in findings]
    if not isinstance(site.films, Path):
        raise TypeError("expected a synthetic hospital's folder, got an archive")
    truth = _truth(site.films / TRUTH_FILE, films.test_names, findings)
    figures: dict[str, dict[str, dict[str, Any]]] = {finding: {} for finding in findings}
    for model, scores in kept.models.items():
        metrics = evaluate_findings(
            scores[:, columns],
            truth,
            kept.patients,
            findings,
            resamples=config.evaluation.bootstrap,
            seed=stream_seed(config.seed, site.site, "bootstrap"),
        )
        for finding, one in metrics.items():
            if one.auroc is not None:
                figures[finding][model] = asdict(one.auroc)
    return figures


def _truth(path: Path, names: Sequence[str], findings: Sequence[str]) -> NDArray[np.float32]:
    """N×F: 1 where the film shows the finding, else 0."""
    rows = {name: row for row, name in enumerate(names)}
    truth = np.zeros((len(names), len(findings)), np.float32)
    with path.open(encoding="utf-8", newline="") as file:
        for entry in csv.DictReader(file):
            if entry["image"] in rows and entry["finding"] in findings:
                truth[rows[entry["image"]], findings.index(entry["finding"])] = 1
    return truth
