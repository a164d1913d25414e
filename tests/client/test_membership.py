"""What makes a site a member: there and whole, or the command that makes it so."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from crashes import dies_at_change
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joining import Joining

from acm_core.trust import certificates, keys
from acm_core.trust.enrolment import Answer
from client.site.membership import Membership, NotEnrolledError, install, membership_folder


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, capsys, monkeypatch)


def refused(joining: Joining, text: str) -> None:
    with pytest.raises(NotEnrolledError, match=text):
        Membership.load(joining.site)


def test_each_step_says_the_next(joining: Joining) -> None:
    refused(
        joining, "has not joined a federation yet: run `python -m client.enrol --site=A --server HOST:PORT`"
    )
    assert not joining.site.state.exists(), "to look makes nothing"
    joining.init()
    joining.ask()
    refused(
        joining,
        r"waits for the operator's answer: .* `python -m client.enrol --site=A --answer answer-A.json`",
    )
    joining.types("yes")
    joining.approve()
    refused(joining, "waits for the operator's answer")
    joining.answer()
    membership = Membership.load(joining.site)
    assert membership.folder == membership_folder(joining.site)
    assert (membership.address, membership.federation) == ("127.0.0.1:9092", "chest")
    assert keys.fingerprint(keys.load_key(membership.key).public_key()) == joining.request.fingerprint
    assert membership.authority.read_bytes() == joining.state.authority.read_bytes()
    assert membership.days_left == joining.state.authority_days_left
    assert stat.S_IMODE(membership.folder.stat().st_mode) == 0o700


def test_a_lost_key_an_open_key_and_another_key_are_no_membership(joining: Joining) -> None:
    joining.join()
    joining.key_file.chmod(0o644)
    refused(joining, "chmod 600")
    joining.key_file.rename(joining.folder / "kept.key")
    refused(joining, r"expected a key in .*site.key, got No such file.*")
    keys.create_key(joining.key_file)
    refused(joining, "waits for the operator's answer")
    joining.key_file.unlink()
    (joining.folder / "kept.key").rename(joining.key_file)
    joining.key_file.chmod(0o600)
    Membership.load(joining.site)


def test_another_authority_in_the_file_is_no_membership(joining: Joining) -> None:
    joining.join()
    authority = Membership.load(joining.site).authority
    for content in (certificates.make_authority("chest").certificate, b"", authority.read_bytes() * 2):
        authority.write_bytes(content)
        refused(joining, r"as it was installed, got something else: run .* --answer answer-A.json` again")
    authority.unlink()
    refused(joining, "as it was installed")
    assert joining.answer().code == 0
    Membership.load(joining.site)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(content=st.binary(max_size=50) | st.sampled_from([b"{}", b"[]", b'{"server": "a:1"}']))
def test_a_damaged_file_is_refused(joining: Joining, content: bytes) -> None:
    path = membership_folder(joining.site) / "membership.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    refused(joining, "membership.json as it was written")


def test_killed_while_it_takes_a_new_authority_it_trusts_the_old_one_or_the_new_one(joining: Joining) -> None:
    joining.join()
    old = Membership.load(joining.site)
    authority = certificates.make_authority("lung").certificate
    answer = Answer.to(joining.request, federation="lung", server="new.example.org:1", authority=authority)
    seen = set()
    for change in range(30):
        died = dies_at_change(change, lambda: install(old.folder, answer))
        now = Membership.load(joining.site)
        assert (now.federation, now.address) in {("chest", old.address), ("lung", "new.example.org:1")}
        seen.add(now.federation)
        if not died:
            assert seen == {"chest", "lung"}
            assert list(old.folder.glob("*.crt")) == [now.authority]
            return
    pytest.fail("expected a few changes only")
