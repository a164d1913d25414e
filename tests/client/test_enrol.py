"""`python -m client.enrol`, as a hospital's engineer runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import dies_at_change
from hospital_pki import issued
from joining import Joining

from acm_core.audit_events import Enrolled
from acm_core.audit_log import audit_folder, verify
from acm_core.trust import certificates, keys
from acm_core.trust.enrolment import Answer, Request
from client import enrol
from client.site.membership import Membership, NotEnrolledError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, capsys, monkeypatch)


@pytest.fixture
def answered(joining: Joining) -> Joining:
    """The answer is there and not yet installed."""
    joining.types("yes")
    for said in (joining.init(), joining.ask(), joining.approve()):
        assert said.code == 0
    return joining


def answer_of_another_authority(joining: Joining, **changes: str) -> None:
    values = {"federation": "chest", "server": "127.0.0.1:9092", **changes}
    authority = certificates.make_authority("chest").certificate
    Answer.to(joining.request, authority=authority, **values).write(joining.folder / "answer-A.json")


def test_it_makes_the_key_and_the_request_and_needs_no_films(joining: Joining) -> None:
    said = joining.ask()
    assert (said.code, said.err) == (0, "")
    key = keys.load_key(joining.key_file)
    assert joining.request.public_key == keys.public_text(key.public_key())
    assert joining.request.fingerprint in said.out
    assert str(joining.key_file) in said.out
    assert "--answer answer-A.json" in said.out
    assert not joining.site.films.exists()


def test_asked_again_it_has_the_same_key_and_a_new_request(joining: Joining) -> None:
    joining.ask()
    first, key = joining.request, joining.key_file.read_bytes()
    (joining.folder / "request-A.json").unlink()
    said = joining.ask()
    assert said.code == 0
    assert joining.key_file.read_bytes() == key
    assert joining.request.fingerprint == first.fingerprint


def test_the_answer_makes_it_a_member_once_people_have_compared(answered: Joining) -> None:
    said = answered.answer()
    assert (said.code, said.err) == (0, "")
    answer = answered.answer_file
    assert certificates.spoken(answer.authority_fingerprint) in said.out.partition("[yes/no]")[0]
    assert "python -m client.run --site=A" in said.out
    membership = Membership.load(answered.site)
    assert membership.authority.read_text() == answer.authority
    assert [row.event for row in verify(audit_folder(answered.site.state)).rows] == [
        Enrolled(site="A", key=answer.key, authority=answer.authority_fingerprint)
    ]


@pytest.mark.parametrize("typed", ["no", "", "y"])
def test_without_a_yes_nothing_changes(answered: Joining, typed: str) -> None:
    before = sorted(answered.key_file.parent.iterdir())
    answered.types(typed)
    said = answered.answer()
    assert said.code == 1
    assert "not confirmed: nothing was changed" in said.err
    assert sorted(answered.key_file.parent.iterdir()) == before


def test_the_fingerprint_may_be_given_however_it_was_noted(answered: Joining) -> None:
    fingerprint = answered.answer_file.authority_fingerprint
    said = answered.answer("--authority-fingerprint", "0" * 64)
    assert said.code == 1
    assert (
        f"expected the authority {'0' * 64}, got {certificates.spoken(fingerprint)}: nothing was changed"
        in said.err
    )
    answered.types("")
    noted = certificates.spoken(fingerprint).lower().replace("-", " ")
    assert answered.answer("--authority-fingerprint", noted).code == 0


def test_the_operators_address_counts(answered: Joining) -> None:
    answered.config("fed.example.org", "127.0.0.1")
    answered.init("--renew")
    answered.approve()
    said = answered.answer()
    assert said.code == 0
    assert "you gave 127.0.0.1:9092; the operator says fed.example.org:9092, which is used" in said.out
    assert Membership.load(answered.site).address == "fed.example.org:9092"


def test_answers_to_others_are_refused(answered: Joining) -> None:
    answered.site_file("B")
    answered.ask(site="B")
    said = answered.enrol("--answer", "answer-A.json", site="B")
    assert said.code == 2
    assert "expected an answer to site B, got one to A" in said.err
    answered.key_file.unlink()
    answered.ask()
    said = answered.answer()
    assert said.code == 2
    assert "expected an answer to this site's key SHA256:" in said.err


def test_an_answer_before_the_question_is_refused(answered: Joining) -> None:
    answered.site_file("B")
    said = answered.enrol("--answer", "answer-A.json", site="B")
    assert said.code == 2
    assert "--server HOST:PORT` first" in said.err
    assert not (answered.folder / "B" / "state").exists()


def test_a_forged_answer_is_only_as_good_as_the_comparison(answered: Joining) -> None:
    honest = answered.answer_file.authority_fingerprint
    answer_of_another_authority(answered)
    assert answered.answer("--authority-fingerprint", honest).code == 1
    path = answered.folder / "answer-A.json"
    path.write_text(path.read_text().replace("127.0.0.1:9092", "127.0.0.1:9093"))
    assert "changed after it was written" in answered.answer().err


def test_another_authority_later_needs_another_comparison(joining: Joining) -> None:
    joining.join()
    before = Membership.load(joining.site)
    answer_of_another_authority(joining)
    joining.types("no")
    said = joining.answer()
    assert said.code == 1
    assert "is a member of chest and trusts another authority" in said.out
    assert certificates.spoken(certificates.fingerprint(before.authority.read_bytes())) in said.out
    assert Membership.load(joining.site) == before
    joining.types("yes")
    assert joining.answer().code == 0
    assert Membership.load(joining.site).authority.read_text() == joining.answer_file.authority


def test_the_same_answer_again_asks_nothing(joining: Joining) -> None:
    joining.join()
    joining.types("")
    assert joining.answer().code == 0


def test_a_member_moves_with_its_server(joining: Joining) -> None:
    joining.join()
    before, request = Membership.load(joining.site), joining.folder / "request-A.json"
    request.unlink()
    said = joining.ask(server="new.example.org:9093")
    assert (said.code, said.err) == (0, "")
    assert "at new.example.org:9093 from now on, instead of 127.0.0.1:9092" in said.out
    after = Membership.load(joining.site)
    assert after.address == "new.example.org:9093"
    assert (after.key, after.authority, after.federation) == (before.key, before.authority, before.federation)
    assert not request.exists()
    said = joining.ask(server="new.example.org:9093")
    assert "note: A is a member of chest already" in said.out
    assert request.exists()
    assert Membership.load(joining.site) == after


def test_a_member_comes_back_with_a_new_key(joining: Joining) -> None:
    joining.join()
    joining.remove("A")
    joining.key_file.rename(joining.folder / "old.key")
    former = joining.request.fingerprint
    assert joining.ask(server="localhost:9092").code == 0
    assert joining.request.fingerprint != former
    with pytest.raises(NotEnrolledError, match="waits for the operator's answer"):
        Membership.load(joining.site)
    joining.approve()
    assert joining.answer().code == 0
    assert Membership.load(joining.site).key == joining.key_file


def test_an_authority_that_has_ended_is_refused(joining: Joining) -> None:
    joining.ask()
    ended = issued("authority", authority=True, begins=-30, days=-2).pem
    Answer.to(joining.request, federation="chest", server="a:1", authority=ended).write(
        joining.folder / "answer-A.json"
    )
    said = joining.answer()
    assert said.code == 2
    assert "got one that ended on 20" in said.err
    assert "is this machine's clock right?" in said.err


@pytest.mark.parametrize(
    "server", ["fed.example.org", "https://fed.example.org:9092", "0.0.0.0:9092", "--x:1", ""]
)
def test_what_is_no_address_makes_nothing(joining: Joining, server: str) -> None:
    said = joining.enrol(f"--server={server}")
    assert said.code == 2
    assert "expected" in said.err
    assert not joining.site.state.exists()


def test_a_wrong_site_file_is_said(joining: Joining) -> None:
    assert joining.ask(site="C").code == 2
    (joining.folder / "C.yaml").write_text((joining.folder / "A.yaml").read_text())
    said = joining.ask(site="C")
    assert said.code == 2
    assert "expected 'C', the name asked for, got 'A'" in said.err


def test_what_cannot_be_written_is_said_and_nothing_is_lost(joining: Joining) -> None:
    (joining.folder / "request-A.json").mkdir()
    said = joining.ask()
    assert said.code == 1
    assert "nothing is lost" in said.err
    key = joining.key_file.read_bytes()
    (joining.folder / "request-A.json").rmdir()
    assert joining.ask().code == 0
    assert joining.key_file.read_bytes() == key


@pytest.mark.parametrize("step", ["ask", "answer"])
def test_killed_at_any_point_the_next_call_goes_on(joining: Joining, step: str) -> None:
    joining.types("yes")
    arguments = ["--site=A", "--sites", str(joining.folder)]
    arguments += ["--server", "127.0.0.1:9092"] if step == "ask" else ["--answer", "answer-A.json"]
    if step == "answer":
        joining.init()
        joining.ask()
        joining.approve()
    changes = 0
    for changes in range(30):
        died = dies_at_change(changes, lambda: enrol.main(arguments))
        key = joining.key_file.read_bytes() if joining.key_file.exists() else None
        assert (joining.ask() if step == "ask" else joining.answer()).code == 0
        assert key in (None, joining.key_file.read_bytes())
        if step == "ask":
            assert joining.request.fingerprint == keys.fingerprint(
                keys.load_key(joining.key_file).public_key()
            )
            for path in (joining.key_file, joining.key_file.with_name("membership.json")):
                path.unlink()
        else:
            Membership.load(joining.site)
        if not died:
            break
    assert 2 < changes < 29


def test_the_whole_way_with_the_commands_themselves(joining: Joining) -> None:
    """init, enrol, approve, enrol --answer, remove; each in a process, and no secret in what is sent or printed."""
    said: list[str] = []

    def command(text: str, typed: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", *text.split()],
            cwd=joining.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            input=typed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        said.append(done.stdout)
        return done.stdout

    command("server.init --config federation.yaml")
    shown = command("client.enrol --site=A --sites . --server 127.0.0.1:9092")
    assert re.search(r"SHA256:[A-Za-z0-9+/]{43}", shown)
    command("server.approve request-A.json --config federation.yaml", "yes\n")
    command("client.enrol --site=A --sites . --answer answer-A.json", "yes\n")
    assert Membership.load(joining.site).federation == "chest"
    command("server.remove A")
    sent = [(joining.folder / name).read_text() for name in ("request-A.json", "answer-A.json")]
    for secret in (joining.key_file, joining.state.authority_key, joining.state.key):
        lines = [line for line in secret.read_text().splitlines() if not line.startswith("-----")]
        assert lines
        assert not any(line in text for text in (*said, *sent) for line in lines)
    assert str(joining.folder) not in "".join(sent), "no path leaves the site"
    assert Request.read(joining.folder / "request-A.json").site == "A"
