"""The systemd units: systemd takes them, they give a process little, and wrong input is not tried again."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = {"acm-fed-server": "federation", "acm-fed-site": "A"}
MOST_EXPOSED = 15  # of 100, by systemd-analyze security

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def settings(unit: str, instance: str) -> dict[str, list[str]]:
    """Setting → its values, %i and %S resolved."""
    found: dict[str, list[str]] = {}
    for line in (REPOSITORY / "deploy" / f"{unit}@.service").read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value.replace("%i", instance).replace("%S", "/var/lib"))
    return found


def instantiated(unit: str, folder: Path) -> Path:
    """The unit of one instance, its programs being this environment's."""
    text = (REPOSITORY / "deploy" / f"{unit}@.service").read_text(encoding="utf-8")
    path = folder / f"{unit}@{UNITS[unit]}.service"
    path.write_text(text.replace("/opt/acm-fed/bin/python", sys.executable), encoding="utf-8")
    return path


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    path = instantiated(unit, tmp_path)
    command = ["systemd-analyze", "verify", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if unit in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_process_of_the_unit_can_do_little(unit: str, tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}"]
    command.append(str(instantiated(unit, tmp_path)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_it_ends_as_the_commands_end(unit: str) -> None:
    found = settings(unit, UNITS[unit])
    assert found["KillSignal"] == ["SIGINT"]
    assert found["KillMode"] == ["mixed"]
    assert found["Restart"] == ["on-failure"]
    assert found["RestartPreventExitStatus"] == ["2"]
    assert found.get("SuccessExitStatus", []) == (["130"] if unit == "acm-fed-server" else [])


def test_a_wrong_site_file_is_no_reason_to_try_again(tmp_path: Path) -> None:
    found = settings("acm-fed-site", "A")
    (line,) = found["ExecStart"]
    command = line.replace("/opt/acm-fed/bin/python", sys.executable).replace("/etc/acm-fed", str(tmp_path))
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert str(done.returncode) in found["RestartPreventExitStatus"]
    assert "A.yaml: expected a file" in done.stderr


def test_the_server_goes_on_with_its_run_and_leaves_a_finished_one_alone(tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    stand_in.chmod(0o755)
    found = settings("acm-fed-server", "chest")
    (line,) = found["ExecStart"]
    shell = re.fullmatch(r"/bin/sh -c '(.*)' sh", line)
    assert shell is not None

    def started() -> str:
        command = ["/bin/sh", "-c", shell[1].replace("/opt/acm-fed/bin/python", str(stand_in)), "sh"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert started() == "-m server.run --config /etc/acm-fed/chest.yaml\n"
    (tmp_path / "runs" / "chest").mkdir(parents=True)
    (tmp_path / "runs" / "chest" / "config.yaml").touch()
    assert started() == "-m server.run --config /etc/acm-fed/chest.yaml --resume\n"
    folder = found["WorkingDirectory"][0]
    assert found["ConditionPathExists"] == [f"!{folder}/runs/chest/model_card.md"]
