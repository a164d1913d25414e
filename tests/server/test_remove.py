"""`python -m server.remove`, as the consortium's operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from joining import Joining

from acm_core.audit_events import SiteRemoved
from acm_core.audit_log import verify


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    joining = Joining(tmp_path, capsys, monkeypatch)
    joining.join()
    return joining


def test_a_removed_site_takes_no_part_and_the_others_do(joining: Joining) -> None:
    joining.site_file("B")
    joining.ask(site="B")
    assert joining.approve(request="request-B.json").code == 0
    running = joining.registry
    said = joining.remove("A")
    assert (said.code, said.err) == (0, "")
    assert joining.request.fingerprint in said.out
    assert "A running server cuts it off" in said.out
    assert [site.name for site in running.newest().active()] == ["B"]
    assert verify(joining.state.audit).rows[-1].event == SiteRemoved(
        site="A", key=joining.request.fingerprint
    )


def test_whoever_takes_no_part_cannot_be_removed(joining: Joining) -> None:
    rows = len(verify(joining.state.audit).rows)
    said = joining.remove("B")
    assert said.code == 2
    assert said.err == "expected a site that takes part (A), got B\n"
    assert joining.remove("A").code == 0
    assert joining.remove("A").code == 2
    assert len(verify(joining.state.audit).rows) == rows + 1


def test_without_a_registry_nothing_is_made(joining: Joining) -> None:
    said = joining.remove("A", "--state", "elsewhere")
    assert said.code == 2
    assert "elsewhere/sites.json" in said.err
    assert not (joining.folder / "elsewhere").exists()


def test_what_cannot_be_written_down_does_not_happen(joining: Joining) -> None:
    (joining.state.audit / "audit.jsonl").write_bytes(b"another log\n")
    assert joining.remove("A").code == 1
    assert [site.name for site in joining.registry.active()] == ["A"]
