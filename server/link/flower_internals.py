"""What of Flower's insides the server reaches into, for want of a public way: no other file of the server does.

| name | what for | the public way that is missing |
| --- | --- | --- |
| `flwr.superlink.main.create_app` | a SuperLink behind gates of ours | one whose Control API asks for a secret |
| `flwr.cli.build.build_fab_from_files` | the app bundle, from memory | `flwr build` reads a folder |
| `flwr.proto.control_pb2`, `fab_pb2` | registers sites, starts and stops the run | a client of the Control API |
| `flwr.proto.runtime_pb2` | starts the server application, its token out of sight | a SuperExec that hides tokens |
| `flwr.proto.fleet_pb2`, `message_pb2` | reads whose a site's message is, and when it is whole | checked senders |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import httpx
from fastapi import FastAPI
from flwr.cli.build import build_fab_from_files
from flwr.proto import control_pb2, fab_pb2, fleet_pb2, message_pb2, runtime_pb2
from flwr.superlink.main import create_app
from google.protobuf.message import Message

from acm_core.bundle import bundle_files
from acm_core.federated.envelope import MESSAGE_TYPES
from acm_core.fleet import MEDIA_TYPE, MOST_PARTS, WireError, parsed

KEY_HEADER = b"flwr-public-key"
_UNREGISTERED, _SERVER_APP = "unregistered", "flwr-serverapp"
_SECONDS = 30.0
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True)
class Node:
    """A registered site, as the SuperLink has it."""

    number: int
    name: str


@dataclass(frozen=True)
class Announcement:
    """A site's reply, of which the parts follow.

    Attributes:
        node, source: who announces it, and whose it says it is.
        answers: the message that it answers; "" for one that answers none.
        sound: whether it is one message of a kind that the server asks for, whose root it announces, of few parts.
    """

    node: int
    source: int
    answers: str
    sound: bool


def superlink_app() -> FastAPI:
    """Flower's SuperLink, in memory, that knows sites by their registered keys."""
    app = create_app()
    app.state.enable_supernode_auth = True
    return app


def bundle() -> bytes:
    """The app bundle of what is installed here."""
    return build_fab_from_files(bundle_files())[0]


class Steering:
    """The calls by which `server.run` steers its SuperLink.

    Args:
        address: of the SuperLink's inner listener.
        headers: that open it.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._client = httpx.Client(
            base_url=f"http://{address}",
            headers={**headers, "content-type": MEDIA_TYPE, "accept": MEDIA_TYPE},
            timeout=_SECONDS,
            trust_env=False,
        )

    def answers(self) -> bool:
        """Whether the SuperLink is there."""
        try:
            return self._client.get("/health").is_success
        except httpx.HTTPError:
            return False

    def nodes(self) -> dict[bytes, Node]:
        """Key → site, as the SuperLink has them: an answer to a change may be lost after the change was made.

        Raises:
            httpx.HTTPError: the SuperLink does not answer, as with all calls that follow.
        """
        response = self._call("list-nodes", control_pb2.ListNodesRequest(), control_pb2.ListNodesResponse)
        return {
            node.public_key: Node(node.node_id, node.name)
            for node in response.nodes_info
            if node.status != _UNREGISTERED
        }

    def register(self, name: str, key: bytes) -> None:
        """Let the owner of `key` in as `name`."""
        request = control_pb2.RegisterNodeRequest(public_key=key, name=name)
        self._call("register-node", request, control_pb2.RegisterNodeResponse)

    def unregister(self, node: int) -> None:
        """Let a site in no longer."""
        request = control_pb2.UnregisterNodeRequest(node_id=node)
        self._call("unregister-node", request, control_pb2.UnregisterNodeResponse)

    def start_run(self) -> int:
        """Begin a run of the applications that the bundle names; returns its number."""
        content = bundle()
        fab = fab_pb2.Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        request = control_pb2.StartRunRequest(fab=fab)
        return int(self._call("start-run", request, control_pb2.StartRunResponse).run_id)

    def stop_run(self, run: int) -> None:
        """End a run whose server application is gone."""
        self._call("stop-run", control_pb2.StopRunRequest(run_id=run), control_pb2.StopRunResponse)

    def acquire(self) -> str | None:
        """The token of a server application that is to be started now; None where there is none."""
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=[_SERVER_APP])
        response = self._call("acquire-task", request, runtime_pb2.AcquireTaskResponse, api="runtime")
        return response.token or None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call(self, name: str, request: Message, kind: type[_M], *, api: str = "control") -> _M:
        response = self._client.post(f"/v1/{api}/{name}", content=request.SerializeToString())
        return parsed(kind, response.raise_for_status().content)


def given_messages(body: bytes) -> list[str]:
    """The messages that an answer to `pull-messages` gives to a site.

    Raises:
        WireError: it is no such answer, as with all that follow.
    """
    response = parsed(fleet_pb2.PullMessagesResponse, body)
    return [message.metadata.message_id for message in response.messages_list]


def announcement(body: bytes) -> Announcement:
    """What a request of `push-messages` says."""
    request = parsed(fleet_pb2.PushMessagesRequest, body)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise WireError("expected one message, got another number")
    about, tree = request.messages_list[0].metadata, request.message_object_trees[0]
    few = sum(1 for _ in islice(_parts(tree), MOST_PARTS + 1)) <= MOST_PARTS
    return Announcement(
        node=request.node.node_id,
        source=about.src_node_id,
        answers=about.reply_to_message_id,
        sound=few and tree.object_id == about.message_id and about.message_type in MESSAGE_TYPES.values(),
    )


def wanted_parts(body: bytes) -> set[str]:
    """The parts that an answer to `push-messages` asks for."""
    return set(parsed(fleet_pb2.PushMessagesResponse, body).objects_to_push)


def pushed_part(request: bytes, answer: bytes) -> str | None:
    """The part that a call of `push-object` has brought, or None where it was not taken."""
    taken = parsed(message_pb2.PushObjectResponse, answer).stored
    return parsed(message_pb2.PushObjectRequest, request).object_id if taken else None


def confirmed_message(body: bytes) -> str:
    """The message that a request of `confirm-message-received` is about."""
    return parsed(message_pb2.ConfirmMessageReceivedRequest, body).message_object_id


def _parts(tree: message_pb2.ObjectTree):  # type: ignore[no-untyped-def]  # protobuf's messages have no types here
    yield tree
    for child in tree.children:
        yield from _parts(child)
