"""A federation founded with the commands that people type, and a real SuperLink behind its gates."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

import client.enrol
import server.approve
import server.init
from acm_core.config.loading import load_config
from acm_core.config.sections import FederationConfig, ServerSection
from acm_core.processes import free_port
from acm_core.trust import keys
from acm_core.trust.enrolment import Answer, Request
from client.link.depot import Depot
from client.site.membership import Membership
from server.consortium.authority import ServerState
from server.consortium.registry import Registry
from server.link.flower_internals import Steering
from server.link.gates import CONTROL_HEADER
from server.link.superlink import SuperLink


def found_federation(folder: Path, sites: Iterable[str], ports: Mapping[str, int] | None = None) -> None:
    """From `federation.yaml` and `sites/` in a folder: server_state/ and every site a member.

    ports: where sites reach the server, if not at its own: what the operator's answer does not know.
    """
    config, state = ["--config", str(folder / "federation.yaml")], ["--state", str(folder / "server_state")]
    assert server.init.main([*config, *state]) == 0
    for site in sites:
        own = [f"--site={site}", "--sites", str(folder / "sites")]
        port = load_config(folder / "federation.yaml", FederationConfig).server.port
        with contextlib.chdir(folder):
            assert client.enrol.main([*own, "--server", f"127.0.0.1:{port}"]) == 0
            request = Request.read(folder / f"request-{site}.json")
            fingerprint = keys.fingerprint(keys.parse_public_key(request.public_key))
            asked = [f"request-{site}.json", *config, *state, "--fingerprint", fingerprint]
            assert server.approve.main(asked) == 0
            authority = Answer.read(folder / f"answer-{site}.json").authority_fingerprint
            answered = ["--answer", f"answer-{site}.json", "--authority-fingerprint", authority]
            assert client.enrol.main([*own, *answered]) == 0
            if ports is not None:
                assert client.enrol.main([*own, "--server", f"127.0.0.1:{ports[site]}"]) == 0


class Consortium:
    """A server's state, its running SuperLink and the keys of its sites."""

    def __init__(self, folder: Path, *sites: str) -> None:
        self.state = ServerState(folder / "server_state")
        self.state.create("test", ["127.0.0.1", "server.test"])
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        for site in sites:
            self.keys[site] = keys.create_key(folder / f"{site}.key")
            text = keys.public_text(self.keys[site].public_key())
            Registry.load(self.state.registry).approve(site, text)
        self.port = free_port()
        self.link = SuperLink(
            ServerSection(port=self.port, message_limit=8), self.state, folder / "run", folder / "logs"
        )
        self.link.wait_until_healthy()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state.authority))

    def http(self) -> httpx.Client:
        """An anonymous peer that trusts the server."""
        return httpx.Client(base_url=f"https://{self.address}", verify=self.trust, timeout=30)

    def fleet(self, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
        """A peer that signs with a key."""
        return FleetHttpClient.from_server_address(
            self.address,
            False,
            self.state.authority.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )

    def end(self) -> None:
        self.link.stop()


def begun(consortium: Consortium) -> HttpGrid:
    """The Grid of a run that goes on, with this process for its server application."""
    settings = json.loads(
        (consortium.state.folder / "superlink" / "settings.json").read_text(encoding="utf-8")
    )
    steering = Steering(consortium.link.loopback, {CONTROL_HEADER: settings["secret"]})
    run = steering.start_run()
    token = steering.acquire()
    assert token is not None
    steering.close()
    grid = HttpGrid(consortium.link.loopback, insecure=True, token=token)
    task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
    assert task.run.run_id == run
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, task.task_id
    grid.set_run(run_from_proto(task.run))
    return grid


class ScriptedSite:
    """A registered site that sends what it likes.

    Attributes:
        depot: as the site reaches it.
    """

    def __init__(self, consortium: Consortium, name: str) -> None:
        self.name, self.key = name, consortium.keys[name]
        self.client = consortium.fleet(self.key)
        key = public_key_to_bytes(self.key.public_key())
        self.node = Node(
            node_id=self.client.ActivateNode(
                ActivateNodeRequest(public_key=key, heartbeat_interval=300)
            ).node_id
        )
        folder = consortium.state.folder.parent
        membership = Membership(
            folder, folder / f"{name}.key", consortium.state.authority, consortium.address, "test"
        )
        self.depot = Depot(name, membership)

    def task(self) -> Message:
        """The task that waits for it, taken whole."""
        given = self.client.PullMessages(PullMessagesRequest(node=self.node))
        (tree,), run = given.message_object_trees, given.messages_list[0].metadata.run_id
        task = pull_and_inflate_object_from_tree(
            tree,
            make_pull_object_fn_protobuf(self.client.PullObject, self.node, run),
            make_confirm_message_received_fn_protobuf(self.client.ConfirmMessageReceived, self.node, run),
            return_type=Message,
        )
        task.metadata.__dict__["_message_id"] = tree.object_id
        return task

    def ask_in_vain(self) -> None:
        """Ask for something to do, and hang up when there is nothing at once."""
        with contextlib.suppress(httpx.ReadTimeout):
            self.client._client.timeout = 0.5
            assert not self.client.PullMessages(PullMessagesRequest(node=self.node)).messages_list
        self.client._client.timeout = 30

    def answer(self, task: Message, records: RecordDict) -> Message:
        """A reply to a task, not sent yet."""
        reply = Message(records, reply_to=task)
        reply.metadata.__dict__["_src_node_id"] = self.node.node_id
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply

    def announce(self, reply: Message) -> PushMessagesResponse:
        return self.client.PushMessages(self.announcement(reply))

    def announcement(self, reply: Message) -> PushMessagesRequest:
        return PushMessagesRequest(
            node=self.node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )

    def push(self, run: int, session: str, name: str, content: bytes) -> PushObjectResponse:
        return self.client.PushObject(
            PushObjectRequest(
                node=self.node, run_id=run, session_id=session, object_id=name, object_content=content
            )
        )

    def send(self, task: Message, records: RecordDict) -> None:
        """Announce a reply, and push its parts."""
        reply = self.answer(task, records)
        announced = self.announce(reply)
        for name, part in get_all_nested_objects(reply).items():
            if name in announced.objects_to_push:
                self.push(task.metadata.run_id, announced.session_id, name, part.deflate())

    def end(self) -> None:
        self.client.close()
        self.depot.close()
