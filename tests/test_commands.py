"""The commands as a person meets them first: help at once, and a wrong file told in one message."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from acm_core.config import FederationConfig, SiteConfig, load_config
from simulations.settings import SimulationConfig
from simulations.tables import __main__ as tables

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = [
    "server.run",
    "server.init",
    "server.doctor",
    "server.approve",
    "server.remove",
    "server.roster",
    "server.audit",
    "server.report",
    "server.export",
    "client.run",
    "client.enrol",
    "client.roster",
    "client.doctor",
    "client.privacy",
    "client.audit",
    "client.predict",
    "client.explain",
    "simulations.run",
    "simulations.tables",
    "simulations.pointing",
]
HEAVY = {"torch", "torchvision", "monai", "flwr", "ray", "numpy", "pydantic", "rich"}

FEDERATION = """\
name: test
findings: [Nodule]
privacy: off
model:
  contxt: acm
federation:
  sites: [A]
  rounds: 0
"""
SITE = """\
site: A
films: films
labels: labels.csv
stat: state
"""


def run(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_nothing_that_takes_long_to_import(command: str) -> None:
    done = run("-X", "importtime", "-m", command, "--help")
    assert done.returncode == 0
    assert f"python -m {command}" in done.stdout
    imported = {
        line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert "argparse" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize("command", ["server.run", "simulations.run"])
def test_a_wrong_federation_is_told_in_one_message(command: str, tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(FEDERATION, encoding="utf-8")
    done = run("-m", command, "--config", str(path), "--runs", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    rows = done.stderr.splitlines()
    assert f"{path}:5: model.contxt: unknown key; did you mean 'context'?" in rows
    assert f"{path}:8: federation.rounds: expected an integer ≥ 1 and ≤ 100000, got 0" in rows
    assert all(row.startswith(str(path)) for row in rows)
    assert not (tmp_path / "runs").exists()


def test_a_missing_file_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").touch()
    done = run("-m", "server.run", "--config", str(tmp_path / "dmo.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{tmp_path / 'dmo.yaml'}: expected a file, got none of that name; did you mean 'demo.yaml'?\n"
    )


def test_a_wrong_site_file_is_told_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "A.yaml").write_text(SITE, encoding="utf-8")
    done = run("-m", "client.run", "--site=A", "--sites", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"{tmp_path / 'A.yaml'}:1: state: missing; expected a path",
        f"{tmp_path / 'A.yaml'}:4: stat: unknown key; did you mean 'state'?",
    ]


def test_a_site_whose_films_are_away_is_told_which_key(tmp_path: Path) -> None:
    (tmp_path / "A.yaml").write_text(SITE.replace("stat:", "state:"), encoding="utf-8")
    done = run("-m", "client.run", "--site=A", "--sites", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{tmp_path / 'A.yaml'}: films: expected a folder, found none at {tmp_path / 'films'}\n"
    )
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "0,one"), "argument --seeds: expected integers with commas between, got '0,one'"),
        (("--seeds", "1,9"), "--seeds: expected some of 1, 2, 3, got 9"),
        (
            ("--only", "acn"),
            "--only: expected some of none, se, cbam, self_attention, acm, got 'acn'; did you mean",
        ),
        (("--jobs", "0"), "--jobs: expected 1 or more, got 0"),
    ],
)
def test_a_wrong_choice_of_runs_is_refused_before_the_first(
    options: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = REPOSITORY / "configs" / "experiments" / "contexts.yaml"
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    try:
        assert tables.main([str(experiment), *places, *options]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def kind_of(path: Path) -> type[FederationConfig]:
    simulated = re.search("^simulation:", path.read_text(encoding="utf-8"), re.MULTILINE)
    return SimulationConfig if simulated else FederationConfig


def test_every_federation_file_loads_whether_its_folders_are_there_or_not(tmp_path: Path) -> None:
    paths = sorted((REPOSITORY / "configs").glob("*.yaml"))
    assert {path.name for path in paths} >= {"demo.yaml", "federation.yaml", "real_sites.yaml"}
    (tmp_path / "elsewhere").mkdir()
    for path in paths:
        alone = tmp_path / "elsewhere" / path.name
        alone.write_bytes(path.read_bytes())
        config = load_config(alone, kind_of(path))
        assert config.name == path.stem


def test_the_federation_file_and_the_site_files_belong_together() -> None:
    config = load_config(REPOSITORY / "configs" / "federation.yaml", FederationConfig)
    demo = load_config(REPOSITORY / "configs" / "demo.yaml", SimulationConfig)
    sites = {
        path.stem: load_config(path, SiteConfig) for path in (REPOSITORY / "configs" / "sites").glob("*.yaml")
    }
    assert set(config.federation.sites) == set(sites)
    hospitals = demo.simulation.data / "hospitals" / demo.name
    for name, site in sites.items():
        assert site.site == name
        assert site.films.resolve() == (hospitals / name).resolve()
        assert site.labels == site.films / "labels.csv"


def test_the_commands_defaults_are_files_that_are_there() -> None:
    for command in COMMANDS:
        module = REPOSITORY / command.replace(".", "/")
        file = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
        text = file.read_text(encoding="utf-8")
        for default in re.findall(r'default=Path\("(configs/[^"]+)"\)', text):
            assert (REPOSITORY / default).exists(), default
