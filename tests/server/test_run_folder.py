"""A run's folder: nobody's run is overwritten, and what it holds can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hospitals import federation

from acm_core.config import FederationConfig, load_config
from server.run_folder import RunExistsError, RunFolder
from server.state import RoundState


def test_a_new_run_leaves_its_resolved_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "test")
    folder.open(federation(), resume=False)
    assert load_config(folder.config, FederationConfig) == federation()
    assert "learning_rate: 0.001" in folder.config.read_text(encoding="utf-8")  # a default, written out


def test_a_run_that_is_there_needs_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    before = folder.config.read_bytes()
    with pytest.raises(RunExistsError) as caught:
        folder.open(federation(seed=8), resume=False)
    assert str(caught.value).startswith(f"{tmp_path} already holds a run: continue it with --resume, or")
    assert folder.config.read_bytes() == before


def test_resume_needs_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "test")
    with pytest.raises(RunExistsError, match=r"holds no run to resume: start it without --resume\."):
        folder.open(federation(), resume=True)
    assert not folder.folder.exists()


def test_a_resumed_run_takes_the_new_waiting_times_and_keeps_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    folder.events.write_text("{}\n", encoding="utf-8")
    patient = federation(federation={"round_deadline": 999})
    folder.open(patient, resume=True)
    assert load_config(folder.config, FederationConfig) == patient
    assert folder.events.read_text(encoding="utf-8") == "{}\n"


def test_rounds_are_lines_and_those_of_an_older_state_replace_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = tuple({"round": number, "refused": {"Köln": "memory"}} for number in (1, 2, 3))
    arrays = {"weight": np.zeros(1, np.float32)}
    folder.write_rounds(RoundState(3, arrays, records))
    folder.write_rounds(RoundState(2, arrays, records[:2]))
    lines = folder.rounds.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(records[:2])
    assert "Köln" in lines[0]
    folder.write_rounds(RoundState(0, arrays, ()))
    assert folder.rounds.read_bytes() == b""


def test_metrics_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = {"sites": {"Köln": {"auroc": 0.8125, "low": None}}}
    folder.write_metrics(metrics)
    assert json.loads(folder.metrics.read_text(encoding="utf-8")) == metrics


def test_all_paths_lie_in_the_folder_and_differ(tmp_path: Path) -> None:
    paths = [value for name, value in vars(RunFolder(tmp_path)).items() if name != "folder"]
    assert len(set(paths)) == len(paths)
    assert all(path.parent == tmp_path for path in paths)
