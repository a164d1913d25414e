"""A task whose way to the site broke off comes again, and one that arrived does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from loopback import Federation
from processes import Command, wait_for

from acm_core.trust.keys import load_key
from client.membership import Membership
from client.site_file import load_site_file
from server.redelivery import Redelivery


def given(*messages: str) -> bytes:
    listed = [Message(metadata=Metadata(message_id=message)) for message in messages]
    return PullMessagesResponse(messages_list=listed).SerializeToString()


NOTHING = given()


class State:
    """Of a SuperLink on which these messages are on their way."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = set(wanted)

    def get_valid_message_ins(self, message_id: str) -> dict[str, object] | None:
        return {} if message_id in self.wanted else None


def test_what_did_not_arrive_is_given_to_its_site_alone_until_it_does() -> None:
    redelivery = Redelivery(lambda: State("one", "two"))
    assert redelivery.answer(b"A", given("one")) == given("one")
    assert redelivery.answer(b"A", NOTHING) == given("one")
    assert redelivery.answer(b"B", NOTHING) == NOTHING
    assert redelivery.answer(b"A", NOTHING) == given("one")
    redelivery.arrived(b"A")
    assert redelivery.answer(b"A", NOTHING) == NOTHING
    assert redelivery.answer(b"A", given("two")) == given("two")
    assert redelivery.answer(b"A", NOTHING) == given("two")


def test_what_nobody_waits_for_any_more_is_not_given_again() -> None:
    state = State("one")
    redelivery = Redelivery(lambda: state)
    redelivery.answer(b"A", given("one"))
    state.wanted.clear()
    assert redelivery.answer(b"A", NOTHING) == NOTHING
    state.wanted.add("one")
    assert redelivery.answer(b"A", NOTHING) == NOTHING


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Federation, Command]]:
    federation = Federation(tmp_path, rounds=1)
    yield federation, federation.server()
    federation.end()


@pytest.mark.slow
def test_a_real_server_gives_a_lost_task_again(running: tuple[Federation, Command]) -> None:
    federation, server = running
    wait_for(lambda: "waiting for" in server.text(), 60, server.text)
    clients, nodes = {}, {}
    for site in "AB":
        membership = Membership.load(load_site_file(federation.folder / "sites", site))
        key = load_key(membership.key)
        clients[site] = FleetHttpClient.from_server_address(
            f"127.0.0.1:{federation.config.server.port}",
            False,
            membership.authority.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )
        own = public_key_to_bytes(key.public_key())
        greeted = clients[site].ActivateNode(ActivateNodeRequest(public_key=own, heartbeat_interval=30))
        nodes[site] = Node(node_id=greeted.node_id)

    def asked(site: str) -> PullMessagesResponse:
        return clients[site].PullMessages(PullMessagesRequest(node=nodes[site]))

    first: list[PullMessagesResponse] = []

    def comes() -> bool:
        first[:] = [asked("A")]
        return bool(first[0].messages_list)

    wait_for(comes, 90, server.text)
    assert asked("A") == first[0]  # the first one was lost
    assert asked("A") == first[0]
    (message,), (tree,) = first[0].messages_list, first[0].message_object_trees
    part = PullObjectRequest(node=nodes["A"], run_id=message.metadata.run_id, object_id=tree.object_id)
    assert clients["A"].PullObject(part).object_found
    assert not asked("A").messages_list
    of_b = asked("B").messages_list
    assert [one.metadata.message_id for one in of_b] != [message.metadata.message_id]
    for client in clients.values():
        client.close()
