"""What the registry says is brought to a real SuperLink, also where its answers are lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from consortium import Consortium
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from acm_core.trust import keys
from server.consortium.registry import Registry


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    running = Consortium(tmp_path_factory.mktemp("consortium"), "A")
    yield running
    running.end()


class Network:
    """Between `server.run` and the SuperLink: answers get lost when the SuperLink has acted."""

    def __init__(self) -> None:
        self._send = httpx.Client.send
        self.end()

    def lose(self, path: str, *, and_all_after: bool = False) -> None:
        """From now on the answers to calls of a path, or from the first of them on those to all calls."""
        self._path, self._all_after = path, and_all_after

    def end(self) -> None:
        """From now on all answers arrive."""
        self._path, self._lost, self._all_after = "/nothing", False, False

    def send(self, client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = self._send(client, request, **options)
        self._lost = request.url.path.endswith(self._path) or (self._lost and self._all_after)
        if self._lost:
            raise httpx.ReadTimeout("the answer was lost", request=request)
        return answer


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()

    def send(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        return network.send(client, request, **options)

    monkeypatch.setattr(httpx.Client, "send", send)
    return network


def approve(consortium: Consortium, *sites: str) -> None:
    for site in sites:
        consortium.keys[site] = ec.generate_private_key(ec.SECP384R1())
        text = keys.public_text(consortium.keys[site].public_key())
        Registry.load(consortium.state.registry).approve(site, text)


def remove(consortium: Consortium, *sites: str) -> None:
    for site in sites:
        Registry.load(consortium.state.registry).remove(site)


def may_join(consortium: Consortium, site: str) -> bool:
    key = consortium.keys[site]
    greeting = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30)
    with consortium.fleet(key) as client:
        try:
            client.ActivateNode(greeting)
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 401
            return False
    return True


def test_sites_whose_registration_has_no_answer_take_part_and_can_be_removed(
    consortium: Consortium, network: Network
) -> None:
    approve(consortium, "B", "C")
    network.lose("/register-node")
    assert consortium.link.register() == (["B", "C"], [])
    network.end()
    assert consortium.link.register() == ([], [])
    assert may_join(consortium, "B")
    assert may_join(consortium, "C")
    remove(consortium, "B", "C")
    assert consortium.link.register() == ([], ["B", "C"])
    assert not may_join(consortium, "B")
    assert not may_join(consortium, "C")


def test_sites_whose_removal_has_no_answer_are_removed_and_others_come(
    consortium: Consortium, network: Network
) -> None:
    approve(consortium, "D", "E")
    assert consortium.link.register() == (["D", "E"], [])
    remove(consortium, "D", "E")
    approve(consortium, "D", "F")
    network.lose("/unregister-node")
    assert consortium.link.register() == (["D", "F"], ["D", "E"])
    network.end()
    assert consortium.link.register() == ([], [])
    assert may_join(consortium, "D")
    assert may_join(consortium, "F")
    assert not may_join(consortium, "E")


def test_a_site_that_is_removed_before_its_registration_is_known_is_removed(
    consortium: Consortium, network: Network
) -> None:
    approve(consortium, "G")
    network.lose("/register-node", and_all_after=True)
    assert consortium.link.register() == ([], [])
    network.end()
    assert may_join(consortium, "G")
    remove(consortium, "G")
    assert consortium.link.register() == ([], [])
    assert not may_join(consortium, "G")


def test_a_site_that_is_refused_keeps_nobody_else_out(consortium: Consortium, network: Network) -> None:
    before = consortium.state.registry.read_bytes()
    remove(consortium, "A")
    consortium.link.register()
    consortium.state.registry.write_bytes(before)  # a backup: the SuperLink does not take a key twice
    approve(consortium, "Z")
    assert "Z" in consortium.link.register()[0]
    assert may_join(consortium, "Z")
