"""A run's figures in MLflow: the same as in its folder; a store that is away costs the run nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hospitals import federation
from reports import estimate, model, report
from runs import finished_run

from acm_core.processes import free_port
from server.round.run_folder import RunFolder
from server.round.sinks import Run, mlflow

REPOSITORY = Path(__file__).resolve().parents[2]
FOLLOW = """
import sys
from pathlib import Path
from server.round.events import RoundFinished, RunFinished, RunResumed, RunStarted
from server.round.run_folder import RunFolder
from server.round.sinks import Run
from server.round.sinks.mlflow import open_sink

folder, first, last = RunFolder(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
done = folder.finished()
rounds, sites = len(done.records), done.config.federation.sites
sink = open_sink(Run(done.config, folder, None))
begun = first == 1
sink.take(RunStarted(rounds=rounds, sites=sites) if begun else RunResumed(round=first - 1, rounds=rounds))
for record in done.records[first - 1:last]:
    sink.take(RoundFinished(**record, earlier_attempts=()))
if last == rounds:
    sink.take(RunFinished(round=done.metrics["rounds"], model="0" * 64))
else:
    sink._end()
"""
READ = """
import json
from mlflow.tracking import MlflowClient

client = MlflowClient()
experiment, = client.search_experiments(filter_string="name = 'acm-fed'")
runs = client.search_runs([experiment.experiment_id])
for run in runs:
    history = {
        name: [[point.step, point.value] for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    said = {"name": run.info.run_name, "status": run.info.status, "parameters": run.data.params, "metrics": history}
    print(json.dumps(said))
"""


def python(code: str, *arguments: str, store: str) -> str:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def notes(run: RunFolder) -> list[str]:
    if not run.events.exists():
        return []
    events = [json.loads(line) for line in run.events.read_text(encoding="utf-8").splitlines()]
    return [event["text"] for event in events if event["event"] == "note"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    measured = report(federated=model(estimate(0.8)), local_only=model(None))
    return finished_run(tmp_path, {"A": measured, "B": measured})


@pytest.mark.slow
def test_a_run_that_is_resumed_is_one_run_there_with_the_folders_figures(
    run: RunFolder, tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    python(FOLLOW, str(run.folder), "1", "2", store=store)
    python(FOLLOW, str(run.folder), "3", "3", store=store)
    assert notes(run) == []
    (line,) = python(READ, store=store).splitlines()
    there: dict[str, Any] = json.loads(line)
    assert (there["name"], there["status"]) == (run.folder.name, "FINISHED")
    assert there["parameters"]["model.context"] == federation().model.context
    rounds = [json.loads(text) for text in run.rounds.read_text(encoding="utf-8").splitlines()]
    assert there["metrics"]["train_loss/A"] == [
        [row["round"], pytest.approx(row["metrics"]["A"]["train_loss"])] for row in rounds
    ]
    assert [step for step, _ in there["metrics"]["train_loss/B"]] == [1]
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    finding = metrics["findings"][0]
    auroc = metrics["sites"]["A"]["models"]["federated"]["findings"][finding]["auroc"]["value"]
    assert there["metrics"][f"auroc/federated/A/{finding}"] == [[metrics["rounds"], pytest.approx(auroc)]]


def test_a_store_that_is_away_is_said_once_without_its_address(run: RunFolder) -> None:
    store = f"http://user:secret@127.0.0.1:{free_port()}"
    python(FOLLOW, str(run.folder), "1", "3", store=store)
    (note,) = notes(run)
    assert "MLflow does not take the figures" in note
    assert "secret" not in note
    assert "127.0.0.1" not in note


def test_a_store_without_mlflow_is_said_and_no_store_is_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(mlflow.STORE, raising=False)
    assert mlflow.open_sink(Run(federation(), run, None)) is None
    assert notes(run) == []
    monkeypatch.setenv(mlflow.STORE, "http://somewhere")
    monkeypatch.setattr(mlflow, "find_spec", lambda name: None)
    assert mlflow.open_sink(Run(federation(), run, None)) is None
    (note,) = notes(run)
    assert "pip install 'acm-fed[mlflow]'" in note
