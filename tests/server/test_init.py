"""`python -m server.init`, as the consortium's operator runs it, and the state folder that it makes."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from crashes import dies_at_change
from hospital_pki import HospitalFiles, issued
from joining import Joining

from acm_core.audit_events import CertificateWritten
from acm_core.audit_log import verify
from acm_core.config.sections import ServerSection
from acm_core.trust import certificates
from server.consortium.authority import ServerState, ServerStateError, server_names

SECRETS = ("ca.key", "server.key")


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, capsys, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ServerState:
    """Only to look at."""
    state = ServerState(tmp_path_factory.mktemp("made") / "server_state")
    state.create("chest", ["fed.example.org"])
    return state


def contents(state: ServerState) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in state.folder.iterdir() if path.is_file()}


def own_options(own: HospitalFiles) -> list[str]:
    return ["--certificate", str(own.certificate), "--key", str(own.key), "--authority", str(own.authority)]


def test_it_makes_what_a_server_needs_and_shows_what_people_compare(joining: Joining) -> None:
    joining.config("fed.example.org", "10.0.0.5", host="0.0.0.0")  # noqa: S104
    said = joining.init()
    state = joining.state
    assert (said.code, said.err) == (0, "")
    state.expect_ready(["fed.example.org", "10.0.0.5"])
    assert state.warnings() == []
    assert joining.registry.sites == ()
    authority = state.authority.read_bytes()
    assert certificates.spoken(certificates.fingerprint(authority)) in said.out
    assert f"{certificates.ends(state.certificate.read_bytes()):%Y-%m-%d}" in said.out
    assert "for fed.example.org, 10.0.0.5" in said.out
    assert "python -m server.run" in said.out
    assert "-----" not in said.out, "no key"


def test_nobody_else_reads_the_secrets(made: ServerState) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    for name in SECRETS:
        assert stat.S_IMODE((made.folder / name).stat().st_mode) == 0o600


def test_it_never_starts_again_in_a_folder_that_is_made(joining: Joining) -> None:
    joining.init()
    before = contents(joining.state)
    said = joining.init()
    assert said.code == 2
    assert "server.init --state server_state --renew" in said.err
    own = HospitalFiles(joining.folder, "127.0.0.1")
    assert joining.init(*own_options(own)).code == 2
    assert contents(joining.state) == before


def test_renewing_replaces_the_certificate_and_nothing_else(joining: Joining) -> None:
    joining.join()
    before = contents(joining.state)
    joining.config("127.0.0.1", "new.example.org")
    with pytest.raises(
        ServerStateError, match=r"for new.example.org in .*, got one for 127.0.0.1; renew it: `python"
    ):
        joining.state.expect_ready(["new.example.org"])
    said = joining.init("--renew")
    assert (said.code, said.err) == (0, "")
    assert "the sites need do nothing" in said.out
    after = contents(joining.state)
    assert {name for name in before if before[name] != after[name]} == {"server.crt"}
    joining.state.expect_ready(["127.0.0.1", "new.example.org"])


def test_renewing_needs_something_to_renew(joining: Joining) -> None:
    said = joining.init("--renew")
    assert said.code == 2
    assert "found none: run `python -m server.init --state server_state`" in said.err
    assert not joining.state.folder.exists()


def test_the_audit_log_says_which_certificates_there_were(joining: Joining) -> None:
    joining.init()
    first = certificates.fingerprint(joining.state.certificate.read_bytes())
    joining.init("--renew")
    authority = certificates.fingerprint(joining.state.authority.read_bytes())
    second = certificates.fingerprint(joining.state.certificate.read_bytes())
    assert [row.event for row in verify(joining.state.audit).rows] == [
        CertificateWritten(certificate=certificate, authority=authority) for certificate in (first, second)
    ]


def test_the_hospitals_own_certificate_is_used_and_renewed(joining: Joining, tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "127.0.0.1", "fed.example.org", days=10)
    said = joining.init(*own_options(own))
    assert (said.code, said.err) == (0, "")
    state = joining.state
    state.expect_ready(["127.0.0.1"])
    assert not state.authority_key.exists()
    assert state.authority.read_bytes() == own.root.pem, "without comments: Flower takes ASCII only"
    assert [warning.partition(":")[0] for warning in state.warnings()] == [
        f"the server's certificate ends on {certificates.ends(own.server.pem):%Y-%m-%d}"
    ]
    assert "--renew --certificate FILE --key FILE" in state.warnings()[0]

    said = joining.init("--renew")
    assert said.code == 2
    assert "the hospital's own: have it issue a certificate" in said.err

    renewed = issued("server", own.between, names=["127.0.0.1"], days=90)
    own.certificate.write_bytes(renewed.pem + own.between.pem)
    own.key.write_bytes(renewed.key_pem())
    said = joining.init("--renew", *own_options(own)[:4])
    assert (said.code, said.err) == (0, "")
    assert "the sites need do nothing" in said.out
    assert state.warnings() == []
    assert stat.S_IMODE(state.key.stat().st_mode) == 0o600


def test_a_new_authority_of_the_hospital_means_new_answers(joining: Joining, tmp_path: Path) -> None:
    joining.init(*own_options(HospitalFiles(tmp_path, "127.0.0.1")))
    before = contents(joining.state)
    other = HospitalFiles(tmp_path, "127.0.0.1")
    said = joining.init("--renew", *own_options(other)[:4])
    assert said.code == 2
    assert "expected the chain of" in said.err
    assert contents(joining.state) == before
    said = joining.init("--renew", *own_options(other))
    assert (said.code, said.err) == (0, "")
    assert "send every site a new answer" in said.out
    joining.state.expect_ready(["127.0.0.1"])


def test_an_own_certificate_that_does_not_serve_changes_nothing(joining: Joining, tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "elsewhere.example.org")
    said = joining.init(*own_options(own))
    assert said.code == 2
    assert "expected a certificate for 127.0.0.1" in said.err
    assert not joining.state.folder.exists()
    joining.init()
    said = joining.init("--renew", *own_options(HospitalFiles(tmp_path, "127.0.0.1")))
    assert said.code == 2
    assert "got one that server.init made and the sites trust" in said.err


def test_a_collection_of_authorities_is_not_what_sites_should_trust(joining: Joining, tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "127.0.0.1")
    own.authority.write_bytes(own.root.pem * 150)
    said = joining.init(*own_options(own))
    assert said.code == 2
    assert "got a collection of 150: the sites are to trust that one alone" in said.err


def test_an_authority_is_never_thrown_away(joining: Joining, tmp_path: Path) -> None:
    joining.init()
    joining.state.registry.unlink()
    before = contents(joining.state)
    said = joining.init(*own_options(HospitalFiles(tmp_path, "127.0.0.1")))
    assert said.code == 2
    assert "got ca.key: use another --state" in said.err
    assert contents(joining.state) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--certificate", "a"],
        ["--certificate", "a", "--key", "b"],
        ["--key", "b", "--authority", "c"],
        ["--renew", "--authority", "c"],
    ],
)
def test_half_an_own_certificate_is_refused(joining: Joining, options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        joining.init(*options)
    assert ended.value.code == 2


def test_a_server_that_no_site_could_reach_is_refused(joining: Joining) -> None:
    joining.config(host="0.0.0.0")  # noqa: S104
    said = joining.init()
    assert said.code == 2
    assert (
        "server.host: expected an address by which others reach the server, got 0.0.0.0: set server.names"
        in said.err
    )
    assert not joining.state.folder.exists()
    with pytest.raises(ServerStateError, match=r"server.names: expected a host name"):
        server_names(ServerSection(names=("fed.example.org", "https://fed.example.org")))


def test_names_come_before_the_host_that_it_listens_on() -> None:
    assert server_names(ServerSection(host="10.0.0.5")) == ("10.0.0.5",)
    assert server_names(ServerSection(host="0.0.0.0", names=("a", "b"))) == ("a", "b")  # noqa: S104


@pytest.mark.parametrize("own", [False, True])
def test_killed_at_any_point_it_is_made_by_the_next_call(tmp_path: Path, own: bool) -> None:
    files = HospitalFiles(tmp_path, "127.0.0.1")
    changes = 0
    for changes in range(30):
        state = ServerState(tmp_path / f"state{changes}")

        def make(state: ServerState = state) -> None:
            if own:
                state.create_with(files.certificate, files.key, files.authority, ["127.0.0.1"])
            else:
                state.create("chest", ["127.0.0.1"])

        died = dies_at_change(changes, make)
        if not died:
            break
        noted = state.authority.read_bytes() if state.authority.exists() else None
        if not state.registry.exists():
            with pytest.raises(ServerStateError, match=r"run `python -m server.init"):
                state.expect_ready()
            make()
        state.expect_ready(["127.0.0.1"])
        assert noted in (None, state.authority.read_bytes())
        for name in SECRETS[1 if own else 0 :]:
            assert stat.S_IMODE((state.folder / name).stat().st_mode) == 0o600
    assert 5 <= changes < 29


def test_killed_while_it_renews_the_old_or_the_new_certificate_is_there(tmp_path: Path) -> None:
    state = ServerState(tmp_path / "state")
    state.create("chest", ["127.0.0.1"])
    for change in range(30):
        died = dies_at_change(change, lambda: state.renew(["127.0.0.1"]))
        state.expect_ready(["127.0.0.1"])
        if not died:
            assert change > 0
            return
    pytest.fail("expected a few changes only")


@pytest.fixture
def state(made: ServerState, tmp_path: Path) -> ServerState:
    """A copy, to break."""
    shutil.copytree(made.folder, tmp_path / "server_state")
    return ServerState(tmp_path / "server_state")


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_that_others_can_read_are_refused(state: ServerState, name: str) -> None:
    (state.folder / name).chmod(0o640)
    with pytest.raises(ServerStateError, match=rf"got mode 0640: .* chmod 600 .*{name}"):
        state.expect_ready()


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key"])
def test_a_lost_file_is_named(state: ServerState, name: str) -> None:
    (state.folder / name).unlink()
    with pytest.raises(
        ServerStateError, match=f"expected {name} in .*, found none: put the folder's newest backup"
    ):
        state.expect_ready()


def test_a_lost_registry_does_not_cost_the_authority(state: ServerState) -> None:
    authority = state.authority.read_bytes()
    state.registry.unlink()
    with pytest.raises(ServerStateError, match=r"python -m server.init"):
        state.expect_ready()
    state.create("chest", ["fed.example.org"])
    assert state.authority.read_bytes() == authority


def test_a_key_of_another_certificate_is_refused(state: ServerState) -> None:
    state.key.write_bytes(certificates.make_key())
    with pytest.raises(
        ServerStateError, match=r"got another certificate's; renew it: `python -m server.init --state"
    ):
        state.expect_ready()
    state.renew(["fed.example.org"])
    state.expect_ready(["fed.example.org"])


def test_what_ends_soon_is_said_and_what_has_ended_is_refused(state: ServerState, tmp_path: Path) -> None:
    def put(*, server: float, authority: float) -> None:
        root = issued("authority", authority=True, begins=-400, days=authority)
        own = issued("server", root, names=["fed.example.org"], begins=-400, days=server)
        state.authority.write_bytes(root.pem)
        state.certificate.write_bytes(own.pem)
        state.key.write_bytes(own.key_pem())

    put(server=30.5, authority=60.5)
    assert state.warnings() == []
    assert (state.certificate_days_left, state.authority_days_left) == (30, 60)
    put(server=29.5, authority=59.5)
    certificate, authority = state.warnings()
    assert certificate.startswith("the server's certificate ends on 20")
    assert "--renew`; the sites need do nothing" in certificate
    assert authority.startswith("the authority that the sites trust ends on 20")
    put(server=-0.5, authority=59.5)
    assert "the server's certificate ended on 20" in state.warnings()[0]
    for days in ({"server": -0.5, "authority": 90}, {"server": 20, "authority": -0.5}):
        put(**days)
        with pytest.raises(
            ServerStateError, match=r"certificate has expired; renew it: `python -m server.init"
        ):
            state.expect_ready()


def test_a_full_disk_is_said(joining: Joining) -> None:
    (joining.folder / "server_state").write_text("a file where the folder should be")
    said = joining.init()
    assert said.code == 1
    assert "server_state" in said.err
    assert "Traceback" not in said.err
