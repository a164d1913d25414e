"""The parts of `benchmark federation` at their smallest; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from acm_core.processes import usable_cores
from simulations.benchmark import app_start, over_tls, server_round, simulated_run


@pytest.mark.parametrize("arrival", ["one by one", "all at once"])
def test_every_round_takes_all_sites(arrival: server_round.Arrival) -> None:
    row = server_round.measure(3, 10_000, 2, arrival)
    assert len(row["seconds"]) == 2
    assert row["model_bytes"] == 40_000
    assert row["peak_bytes"] >= row["idle_bytes"] > 0
    lines = server_round.table([{"part": "server", **row}])
    assert lines[1].split()[0] == "server"


@pytest.mark.slow
def test_a_forked_process_has_everything_imported(tmp_path: Path) -> None:
    """As a command of its own: this process has perhaps a fork server that imported something else."""
    output = tmp_path / "start.json"
    command = ["simulations.benchmark", "federation", "--only", "start", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--output", str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["contender"] for row in rows] == ["forked", "started"]
    assert all(len(row["seconds"]) == 1 for row in rows)
    lines = app_start.table([{**row, "ratio": tuple(row["ratio"])} for row in rows])
    assert [line.split()[0] for line in lines] == ["a", "forked", "started", "forked"]
    assert lines[-1] in done.stdout


@pytest.mark.slow
def test_a_real_server_has_its_answers_over_tls(tmp_path: Path) -> None:
    row = over_tls.measure(tmp_path, "resnet18", 2, 1)
    assert len(row["seconds"]) == 1
    assert 2 * 1.5 * row["model_bytes"] < row["bytes"][0] < 2 * 2 * row["model_bytes"]
    assert all(peak > row["model_bytes"] for peak in row["peak_bytes"].values())
    assert over_tls.table([row])[1].split()[:2] == ["resnet18", "2"]


@pytest.mark.soak
def test_both_contenders_do_the_whole_job() -> None:
    rows = simulated_run.run(1, sites=[2])
    works = (f"demo, {usable_cores()} at once", "demo", "2 sites")
    assert [(row["work"], row["contender"]) for row in rows] == [
        (work, contender) for work in works for contender in ("ours", "plain Flower")
    ]
    for row in rows:
        for one in row["runs"]:
            assert one["run"] > one["rounds"] > 0 < one["training"]
            assert "at once" in row["work"] or one["rounds"] > one["training"]
    assert len(simulated_run.table(rows)) == 7
