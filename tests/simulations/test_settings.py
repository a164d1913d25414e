"""A simulation's file: the federation's own settings, and the same sites on both sides of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from simulated import simulation, spec

from acm_core.config import ConfigError, FederationConfig, dump_config, load_config
from simulations.settings import SimulationConfig

FILE = """\
name: test
findings: [Nodule]
privacy: off
federation:
  sites: [B, A]
  rounds: 1
simulation:
  data: films
  hospitals:
    - name: A
      patients: 3
      scanner: cr_mono1_10bit
  folders:
    B: ../real/B
"""


def test_paths_are_those_of_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "configs" / "test.yaml"
    path.parent.mkdir()
    path.write_text(FILE, encoding="utf-8")
    section = load_config(path, SimulationConfig).simulation
    assert section.data == path.parent / "films"
    assert section.folders == {"B": tmp_path / "real" / "B"}
    assert section.sites == ("A", "B")


def test_the_written_out_configuration_reads_back_from_anywhere(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in "AB"}
    config = simulation(tmp_path / "data", sites=("A", "B", "H"), hospitals=[spec("H")], folders=folders)
    other = tmp_path / "runs" / "test" / "config.yaml"
    other.parent.mkdir(parents=True)
    other.write_text(dump_config(config), encoding="utf-8")
    assert load_config(other, SimulationConfig) == config


@pytest.mark.parametrize(
    ("hospitals", "folders", "found"),
    [
        (["A"], [], "A"),
        (["A", "B", "C"], [], "A, B, C"),
        (["A"], ["C"], "A, C"),
        (["A", "B"], ["B"], "A, B, B"),
        ([], [], ""),
    ],
)
def test_the_sites_have_to_be_the_hospitals_and_folders(
    tmp_path: Path, hospitals: list[str], folders: list[str], found: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        simulation(
            tmp_path,
            hospitals=[spec(name) for name in hospitals],
            folders={name: tmp_path / name for name in folders},
        )
    (error,) = caught.value.errors()
    assert error["msg"] == (
        f"Value error, expected federation.sites (A, B) to be the simulated hospitals and folders ({found})"
    )


def test_a_site_may_stand_in_any_order(tmp_path: Path) -> None:
    config = simulation(tmp_path, sites=("B", "A"), hospitals=[spec("A"), spec("B")])
    assert config.federation.sites == ("B", "A")
    assert config.simulation.sites == ("A", "B")


def test_a_wrong_scanner_names_the_line_and_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(FILE.replace("cr_mono1_10bit", "cr_mono1_10bits"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, SimulationConfig)
    assert str(caught.value).startswith(f"{path}:12: simulation.hospitals[0].scanner: expected ")
    assert "cr_mono1_10bit, " in str(caught.value)
    assert str(caught.value).endswith("got cr_mono1_10bits")


def test_the_server_and_the_sites_learn_nothing_of_the_simulation(tmp_path: Path) -> None:
    config = simulation(tmp_path)
    federation = config.federation_config()
    assert type(federation) is FederationConfig
    assert "simulation" not in federation.model_dump()
    assert federation.model_dump() == config.model_dump(exclude={"simulation"})
    assert str(tmp_path) not in federation.model_dump_json()
