"""A finished cell: when it counts as done, and what is in its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import experiment, figures, finish, write_base

from client.round.kept_models import KeptScores
from simulations.tables.cells import (
    CellFile,
    DamagedCellError,
    SiteFigures,
    cell_path,
    code,
    read_cell,
    standing,
)
from simulations.tables.experiment import Experiment
from simulations.tables.replicates import measure

MODELS = ("local_only", "federated", "fine_tuned", "mixture", "pooled", "start_alone")


def changed(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def state(results: Path, made: Experiment) -> tuple[str, str]:
    found = standing(results, made, made.cell("one", 1))
    return found.state, found.why


@pytest.fixture
def results(tmp_path: Path) -> Path:
    made = experiment(tmp_path)
    finish(tmp_path / "results", made, "one", 1, {"A": figures({"federated": 0.7})})
    return tmp_path / "results"


def test_a_cell_is_done_whatever_is_left_of_its_run(tmp_path: Path, results: Path) -> None:
    made = experiment(tmp_path)
    assert state(results, made) == ("done", "")
    assert standing(results, made, made.cell("one", 2)).state == "missing"


def test_what_changes_no_figure_does_not_matter(tmp_path: Path, results: Path) -> None:
    waiting = {"federation": {"round_deadline": 5.0}, "simulation": {"processes": 1, "data": "elsewhere"}}
    made = experiment(tmp_path, title="Another title", settings={**waiting, "server": {"port": 999}})
    assert state(results, made) == ("done", "")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"training": {"learning_rate": 0.01}}, "training.learning_rate"),
        ({"federation": {"rounds": 9}}, "federation.rounds"),
        ({"model": {"context": "se", "head": "average"}}, "model.context, model.head"),
    ],
)
def test_a_cell_made_with_other_settings_is_not_done_and_says_which(
    tmp_path: Path, results: Path, settings: dict[str, Any], why: str
) -> None:
    assert state(results, experiment(tmp_path, settings=settings)) == ("stale", why)


def test_which_findings_count_is_a_setting(tmp_path: Path, results: Path) -> None:
    assert state(results, experiment(tmp_path, least_patients=3)) == ("stale", "least_patients")


def test_a_key_that_is_new_in_the_schema_changes_nothing_and_a_new_default_does(
    tmp_path: Path, results: Path
) -> None:
    path = cell_path(results, "study", "one", 1)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["settings"]["training"]["momentum"]  # as if the cell were older than the key
    content["settings"]["training"]["former"] = 1  # and a key had gone since
    path.write_text(json.dumps(content), encoding="utf-8")
    assert state(results, experiment(tmp_path)) == ("done", "")
    content["settings"]["training"]["weight_decay"] = 0.5  # as if that had been the default
    path.write_text(json.dumps(content), encoding="utf-8")
    assert state(results, experiment(tmp_path)) == ("stale", "training.weight_decay")


def test_a_file_that_the_settings_name_counts_by_its_content(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"first")
    made = experiment(tmp_path, settings={"model": {"weights": "start.safetensors"}})
    from simulations.tables.cells import files_of

    files = files_of(made.cell("one", 1).config, tmp_path)
    assert list(files) == ["start.safetensors"]
    results = tmp_path / "results"
    finish(results, made, "one", 1, {}, files=files)
    assert state(results, made) == ("done", "")
    start.write_bytes(b"second")
    assert state(results, made) == ("stale", "start.safetensors")
    start.unlink()  # not on this machine: what was measured with it stays measured
    assert state(results, made) == ("done", "")


def test_the_same_layout_elsewhere_has_the_same_cells(tmp_path: Path) -> None:
    digests = set()
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        write_base(
            place,
            federation={"sites": ["A"], "rounds": 2},
            simulation={"folders": {"A": "../films/A"}, "data": "data"},
        )
        digests.add(finish(tmp_path / "results", experiment(place), "one", 1, {}).digest)
    assert len(digests) == 1


def test_a_file_that_is_no_cell_is_said(results: Path, tmp_path: Path) -> None:
    path = cell_path(results, "study", "one", 1)
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    with pytest.raises(DamagedCellError, match="expected a cell as"):
        state(results, experiment(tmp_path))
    assert read_cell(path.with_name("none.json")) is None


def test_seven_sites_six_models_and_seven_findings_stay_below_sixty_kilobytes(tmp_path: Path) -> None:
    findings = [f"Finding {number}" for number in range(7)]
    write_base(tmp_path, findings=findings)
    random = np.random.default_rng(0)
    sites = {}
    for number in range(7):
        labels = (random.random((250, 7)) < 0.2).astype(np.float32)
        said = {model: (labels + random.normal(size=(250, 7))).astype(np.float32) for model in MODELS}
        kept = KeptScores(labels, random.integers(100, size=250), said)
        measured = measure(kept, findings, 1, 1, f"S{number}")
        sites[f"S{number}"] = SiteFigures(fingerprint="f" * 64, training_films=100, shortcuts={}, **measured)
    file = finish(tmp_path / "results", experiment(tmp_path), "one", 1, sites)
    path = cell_path(tmp_path / "results", "study", "one", 1)
    assert path.stat().st_size < 60_000
    assert read_cell(path) == CellFile.model_validate(json.loads(file.model_dump_json()))


def test_a_cell_says_which_code_made_it() -> None:
    made = code()
    assert made.commit is None or len(made.commit) == 40
