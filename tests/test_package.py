"""What `pip install .` gives: what a hospital, an operator and a simulation need, and no tool for studies."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = ("acm_core", "client", "server", "simulations")
STUDIES = ("benchmark", "comparing", "expected_accuracy", "pointing", "tables")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel that pip makes of a checkout."""
    folder = tmp_path_factory.mktemp("package")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, checkout)
    for name in OURS:
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    build += ["--wheel-dir", str(folder), str(checkout)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("acm_fed-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "installed")
    return folder / "installed"


def names(folder: Path) -> set[str]:
    """Dotted names of the modules and packages below a folder."""
    paths = (
        path.relative_to(folder).with_suffix("") for name in OURS for path in (folder / name).rglob("*.py")
    )
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


def test_all_is_there_but_the_tools_for_studies(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if "-info" not in path.name} == set(OURS)
    studies = tuple(f"simulations.{name}" for name in STUDIES)
    everything = names(REPOSITORY)
    assert all(study in everything for study in studies)
    assert names(installed) == {
        name for name in everything if not any(f"{name}.".startswith(f"{study}.") for study in studies)
    }


def test_data_files_are_there(installed: Path) -> None:
    for name in OURS:
        for path in (REPOSITORY / name).rglob("*"):
            place = path.relative_to(REPOSITORY)
            if path.is_file() and not {"__pycache__", *STUDIES} & set(place.parts):
                assert (installed / place).is_file(), place


def test_what_is_installed_imports_nothing_that_is_not(installed: Path) -> None:
    there = names(installed)
    for path in installed.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in OURS or node.module in there, f"{path}: {node.module}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.split(".")[0] not in OURS or alias.name in there, (
                        f"{path}: {alias.name}"
                    )


@pytest.mark.parametrize("command", ["client.run", "server.run", "simulations.run", "simulations.pretrain"])
def test_the_commands_start_from_what_is_installed(installed: Path, command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python -m {command}" in done.stdout


@pytest.mark.parametrize("study", STUDIES)
def test_a_tool_for_studies_runs_from_a_checkout(installed: Path, study: str) -> None:
    """As a person has it who installed the package, and types the command in the folder of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-m", f"simulations.{study}", "--help"],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python -m simulations.{study}" in done.stdout
