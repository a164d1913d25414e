"""A private simulation of a head on a frozen start: killed, resumed, and exactly as dear as the ledgers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import Command, wait_for
from simulated import simulation_settings, spec

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.nn import Origin, build_classifier, trained_names
from acm_core.privacy.accounting import NoisedSteps, epsilon
from acm_core.privacy.ledger import verify
from acm_core.training.weights import get_arrays, load_arrays, save_arrays
from simulations.settings import SimulationConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

AXES = 8


def configuration(tmp_path: Path) -> SimulationConfig:
    """Batch normalisation in the frozen trunk; 40 of 40 units in every step."""
    start = tmp_path / "start.safetensors"
    model = ModelConfig(image_size=32, head="average")
    made = build_classifier(model, 1, seed=8)
    rng = np.random.default_rng(1)
    axes, _ = np.linalg.qr(rng.standard_normal((made.channels, AXES)))
    arrays = {
        **get_arrays(made, without=("head.weight", "head.bias")),
        "projection.centre": rng.random(made.channels, np.float32),
        "projection.axes": np.ascontiguousarray(axes.T, np.float32),
    }
    save_arrays(start, arrays, Origin(findings=(), model=model, made_from="nothing").metadata())
    settings: dict[str, Any] = {
        **simulation_settings(
            tmp_path / "data",
            hospitals=[spec("A", 40), spec("B", 40)],
            processes=2,
            populations={"A": 40, "B": 40},
            pooled=False,
        ),
        "privacy": {"epsilon": 8.0, "delta": 1e-3, "expected_batch": 40, "clipping_norm": 0.3},
        "model": {
            "image_size": 32,
            "head": "projected",
            "dimensions": AXES,
            "trainable": "head",
            "weights": start,
        },
        "training": {
            "epochs": 3,
            "batch_size": 64,
            "optimizer": "sgd",
            "momentum": 0.0,
            "learning_rate": 1.0,
            "precision": "float32",
            "augment": False,
        },
        "evaluation": {"bootstrap": 100, "local_only": False},
    }
    settings["federation"] = {**settings["federation"], "rounds": 4, "quorum": 1}
    return SimulationConfig.model_validate(settings)


def test_killed_and_resumed_it_costs_what_the_ledgers_say(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    file = tmp_path / "simulation.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    arguments = ["simulations.run", "--config", str(file), "--runs", str(tmp_path / "runs")]
    killed = Command(arguments, tmp_path / "killed.txt")
    try:
        wait_for(lambda: "round 1 done" in killed.text(), 150, killed.text)
        killed.kill_alone()
    finally:
        killed.end()
    resumed = Command([*arguments, "--resume"], tmp_path / "resumed.txt")
    try:
        code = resumed.wait(250)
    finally:
        resumed.end()
    assert "resumed after round" in resumed.text(), resumed.text()
    spent = {}
    for site in ("A", "B"):
        steps = verify(config.simulation.data / "state" / config.name / site / "privacy").steps()
        assert {(step.q, step.sampler) for step in steps} == {(1.0, "poisson")}
        spent[site] = epsilon([NoisedSteps(step.sigma, step.q, step.steps) for step in steps], 1e-3)
        assert spent[site] <= 8.0
        if len(steps) == 12:
            assert spent[site] == pytest.approx(8.0, rel=1e-5)
    if (
        code != 0
    ):  # killed between a step's row and its checkpoint: that step counts twice, the last round is refused
        assert "budget" in resumed.text(), resumed.text()
        return
    folder = tmp_path / "runs" / config.name
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for site, ledger in metrics["privacy"]["ledgers"].items():
        assert ledger["epsilon"] == pytest.approx(spent[site], abs=1e-6)
    began, ended = load_arrays(config.model.weights or Path()), load_arrays(folder / "model.safetensors")
    trained = trained_names(build_classifier(config.model, len(config.findings)))
    assert trained == {"head.weight", "head.bias"}
    for name in ended.keys() - trained:
        assert np.array_equal(ended[name], began[name]), name
