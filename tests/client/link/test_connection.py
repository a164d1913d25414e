"""What a site is told when its server cannot be reached, against a real one."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import socketserver
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from consortium import Consortium
from hospitals import federation

from acm_core import bundle
from acm_core.checks import Check
from acm_core.config.loading import dump_config, load_config
from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import intake_folder
from acm_core.data.intake.manifest import Row, write_manifest
from acm_core.data.splits import Split
from acm_core.processes import free_port
from acm_core.trust import certificates
from client import doctor
from client.link.connection import _clock, examine
from client.site.membership import Joining, Membership, authority_file, key_file, write_joining
from server.consortium.registry import Registry

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    running = Consortium(tmp_path_factory.mktemp("consortium"), "A", "B")
    yield running
    running.end()


def member(consortium: Consortium, site: str = "A") -> Membership:
    state = consortium.state
    key = state.folder.parent / f"{site}.key"
    return Membership(state.folder.parent, key, state.authority, consortium.address, "test")


def examined(membership: Membership) -> list[Check]:
    return examine(membership, "A")


def wrong(checks: list[Check]) -> Check:
    """The one check that is not right, which is the last one made."""
    assert [check.passed for check in checks] == [True] * (len(checks) - 1) + [False]
    return checks[-1]


def test_a_server_that_is_there(consortium: Consortium) -> None:
    checks = examined(member(consortium))
    assert [check.name for check in checks] == [
        "name",
        "port",
        "certificate",
        "clock",
        "key",
        "server's versions",
    ]
    assert all(check.passed for check in checks)


def test_a_name_that_nobody_knows(consortium: Consortium) -> None:
    check = wrong(examined(replace(member(consortium), address="fed.invalid:9092")))
    assert check.name == "name"
    assert "DNS" in check.fix


def test_an_authority_that_is_not_there(consortium: Consortium, tmp_path: Path) -> None:
    check = wrong(examined(replace(member(consortium), authority=tmp_path / "ca-0.crt")))
    assert check.name == "certificate"
    assert "client.enrol" in check.fix


def test_a_port_that_is_closed(consortium: Consortium) -> None:
    check = wrong(examined(replace(member(consortium), address=f"127.0.0.1:{free_port()}")))
    assert check.name == "port"
    assert "refused" in check.found
    assert "is server.run started there" in check.fix


def test_a_server_of_another_authority(consortium: Consortium, tmp_path: Path) -> None:
    other = tmp_path / "ca.crt"
    other.write_bytes(certificates.make_authority("another").certificate)
    check = wrong(examined(replace(member(consortium), authority=other)))
    assert (check.name, check.found) == ("certificate", "not from the authority that this site joined")


def test_a_certificate_for_another_name(consortium: Consortium) -> None:
    check = wrong(examined(replace(member(consortium), address=f"localhost:{consortium.port}")))
    assert check.found == f"the server's is not for localhost:{consortium.port}"
    assert "server.names" in check.fix


@contextlib.contextmanager
def something_else(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a listener that does this, twice, with a connection of which the first byte has come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1)
                    answer(peer)

        threading.Thread(target=listen, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_something_that_speaks_no_tls(consortium: Consortium) -> None:
    with something_else(lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address:
        check = wrong(examined(replace(member(consortium), address=address)))
    assert "no TLS connection" in check.found


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_something_that_takes_the_connection_and_hangs_up(consortium: Consortium, reset: bool) -> None:
    def hang_up(peer: socket.socket) -> None:
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with something_else(hang_up) as address:
        check = wrong(examined(replace(member(consortium), address=address)))
    assert check.found == "no TLS connection: something takes the connection and hangs up"
    assert "load balancer" in check.fix


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a proxy that connects all to one port of this machine, and the hosts that it was asked for."""
    asked: list[bytes] = []

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.request.recv(1)
            asked.append(head.split()[1])
            with socket.create_connection(("127.0.0.1", port)) as server:
                self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                ends = {self.request: server, server: self.request}
                while True:
                    for ready in select.select(list(ends), [], [])[0]:
                        if not (content := ready.recv(2**16)):
                            return
                        ends[ready].sendall(content)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy.server_address[1], asked
        proxy.shutdown()
        thread.join()


