"""Simulated sites: films written once, splits by the seed alone, missing folders named with their key."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from simulated import simulation, simulation_settings, spec

from acm_core.config import SiteConfig
from acm_core.data.site_films import load_site
from client.site.site_file import load_site_file
from simulations.settings import SimulationConfig
from simulations.sites import MissingFilmsError, prepare_sites

FINDINGS = ("Lung Opacity", "Pleural Effusion")


def prepared(
    config: SimulationConfig, processes: int = 2
) -> tuple[dict[str, SiteConfig], list[tuple[str, int, int]]]:
    progress: list[tuple[str, int, int]] = []
    return prepare_sites(config, processes, lambda *seen: progress.append(seen), resume=False), progress


def written(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything but the sites' files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".yaml"
    }


def test_hospitals_are_written_once_and_with_the_next_seed_anew(tmp_path: Path) -> None:
    config = simulation(tmp_path)
    sites, progress = prepared(config)
    assert progress == [("A", 1, 2), ("A", 2, 2), ("B", 1, 2), ("B", 2, 2)]
    films = written(tmp_path)
    assert sum(name.endswith(".dcm") for name in films) == 4
    again, progress = prepared(config)
    assert again == sites
    assert progress == []
    assert written(tmp_path) == films
    _, progress = prepared(simulation(tmp_path, seed=4))
    assert len(progress) == 4
    assert all(content != films.get(name) for name, content in written(tmp_path).items())


def test_the_clients_commands_find_a_simulated_site(tmp_path: Path) -> None:
    config = simulation(tmp_path)
    sites, _ = prepared(config)
    folder = config.simulation.data / "sites" / config.name
    assert {name: load_site_file(folder, name) for name in sites} == sites


def test_sites_come_in_the_federations_order(tmp_path: Path) -> None:
    real = prepared(simulation(tmp_path, sites=("A",)))[0]["A"].films
    config = simulation(
        tmp_path,
        sites=("C", "R", "A"),
        hospitals=[spec("A"), spec("C")],
        folders={"R": real},
    )
    sites, _ = prepared(config)
    assert list(sites) == ["C", "R", "A"]
    assert [site.site for site in sites.values()] == ["C", "R", "A"]
    assert sites["R"].films == real
    assert sites["R"].labels == real / "labels.csv"
    assert sites["C"].films == tmp_path / "hospitals" / "test" / "C"
    assert len({site.state for site in sites.values()}) == 3


def test_what_a_site_keeps_lies_outside_the_films_folder(tmp_path: Path) -> None:
    real = prepared(simulation(tmp_path / "other", sites=("A",)))[0]["A"].films
    before = written(real)
    sites, _ = prepared(simulation(tmp_path, sites=("R",), hospitals=[], folders={"R": real}))
    load_site(sites["R"], FINDINGS, 32)
    assert sites["R"].state.is_relative_to(tmp_path)
    assert written(real) == before


def salts(config: SimulationConfig) -> dict[str, bytes]:
    return {name: (site.state / "salt").read_bytes() for name, site in prepared(config)[0].items()}


def test_the_salt_depends_on_seed_and_site_alone(tmp_path: Path) -> None:
    first = salts(simulation(tmp_path / "first"))
    assert salts(simulation(tmp_path / "second", sites=("B", "A"))) == first
    assert all(len(salt) == 32 for salt in first.values())
    assert first["A"] != first["B"]
    other = salts(simulation(tmp_path / "third", seed=4))
    assert not set(other.values()) & set(first.values())
    # A changed seed in the same file is a new draw too, not a mixture with what was there.
    assert salts(simulation(tmp_path / "first", seed=4)) == other
    mode = (tmp_path / "first" / "state" / "test" / "A" / "salt").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_the_split_is_the_same_wherever_the_data_lie(tmp_path: Path) -> None:
    def sizes(data: Path) -> tuple[int, int, int]:
        config = simulation(data, sites=("A",), hospitals=[spec("A", patients=20)])
        films = load_site(prepared(config)[0]["A"], FINDINGS, 32)
        return len(films.train), len(films.validation), len(films.test)

    first = sizes(tmp_path / "first")
    assert sizes(tmp_path / "second") == first
    assert sum(first) == 20
    assert first[0] > first[2] > 0


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a folder named labels.csv"])
def test_a_missing_folder_of_films_is_named_with_its_key_before_anything_is_written(
    tmp_path: Path, there: str
) -> None:
    folder = tmp_path / "real" / "R"
    if there != "nothing":
        (folder / "labels.csv" if "named" in there else folder).mkdir(parents=True)
    config = simulation(tmp_path / "data", sites=("A", "R"), hospitals=[spec("A")], folders={"R": folder})
    with pytest.raises(MissingFilmsError) as caught:
        prepared(config)
    assert str(caught.value) == (
        f"simulation.folders.R: expected a folder with labels.csv and films, found none at {folder}"
    )
    assert not (tmp_path / "data").exists()


def test_sites_that_train_at_the_same_time_take_one_thread_each(tmp_path: Path) -> None:
    config = simulation(tmp_path, sites=("A",))
    assert prepared(config, processes=2)[0]["A"].threads == 1
    assert prepared(config, processes=1)[0]["A"].threads is None


def test_a_simulation_that_starts_anew_has_spent_nothing_and_one_that_goes_on_has(tmp_path: Path) -> None:
    settings = simulation_settings(tmp_path, populations={"A": 2, "B": 3})
    settings["privacy"] = {"epsilon": 2, "expected_batch": 1}
    settings["model"] = {"norm": "group"}
    config = SimulationConfig.model_validate(settings)
    sites, _ = prepared(config)
    policy = sites["B"].privacy
    assert policy is not None
    assert (policy.population, policy.epsilon, policy.unit) == (3, 2, "patient")
    ledger = sites["A"].state / "privacy" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("", encoding="utf-8")
    prepare_sites(config, 2, lambda *_: None, resume=True)
    assert ledger.exists()
    prepare_sites(config, 2, lambda *_: None, resume=False)
    assert not ledger.exists()


def test_with_privacy_every_site_needs_a_population(tmp_path: Path) -> None:
    settings = simulation_settings(tmp_path, populations={"A": 2})
    settings["privacy"] = {"epsilon": 2, "expected_batch": 1}
    settings["model"] = {"norm": "group"}
    with pytest.raises(ValidationError, match=r"expected simulation.populations .* got none for B"):
        SimulationConfig.model_validate(settings)


def test_training_patients_can_be_fewer_and_the_test_films_stay(tmp_path: Path) -> None:
    hospitals = [spec("A", 30)]
    whole = simulation(tmp_path, sites=("A",), hospitals=hospitals)
    some = simulation(tmp_path, sites=("A",), hospitals=hospitals, training_patients=5)
    before = load_site(prepared(whole)[0]["A"], FINDINGS, 32)
    few = load_site(prepared(some)[0]["A"], FINDINGS, 32)
    assert len(set(before.train.patients)) > 5 == len(set(few.train.patients))
    for split in ("validation", "test"):
        one, other = (np.asarray(getattr(films, split).images) for films in (before, few))
        assert np.array_equal(one, other)
    again = load_site(prepared(some)[0]["A"], FINDINGS, 32)
    assert np.array_equal(np.asarray(again.train.images), np.asarray(few.train.images))
    most = simulation(tmp_path, sites=("A",), hospitals=hospitals, training_patients=500)
    assert len(load_site(prepared(most)[0]["A"], FINDINGS, 32).train) == len(before.train)
