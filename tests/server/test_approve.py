"""`python -m server.approve`, as the consortium's operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from joining import Joining

from acm_core.audit_events import SiteApproved
from acm_core.audit_log import verify
from acm_core.trust import certificates, keys
from acm_core.trust.enrolment import Request


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    joining = Joining(tmp_path, capsys, monkeypatch)
    joining.config("fed.example.org", "10.0.0.5")
    assert joining.init().code == 0
    assert joining.ask(server="fed.example.org:9092").code == 0
    return joining


def active(joining: Joining) -> dict[str, str]:
    return {site.name: site.public_key for site in joining.registry.active()}


def approved_rows(joining: Joining) -> list[SiteApproved]:
    return [row.event for row in verify(joining.state.audit).rows if isinstance(row.event, SiteApproved)]


def test_a_site_is_let_in_when_the_operator_has_compared(joining: Joining) -> None:
    joining.types("yes")
    said = joining.approve()
    assert (said.code, said.err) == (0, "")
    request, answer = joining.request, joining.answer_file
    assert request.fingerprint in said.out.partition("[yes/no]")[0], "shown before it is asked"
    assert active(joining) == {"A": request.public_key}
    assert (answer.site, answer.key, answer.federation) == ("A", request.fingerprint, "chest")
    assert answer.server == "fed.example.org:9092"
    assert answer.authority.encode() == joining.state.authority.read_bytes()
    assert certificates.spoken(answer.authority_fingerprint) in said.out
    assert approved_rows(joining) == [SiteApproved(site="A", key=request.fingerprint)]


@pytest.mark.parametrize("typed", ["no", "", "y", "yes please", "SHA256:"])
def test_anything_but_yes_lets_nobody_in(joining: Joining, typed: str) -> None:
    joining.types(typed)
    said = joining.approve()
    assert said.code == 1
    assert "not confirmed: nothing was registered" in said.err
    assert active(joining) == {}
    assert approved_rows(joining) == []
    assert not (joining.folder / "answer-A.json").exists()


def test_interrupted_at_the_question_it_lets_nobody_in(
    joining: Joining, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_question: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    said = joining.approve()
    assert said.code == 1
    assert "nothing was registered" in said.err
    assert active(joining) == {}


def test_the_fingerprint_may_be_given_instead(joining: Joining) -> None:
    said = joining.approve("--fingerprint", "SHA256:" + "A" * 43)
    assert said.code == 1
    assert "got a request of another key: nothing was registered" in said.err
    assert active(joining) == {}
    assert joining.approve("--fingerprint", joining.request.fingerprint).code == 0
    assert list(active(joining)) == ["A"]


def test_the_answer_lies_beside_the_request(joining: Joining) -> None:
    (joining.folder / "mail").mkdir()
    (joining.folder / "request-A.json").rename(joining.folder / "mail" / "r.json")
    joining.types("yes")
    assert joining.approve(request="mail/r.json").code == 0
    assert (joining.folder / "mail" / "answer-A.json").exists()


def test_to_approve_again_writes_the_answer_again_and_asks_nothing(joining: Joining) -> None:
    joining.types("yes")
    joining.approve()
    (joining.folder / "answer-A.json").unlink()
    joining.types("")
    said = joining.approve()
    assert said.code == 0
    assert "the answer is written again" in said.out
    assert joining.answer_file.site == "A"
    assert len(approved_rows(joining)) == 1


def test_a_request_that_was_changed_is_refused(joining: Joining) -> None:
    path = joining.folder / "request-A.json"
    path.write_text(path.read_text().replace('"A"', '"B"'))
    joining.types("yes")
    said = joining.approve()
    assert said.code == 2
    assert "the signature is not of this key over this request" in said.err
    assert active(joining) == {}


def test_a_dead_key_is_refused_and_told_how_to_come_back(joining: Joining) -> None:
    joining.types("yes")
    joining.approve()
    joining.remove("A")
    said = joining.approve()
    assert said.code == 2
    assert "stays out for ever: at the site, move federation/site.key out of its state folder" in said.err
    joining.key_file.rename(joining.folder / "old.key")
    joining.ask(server="fed.example.org:9092")
    assert joining.approve().code == 0
    assert active(joining) == {"A": joining.request.public_key}


def test_another_key_in_a_members_name_is_refused_before_anybody_is_asked(joining: Joining) -> None:
    joining.types("yes")
    joining.approve()
    before = active(joining)
    other = keys.create_key(joining.folder / "other.key")
    Request.signed("A", other).write(joining.folder / "forged.json")
    said = joining.approve(request="forged.json")
    assert said.code == 2
    assert "python -m server.remove A" in said.err
    assert "yes/no" not in said.out
    Request.signed("B", keys.load_key(joining.key_file)).write(joining.folder / "same.json")
    said = joining.approve(request="same.json")
    assert said.code == 2
    assert "expected B's own key, got that of site A" in said.err
    assert active(joining) == before


def test_a_site_that_the_federation_file_does_not_name_is_pointed_out(joining: Joining) -> None:
    joining.config("fed.example.org", sites=("B", "C"))
    joining.types("yes")
    said = joining.approve()
    assert said.code == 0
    assert "note: A is not among federation.sites of chest (B, C)" in said.out


def test_another_version_is_pointed_out(joining: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_core.trust.enrolment.version", lambda name: "0.0.9")
    joining.ask(server="fed.example.org:9092")
    monkeypatch.undo()
    monkeypatch.chdir(joining.folder)
    said = joining.approve("--fingerprint", joining.request.fingerprint)
    assert said.code == 0
    assert "and the site 0.0.9: it will refuse to train until both have the same" in said.out


def test_without_server_init_the_next_command_is_said(joining: Joining) -> None:
    said = joining.approve("--state", "elsewhere")
    assert said.code == 2
    assert "run `python -m server.init --state elsewhere`" in said.err


def test_an_answer_that_cannot_be_written_is_written_by_the_next_call(joining: Joining) -> None:
    (joining.folder / "answer-A.json").mkdir()
    joining.types("yes")
    said = joining.approve()
    assert said.code == 1
    assert "run it again when that is mended" in said.err
    (joining.folder / "answer-A.json").rmdir()
    assert joining.approve().code == 0
    assert joining.answer_file.site == "A"


def test_what_cannot_be_written_down_does_not_happen(joining: Joining) -> None:
    log = joining.state.audit / "audit.jsonl"
    log.write_bytes(b"another log\n")
    joining.types("yes")
    assert joining.approve().code == 1
    assert active(joining) == {}
