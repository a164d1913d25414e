"""`python -m simulations.tables` as its user has it: killed in the middle, given again, and then done for good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from experiments import experiment, figures, finish, write_base
from hospitals import FINDINGS
from processes import Command, processes_with, wait_for

from simulations.tables.__main__ import main
from simulations.tables.experiment import Experiment


class Tables:
    """The command over one experiment, everything below one folder."""

    def __init__(self, folder: Path, made: Experiment) -> None:
        self.results, self.runs = folder / "results", folder / "runs"
        self.made = made

    def arguments(self, *options: str) -> list[str]:
        places = ["--runs", str(self.runs), "--results", str(self.results)]
        return [str(self.made.path), *places, *options]

    def go(self, *options: str) -> int:
        return main(self.arguments(*options))


def test_the_list_says_what_is_missing_and_how_long_it_may_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = Tables(tmp_path, experiment(tmp_path))
    assert tables.go("--list") == 0
    assert "4 of 4 cells to run; none is finished" in capsys.readouterr().out
    site = {"A": figures({"federated": 0.7})}
    finish(tables.results, tables.made, "one", 1, site, seconds=600.0)
    finish(tables.results, tables.made, "other", 1, site, seconds=60.0)
    assert tables.go("--list", "--jobs", "2") == 0
    said = capsys.readouterr().out
    assert "study-one-1: done, 10.0 min\n" in said
    assert "study-other-2: missing\n" in said
    assert "2 of 4 cells to run, about 6 min with --jobs 2\n" in said
    assert tables.go("--list", "--only", "other", "--seeds", "2") == 0
    assert "study-other-2: missing\n1 of 1 cells to run" in capsys.readouterr().out
    Tables(tmp_path, experiment(tmp_path, settings={"training": {"epochs": 9}})).go("--list")
    assert "study-one-1: stale, 10.0 min (made with another training.epochs)" in capsys.readouterr().out


def test_only_writing_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = Tables(tmp_path, experiment(tmp_path, comparisons=["federated less local_only"]))
    finish(tables.results, tables.made, "one", 1, {"A": figures({"federated": 0.7, "local_only": 0.6})})
    assert tables.go("--write") == 0
    assert capsys.readouterr().out == f"{tables.results / 'study.md'}: written\n"
    assert (tables.results / "study.svg").exists()
    assert not tables.runs.exists()


def test_what_cannot_be_compared_is_said_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = Tables(tmp_path, experiment(tmp_path, comparisons=["mixtur less federated"]))
    finish(tables.results, tables.made, "one", 1, {"A": figures({"federated": 0.7, "mixture": 0.6})})
    assert tables.go("--write") == 1
    assert "got 'mixtur'; did you mean 'mixture'?" in capsys.readouterr().err
    assert not (tables.results / "study.md").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cell_that_fails_is_named_and_the_others_are_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(
        tmp_path,
        federation={"sites": ["A"], "rounds": 1},
        simulation={"folders": {"A": "nowhere"}, "data": "data"},
    )
    tables = Tables(tmp_path, experiment(tmp_path, seeds=[1], variants={"one": {}}))
    assert tables.go() == 1
    captured = capsys.readouterr()
    log = tables.runs / "study-one-1.log"
    assert f"study-one-1 failed: see {log}" in captured.err
    assert "expected a folder with labels.csv" in log.read_text(encoding="utf-8")
    assert "- Missing (variant and seed): one 1." in (tables.results / "study.md").read_text(encoding="utf-8")


def small(folder: Path) -> Experiment:
    """Two hospitals, two variants, two seeds: minutes on a busy machine."""
    spec: dict[str, Any] = {
        "patients": 40,
        "prevalence": {"Lung Opacity": 0.4, "Pleural Effusion": 0.4},
        "scanner": "dx_mono2_14bit_window",
        "image_size": 64,
    }
    write_base(
        folder,
        model={"image_size": 32, "context": "none"},
        training={"batch_size": 8, "precision": "float32"},
        evaluation={"bootstrap": 100},
        simulation={"hospitals": [{**spec, "name": "A"}, {**spec, "name": "B"}], "data": "data"},
    )
    own = {
        "federation": {"normalisation": "site"},
        "evaluation": {"local_only": False},
        "simulation": {"pooled": False},
    }
    return experiment(
        folder,
        variants={
            "shared": {
                "title": "shared normalisation",
                "settings": {"federation": {"normalisation": "shared"}},
            },
            "own": {"settings": own},
        },
        comparisons=["federated less local_only", "own:federated less shared:federated"],
    )


def events(tables: Tables, name: str) -> list[str]:
    path = tables.runs / name / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_the_middle_it_goes_on_and_what_is_done_stays_done(tmp_path: Path) -> None:
    tables = Tables(tmp_path, small(tmp_path))
    killed = Command(["simulations.tables", *tables.arguments("--jobs", "2")], tmp_path / "killed.txt")
    try:
        wait_for(lambda: "round_finished" in events(tables, "study-shared-1"), 300, killed.text)
        killed.kill_alone()
        wait_for(lambda: processes_with(str(tmp_path)) == [], 30, lambda: str(processes_with(str(tmp_path))))
    finally:
        killed.end()
    assert not tables.results.exists()

    second = Command(["simulations.tables", *tables.arguments("--jobs", "2")], tmp_path / "second.txt")
    try:
        assert second.wait(900) == 0, second.text()
    finally:
        second.end()
    assert "run_resumed" in events(tables, "study-shared-1")
    assert processes_with(str(tmp_path)) == []
    expect_the_runs_figures(tables)
    expect_nothing_large_left(tmp_path)

    shutil.rmtree(tables.runs)
    shutil.rmtree(tmp_path / "data")
    again = Command(["simulations.tables", *tables.arguments()], tmp_path / "again.txt")
    try:
        assert again.wait(240) == 0, again.text()
    finally:
        again.end()
    assert again.text() == f"{tables.results / 'study.md'}: written\n"
    text = (tables.results / "study.md").read_text(encoding="utf-8")
    assert (
        "| site | shared normalisation: federated less alone | federated: own less shared normalisation |"
        in text
    )
    assert "- 4 of 4 cells are finished." in text
    assert "</svg>" in (tables.results / "study.svg").read_text(encoding="utf-8")


def expect_the_runs_figures(tables: Tables) -> None:
    """The cells say what the runs' own metrics say, and a site's own model is the same in all variants."""
    for seed in (1, 2):
        path = tables.results / "study" / f"shared-{seed}.json"
        cell = json.loads(path.read_text(encoding="utf-8"))
        metrics = json.loads(
            (tables.runs / f"study-shared-{seed}" / "metrics.json").read_text(encoding="utf-8")
        )
        for site, report in metrics["sites"].items():
            models = cell["sites"][site]["models"]
            assert (
                models.keys() == report["models"].keys() == {"local_only", "federated", "mixture", "pooled"}
            )
            assert cell["sites"][site]["delivered"] == report["delivered"]
            for name, model in report["models"].items():
                aurocs = [model["findings"][finding]["auroc"] for finding in FINDINGS]
                expected = [one and pytest.approx(one["value"], abs=1e-4) for one in aurocs]
                assert models[name]["aurocs"] == expected
                if model["mean_auroc"] is not None:
                    assert models[name]["mean"] == pytest.approx(model["mean_auroc"]["value"], abs=1e-5)
        other = json.loads((tables.results / "study" / f"own-{seed}.json").read_text(encoding="utf-8"))
        for site, tested in other["sites"].items():
            assert tested["models"].keys() == {"federated"}
            assert tested["positives"] == cell["sites"][site]["positives"]


def expect_nothing_large_left(folder: Path) -> None:
    left = [path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 2**20]
    assert set(left) == {"model.safetensors"}
