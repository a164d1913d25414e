"""`python -m server.audit`, as an operator or an incident responder runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chains import chained, write_head

from acm_core.audit_events import PeerRefused, ReplyTaken, ServerStarted, SiteApproved, TaskReceived, TaskSent
from acm_core.audit_log import AuditLog, audit_folder, verify
from acm_core.federated.messages import TaskKind
from server.audit import main

ROOT = Path(__file__).resolve().parents[2]
HASH = "0123456789abcdef" * 4
HEAVY = {"torch", "monai", "flwr", "numpy", "pydantic", "rich"}
ABOUT: dict[str, Any] = {"run": "chest", "round": 3, "task": TaskKind.TRAIN}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    log = AuditLog(audit_folder(tmp_path / "server_state"))
    log.append(ServerStarted(version="0.1.0", bundle=HASH, certificate=None))
    log.append(SiteApproved(site="A", key=HASH))
    log.append(SiteApproved(site="B", key=HASH))
    for site in "AB":
        sent = log.append(TaskSent(**ABOUT, site=site, model=HASH, bytes=1000))
        taken = {"sha256": HASH, "bytes": 500, "films": 7, "site_head": None}
        log.append(ReplyTaken(**ABOUT, site=site, **taken))
        AuditLog(tmp_path / site).append(
            TaskReceived(**ABOUT, config=HASH, model=HASH, bytes=1000, server_head=sent.hash)
        )
    log.append(PeerRefused(address="192.0.2.7", path="other", status=404, reason="not_for_sites"))
    return tmp_path / "server_state"


def asked(state: Path, *arguments: str) -> list[str]:
    command, *options = arguments
    return [command, "--state", str(state), *options]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_a_sound_log(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(state, "verify")) == 0
    first, second = said(capsys)
    assert first.startswith(
        f"audit log of the server in {state / 'audit'}: 8 rows, chain verified, the first of 20"
    )
    assert second == f"head: {verify(state / 'audit').rows[-1].hash}"


def test_an_unfinished_row_is_told(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (state / "audit" / "audit.jsonl").open("ab") as file:
        file.write(b'{"event":')
    assert main(asked(state, "verify")) == 0
    assert "after them 9 bytes of a row whose writer was killed" in said(capsys)[-1]


@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_broken_log_is_told_with_its_row(
    state: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = state / "audit" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"site":"B"', b'"site":"C"', 1))
    assert main(asked(state, command)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(
        "expected the audit log as it was written, got another row 2: what happened can"
    )


def test_a_log_that_cannot_be_read_is_not_sound(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "audit" / "audit.jsonl").unlink()
    (state / "audit" / "audit.jsonl").mkdir()
    assert main(asked(state, "verify")) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_the_other_sides_log_is_a_witness(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    witness = tmp_path / "A"
    assert main(asked(state, "verify", "--witness", str(witness))) == 0
    assert said(capsys)[-1] == f"rows that the log in {witness} speaks of: 1, all here"
    AuditLog(witness).append(TaskReceived(**ABOUT, config=HASH, model=None, bytes=0, server_head="e" * 64))
    assert main(asked(state, "verify", "--witness", str(witness))) == 1
    assert "got none for its row 1: one of the two is an older copy" in capsys.readouterr().err
    (witness / "head.json").unlink()
    assert main(asked(state, "verify", "--witness", str(witness))) == 1
    assert capsys.readouterr().err.startswith(
        f"--witness: expected {witness}/head.json to end with the audit log"
    )
    assert main(asked(state, "verify", "--witness", str(tmp_path / "away"))) == 2
    assert "--witness: expected an audit log in" in capsys.readouterr().err


def test_rows_are_shown(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(state, "show")) == 0
    title, *rows, last = said(capsys)
    assert title.split() == ["row", "time", "(UTC)", "kind", "what"]
    assert last == "8 of 8 rows, chain verified"
    assert [int(row.split()[0]) for row in rows] == list(range(8))
    assert rows[0].endswith("  server_started       version=0.1.0 bundle=0123456789ab")
    assert rows[3].endswith("run=chest round=3 task=train site=A model=0123456789ab bytes=1000")
    assert rows[7].endswith("address=192.0.2.7 path=other status=404 reason=not_for_sites")
    assert len({row.index("  ", 10) for row in rows}) == 1


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("--site", "A"), [1, 3, 4]),
        (("--kind", "task_sent"), [3, 5]),
        (("--kind", "task_sent", "peer_refused"), [3, 5, 7]),
        (("--kind", "task_sent", "--site", "B"), [5]),
        (("--site", "C"), []),
    ],
)
def test_some_rows_are_shown(
    state: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], rows: list[int]
) -> None:
    assert main(asked(state, "show", *options)) == 0
    _, *lines, last = said(capsys)
    assert [int(line.split()[0]) for line in lines] == rows
    assert last.startswith(f"{len(rows)} of 8 rows")


def test_wrong_input_is_told(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(state, "show", "--kind", "task_send")) == 2
    assert "--kind: expected some of row_cut, " in capsys.readouterr().err
    assert main(asked(state / "away", "verify")) == 2
    assert f"expected an audit log in {state / 'away' / 'audit'}, found none" in capsys.readouterr().err
    assert not (state / "away").exists()
    for arguments in ([], ["prove"]):
        with pytest.raises(SystemExit, match=r"\A2\Z"):
            main(arguments)


def test_every_time_that_a_row_can_have_is_shown(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (state / "audit" / "audit.jsonl").read_bytes().splitlines()]
    lines = chained([rows[0] | {"time": 0}, rows[1] | {"time": 2**37 - 1}])
    (state / "audit" / "audit.jsonl").write_bytes(b"".join(lines))
    write_head(state / "audit" / "head.json", lines)
    assert main(asked(state, "show")) == 0
    out = capsys.readouterr().out
    assert "0  1970-01-01 00:00:00  server_started" in out
    assert "1  6325-04-08 15:04:31  site_approved" in out


def test_the_command_starts_at_once_and_works(state: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "server.audit", "verify", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--witness" in done.stdout
    names = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "argparse" in names
    assert not HEAVY & names
    done = subprocess.run(
        [sys.executable, "-m", "server.audit", *asked(state, "show", "--site", "B")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "3 of 8 rows, chain verified"
