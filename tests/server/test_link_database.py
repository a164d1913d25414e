"""Many sites at once are all answered, and what the SuperLink has deleted takes no disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from consortium import Consortium, asked
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore import sql_mixin
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supernode.fleet_http_client import FleetHttpClient

from server.link_database import give_disk_back

FIRST, *SITES = (f"S{number:02}" for number in range(33))
SECONDS = 14.0  # that it takes to note what all sites announce: SQLite has a transaction wait for five

# Flower's migrations.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    running = Consortium(tmp_path, FIRST, *SITES)
    yield running
    running.end()


@pytest.fixture
def clients(consortium: Consortium) -> Iterator[dict[str, FleetHttpClient]]:
    with ExitStack() as opened:
        yield {site: opened.enter_context(consortium.fleet(key)) for site, key in consortium.keys.items()}


def announcement(site: str, node: int, message: Message, parts: int) -> PushMessagesRequest:
    """Of a reply of that many parts, which are to come."""
    names = [hashlib.sha256(f"{site} {number}".encode()).hexdigest() for number in range(parts)]
    reply = Message(RecordDict(), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = node
    reply.metadata.__dict__["_message_id"] = names[0]
    tree = ObjectTree(object_id=names[0], children=[ObjectTree(object_id=name) for name in names[1:]])
    return PushMessagesRequest(
        node=Node(node_id=node), messages_list=[message_to_proto(reply)], message_object_trees=[tree]
    )


@pytest.mark.slow
def test_sites_that_all_answer_at_once_are_all_heard(
    consortium: Consortium, clients: dict[str, FleetHttpClient]
) -> None:
    nodes = {}
    for site, client in clients.items():
        key = public_key_to_bytes(consortium.keys[site].public_key())
        greeting = ActivateNodeRequest(public_key=key, heartbeat_interval=300)
        nodes[site] = client.ActivateNode(greeting).node_id
    messages = asked(consortium, nodes)
    retry = make_simple_http_retry_invoker()  # a site's: what is late is asked for again, 500 is the end

    def wanted(site: str, parts: int) -> int:
        request = announcement(site, nodes[site], messages[site], parts)
        return len(retry.invoke(clients[site].PushMessages, request).objects_to_push)

    started = time.monotonic()
    assert wanted(FIRST, 200) == 200
    parts = round(200 * SECONDS / len(SITES) / (time.monotonic() - started))
    with ThreadPoolExecutor(len(SITES)) as pool:
        assert list(pool.map(wanted, SITES, [parts] * len(SITES))) == [parts] * len(SITES)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlObjectStore:
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", sql_mixin.SQLITE_PRAGMAS)  # type: ignore[attr-defined]
    give_disk_back()
    store = SqlObjectStore(str(tmp_path / "state.db"), verify=False)
    store.initialize()
    return store


def test_models_that_are_deleted_leave_the_disk(store: SqlObjectStore, tmp_path: Path) -> None:
    def come_and_go(name: str, count: int) -> int:
        """Bytes on the disk while an object of this many MiB is there."""
        parts = [hashlib.sha256(f"{name} {part}".encode()).hexdigest() for part in range(count)]
        tree = ObjectTree(object_id=parts[0], children=[ObjectTree(object_id=part) for part in parts[1:]])
        with store.session():  # the journal takes all of them
            store.preregister(1, tree)
            for part in parts:
                store.put(part, part.encode() * 2**14)
        there = sum(path.stat().st_size for path in tmp_path.iterdir())
        store.delete(parts[0])
        assert len(store) == 0
        return there

    for number in range(3):
        assert come_and_go(f"model {number}", 40) > 40 * 2**20
        come_and_go(f"metrics {number}", 6)  # SQLite cuts its file when it has written some MiB more
        assert come_and_go(f"more metrics {number}", 1) < 16 * 2**20
