"""What a site takes from a server that wants something else of it."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_connection import http_request_response

from acm_core.audit_events import BundleRefused, TaskRefused
from acm_core.audit_log import AuditLog, verify
from acm_core.bundle import build_bundle
from acm_core.federated.messages import Refusal
from client.bounded_answers import TooMuchError
from client.site_log import LOG_NAME
from client.site_node import FleetClient, Guard

NODE = 42
BUNDLE = build_bundle()
OWN = hashlib.sha256(BUNDLE).hexdigest()
REFUSED = TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None)


class Server:
    """What is beyond the guard: it hands out one message and remembers the answers."""

    def __init__(
        self,
        kind: str = "train",
        run: Run | None = None,
        parts: int = 3,
        push: Callable[[], object] = lambda: None,
        announced: Callable[[], object] = lambda: None,
        asked: Callable[[], object] = lambda: None,
        confirmed: Callable[[], object] = lambda: None,
    ) -> None:
        self.push, self.announced, self.asked, self.confirmed = push, announced, asked, confirmed
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
        self.message = Message(RecordDict(), dst_node_id=NODE, message_type=kind)
        self.message.metadata.__dict__["_message_id"] = "a" * 64
        self.tree = ObjectTree(
            object_id="a", children=[ObjectTree(object_id=str(i)) for i in range(parts - 1)]
        )
        self.run = run or replace(Run.create_empty(1), fab_hash=OWN)
        self.sent: list[Message] = []

    def guard(self, folder: Path, weight: int = 1) -> Guard:
        def send(message: Message, _tree: ObjectTree, _seconds: float) -> tuple[set[str], str]:
            self.sent.append(message)
            self.announced()
            return set(), ""

        def pull(_run: int, _identifier: str) -> bytes:
            self.asked()
            return bytes(weight)

        def other_fab(_hash: str, _run: int) -> Fab:
            raise AssertionError("the server was asked for code")

        return Guard(
            BUNDLE,
            AuditLog(folder),
            NODE,
            lambda: (self.message, self.tree),
            send,
            lambda _: self.run,
            other_fab,
            pull,
            lambda _run, _session, _identifier, _content: self.push(),
            lambda _run, _identifier: self.confirmed(),
        )


@pytest.mark.parametrize("kind", ["train", "train.local_only", "evaluate"])
def test_a_task_of_this_project_passes(tmp_path: Path, kind: str) -> None:
    server = Server(kind)
    assert server.guard(tmp_path).receive() == (server.message, server.tree)
    assert server.sent == []


@pytest.mark.parametrize(
    "server",
    [
        lambda: Server("query"),
        lambda: Server("train.anything"),
        lambda: Server("system.shell"),
        lambda: Server(run=replace(Run.create_empty(1), fab_hash=OWN, primary_task_type=TaskType.AGENT_APP)),
        lambda: Server(run=replace(Run.create_empty(1), fab_hash=OWN, primary_task_type=TaskType.CONNECTOR)),
        lambda: Server(run=replace(Run.create_empty(1), fab_hash="b" * 64)),
        lambda: Server(run=replace(Run.create_empty(1), fab_hash="../../etc/passwd")),
        lambda: Server(run=Run.create_empty(1)),
        lambda: Server(parts=30_000),
    ],
    ids=["query", "other_train", "system", "agent", "connector", "bundle", "no hash", "no bundle", "parts"],
)
def test_anything_else_is_answered_with_a_refusal_and_not_run(tmp_path: Path, server: object) -> None:
    asking = server()  # type: ignore[operator]
    assert asking.guard(tmp_path).receive() is None
    assert [message.error.reason for message in asking.sent] == ["refused"]
    assert [type(row.event) in (TaskRefused, BundleRefused) for row in verify(tmp_path).rows] == [True]


def test_another_bundle_is_written_down(tmp_path: Path) -> None:
    Server(run=replace(Run.create_empty(1), fab_hash="b" * 64)).guard(tmp_path).receive()
    assert [row.event for row in verify(tmp_path).rows] == [BundleRefused(offered="b" * 64, own=OWN)]


def test_the_code_is_this_sites_own(tmp_path: Path) -> None:
    guard = Server().guard(tmp_path)
    get_fab = guard.connection[4]
    assert get_fab("b" * 64, 1) == Fab(OWN, BUNDLE, {})


def test_the_bundle_is_the_same_every_time() -> None:
    assert build_bundle() == BUNDLE


def test_a_message_has_a_limit(tmp_path: Path) -> None:
    guard = Server().guard(tmp_path, weight=300 * 2**20)
    guard.receive()
    for _ in range(3):
        guard.pull_object(1, "part")
    given_up = threading.Event()
    threading.Thread(target=guard.watch, args=[given_up.set, 60], daemon=True).start()
    with pytest.raises(TooMuchError, match="at most 1073741824 bytes"):
        guard.pull_object(1, "part")
    assert given_up.wait(4)
    assert [row.event for row in verify(tmp_path).rows] == [REFUSED]
    guard.receive()
    guard.pull_object(1, "part")


HONEST = {
    "activate-node": ActivateNodeResponse(node_id=NODE),
    "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
}


class Malicious(BaseHTTPRequestHandler):
    """Takes a site in; what it answers to the call `too_much` has no end that a site could wait for."""

    protocol_version = "HTTP/1.1"
    too_much, how, sent = "", "", 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        call = self.path.rpartition("/")[2]
        if call == self.too_much:
            with contextlib.suppress(OSError):
                getattr(self, f"send_{self.how}")()
            self.close_connection = True
            return
        content = HONEST.get(call, PullMessagesResponse()).SerializeToString()
        self._begin({"content-length": str(len(content))})
        self.wfile.write(content)

    def send_gzip(self) -> None:
        zeros = zlib.compressobj(9, wbits=31)
        body = b"".join(zeros.compress(bytes(2**20)) for _ in range(64)) + zeros.flush()
        self._begin({"content-length": str(len(body)), "content-encoding": "gzip"})
        self.wfile.write(body)

    def send_long(self) -> None:
        self._begin({"content-length": str(2**36)})
        self._pour(b"%b")

    def send_chunked(self) -> None:
        self._begin({"transfer-encoding": "chunked"})
        self._pour(b"100000\r\n%b\r\n")

    def _begin(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()

    def _pour(self, frame: bytes) -> None:
        for _ in range(64):
            self.wfile.write(frame % bytes(2**20))
            type(self).sent += 2**20

    def log_message(self, *_about: object) -> None:
        """Nothing is said."""


@pytest.fixture
def malicious(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Malicious, "sent", 0)
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", FleetClient)
    with ThreadingHTTPServer(("127.0.0.1", 0), Malicious) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("how", ["gzip", "long", "chunked"])
@pytest.mark.parametrize("call", ["pull-messages", "get-run", "pull-object"])
def test_an_answer_that_is_too_large_is_not_read_to_its_end_and_written_down(
    malicious: str, tmp_path: Path, call: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Malicious, "too_much", call)
    monkeypatch.setattr(Malicious, "how", how)
    with http_request_response(malicious, True, None, generate_key_pairs()) as connection:
        _, receive, send, get_run, get_fab, pull, *others = connection
        if call != "pull-messages":
            asked = Server()
            receive = lambda: (asked.message, asked.tree)  # noqa: E731
        if call == "pull-object":
            get_run = lambda _: asked.run  # noqa: E731
        guard = Guard(BUNDLE, AuditLog(tmp_path), NODE, receive, send, get_run, get_fab, pull, *others)
        with pytest.raises(TooMuchError):
            guard.receive()
            guard.pull_object(1, "part")
    assert [row.event for row in verify(tmp_path).rows] == [REFUSED]
    assert Malicious.sent < 32 * 2**20  # and what lies in between buffers some of it


def test_a_reply_that_stays_incomplete_is_given_up(tmp_path: Path) -> None:
    server = Server()
    guard, given_up = server.guard(tmp_path), threading.Event()
    guard.send(server.message, server.tree, 0.0)
    threading.Thread(target=guard.watch, args=[given_up.set, 2], daemon=True).start()
    assert given_up.wait(10)


@pytest.mark.parametrize(
    ("error", "ends"), [(ConnectionError("refused"), True), (RunNotRunningException(), False)]
)
def test_a_reply_of_which_a_part_cannot_be_sent_is_given_up_at_once(
    tmp_path: Path, error: Exception, ends: bool
) -> None:
    def fail() -> None:
        raise error

    server = Server(push=fail)
    guard, given_up = server.guard(tmp_path), threading.Event()
    guard.send(server.message, server.tree, 0.0)
    threading.Thread(target=guard.watch, args=[given_up.set, 60], daemon=True).start()
    with pytest.raises(type(error)):
        guard.push_object(1, "session", "part", b"content")
    assert given_up.wait(4) is ends


@pytest.mark.parametrize("error", [None, Error(0, "of a ClientApp")])
def test_a_reply_that_cannot_be_announced_is_given_up_at_once(tmp_path: Path, error: Error | None) -> None:
    def fail() -> None:
        raise ConnectionError

    server = Server(announced=fail)
    guard, given_up = server.guard(tmp_path), threading.Event()
    threading.Thread(target=guard.watch, args=[given_up.set, 60], daemon=True).start()
    reply = server.message if error is None else Message(error, reply_to=server.message)
    with pytest.raises(ConnectionError):
        guard.send(reply, server.tree, 0.0)
    assert given_up.wait(4)


@pytest.mark.parametrize(
    ("error", "ends"),
    [(ConnectionError(), True), (RunNotRunningException(), True), (ObjectUnavailableError("part"), False)],
    ids=["broken off", "its run is over", "not there yet"],
)
@pytest.mark.parametrize("call", ["asked", "confirmed"])
def test_a_message_that_cannot_be_received_is_given_up_at_once(
    tmp_path: Path, call: str, error: Exception, ends: bool
) -> None:
    def fail() -> None:
        raise error

    guard, given_up = Server(**{call: fail}).guard(tmp_path), threading.Event()  # type: ignore[arg-type]
    threading.Thread(target=guard.watch, args=[given_up.set, 60], daemon=True).start()
    guard.receive()
    with pytest.raises(type(error)):
        guard.pull_object(1, "part")
        guard.confirm(1, "a" * 64)
    assert given_up.wait(4) is ends


def test_a_reply_on_its_way_and_one_that_went_are_not_given_up(tmp_path: Path) -> None:
    arrived = threading.Event()
    server = Server(push=lambda: arrived.wait(20))
    guard, given_up = server.guard(tmp_path), threading.Event()
    guard.send(server.message, server.tree, 0.0)
    threading.Thread(target=guard.watch, args=[given_up.set, 2], daemon=True).start()
    pushing = threading.Thread(target=guard.push_object, args=[1, "session", "part", b"content"])
    pushing.start()
    assert not given_up.wait(4)  # a slow link
    guard.receive()  # all has gone, and the next message is asked for
    arrived.set()
    pushing.join()
    assert not given_up.wait(4)


ENDING = """
import sys, threading
from client import site_node

def connection():
    threading.Thread(target=threading.Event().wait).start()  # as Flower's own server thread
    exec(sys.argv[1])

site_node.flower_supernode = connection
site_node.main()
"""


@pytest.mark.parametrize(
    ("end", "code"), [("raise ConnectionError", 1), ("raise SystemExit(3)", 3), ("pass", 1)]
)
def test_a_supernode_whose_connection_ends_ends_whatever_threads_it_has(
    end: str, code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path / "federation"), end]
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code
    said = (tmp_path / LOG_NAME).read_text(encoding="utf-8")
    assert ("ConnectionError" in said) == ("ConnectionError" in end), ended.stderr
