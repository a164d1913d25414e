"""What a site takes from a server that wants something else of it, and what it lets go."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.proto.error_pb2 import Error
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunResponse, Run
from flwr.supernode.fleet_http_client import FleetHttpClient

from acm_core.audit_events import BundleRefused, TaskRefused
from acm_core.audit_log import AuditLog, verify
from acm_core.federated.messages import Refusal
from acm_core.trust import certificates
from client.link import gateway as gateway_module
from client.link.flower_internals import own_bundle
from client.link.gateway import Gateway

NODE = Node(node_id=42)
BUNDLE = own_bundle()
REFUSED = TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None)


class Server:
    """Beyond the gateway: it gives one message, and remembers what it was asked.

    Attributes:
        answers: path's end → status and body, in place of the honest ones.
        asked: paths' ends and bodies.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, bytes]] = []
        self.encoding: str | None = None
        self.kind, self.source, self.parts = "train", 1, 3
        self.run = Run(run_id=7, fab_hash=BUNDLE.sha256, primary_task_type="flwr-serverapp")
        authority, key = certificates.make_authority("test"), certificates.make_key()
        self.authority = folder / "ca.crt"
        self.authority.write_bytes(authority.certificate)
        (folder / "server.crt").write_bytes(certificates.issue(authority, key, ["127.0.0.1"]))
        (folder / "server.key").write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                call = self.path.removeprefix("/v1/fleet/")
                server.asked.append((call, body))
                status, content = server.answers.get(call) or (200, server.honest(call))
                self.send_response(status)
                if server.encoding:
                    self.send_header("content-encoding", server.encoding)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.address = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def honest(self, call: str) -> bytes:
        if call == "activate-node":
            return bytes(ActivateNodeResponse(node_id=42).SerializeToString())
        if call == "get-run":
            return bytes(GetRunResponse(run=self.run).SerializeToString())
        if call == "pull-messages":
            about = Metadata(run_id=7, message_id="a" * 64, src_node_id=self.source, message_type=self.kind)
            tree = ObjectTree(
                object_id="a" * 64, children=[ObjectTree(object_id=str(n)) for n in range(self.parts - 1)]
            )
            given = PullMessagesResponse(messages_list=[Message(metadata=about)], message_object_trees=[tree])
            return bytes(given.SerializeToString())
        if call == "pull-object":
            return bytes(
                PullObjectResponse(
                    object_found=True, object_available=True, object_content=b"part"
                ).SerializeToString()
            )
        if call == "push-messages":
            return bytes(PushMessagesResponse(session_id="s").SerializeToString())
        return b""

    def calls(self) -> list[str]:
        return [call for call, _ in self.asked]

    def end(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class Standing:
    """A gateway before a server, and a SuperNode's client before the gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.troubles = folder, list[str]()
        self.server = Server(folder)
        self.audit = AuditLog(folder / "audit")
        self.gateway = Gateway(
            self.server.address,
            self.server.authority,
            folder,
            BUNDLE,
            self.audit,
            "instance",
            self.troubles.append,
        )
        self.node = FleetHttpClient.from_server_address(
            self.gateway.address, False, self.gateway.own_authority.read_bytes(), interceptors=[]
        )
        host, _, port = self.gateway.address.rpartition(":")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
                break
            time.sleep(0.05)

    def given(self) -> PullMessagesResponse:
        return self.node.PullMessages(PullMessagesRequest(node=NODE))

    def rows(self) -> list[object]:
        return [row.event for row in verify(self.folder / "audit").rows]

    def end(self) -> None:
        self.node.close()
        self.gateway.stop()
        self.server.end()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    standing = Standing(tmp_path)
    yield standing
    standing.end()


@pytest.mark.parametrize("kind", ["train", "train.local_only", "evaluate"])
def test_a_task_of_this_project_passes(standing: Standing, kind: str) -> None:
    standing.server.kind = kind
    (message,) = standing.given().messages_list
    assert message.metadata.message_id == "a" * 64
    assert standing.rows() == []


def other(**changes: object) -> Callable[[Server], None]:
    def change(server: Server) -> None:
        for name, value in changes.items():
            setattr(server.run if name in ("fab_hash", "primary_task_type") else server, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        other(kind="query"),
        other(kind="train.anything"),
        other(kind="system.shell"),
        other(source=2),
        other(primary_task_type="flwr-agentapp"),
        other(primary_task_type="flwr-connector"),
        other(fab_hash="b" * 64),
        other(fab_hash="../../etc/passwd"),
        other(fab_hash=""),
        other(parts=30_000),
    ],
    ids=["query", "train", "system", "source", "agent", "connector", "bundle", "path", "none", "parts"],
)
def test_anything_else_does_not_reach_the_supernode_and_is_written_down(
    standing: Standing, change: Callable[[Server], None]
) -> None:
    change(standing.server)
    with contextlib.suppress(httpx.HTTPStatusError):  # of 30,000 parts, which are more than is read
        assert not standing.given().messages_list
    wanted = standing.server.run.fab_hash
    expected = BundleRefused(offered=wanted, own=BUNDLE.sha256) if wanted == "b" * 64 else REFUSED
    assert standing.rows() == [expected]


def test_the_bundle_is_this_sites_whatever_the_server_has(standing: Standing) -> None:
    fab = standing.node.GetFab(GetFabRequest(node=NODE, hash_str="b" * 64, run_id=7)).fab
    assert hashlib.sha256(fab.content).hexdigest() == fab.hash_str == BUNDLE.sha256
    assert standing.server.asked == []


def test_only_the_calls_of_a_site_pass(standing: Standing) -> None:
    trust = ssl.create_default_context(cafile=str(standing.gateway.own_authority))
    with httpx.Client(base_url=f"https://{standing.gateway.address}", verify=trust) as peer:
        for path in (
            "/v1/control/start-run",
            "/v1/fleet/register-node",
            "/v1/depot/greeting",
            "/health",
            "/",
        ):
            assert peer.post(path).status_code == 404
        assert peer.get("/v1/fleet/pull-messages").status_code == 404
        assert peer.post("/v1/fleet/push-object", content=bytes(2**19)).status_code == 413
    assert standing.server.asked == []


def test_a_place_that_a_killed_supernode_holds_is_left_first(standing: Standing) -> None:
    greeting = ActivateNodeRequest(public_key=b"key", heartbeat_interval=30)
    standing.node.ActivateNode(greeting)
    assert standing.server.calls() == ["activate-node"]
    standing.node.ActivateNode(greeting)
    assert standing.server.calls()[1:] == ["deactivate-node", "activate-node"]
    assert DeactivateNodeRequest.FromString(standing.server.asked[1][1]).node_id == 42


def test_an_answer_without_end_is_not_read(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    standing.server.answers["pull-messages"] = 200, bytes(gateway_module._MOST_BYTES + 1)
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        standing.given()
    assert standing.rows() == [REFUSED]


def test_a_compressed_answer_is_not_unpacked(standing: Standing) -> None:
    standing.server.encoding = "deflate"
    standing.server.answers["pull-messages"] = 200, zlib.compress(bytes(10**8))
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        standing.given()
    assert standing.rows() == [REFUSED]


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_that_fails_is_asked_again(standing: Standing, status: int) -> None:
    standing.server.answers["push-messages"] = status, b""
    with pytest.raises(httpx.HTTPStatusError, match=r"50[23]"):  # which the SuperNode tries again
        standing.node.PushMessages(PushMessagesRequest(node=NODE))
    assert standing.troubles == []


def test_a_server_that_serves_a_copy_of_this_site_is_said_after_a_while(
    standing: Standing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway_module, "_SURE_SECONDS", 0.3)
    standing.server.answers["pull-messages"] = 409, b""
    for said in (False, True):
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            standing.given()
        assert ("another client.run with this site's key" in caplog.text) == said
        time.sleep(0.4)
    assert standing.troubles == []


def test_a_server_that_is_away_is_asked_again(standing: Standing) -> None:
    standing.server.end()
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        standing.given()


@pytest.mark.parametrize(
    ("call", "status", "lost"),
    [
        ("pull-object", 404, True),
        ("pull-object", 403, True),
        ("confirm-message-received", 403, True),
        ("push-messages", 400, True),
        ("push-object", 413, True),
        ("push-messages", 403, False),  # the run is over
        ("push-object", 403, False),
        ("pull-messages", 403, False),
    ],
)
def test_a_message_or_reply_that_is_lost_lets_the_supernode_begin_anew(
    standing: Standing, call: str, status: int, lost: bool
) -> None:
    standing.server.answers[call] = status, b""
    requests = {
        "pull-object": lambda: standing.node.PullObject(PullObjectRequest(node=NODE)),
        "confirm-message-received": lambda: standing.node.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=NODE)
        ),
        "push-messages": lambda: standing.node.PushMessages(PushMessagesRequest(node=NODE)),
        "push-object": lambda: standing.node.PushObject(PushObjectRequest(node=NODE)),
        "pull-messages": standing.given,
    }
    with pytest.raises(httpx.HTTPStatusError, match=str(status)):
        requests[call]()
    assert bool(standing.troubles) == lost


def test_flowers_own_error_does_not_leave(standing: Standing) -> None:
    text = f"No space left on device: {standing.folder}"
    about = Metadata(run_id=7, message_id="b" * 64, reply_to_message_id="a" * 64, src_node_id=42)
    reply = Message(metadata=about, error=Error(code=1, reason=text))
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        standing.node.PushMessages(PushMessagesRequest(node=NODE, messages_list=[reply]))
    assert standing.server.asked == []
    assert standing.troubles == ["the server's task ended without an answer"]


def test_bytes_that_are_no_answer_are_refused(standing: Standing) -> None:
    for call in ("pull-messages", "get-run"):
        standing.server.answers = {call: (200, b"\xff" * 50)}
        assert not standing.given().messages_list
    assert standing.rows() == [REFUSED, REFUSED]
