"""`python -m client.audit verify` and `show`, as a hospital's data protection officer has them run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from acm_core.audit_events import ClientStopped, Left, ReplyTaken, TaskRefused
from acm_core.audit_log import AuditLog, audit_folder
from acm_core.federated.messages import Refusal, TaskKind
from client.audit import main

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef" * 4
HEAVY = {"torch", "opacus", "monai", "flwr", "numpy", "pydantic", "rich"}
ABOUT: dict[str, Any] = {"run": "chest", "round": 3, "task": TaskKind.TRAIN}


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    (tmp_path / "labels.csv").touch()
    paths = {name: str(tmp_path / name) for name in ("films", "state")}
    (tmp_path / "A.yaml").write_text(
        yaml.safe_dump({"site": "A", "labels": str(tmp_path / "labels.csv"), **paths})
    )
    log = AuditLog(audit_folder(tmp_path / "state"))
    log.append(TaskRefused(**ABOUT, reason=Refusal.PRIVACY, policy="privacy.required"))
    left = log.append(Left(**ABOUT, sha256=HASH, bytes=500, fields=("arrays", "films"), epsilon=0.25))
    server = AuditLog(tmp_path / "server")
    for site, head in (("A", left.hash), ("B", "e" * 64)):
        server.append(ReplyTaken(**ABOUT, site=site, sha256=HASH, bytes=500, films=7, site_head=head))
    return tmp_path


def asked(hospital: Path, *arguments: str) -> list[str]:
    command, *options = arguments
    return [command, "--site", "A", "--sites", str(hospital), *options]


def test_a_sound_log(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(hospital, "verify")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    folder = hospital / "state" / "audit"
    assert captured.out.startswith(f"audit log of site A in {folder}: 2 rows, chain verified")


def test_what_left_is_shown(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(hospital, "show")) == 0
    _, refused, left, _ = capsys.readouterr().out.splitlines()
    assert refused.endswith("run=chest round=3 task=train reason=privacy policy=privacy.required")
    about = "run=chest round=3 task=train sha256=0123456789ab bytes=500 fields=arrays,films epsilon=0.25"
    assert left.endswith(f"  left                 {about}")
    assert main(asked(hospital, "show", "--kind", "left")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 rows, chain verified"


def test_a_broken_log_is_told_with_its_row(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hospital / "state" / "audit" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epsilon":0.25', b'"epsilon":0.02'))
    assert main(asked(hospital, "verify")) == 1
    assert "got another row 1: " in capsys.readouterr().err


def test_the_servers_log_is_a_witness(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    witness = ["--witness", str(hospital / "server")]
    assert main(asked(hospital, "verify", *witness)) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" speaks of: 1, all here")
    for path in (hospital / "state" / "audit").iterdir():
        path.unlink()
    AuditLog(hospital / "state" / "audit").append(ClientStopped())
    assert main(asked(hospital, "verify", *witness)) == 1
    assert "got none for its row 0: one of the two is an older copy" in capsys.readouterr().err


def test_wrong_input_is_told(hospital: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--site", "B", "--sites", str(hospital)]) == 2
    assert "B.yaml: expected a file" in capsys.readouterr().err
    (hospital / "state").rename(hospital / "elsewhere")
    assert main(asked(hospital, "show")) == 2
    assert f"expected an audit log in {hospital / 'state' / 'audit'}, found none" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"\A2\Z"):
        main(["verify"])


def test_without_verify_or_show_it_is_the_test_of_private_training(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = hospital / "federation.yaml"
    settings = {
        "name": "run",
        "findings": ["Nodule"],
        "privacy": "off",
        "federation": {"sites": ["A"], "rounds": 1},
    }
    federation.write_text(yaml.safe_dump(settings))
    assert main(["--site", "A", "--sites", str(hospital), "--config", str(federation)]) == 2
    assert (
        "expected a run with differential privacy, got off: there is nothing to test"
        in capsys.readouterr().err
    )


def test_the_command_starts_at_once_and_works(hospital: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "client.audit", "show", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m client.audit show" in done.stdout
    names = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "argparse" in names
    assert not HEAVY & names
    done = subprocess.run(
        [sys.executable, "-m", "client.audit", *asked(hospital, "verify")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 rows, chain verified" in done.stdout
