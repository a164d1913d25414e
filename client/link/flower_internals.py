"""What of Flower's insides a site reaches into, for want of a public way: no other file of the client does.

| name | what for | the public way that is missing |
| --- | --- | --- |
| `flwr.cli.build.build_fab_from_files` | the app bundle, from memory | `flwr build` reads a folder |
| `flwr.proto.fleet_pb2`, `run_pb2`, `fab_pb2` | what the SuperNode is given | one that takes no bundle |
| `RuntimeHttpClient`, `SuperExecAuthHttpInterceptor`, `flwr.proto.runtime_pb2` | starts ClientApps | hidden tokens |
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.proto import fab_pb2, fleet_pb2, run_pb2, runtime_pb2
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from acm_core.bundle import bundle_files
from acm_core.federated.envelope import MESSAGE_TYPES
from acm_core.fleet import MOST_PARTS, WireError, parsed

NOTHING_TO_DO: bytes = fleet_pb2.PullMessagesResponse().SerializeToString()
_SERVER, _CLIENT_APP, _SERVER_APP = 1, "flwr-clientapp", "flwr-serverapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """The app bundle of what is installed here, the only one that this site runs.

    Attributes:
        sha256: in hex.
        answer: to a SuperNode that asks for the bundle of a run.
    """

    sha256: str
    answer: bytes


def own_bundle() -> Bundle:
    """Built from what is installed."""
    content = build_fab_from_files(bundle_files())[0]
    digest = hashlib.sha256(content).hexdigest()
    fab = fab_pb2.Fab(hash_str=digest, content=content)
    return Bundle(digest, fab_pb2.GetFabResponse(fab=fab).SerializeToString())


def activated_node(answer: bytes) -> int:
    """The number that the server gives this site.

    Raises:
        WireError: as with all that follow.
    """
    return int(parsed(fleet_pb2.ActivateNodeResponse, answer).node_id)


def leaving(node: int) -> bytes:
    """A request by which a node goes."""
    return bytes(fleet_pb2.DeactivateNodeRequest(node_id=node).SerializeToString())


def given_run(answer: bytes) -> int | None:
    """The run of the message that the server gives to this site, or None where it gives none.

    Raises:
        WireError: it is none of a server application's tasks.
    """
    response = parsed(fleet_pb2.PullMessagesResponse, answer)
    if not response.messages_list:
        return None
    if len(response.messages_list) != 1 or len(response.message_object_trees) != 1:
        raise WireError("expected one message, got more")
    about = response.messages_list[0].metadata
    if about.src_node_id != _SERVER or about.message_type not in MESSAGE_TYPES.values():
        raise WireError(
            f"expected one of {', '.join(sorted(MESSAGE_TYPES.values()))} from the server, got another kind"
        )
    waiting, parts = [response.message_object_trees[0]], 0
    while waiting:
        waiting += waiting.pop().children
        if (parts := parts + 1) > MOST_PARTS:
            raise WireError(f"expected at most {MOST_PARTS} parts, got more")
    return int(about.run_id)


def asking_for_run(pull: bytes, run: int) -> bytes:
    """The request for a run by the site that asked for something to do."""
    node = parsed(fleet_pb2.PullMessagesRequest, pull).node
    return bytes(run_pb2.GetRunRequest(node=node, run_id=run).SerializeToString())


def wanted_bundle(answer: bytes) -> str:
    """The SHA-256 of the bundle that a run wants to be run.

    Raises:
        WireError: the run is of another kind than a server application, or its bundle has no such name.
    """
    run = parsed(run_pb2.GetRunResponse, answer).run
    if run.primary_task_type != _SERVER_APP:
        raise WireError("expected a task of a server application, got another kind")
    if not _HASH.fullmatch(run.fab_hash):
        raise WireError("expected the hash of a bundle, got another text")
    return str(run.fab_hash)


def is_error(push: bytes) -> bool:
    """Whether a reply is an error of Flower's, whose text is an exception's and may hold paths of this site."""
    request = parsed(fleet_pb2.PushMessagesRequest, push)
    return any(message.HasField("error") for message in request.messages_list)


class Tasks:
    """The ClientApps that a SuperNode wants to be started.

    Args:
        address: of its Runtime API, on loopback.
        secret: that it was started with.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        interceptor = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._client: Any = RuntimeHttpClient.from_server_address(
            address, True, None, interceptors=[interceptor]
        )

    def acquire(self) -> str | None:
        """The token of a ClientApp that is to be started now; None where there is none, or no SuperNode."""
        request = runtime_pb2.AcquireTaskRequest(supported_task_types=[_CLIENT_APP])
        try:
            return self._client.AcquireTask(request).token or None
        except (httpx.HTTPError, RuntimeError):
            return None

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
