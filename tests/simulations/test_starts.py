"""A simulation that begins from a start: federated, alone and pooled models of it are found again by its content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hospitals import FINDINGS
from processes import Command
from simulated import simulation_settings, spec

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.nn import Origin, build_classifier
from acm_core.training.weights import get_arrays, save_arrays
from simulations.settings import SimulationConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_every_model_of_a_simulation_begins_from_its_start(tmp_path: Path) -> None:
    model = ModelConfig(image_size=32)
    origin = Origin(findings=tuple(FINDINGS), model=model, made_from="run before")
    start = tmp_path / "start.safetensors"
    save_arrays(start, get_arrays(build_classifier(model, len(FINDINGS), seed=8)), origin.metadata())
    config = SimulationConfig.model_validate(
        {
            **simulation_settings(tmp_path / "data", hospitals=[spec("A", 20), spec("B", 20)], processes=2),
            "model": {"image_size": 32, "weights": start},
            "training": {"batch_size": 8, "precision": "float32"},
            "evaluation": {"bootstrap": 100},
        }
    )
    file = tmp_path / "simulation.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    arguments = ["simulations.run", "--config", str(file), "--runs", str(tmp_path / "runs")]
    run = Command(arguments, tmp_path / "said.txt")
    try:
        assert run.wait(250) == 0, run.text()
    finally:
        run.end()
    assert "head: Lung Opacity, Pleural Effusion from the start, none new" in run.text()
    metrics = json.loads((tmp_path / "runs" / config.name / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["mean_over_sites"]) == {"local_only", "federated", "pooled"}
    assert set(metrics["crosswise"]) == {"A", "B"}
    assert metrics["start"]["made_from"] == "run before"
    start.write_bytes(b"another")
    again = Command([*arguments, "--resume"], tmp_path / "again.txt")
    try:
        assert again.wait(60) == 2, again.text()
    finally:
        again.end()
    assert "model.weights: expected start.safetensors in safetensors format" in again.text()
