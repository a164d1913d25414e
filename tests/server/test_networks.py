"""Server and hospitals as hosts of their own, joined by a router: what they reach, and links that fail or are slow."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hospitals import site
from in_process import run_in_process
from loopback import Federation
from processes import Command, wait_for

import client.enrol
import server.init
from acm_core.audit_events import ReplyTaken
from acm_core.audit_log import verify
from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from server.consortium.authority import ServerState

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

_CLONE_NEWNET = 0x40000000  # setns(2)
_HOSTS = ("server", "A", "B")


class Network:
    """Three hosts and a router, a network namespace each: whatever a host opens to the network, the others can reach.

    Raises:
        OSError: this machine does not allow it.
    """

    def __init__(self) -> None:
        self._names = {name: f"acm-fed-{os.getpid()}-{name}" for name in (*_HOSTS, "router")}
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        with self.at("router"):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
        for name in _HOSTS:
            near, far = ["-n", self._names[name]], ["-n", self._names["router"]]
            _ip(*far, "link", "add", name, "type", "veth", "peer", "wan", "netns", self._names[name])
            _ip(*near, "address", "add", f"{self.address(name)}/24", "dev", "wan")
            _ip(*near, "link", "set", "wan", "up")
            gateway = self.address(name).removesuffix("2") + "1"
            _ip(*far, "address", "add", f"{gateway}/24", "dev", name)
            _ip(*far, "link", "set", name, "up")
            _ip(*near, "route", "add", "default", "via", gateway)

    @staticmethod
    def address(host: str) -> str:
        return f"10.77.{_HOSTS.index(host)}.2"

    @contextmanager
    def at(self, host: str) -> Iterator[None]:
        """What this thread does and starts inside happens on that host."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._names[host]}", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(there)
            os.close(here)

    def unplug(self, host: str) -> None:
        _ip("-n", self._names["router"], "link", "set", host, "down")

    def plug(self, host: str) -> None:
        _ip("-n", self._names["router"], "link", "set", host, "up")

    def slow(self, host: str, megabits: float) -> None:
        """Both ways; what waits in the queue waits for up to 0.4 s."""
        for name, device in ((host, "wan"), ("router", host)):
            shape = ["root", "tbf", "rate", f"{megabits}mbit", "burst", "16kbit", "latency", "400ms"]
            _run("tc", "-n", self._names[name], "qdisc", "replace", "dev", device, *shape)

    def fast(self, host: str) -> None:
        for name, device in ((host, "wan"), ("router", host)):
            _run("tc", "-n", self._names[name], "qdisc", "del", "dev", device, "root")

    def bytes(self, host: str) -> tuple[int, int]:
        """What went out of a host, and what came in."""
        shown = json.loads(_ip("-n", self._names[host], "-s", "-j", "link", "show", "wan"))[0]["stats64"]
        return shown["tx"]["bytes"], shown["rx"]["bytes"]

    def listening(self, host: str) -> set[int]:
        """Every TCP port that somebody on that host listens on, on whatever address."""
        with self.at(host):
            tables = [
                Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")
            ]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}

    def opens(self, host: str, address: str, port: int) -> bool:
        """Whether a TCP connection from that host comes about."""
        with self.at(host):
            try:
                socket.create_connection((address, port), 3).close()
            except OSError:
                return False
        return True

    def end(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Distant(Federation):
    """A federation whose server and sites are hosts of a network."""

    def __init__(self, folder: Path, network: Network, **changes: object) -> None:
        super().__init__(folder, rounds=2)
        self.network = network
        settings = self.config.model_dump(mode="json")
        settings["server"]["host"] = network.address("server")
        settings["federation"].update(changes)
        self.config = FederationConfig.model_validate(settings)
        file = folder / "federation.yaml"
        file.write_text(dump_config(self.config), encoding="utf-8")
        state = ["--state", str(folder / "server_state")]
        assert server.init.main(["--renew", "--config", str(file), *state]) == 0
        for name in "AB":
            own = [f"--site={name}", "--sites", str(folder / "sites")]
            address = f"{network.address('server')}:{self.config.server.port}"
            assert client.enrol.main([*own, "--server", address]) == 0

    def server(self, *options: str) -> Command:
        with self.network.at("server"):
            return super().server(*options)

    def client(self, name: str) -> Command:
        with self.network.at(name):
            return super().client(name)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        network = Network()
    except OSError as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    yield network
    network.end()


@pytest.fixture
def federation(tmp_path: Path, network: Network) -> Iterator[Callable[..., Distant]]:
    made: list[Distant] = []

    def make(**changes: object) -> Distant:
        made.append(Distant(tmp_path, network, **changes))
        return made[-1]

    yield make
    for one in made:
        one.end()


def test_hosts_reach_the_public_port_and_nothing_else(
    network: Network, federation: Callable[..., Distant]
) -> None:
    running = federation()
    clients = [running.client(name) for name in "AB"]
    server = running.server()
    wait_for(lambda: "round 1: training" in running.log("A"), 400, running.everything)
    ports = {host: network.listening(host) for host in _HOSTS}
    public = running.config.server.port
    assert public in ports["server"]
    assert len(ports["server"]) >= 2  # Control and Runtime on loopback
    assert all(ports.values())  # a site's own Runtime
    reached = {
        (host, other, port)
        for host in _HOSTS
        for other in _HOSTS
        if other != host
        for port in ports[other]
        if network.opens(host, network.address(other), port)
    }
    assert reached == {("A", "server", public), ("B", "server", public)}
    assert server.wait(400) == 0, running.everything()
    finish(running, clients)


def test_a_site_cut_off_in_a_round_comes_back_to_it(
    network: Network, federation: Callable[..., Distant]
) -> None:
    running = federation()
    clients = [running.client(name) for name in "AB"]
    server = running.server()
    wait_for(lambda: "round 1: training" in running.log("A"), 400, running.everything)
    network.unplug("A")
    time.sleep(75)  # heartbeats come every 30 s, and Flower gives a site up after two
    assert "waiting for A" in server.text(), running.everything()
    assert "server 10.77.0.2" in clients[0].text().rpartition("answers; waiting for tasks")[2]
    network.plug("A")
    assert server.wait(500) == 0, running.everything()
    finish(running, clients)


def test_a_link_of_one_megabit_carries_a_round_and_an_upload_that_was_interrupted(
    network: Network, federation: Callable[..., Distant]
) -> None:
    running = federation(encoding="int8", rounds=1, round_deadline=1600)
    clients = [running.client(name) for name in "AB"]
    network.slow("A", 1)
    server = running.server()
    begun = time.monotonic()
    wait_for(lambda: "round 1: trained" in running.log("A"), 900, running.everything)
    arrived = time.monotonic()
    before, received = network.bytes("A")
    wait_for(lambda: network.bytes("A")[0] > before + 2e6, 120, running.everything)
    network.unplug("A")
    time.sleep(20)
    network.plug("A")
    wait_for(lambda: "  A            training: " in server.text(), 600, running.everything)
    seconds = time.monotonic() - arrived
    sent = network.bytes("A")[0] - before
    rows = verify(ServerState(running.folder / "server_state").audit).rows
    taken = [row.event for row in rows if isinstance(row.event, ReplyTaken) and row.event.site == "A"]
    print(  # noqa: T201  # the figures, with -rP
        f"to A {received / 1e6:.2f} MB until trained, {arrived - begun:.0f} s; from A {sent / 1e6:.2f} MB for a "
        f"reply of {taken[0].bytes / 1e6:.2f} MB, {seconds:.0f} s with 20 s of interruption"
    )
    # What was on its way goes twice, and packets have heads.
    assert sent < 1.08 * taken[0].bytes + 2**18
    assert running.log("A").count("round 1: training") == 1
    wait_for(lambda: "round 1 done" in server.text(), 400, running.everything)
    network.fast("A")
    assert server.wait(400) == 0, running.everything()
    finish(running, clients)


def finish(running: Distant, clients: list[Command]) -> None:
    """All end; no round was lost, and the model is that of a run in which nothing happened."""
    for one in clients:
        one.interrupt()
        assert one.wait(30) == 0
    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    assert [record["answered"] for record in records] == [["A", "B"]] * running.config.federation.rounds
    fresh = {name: site(running.folder, name, state=running.folder / "fresh" / name) for name in "AB"}
    undisturbed = run_in_process(fresh, running.config, running.folder / "undisturbed")
    assert (running.run / "model.safetensors").read_bytes() == undisturbed.model.read_bytes()


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
