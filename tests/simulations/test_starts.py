"""A simulation that begins from a start: federated, alone and pooled models of it are found again by its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hospitals import FINDINGS
from in_process import run_in_process
from simulated import simulation_settings, spec

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.nn import Origin, build_classifier
from acm_core.training.weights import get_arrays, save_arrays
from server.console.command import load_run_file
from simulations.crosswise import evaluate_crosswise
from simulations.pooled import evaluate_pooled
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_every_model_of_a_simulation_begins_from_its_start(tmp_path: Path) -> None:
    model = ModelConfig(image_size=32)
    origin = Origin(findings=tuple(FINDINGS), model=model, made_from="run before")
    start = tmp_path / "start.safetensors"
    save_arrays(start, get_arrays(build_classifier(model, len(FINDINGS), seed=8)), origin.metadata())
    config = SimulationConfig.model_validate(
        {
            **simulation_settings(tmp_path / "data", hospitals=[spec("A", 12), spec("B", 12)], processes=1),
            "model": {"image_size": 32, "weights": start},
            "training": {"batch_size": 8, "precision": "float32"},
            "evaluation": {"bootstrap": 100},
        }
    )
    file = tmp_path / "simulation.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    pinned = load_run_file(file, SimulationConfig)
    federated = pinned.federation_config()
    sites = prepare_sites(pinned, 1, lambda *_: None, resume=False)
    folder = run_in_process(sites, federated, tmp_path / "run")
    events = folder.events.read_text(encoding="utf-8")
    assert "head: Lung Opacity, Pleural Effusion from the start, none new" in events
    assert json.loads(folder.metrics.read_text(encoding="utf-8"))["start"]["made_from"] == "run before"
    # The sites were told the hash alone, the simulation knows the path: both mean the same run.
    assert set(evaluate_crosswise(federated, sites)) == {"A", "B"}
    assert set(evaluate_pooled(federated, sites)) == {"A", "B"}
