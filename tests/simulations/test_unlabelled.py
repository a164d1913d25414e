"""Findings that a synthetic hospital does not label, asked of the phantoms' truth."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from simulated import simulation, spec

from acm_core.data.site_films import load_site
from client.round.kept_models import KeptModels, KeptScores, SiteRun
from simulations.sites import prepare_sites
from simulations.unlabelled import evaluate_unlabelled


def test_models_are_asked_about_what_a_hospital_does_not_label(tmp_path: Path) -> None:
    half = {**spec("A", 40), "prevalence": {"Lung Opacity": 0.5, "Pleural Effusion": 0.5}}
    config = simulation(
        tmp_path,
        hospitals=[{**half, "labels": ["Lung Opacity"]}, {**half, "name": "B"}],
        splits={"test": 0.5},
    )
    sites = prepare_sites(config, 1, lambda *_: None, resume=False)
    films = load_site(sites["A"], config.findings, config.model.image_size)
    assert np.isnan(films.test.labels[:, 1]).all()
    with (sites["A"].labels.parent / "truth.csv").open(encoding="utf-8", newline="") as file:
        shown = {row["image"] for row in csv.DictReader(file) if row["finding"] == "Pleural Effusion"}
    knows = np.array([[0.5, float(name in shown)] for name in films.test_names], np.float32)
    scores = KeptScores(films.test.labels, films.test.patients, {"federated": knows, "local_only": 1 - knows})
    run = SiteRun.of(config.federation_config())
    KeptModels(sites["A"].state, run).save_scores(films.fingerprint, scores)
    found = evaluate_unlabelled(config, sites)
    assert set(found) == {"A"}  # B labels both
    figures = found["A"]["Pleural Effusion"]
    assert (figures["federated"]["value"], figures["local_only"]["value"]) == (1.0, 0.0)
    assert set(found["A"]) == {"Pleural Effusion"}


def test_a_run_without_kept_scores_says_nothing(tmp_path: Path) -> None:
    config = simulation(tmp_path, hospitals=[{**spec("A", 12), "labels": ["Lung Opacity"]}, spec("B", 12)])
    sites = prepare_sites(config, 1, lambda *_: None, resume=False)
    assert evaluate_unlabelled(config, sites) == {"A": {}}
