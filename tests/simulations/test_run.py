"""`python -m simulations.run` as its user has it: interrupted, continued, and the same numbers as without a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from in_process import run_in_process
from processes import Command, living, processes_with, wait_for
from simulated import simulation_settings
from sklearn.metrics import average_precision_score, roc_auc_score

from acm_core.config import dump_config
from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from acm_core.nn import build_classifier
from acm_core.training.adaptation import estimate_statistics
from acm_core.training.local import predict
from acm_core.training.weights import load_arrays, set_arrays
from client.round.kept_models import KeptModels, SiteRun
from server.round.run_folder import RunFolder
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_killed_interrupted_and_resumed_it_gives_the_model_of_an_undisturbed_run(tmp_path: Path) -> None:
    spec = {
        "patients": 40,
        "prevalence": {"Lung Opacity": 0.4, "Pleural Effusion": 0.4},
        "scanner": "dx_mono2_14bit_window",
        "image_size": 64,
    }
    hospitals = [{**spec, "name": "A"}, {**spec, "name": "B"}]
    config = SimulationConfig.model_validate(
        {
            **simulation_settings(tmp_path / "data", hospitals=hospitals, processes=2),
            "model": {"image_size": 32},
            "training": {"batch_size": 8, "precision": "float32"},
            "evaluation": {"bootstrap": 100},
        }
    )
    file = tmp_path / "simulation.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    folder = RunFolder(tmp_path / "runs" / config.name)
    arguments = ["simulations.run", "--config", str(file), "--runs", str(tmp_path / "runs")]

    killed = Command(arguments, tmp_path / "killed.txt")
    try:
        wait_for(lambda: training_began(config, "B"), 60, killed.text)
        family = killed.family()
        killed.kill_alone()
        expect_ended(family)
    finally:
        killed.end()

    first = Command([*arguments, "--resume"], tmp_path / "first.txt")
    try:
        wait_for(lambda: "round 1 done" in first.text(), 150, first.text)
        family = first.family()
        first.interrupt()
        assert first.wait(15) == 130, first.text()
    finally:
        first.end()
    assert "continue with --resume" in first.text()
    expect_ended(family)

    second = Command([*arguments, "--resume"], tmp_path / "second.txt")
    try:
        assert second.wait(250) == 0, second.text()
    finally:
        second.end()
    assert "resumed after round 1" in second.text()
    assert processes_with(str(tmp_path)) == []
    metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
    for tested in metrics["sites"]:
        own = metrics["sites"][tested]["models"]["local_only"]["mean_auroc"]
        assert metrics["crosswise"][tested][tested] == own
        assert set(metrics["crosswise"][tested]) == set(metrics["sites"])
    models = {"local_only", "federated", "mixture", "pooled"}
    assert set(metrics["mean_over_sites"]) == models | {"delivered"}

    sites = {}
    for name, settings in prepare_sites(config, 2, lambda *_: None, resume=True).items():
        kept = KeptModels(settings.state, SiteRun.of(config.federation_config()))
        scores = kept.load_scores(metrics["sites"][name]["fingerprint"])
        assert scores is not None
        assert set(scores.models) == models
        fresh = tmp_path / "fresh" / name
        fresh.mkdir(parents=True)
        shutil.copy(settings.state / "salt", fresh)
        sites[name] = settings.model_copy(update={"state": fresh})
    alone = run_in_process(sites, config.federation_config(), tmp_path / "alone")
    assert folder.model.read_bytes() == alone.model.read_bytes()
    of_sites = json.loads(alone.metrics.read_text(encoding="utf-8"))["sites"]
    for site, report in of_sites.items():
        assert metrics["sites"][site]["models"].items() >= report["models"].items()
    expect_recomputed(folder, sites)


def expect_ended(processes: list[psutil.Process]) -> None:
    wait_for(lambda: living(processes) == [], 10, lambda: str(living(processes)))


def training_began(config: SimulationConfig, site: str) -> bool:
    log = config.simulation.data / "state" / config.name / site / "client.log"
    return log.exists() and "round 1: training" in log.read_text(encoding="utf-8")


def expect_recomputed(folder: RunFolder, sites: dict[str, SiteConfig]) -> None:
    """The report's figures, from predictions of the model that the run left."""
    page = folder.report.read_text(encoding="utf-8")
    report = json.loads(folder.report_numbers.read_text(encoding="utf-8"))
    config = load_config(folder.config, SimulationConfig)
    loaded = {name: load_site(site, config.findings, config.model.image_size) for name, site in sites.items()}
    films = {name: of_site.test for name, of_site in loaded.items()}
    scores = {}
    for name, of_site in loaded.items():
        network = build_classifier(config.model, len(config.findings)).to(memory_format=torch.channels_last)
        set_arrays(network, load_arrays(folder.model))
        estimate_statistics(network, of_site.train, torch.device("cpu"))  # each site is measured with its own
        scores[name] = predict(network, of_site.test, 8, torch.device("cpu"))[0]
    merged, labels = (
        np.concatenate([*scores.values()]),
        np.concatenate([one.labels for one in films.values()]),
    )
    compared = 0
    for column, finding in enumerate(config.findings):
        for name, some in films.items():
            of_site = report["sites"][name]["findings"]["federated"][finding]
            truth, given = some.labels[:, column], scores[name][:, column]
            if len(np.unique(truth)) == 2:
                expected = roc_auc_score(truth, given)
                assert of_site["auroc"]["value"] == pytest.approx(expected)
                assert f"{expected:.3f}" in page
                expected = average_precision_score(truth, given)
                assert of_site["auprc"]["value"] == pytest.approx(expected)
                assert f"{expected:.3f}" in page
                for point in of_site["operating_points"]:
                    called = given >= (2.0 if point["threshold"] is None else point["threshold"])
                    assert (~called[truth == 0]).mean() >= point["specificity"]
                    assert point["sensitivity"]["value"] == pytest.approx(called[truth == 1].mean())
                compared += 1
            for attribute, groups in report["sites"][name]["subgroups"].items():
                for group, figures in groups.items():
                    if (auroc := figures["findings"][finding]["auroc"]) is not None:
                        there = loaded[name].test_groups[attribute] == group
                        expected = roc_auc_score(truth[there], given[there])
                        assert auroc["value"] == pytest.approx(expected, abs=5e-4)
        # Bins of 0.02 in the logit, which the report's curves are made of.
        bins = np.floor(np.log(merged[:, column] / (1 - merged[:, column])) / 0.02)
        curve = report["curves"][finding]["merged"]
        assert curve["auroc"] == pytest.approx(roc_auc_score(labels[:, column], bins))
        error = np.abs(calibration_distances(merged[:, column], labels[:, column])).sum() / len(labels)
        assert report["calibration"][finding]["error"] == pytest.approx(error, abs=1e-6)
    assert compared
    for name, of_site in report["sites"].items():
        means = [
            np.mean(
                [
                    figures["auroc"]["value"]
                    for figures in of_site["findings"][model].values()
                    if figures["auroc"]
                ]
            )
            for model in ("federated", "local_only")
        ]
        assert of_site["mean_auroc"]["federated"]["value"] == pytest.approx(means[0]), name
        assert of_site["gain"]["value"] == pytest.approx(means[0] - means[1]), name


def calibration_distances(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sum of (score − label) over the films of each tenth of the score."""
    tenth = np.minimum((scores * 10).astype(int), 9)
    return np.array([(scores - labels)[tenth == place].sum() for place in range(10)])
