"""`python -m server.doctor`, as the operator runs it before a federation begins."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from consortium import Consortium
from joining import Joining

from acm_core.processes import free_port
from server import doctor


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    joining = Joining(tmp_path, capsys, monkeypatch)
    listen_on(joining, free_port())
    return joining


def listen_on(joining: Joining, port: int) -> None:
    file = joining.folder / "federation.yaml"
    file.write_text(re.sub(r"port: \d+", f"port: {port}", file.read_text()))


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = doctor.main(["--config", "federation.yaml"])
    return code, capsys.readouterr().out


def test_a_server_that_is_ready_has_a_row_for_each_thing(
    joining: Joining, capsys: pytest.CaptureFixture[str]
) -> None:
    joining.config("127.0.0.1", sites=("A",))
    listen_on(joining, free_port())
    joining.join()
    code, shown = examined(capsys)
    assert code == 0, shown
    for row in ("versions", "certificate", "sites", "port", "disk", "temporary folder", "open files"):
        assert re.search(rf"^ok  {row} ", shown, re.MULTILINE), row
    assert shown.endswith("chest can be served\n")


def test_nothing_is_made_yet(joining: Joining, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = examined(capsys)
    assert code == 1
    assert "run `python -m server.init" in shown
    assert sorted(path.name for path in joining.folder.iterdir()) == ["A.yaml", "federation.yaml"]


def test_a_site_that_is_still_to_join_is_named(joining: Joining, capsys: pytest.CaptureFixture[str]) -> None:
    joining.join()
    code, shown = examined(capsys)
    assert code == 1
    assert "1 of 2 are members" in shown
    assert "→ still to join: B" in shown


def test_a_port_that_something_else_has(joining: Joining, capsys: pytest.CaptureFixture[str]) -> None:
    joining.join()
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen_on(joining, other.getsockname()[1])
        other.settimeout(0.1)
        _, shown = examined(capsys)
    assert "Address already in use" in shown
    assert "→ end what listens there, or set server.port" in shown


def test_an_address_of_another_machine(joining: Joining, capsys: pytest.CaptureFixture[str]) -> None:
    joining.config("fed.example.org", host="192.0.2.1")
    joining.types("yes")
    assert joining.init().code == 0
    _, shown = examined(capsys)
    assert "192.0.2.1:9092: Cannot assign requested address" in shown


def test_the_port_of_the_server_that_runs_there(
    tmp_path: Path, joining: Joining, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Consortium(tmp_path / "consortium", "A")
    try:
        listen_on(joining, running.port)
        code = doctor.main(["--config", "federation.yaml", "--state", str(running.state.folder)])
    finally:
        running.end()
    assert code == 1  # B has not joined
    assert f"{running.port}: a server of this federation answers" in capsys.readouterr().out


def test_a_wrong_file_is_told_as_everywhere(joining: Joining, capsys: pytest.CaptureFixture[str]) -> None:
    (joining.folder / "federation.yaml").write_text("name: 1\n")
    assert doctor.main(["--config", "federation.yaml"]) == 2
    assert "federation.yaml" in capsys.readouterr().err
