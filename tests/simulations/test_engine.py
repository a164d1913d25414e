"""The simulation runs the same code as hospitals do: the same numbers come out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hospitals import federation, hospital, site
from in_process import run_in_process
from processes import processes_with

from server.run_folder import RunFolder
from simulations.engine import simulate

pytestmark = pytest.mark.slow


def test_ray_and_no_network_at_all_give_the_same_model_and_metrics(tmp_path: Path) -> None:
    for name in ("A", "B"):
        hospital(tmp_path, name, patients=50)
    config = federation()
    folder = RunFolder(tmp_path / "runs" / config.name)
    folder.open(config, resume=False)
    sites = {name: site(tmp_path, name) for name in ("A", "B")}
    metrics = simulate(config, sites, folder, processes=2, resume=False)

    assert set(metrics["sites"]) == {"A", "B"}
    assert set(metrics["mean_over_sites"]) == {"local_only", "federated"}
    alone = run_in_process(tmp_path, config)
    assert folder.model.read_bytes() == alone.model.read_bytes()
    assert metrics["sites"] == json.loads(alone.metrics.read_text())["sites"]
    assert processes_with(str(tmp_path / "state")) == []
