"""Flower's own state on a database: a reply is handed out when it is whole, or when it will never be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

from server import whole_replies
from server.whole_replies import WholeReplies, withhold_unfinished_replies

pytestmark = pytest.mark.filterwarnings(
    "ignore:No path_separator found:DeprecationWarning"
)  # Flower's migrations


class Announced(NamedTuple):
    """A task that a site has, and its reply, of which nothing but the announcement has come."""

    state: WholeReplies
    run: int
    task: str
    node: int
    session: str
    parts: dict[str, bytes]

    def push(self, *names: str) -> None:
        for name in names:
            assert self.state.store_object(self.run, self.session, name, self.parts[name])

    def replies(self) -> list[Message]:
        return self.state.get_message_res({self.task}, self.run)


@pytest.fixture
def announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Announced]:
    monkeypatch.setattr(linkstate_factory, "SqlLinkState", linkstate_factory.SqlLinkState)
    withhold_unfinished_replies()
    database = str(tmp_path / "state.db")
    factory = linkstate_factory.LinkStateFactory(
        database, NoOpFederationManager(), ObjectStoreFactory(database)
    )
    state = factory.state()
    assert isinstance(state, WholeReplies)
    node = state.create_node(NOOP_FLWR_AID, "site A", b"key", 30.0)
    assert state.activate_node(node, 30.0)
    run = state.create_run(
        None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
    )
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, 1
    task = Message(RecordDict(), dst_node_id=node, message_type="train")
    task.metadata.__dict__["_message_id"] = task.object_id
    assert state.store_message_ins(task) is not None
    weights = ArrayRecord({"a": Array(np.arange(5.0)), "b": Array(np.ones(3))})
    reply = Message(RecordDict({"arrays": weights}), reply_to=task)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    reply.metadata.__dict__["_src_node_id"] = node
    session = state.start_session(run)
    stored, missing = state.store_message_and_object_tree(reply, get_object_tree(reply), session)
    assert stored
    parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    assert sorted(missing) == sorted(parts)
    yield Announced(state, run, task.metadata.message_id, node, session, parts)


def test_a_reply_arrives_with_its_last_part(announced: Announced) -> None:
    *most, last = announced.parts
    for name in most:
        assert announced.replies() == []
        announced.push(name)
    assert announced.replies() == []
    announced.push(last)
    (reply,) = announced.replies()
    assert not reply.has_error()
    assert announced.replies() == []  # once


def test_a_part_whose_answer_was_lost_is_pushed_again(announced: Announced) -> None:
    *most, last = announced.parts
    announced.push(*most, *most)
    assert announced.replies() == []
    announced.push(last)
    announced.push(last)  # the session has ended with it
    (reply,) = announced.replies()
    assert not reply.has_error()


def test_a_part_that_nobody_awaits_is_not_taken(announced: Announced) -> None:
    first, second, *_ = announced.parts
    state, run, content = announced.state, announced.run, announced.parts[first]
    assert not state.store_object(run, "0", first, content)
    assert not state.store_object(run, "0", first, b"")
    announced.push(first)
    assert not state.store_object(run, announced.session, first, announced.parts[second])
    assert state.object_store.get(first) == content


def test_a_reply_of_which_nothing_comes_any_more_is_handed_out_to_fail(
    announced: Announced, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced.push(next(iter(announced.parts)))
    announced.state.acknowledge_node_heartbeat(announced.node, 1000.0)  # it lives, and sends nothing more
    later = sql_corestate.now() + timedelta(seconds=181)
    monkeypatch.setattr(whole_replies, "now", lambda: later - timedelta(seconds=5))
    assert announced.replies() == []
    monkeypatch.setattr(whole_replies, "now", lambda: later)
    assert len(announced.replies()) == 1
    monkeypatch.setattr(sql_corestate, "now", lambda: later)
    last = list(announced.parts)[-1]
    assert announced.state.get_object(announced.run, last) is None  # what Flower's Grid answers with an error


def test_the_parts_of_a_reply_that_nobody_waits_for_are_forgotten(
    announced: Announced, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(iter(announced.parts))
    announced.push(part)
    later = sql_corestate.now() + timedelta(seconds=230)
    monkeypatch.setattr(whole_replies, "now", lambda: later)
    announced.state.get_message_res({"0" * 64}, announced.run)  # another task's
    assert announced.state.object_store.get(part) == announced.parts[part]
    monkeypatch.setattr(whole_replies, "now", lambda: later + timedelta(seconds=30))
    announced.state.get_message_res({"0" * 64}, announced.run)
    assert announced.state.object_store.get(part) is None


def test_a_site_that_is_gone_is_an_error_at_once(announced: Announced) -> None:
    assert announced.replies() == []
    assert announced.state.acknowledge_node_heartbeat(announced.node, 0.0)
    time.sleep(0.1)
    (reply,) = announced.replies()
    assert reply.has_error()


def test_no_question_has_no_answer(announced: Announced) -> None:
    assert announced.state.get_message_res(set(), announced.run) == []
