"""The documentation: commands that exist, files that are there, settings that are valid.

`tests/test_tutorials.py` runs the tutorials' commands.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import DOCUMENTS, REPOSITORY, blocks, commands

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from simulations.settings import SimulationConfig

OURS = re.compile(r"python3? (?:-W ignore )?-m ((?:server|client|simulations)[.\w]*)(.*)")
ELSEWHERE = {
    "make test": ".ci/run",
    "make soak": "tests/server/test_soak.py",
    "python -m pytest -m soak -s tests/client/test_archive_soak.py": "tests/client/test_archive_soak.py",
    "make results": "tests/simulations/tables/test_tables.py",
    "docker": "tests/docker/test_compose.py",
    "systemctl": "tests/docker/test_units.py",
    "cp deploy": "tests/docker/test_units.py",
    "useradd": "docs/DEPLOYMENT.md",  # by hand, see "What was tried, and what was not" there
    "install -d": "docs/DEPLOYMENT.md",
    "mkdir -p ../data": "docs/DEPLOYMENT.md",
    "/opt/acm-fed/bin/pip install": "tests/docker/test_dockerfile.py",
    "python3 -m venv": "Makefile",
    ".venv/bin/pip install": "tests/docker/test_dockerfile.py",
}
"""What cannot be typed in a test, or needs hours, and where what it does is tried as far as it can be."""
BY_TUTORIALS = ("make demo", "source ", "sed ", "cat ", "cd ")
SITE = {"site": "A", "films": "films", "labels": "labels.csv", "state": "state"}
FEDERATION = {
    "name": "test",
    "findings": ["Pneumonia"],
    "privacy": "off",
    "federation": {"sites": ["A"], "rounds": 2},
}


class ParsedError(Exception):
    """The options were taken."""


@pytest.fixture
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        original(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    yield


def every_command() -> list[Any]:
    return [
        pytest.param(command, id=f"{document.name}: {command}"[:90])
        for document in DOCUMENTS
        for command in dict.fromkeys(commands(document))
    ]


@pytest.mark.parametrize("command", every_command())
@pytest.mark.usefixtures("only_parsing")
def test_a_command_in_the_documentation_exists_with_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = OURS.search(command)
    if ours is None:
        known = [start for start in (*ELSEWHERE, *BY_TUTORIALS) if command.startswith(start)]
        assert known, f"expected a command that a test runs, got {command}: see ELSEWHERE"
        return
    name, words = ours[1], [word.split("|") for word in shlex.split(ours[2])]
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    for options in itertools.product(*words):
        try:
            with contextlib.suppress(ParsedError):
                module.main(list(options))
                pytest.fail(f"expected {name} to read its options")
        except SystemExit:
            pytest.fail(capsys.readouterr().err)


def test_what_is_tried_elsewhere_is_there() -> None:
    assert {place for place in ELSEWHERE.values() if not (REPOSITORY / place).is_file()} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    lost = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    roots = ("acm_core", "server", "client", "simulations", "configs", "docker", "deploy", "tests", "docs")
    paths = re.findall(rf"`((?:{'|'.join(roots)})/[\w/.-]+\.\w+)(?:::\w+)?`", text)
    made = ("docker/compose.override.yaml", "docker/.env")
    lost += [path for path in paths if path not in made and not (REPOSITORY / path).exists()]
    assert lost == []


def every_setting() -> list[Any]:
    return [
        pytest.param(block.text, id=f"{document.name}-{number}")
        for document in DOCUMENTS
        for number, block in enumerate(blocks(document, "yaml"), 1)
    ]


@pytest.mark.parametrize("text", every_setting())
def test_settings_in_the_documentation_are_valid(text: str) -> None:
    settings = yaml.safe_load(text)
    site = {"site", "films", "label_map", "policy"} & settings.keys() or "population" in settings.get(
        "privacy", {}
    )
    if "simulation" in settings:
        folders = settings["simulation"]["folders"]
        federation = {**FEDERATION, "federation": {"sites": list(folders), "rounds": 2}}
        config: Any = SimulationConfig.model_validate({**federation, **settings})
        assert config.simulation.sites == tuple(folders)
    elif site:
        config = SiteConfig.model_validate({**SITE, **settings})
        assert config.site == "A"
    else:
        federation = {**FEDERATION, **settings}
        federation["federation"] = {"sites": list("ABCDE"), "rounds": 2, "quorum": 5} | settings.get(
            "federation", {}
        )
        config = FederationConfig.model_validate(federation)
    for key in settings:
        assert key in config.model_fields_set
