"""What a site takes from a server that wants something else of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from acm_core.audit_events import BundleRefused
from acm_core.audit_log import AuditLog, verify
from acm_core.bundle import build_bundle
from client.site_log import LOG_NAME
from client.site_node import Guard

NODE = 42
BUNDLE = build_bundle()
OWN = hashlib.sha256(BUNDLE).hexdigest()


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
        lambda: Server(parts=30_000),
    ],
    ids=["query", "other_train", "system", "agent", "connector", "bundle", "parts"],
)
def test_anything_else_is_answered_with_a_refusal_and_not_run(tmp_path: Path, server: object) -> None:
    asking = server()  # type: ignore[operator]
    assert asking.guard(tmp_path).receive() is None
    assert [message.error.reason for message in asking.sent] == ["refused"]


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
    with pytest.raises(ValueError, match="at most 1073741824 bytes"):
        guard.pull_object(1, "part")
    guard.receive()
    guard.pull_object(1, "part")


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
    [(ConnectionError(), True), (RunNotRunningException(), False), (ObjectUnavailableError("part"), False)],
    ids=["broken off", "over", "not there yet"],
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
