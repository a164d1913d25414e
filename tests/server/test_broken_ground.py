"""Certificates that ended, servers that moved, full disks, connections that only seem to be there: said, and mended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hospitals import site
from in_process import run_in_process
from loopback import Federation
from processes import REPOSITORY, Command, wait_for

from acm_core.audit_events import SiteMissing
from acm_core.audit_log import audit_folder, verify
from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from acm_core.processes import free_port
from server.consortium.authority import ServerState

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, rounds=2, linked=True)
    yield federation
    federation.end()


def test_a_certificate_that_ended_is_said_and_its_renewal_is_taken_up(running: Federation) -> None:
    state = running.folder / "server_state"
    certify(state, seconds=-60)
    refused = running.server()
    assert refused.wait(30) == 2
    renewal = f"python -m server.init --state {state} --renew"
    assert f"`{renewal}`" in refused.text()

    # It ends while the server runs and a site is connected.
    certify(state, seconds=60)
    membership = (running.folder / "state" / "A" / "federation" / "membership.json").read_bytes()
    server = running.server()
    client = running.client("A")
    wait_for(lambda: "answers; waiting for tasks" in client.text(), 60, running.everything)
    assert f"`{renewal}`; the sites need do nothing" in server.text()
    ended = (
        "certificate: the server's has expired; the operator renews it with `python -m server.init --renew`"
    )
    wait_for(lambda: ended in client.text(), 90, running.everything)

    # What the operator was told, word for word, and nothing at the site; the other one comes now.
    config = ["--config", str(running.folder / "federation.yaml")]
    command = [sys.executable, *renewal.split()[1:], *config]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    other = running.client("B")
    answers = "answers; waiting for tasks"
    wait_for(lambda: answers in client.text().partition(ended)[2], 60, running.everything)
    wait_for(lambda: answers in other.text(), 60, running.everything)
    assert server.wait(400) == 0, running.everything()
    assert (running.folder / "state" / "A" / "federation" / "membership.json").read_bytes() == membership
    expect_undisturbed(running)


def test_a_server_that_moved_in_a_run_is_found_again_as_the_site_is_told(running: Federation) -> None:
    clients = {name: running.client(name) for name in "AB"}
    server = running.server()
    wait_for(lambda: "round 1 done" in server.text(), 400, running.everything)
    server.interrupt()
    assert server.wait(60) == 130, running.everything()
    port = free_port()
    reconfigure(running, server={"port": port})
    for link in running.links.values():
        link.end()
    server = running.server("--resume")
    for client in clients.values():
        text = "if the server has moved, run client.enrol with --server"
        wait_for(lambda client=client, text=text: text in client.text(), 60, running.everything)  # type: ignore[misc]

    for name in clients:
        enrol = ["client.enrol", f"--site={name}", "--sites", str(running.folder / "sites")]
        enrol += ["--server", f"127.0.0.1:{port}"]
        told = subprocess.run(
            [sys.executable, "-m", *enrol], cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout
        assert f"looks for the server of test at 127.0.0.1:{port} from now on" in told
        assert "a client.run that runs connects there" in told
    assert server.wait(400) == 0, running.everything()
    expect_undisturbed(running)


def test_a_site_whose_disk_fills_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with Disk(tmp_path / "state" / "A", 1024) as disk, Running(tmp_path) as running:
        reconfigure(running, federation={"round_attempts": 1})
        clients = {name: running.client(name) for name in "AB"}
        server = running.server()
        wait_for(lambda: "round 1: training" in running.log("A"), 400, running.everything)
        disk.fill()
        assert server.wait(400) == 1, running.everything()
        assert "A refused: storage" in server.text()
        assert "continue with --resume" in server.text()
        wait_for(lambda: "make room on its disk" in clients["A"].text(), 30, running.everything)

        disk.make_room()
        server = running.server("--resume")
        assert server.wait(400) == 0, running.everything()
        expect_undisturbed(running)
        verify(audit_folder(running.folder / "state" / "A"))


@pytest.mark.parametrize("folder", ["runs", "server_state"])
def test_a_server_whose_disk_fills_says_so_and_resumes_when_there_is_room(
    tmp_path: Path, folder: str
) -> None:
    with Disk(tmp_path / folder, 1024) as disk, Running(tmp_path) as running:
        for name in "AB":
            running.client(name)
        server = running.server()
        wait_for(lambda: "round 2: training" in running.log("A"), 400, running.everything)
        disk.fill()
        assert server.wait(400) == 1, running.everything()
        assert "expected room on its disk" in server.text() or "No space left on device" in server.text()
        assert "continue with --resume" in server.text()
        assert "Traceback" not in server.text()

        disk.make_room()
        server = running.server("--resume")
        assert server.wait(400) == 0, running.everything()
        assert "run resumed after round 1 of 2" in server.text()
        expect_undisturbed(running)
        verify(ServerState(running.folder / "server_state").audit)


def test_a_half_open_connection_costs_its_site_the_round_and_no_more(running: Federation) -> None:
    reconfigure(running, federation={"quorum": 1, "round_deadline": 45, "rounds": 4})
    running.client("A"), running.client("B")
    server = running.server()
    node = running.folder / "state" / "A" / "supernode.log"
    wait_for(lambda: node.exists() and "Received successfully" in node.read_text(), 400, running.everything)
    running.links["A"].cut()
    wait_for(lambda: "round 1 done" in server.text(), 60, running.everything)
    assert ": 1 site, without A," in server.text()
    running.links["A"].mend()
    assert server.wait(400) == 0, running.everything()
    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    assert [(record["answered"], record["missing"]) for record in records] == [
        (["B"], ["A"]),
        *[(["A", "B"], [])] * 3,
    ], running.everything()
    rows = verify(ServerState(running.folder / "server_state").audit).rows
    missing = [row.event for row in rows if isinstance(row.event, SiteMissing)]
    assert [(event.site, event.round) for event in missing] == [("A", 1)]


def test_a_server_that_is_away_behind_something_that_takes_connections_is_found_again(
    running: Federation,
) -> None:
    reconfigure(running, federation={"rounds": 3})
    clients = {name: running.client(name) for name in "AB"}
    server = running.server()
    wait_for(lambda: "round 1 done" in server.text(), 400, running.everything)
    before = {name: client.text() for name, client in clients.items()}
    server.kill()
    for name, client in clients.items():

        def since(name: str = name, client: Command = client) -> str:
            return client.text().removeprefix(before[name])

        wait_for(lambda: "hangs up" in since(), 60, running.everything)
        assert since().count("something takes the connection and hangs up") == 1
    server = running.server("--resume")
    assert server.wait(400) == 0, running.everything()


class Running(Federation):
    """A federation of two rounds that ends with its block."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, rounds=2)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Disk:
    """A small disk of its own at a folder."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self._folder, self._size = folder, mebibytes
        self._ballast, self._full = folder / "ballast", threading.Event()

    def __enter__(self) -> Disk:
        self._folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size}m,mode=755", "tmpfs", str(self._folder)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk of its own can be mounted here: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        self._full.clear()
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def fill(self) -> None:
        """To the last byte, and again whatever somebody frees."""
        self._full.set()
        threading.Thread(target=self._keep_full, daemon=True).start()

    def make_room(self) -> None:
        self._full.clear()
        self._ballast.unlink()

    def _keep_full(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            while self._full.is_set():
                for size in (1 << 20, 1):
                    with contextlib.suppress(OSError):
                        while self._full.is_set():
                            file.write(bytes(size))
                time.sleep(0.01)


def certify(state: Path, seconds: float) -> None:
    """A server's certificate of the state's own authority that ends `seconds` from now."""
    authority = x509.load_pem_x509_certificate((state / "ca.crt").read_bytes())
    former = x509.load_pem_x509_certificate((state / "server.crt").read_bytes())
    key = load_pem_private_key((state / "ca.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        authority.subject,
        former.subject,
        former.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=365),
        now + timedelta(seconds=seconds),
    )
    for extension in former.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(key, hashes.SHA384())  # type: ignore[arg-type]  # a key of the authority's kind
    (state / "server.crt").write_bytes(signed.public_bytes(Encoding.PEM))


def reconfigure(running: Federation, **changes: dict[str, object]) -> None:
    """Change the federation file."""
    settings = running.config.model_dump(mode="json")
    for section, values in changes.items():
        settings[section].update(values)
    running.config = FederationConfig.model_validate(settings)
    (running.folder / "federation.yaml").write_text(dump_config(running.config), encoding="utf-8")


def expect_undisturbed(running: Federation) -> None:
    """No round lost, and the model that the run gives where nothing happens."""
    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    assert [record["answered"] for record in records] == [["A", "B"]] * running.config.federation.rounds
    fresh = {name: site(running.folder, name, state=running.folder / "fresh" / name) for name in "AB"}
    undisturbed = run_in_process(fresh, running.config, running.folder / "undisturbed")
    assert (running.run / "model.safetensors").read_bytes() == undisturbed.model.read_bytes()