def test_a_server_behind_a_proxy_is_reached_through_it(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = replace(member(consortium), address=f"server.test:{consortium.port}")
    with proxy_to(consortium.port) as (port, asked):
        monkeypatch.setenv("https_proxy", f"nurse:secret@127.0.0.1:{port}")
        checks = examined(behind)
    assert checks[0] == Check("proxy", f"127.0.0.1:{port} (from the environment)")
    assert all(check.passed for check in checks)
    assert set(asked) == {f"server.test:{consortium.port}".encode()}


def test_a_proxy_is_named_without_its_password(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://nurse:secret@127.0.0.1:{port}")
    checks = examined(replace(member(consortium), address="server.test:443"))
    assert checks[0] == Check("proxy", f"127.0.0.1:{port} (from the environment)")
    assert f"through the proxy 127.0.0.1:{port}" in wrong(checks).found
    assert "secret" not in str(checks)


def test_a_proxy_that_is_none_is_a_row_without_its_value(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://nurse:sec#ret@proxy:3128")
    check = wrong(examined(replace(member(consortium), address="server.test:443")))
    assert check.name == "proxy"
    assert "HTTPS_PROXY" in check.found
    assert "ret" not in check.found.replace("written", "")


@pytest.mark.parametrize(
    ("ahead", "found"),
    [
        (0, None),
        (3, None),
        (-250, None),
        (60, "60 s ahead of the server's"),
        (-400, "400 s behind the server's"),
    ],
)
def test_a_clock_is_told_by_how_much(ahead: float, found: str | None) -> None:
    check = _clock(time.time() - ahead)
    assert check.passed == (found is None)
    if found is not None:
        assert check.found == found


def test_a_key_is_registered_until_it_is_removed(consortium: Consortium) -> None:
    for site in "AB":
        key, versions = examine(member(consortium, site), site)[-2:]
        assert key.passed
        assert (versions.name, versions.passed) == ("server's versions", True)
        assert versions.found.startswith("acm-fed ")
    Registry.load(consortium.state.registry).remove("B")
    check = wrong(examine(member(consortium, "B"), "B"))  # a stranger is told nothing of the server
    assert (check.name, check.found) == ("key", "the server does not know it")
    assert "ask the operator" in check.fix


def test_another_sites_name_does_not_open_the_door(consortium: Consortium) -> None:
    assert wrong(examine(member(consortium, "A"), "B")).name == "key"


def test_a_server_of_other_versions_is_said_with_what_is_here(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bundle.versions()
    monkeypatch.setattr("client.link.connection.versions", lambda: here + ".1")
    versions = wrong(examined(member(consortium)))
    assert versions.found == here
    assert f"here is {here}.1: until then this site refuses every task" in versions.fix


# The command.


@pytest.fixture
def hospital(consortium: Consortium, tmp_path: Path) -> Path:
    """A member's site files, in the folder that is returned."""
    (tmp_path / "films").mkdir()
    (tmp_path / "labels.csv").write_text("patient_id,image\n", encoding="utf-8")
    site = SiteConfig(
        site="A",
        films=tmp_path / "films",
        labels=tmp_path / "labels.csv",
        state=tmp_path / "state",
        device="cpu",
    )
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "A.yaml").write_text(dump_config(site), encoding="utf-8")
    folder = site.state / "federation"
    folder.mkdir(parents=True)
    key_file(folder).write_bytes((consortium.state.folder.parent / "A.key").read_bytes())
    key_file(folder).chmod(0o600)
    authority = consortium.state.authority.read_bytes()
    fingerprint = certificates.fingerprint(authority)
    authority_file(folder, fingerprint).write_bytes(authority)
    key = next(s for s in Registry.load(consortium.state.registry).active() if s.name == "A").fingerprint
    write_joining(
        folder, Joining(server=consortium.address, key=key, federation="test", authority=fingerprint)
    )
    return tmp_path / "sites"


def test_the_doctor_has_a_row_for_each_thing_and_a_fix(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "federation.yaml").write_text(dump_config(federation()), encoding="utf-8")
    arguments = ["--site=A", "--sites", str(hospital), "--federation", str(tmp_path / "federation.yaml")]
    assert doctor.main(arguments) == 1
    shown = capsys.readouterr().out
    for row in (
        "versions",
        "disk",
        "temporary folder",
        "open files",
        "device",
        "membership",
        "name",
        "port",
        "certificate",
        "clock",
        "key",
        "server's versions",
        "policy",
    ):
        assert re.search(rf"^ok  {row} ", shown, re.MULTILINE), row
    assert re.search(r"!!  films +not looked at yet", shown)
    assert "→ run python -m client.preflight --site=A" in shown
    assert "1 to mend before site A can take part" in shown


@pytest.mark.parametrize("damage", ["cut off", "other bytes", "another value"])
def test_the_doctor_says_that_the_manifest_is_damaged(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    manifest = intake_folder(load_config(hospital / "A.yaml", SiteConfig)) / "manifest.sqlite"
    manifest.parent.mkdir(parents=True)
    row = Row(
        "film", "content", None, None, "patient", Split.TRAIN, True, *[None] * 6, "patient", Split.TRAIN, None
    )
    write_manifest(manifest, [row], [])
    if damage == "another value":
        with closing(sqlite3.connect(manifest)) as database, database:
            database.execute("UPDATE film SET split = 'other'")
    else:
        manifest.write_bytes(manifest.read_bytes()[:5000] if damage == "cut off" else bytes(9000))
    assert doctor.main(["--site=A", "--sites", str(hospital)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"!! films expected a manifest in [^,]*, got a damaged file", shown)
    assert "→ run python -m client.preflight --site=A, which writes it anew" in shown


def test_the_doctor_says_how_to_join(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state" / "federation" / "membership.json").unlink()
    assert doctor.main(["--site=A", "--sites", str(hospital)]) == 1
    shown = capsys.readouterr().out
    assert "not enrolled" in shown
    assert "python -m client.enrol --site=A --server HOST:PORT" in shown


def test_the_doctor_names_the_line_of_the_policy(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (hospital / "A.yaml").read_text(encoding="utf-8")
    (hospital / "A.yaml").write_text(text.replace("rounds: null", "rounds: 1"), encoding="utf-8")
    (tmp_path / "federation.yaml").write_text(dump_config(federation()), encoding="utf-8")
    arguments = ["--site=A", "--sites", str(hospital), "--federation", str(tmp_path / "federation.yaml")]
    assert doctor.main(arguments) == 1
    assert "policy.rounds: expected at most 1 rounds, got 2" in capsys.readouterr().out


def test_a_wrong_file_is_told_as_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--site=A", "--sites", str(tmp_path)]) == 2
    assert "A.yaml" in capsys.readouterr().err
