"""The Dockerfile: pinned, nobody's root, and exactly the files that it needs."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TARGETS = ("server", "client", "client-cuda", "films")
INSTALLED = ("acm_core", "client", "server")


@dataclass
class Stage:
    """One FROM and what follows; the instructions of the stage that it begins with come first."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        return [value for name, value in self.instructions if name == instruction][-1]

    def copied(self) -> list[str]:
        """What it copies out of the build context."""
        values = [value for name, value in self.instructions if name == "COPY"]
        return [
            source for value in values if not value.startswith("--from=") for source in value.split()[:-1]
        ]


def read_stages() -> tuple[str, dict[str, Stage]]:
    """The base image and the stages by name."""
    text = (REPOSITORY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    instructions = [(name, value) for name, _, value in (line.partition(" ") for line in lines) if name]
    assert instructions[0][0] == "ARG"
    base = instructions[0][1]
    stages: dict[str, Stage] = {}
    for name, value in instructions[1:]:
        if name == "FROM":
            source, keyword, stage = value.split()
            assert keyword == "AS"
            stages[stage] = Stage() if source == "${PYTHON}" else Stage(list(stages[source].instructions))
        else:
            stages[stage].instructions.append((name, value.strip()))
    return base, stages


BASE, STAGES = read_stages()


def test_the_base_image_is_pinned() -> None:
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-bookworm", BASE)


def test_what_is_copied_is_there_and_nothing_else_is_sent_to_the_engine() -> None:
    copied = {source for stage in STAGES.values() for source in stage.copied()}
    assert all((REPOSITORY / source).exists() for source in copied)
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert [rule for rule in rules[1:] if not rule.startswith("!")] == ["**/__pycache__"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_is_not_root_and_ends_on_interrupt(target: str) -> None:
    stage = STAGES[target]
    assert stage.last("USER") == "10001:10001"
    assert stage.last("STOPSIGNAL") == "SIGINT"
    assert stage.last("WORKDIR") == stage.last("VOLUME") == "/home/acmfed"
    assert "PYTHONSAFEPATH=1" in stage.last("ENV") or target == "films"


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_installed_is_pinned_and_leaves_nothing_behind(target: str) -> None:
    (source,) = {value.split()[0] for name, value in STAGES[target].instructions if "--from=" in value}
    built = STAGES[source.removeprefix("--from=")]
    assert "PIP_CONSTRAINT=/sources/constraints.txt" in built.last("ENV")
    assert "PIP_NO_CACHE_DIR=1" in built.last("ENV")
    installed = [value for name, value in STAGES[target].instructions if "apt-get install" in value]
    assert len(installed) == (target == "client-cuda")  # Triton needs a compiler
    assert all("rm --recursive /var/lib/apt/lists/*" in value for value in installed)


def test_every_image_is_built_by_compose() -> None:
    targets = set()
    for name in ("compose.yaml", "compose.cuda.yaml"):
        services = yaml.safe_load((REPOSITORY / "docker" / name).read_text(encoding="utf-8"))["services"]
        for service in services.values():
            assert service["build"]["dockerfile"] == "docker/Dockerfile"
            targets.add(service["build"]["target"])
    assert targets == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_commands_name_modules_that_are_there(target: str) -> None:
    program, option, module, *_ = json.loads(STAGES[target].last("CMD"))
    assert (program, option) == ("python", "-m")
    if target == "films":
        assert "docker/films.py" in STAGES[target].copied()
    else:
        assert importlib.util.find_spec(module) is not None
        check = STAGES[target].last("HEALTHCHECK").partition("CMD ")[2]
        assert json.loads(check) == ["python", "/opt/health.py", target.removesuffix("-cuda")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of exactly the files that the image's sources have."""
    folder = tmp_path_factory.mktemp("image")
    for name in STAGES["sources"].copied():
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / "sources" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "sources").mkdir(exist_ok=True)
            shutil.copy(source, folder / "sources")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    install += ["--no-build-isolation", "--target", str(folder / "installed"), str(folder / "sources")]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    return folder / "installed"


def test_the_copied_files_suffice(installed: Path) -> None:
    """Every module of the image names only modules that are in the image, and its data files are there."""
    assert {path.name for path in installed.iterdir() if path.is_dir() and "-info" not in path.name} == set(
        INSTALLED
    )
    modules = {
        ".".join(path.relative_to(installed).with_suffix("").parts).removesuffix(".__init__")
        for path in installed.rglob("*.py")
    }
    ours = {*INSTALLED, "simulations"}
    for path in [*installed.rglob("*.py"), REPOSITORY / "docker" / "health.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] not in ours or name in modules, f"{path}: {name}"
    for name in INSTALLED:
        there = {path.relative_to(REPOSITORY) for path in (REPOSITORY / name).rglob("*.html")}
        assert all((installed / path).is_file() for path in there)


@pytest.mark.parametrize("command", ["server.run", "server.init", "client.run", "client.enrol"])
def test_the_commands_start_from_what_is_installed(installed: Path, command: str) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['{command}', '--help']\n"
        f"try: runpy.run_module('{command}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        f"own = [module for name, module in sys.modules.items() if name.split('.')[0] in {INSTALLED!r}]\n"
        "print(*(module.__file__ for module in own), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert f"python -m {command}" in done.stdout
    files = [line for line in done.stdout.splitlines() if line.endswith(".py")]
    assert files
    assert all(file.startswith(str(installed)) for file in files)
