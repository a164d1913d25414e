"""Leave one hospital out: who trains, on which films the newcomer's own models are trained, and a whole cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import experiment, write_base
from hypothesis import given
from hypothesis import strategies as st
from processes import Command, wait_for
from simulated import simulation, spec

from acm_core.data.site_films import FilmSet
from simulations.tables.newcomers import OWN_FILMS, own_epochs, own_films, without


def films(count: int, patients: int, seed: int = 0) -> FilmSet:
    random = np.random.default_rng(seed)
    of = random.integers(patients, size=count)
    images = np.arange(count, dtype=np.float16)[:, None, None] * np.ones((1, 2, 2), np.float16)
    return FilmSet(images, random.integers(2, size=(count, 1)).astype(np.float32), of)


@given(st.integers(1, 120), st.integers(1, 60), st.integers(0, 9))
def test_more_films_are_the_fewer_ones_and_others(count: int, patients: int, seed: int) -> None:
    train = films(count, patients)
    few, more = (own_films(train, size, seed, "A") for size in (count // 3, count // 2))
    assert (len(few), len(more)) == (count // 3, count // 2)
    assert np.array_equal(few.images, more.images[: len(few)])
    numbers = more.images[:, 0, 0].astype(int)
    assert len(set(numbers)) == len(more)
    assert np.array_equal(more.labels, train.labels[numbers])
    assert np.array_equal(more.patients, train.patients[numbers])
    whole = own_films(train, count, seed, "A")
    parted = sum(
        len(
            set(train.patients.tolist())
            & set(whole.patients[:size].tolist())
            & set(whole.patients[size:].tolist())
        )
        for size in (len(more),)
    )
    assert parted <= 1  # only the last patient's films are parted


def test_another_seed_draws_other_patients() -> None:
    train = films(100, 60)
    one, other = (own_films(train, 20, seed, "A").images[:, 0, 0].tolist() for seed in (1, 2))
    assert one != other
    assert one == own_films(train, 20, 1, "A").images[:, 0, 0].tolist()


def test_few_films_are_trained_on_in_as_many_steps_as_all(tmp_path: Path) -> None:
    config = simulation(tmp_path).federation_config()
    config = config.model_copy(
        update={"federation": config.federation.model_copy(update={"rounds": 8})}
    )  # of one epoch and 32 films a step
    assert own_epochs(config, 320, 320) == 8
    assert own_epochs(config, 25, 320) == 80
    assert own_epochs(config, 100, 320) == 20
    assert own_epochs(config, 64, 65) == 12


def test_the_others_are_without_the_site_and_what_is_its_own(tmp_path: Path) -> None:
    config = simulation(
        tmp_path,
        sites=("A", "R", "B"),
        hospitals=[spec("A"), spec("B")],
        folders={"R": tmp_path / "R"},
        populations={"A": 2, "R": 2},
    )
    others = without(config, "R")
    assert others.name == "test-without-R"
    assert others.federation.sites == ("A", "B")
    assert others.simulation.folders == {}
    assert others.simulation.populations == {"A": 2}
    assert not others.simulation.pooled
    assert not others.evaluation.local_only
    assert (others.seed, others.model, others.training) == (config.seed, config.model, config.training)
    last = without(others, "A")
    assert (last.federation.sites, last.federation.quorum) == (("B",), 1)
    assert [hospital.name for hospital in last.simulation.hospitals] == ["B"]


def events(runs: Path, name: str) -> list[str]:
    path = runs / name / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cell_is_killed_goes_on_and_says_what_each_newcomer_gets(tmp_path: Path) -> None:
    hospital: dict[str, Any] = {
        "patients": 45,
        "prevalence": {"Lung Opacity": 0.4, "Pleural Effusion": 0.4},
        "scanner": "dx_mono2_14bit_window",
        "image_size": 64,
    }
    write_base(
        tmp_path,
        model={"image_size": 32, "context": "none"},
        training={"batch_size": 8, "precision": "float32"},
        evaluation={"bootstrap": 100},
        simulation={"hospitals": [{**hospital, "name": "A"}, {**hospital, "name": "B"}], "data": "data"},
    )
    experiment(
        tmp_path,
        kind="leave_one_out",
        seeds=[1],
        variants={"one": {}},
        comparisons=["adapted less received", "adapted less local_only"],
    )
    runs, results = tmp_path / "runs", tmp_path / "results"
    arguments = [
        "simulations.tables",
        str(tmp_path / "study.yaml"),
        "--runs",
        str(runs),
        "--results",
        str(results),
    ]
    killed = Command(arguments, tmp_path / "killed.txt")
    try:
        wait_for(lambda: "round_finished" in events(runs, "study-one-1-without-B"), 500, killed.text)
    finally:
        killed.end()
    first = events(runs, "study-one-1-without-A")
    assert first[-1] == "simulation_finished"

    second = Command(arguments, tmp_path / "second.txt")
    try:
        assert second.wait(600) == 0, second.text()
    finally:
        second.end()
    assert events(runs, "study-one-1-without-A") == first
    assert "run_resumed" in events(runs, "study-one-1-without-B")
    cell = json.loads((results / "study" / "one-1.json").read_text(encoding="utf-8"))
    assert cell["kind"] == "leave_one_out"
    assert cell["sites"].keys() == {"A", "B"}
    for figures in cell["sites"].values():
        assert figures["training_films"] > OWN_FILMS[0]
        models = figures["models"]
        assert list(models) == ["received", "adapted", "own_25", "local_only"]
        assert len({model["resampled"] for model in models.values()}) == 4
    text = (results / "study.md").read_text(encoding="utf-8")
    assert "the others' model with own normalisation less alone" in text
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 2**20]
    assert set(left) == {"model.safetensors"}
