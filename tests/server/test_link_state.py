"""Flower's own state on a database: a reply is handed out when it is whole, or when it will never be."""

from __future__ import annotations

import itertools
import random
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from fastapi import HTTPException
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
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server import link_state
from server.link_state import LinkState, use_link_state

pytestmark = pytest.mark.filterwarnings(
    "ignore:No path_separator found:DeprecationWarning"
)  # Flower's migrations


MOST_BYTES = 16_384  # of a reply


class SuperLink:
    """A state on a database and the run on it, with what the server application and the sites ask of it."""

    def __init__(self, database: str) -> None:
        factory = linkstate_factory.LinkStateFactory(
            database, NoOpFederationManager(), ObjectStoreFactory(database)
        )
        state = factory.state()
        assert isinstance(state, LinkState)
        self.state = state
        self.sites: list[int] = []
        self.begin()

    def begin(self) -> None:
        self.run = self.state.create_run(
            None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.run, SUPERLINK_NODE_ID, 1

    def join(self) -> int:
        node = self.state.create_node(
            NOOP_FLWR_AID, f"site {len(self.sites)}", bytes([len(self.sites)]), 30.0
        )
        assert self.state.activate_node(node, 10_000.0)  # longer than any test
        self.sites.append(node)
        return node

    def send(
        self, site: int, model: float, *, pushed: bool = True, lifetime: float = 1000.0, count: int = 5
    ) -> Message:
        """A task for a site, as the server application stores it; its parts come behind."""
        weights = ArrayRecord({"a": Array(np.full(count, model)), "b": Array(np.full(3, model))})
        task = Message(RecordDict({"arrays": weights}), dst_node_id=site, message_type="train", ttl=lifetime)
        task.metadata.__dict__["_message_id"] = task.object_id
        session, missing = self.announce(task)
        for name in missing if pushed else ():
            assert self.state.store_object(self.run, session, name, parts(task)[name])
        return task

    def answer(self, task: Message, model: float, count: int = 5) -> Reply:
        """A site's announcement of its reply to a task."""
        weights = ArrayRecord({"a": Array(np.full(count, model)), "b": Array(np.full(3, -model))})
        reply = Message(RecordDict({"arrays": weights}), reply_to=task)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        reply.metadata.__dict__["_src_node_id"] = task.metadata.dst_node_id
        session, missing = self.announce(reply)
        assert sorted(missing) == sorted(parts(reply))
        return Reply(self, reply, task.metadata.dst_node_id, session, parts(reply))

    def announce(self, message: Message) -> tuple[str, list[str]]:
        session = self.state.start_session(self.run)
        stored, missing = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        return session, missing

    def take(self, task: Message) -> None:
        """A site has asked for its task, has fetched all of it, and says so."""
        (given,) = self.state.get_message_ins(task.metadata.dst_node_id, 1)
        assert given.metadata.message_id == task.metadata.message_id
        assert self.has(task)
        self.state.object_store.delete(task.metadata.message_id)

    def has(self, message: Message) -> bool:
        stored = {name: self.state.object_store.get(name) for name in parts(message)}
        return stored == parts(message)

    def objects(self) -> int:
        return len(self.state.object_store)


class Reply(NamedTuple):
    """A reply of which nothing but the announcement has come."""

    link: SuperLink
    message: Message
    node: int
    session: str
    parts: dict[str, bytes]

    def push(self, *names: str) -> None:
        for name in names:
            assert self.link.state.store_object(self.link.run, self.session, name, self.parts[name])

    def fetch(self) -> list[Message]:
        """What the server application is handed out; Flower then ends the task."""
        task = self.message.metadata.reply_to_message_id
        replies = self.link.state.get_message_res({task}, self.link.run)
        self.link.state.delete_messages({reply.metadata.reply_to_message_id for reply in replies})
        return replies


def parts(message: Message) -> dict[str, bytes]:
    return {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuperLink:
    monkeypatch.setattr(linkstate_factory, "SqlLinkState", linkstate_factory.SqlLinkState)
    monkeypatch.setattr(link_state, "_OVER_SECONDS", 0.0)
    use_link_state(MOST_BYTES)
    return SuperLink(str(tmp_path / "state.db"))


@pytest.fixture
def clock(link: SuperLink, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is over stays for the real 300 s, of a clock that a test moves on."""
    monkeypatch.setattr(link_state, "_OVER_SECONDS", 300.0)
    seconds = [1000.0]
    monkeypatch.setattr(link_state, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


@pytest.fixture
def announced(link: SuperLink) -> Reply:
    task = link.send(link.join(), 0.0)
    link.take(task)
    return link.answer(task, 1.0)


def test_a_reply_arrives_with_its_last_part(announced: Reply) -> None:
    *most, last = announced.parts
    for name in most:
        assert announced.fetch() == []
        announced.push(name)
    assert announced.fetch() == []
    announced.push(last)
    (reply,) = announced.fetch()
    assert not reply.has_error()
    (once_more,) = announced.fetch()
    assert once_more.has_error()


def test_a_part_whose_answer_was_lost_is_pushed_again(announced: Reply) -> None:
    *most, last = announced.parts
    announced.push(*most, *most)
    assert announced.fetch() == []
    announced.push(last)
    announced.push(last)  # the session has ended with it
    (reply,) = announced.fetch()
    assert not reply.has_error()


def test_a_reply_has_a_limit_however_often_it_is_announced(link: SuperLink) -> None:
    count = MOST_BYTES // 8
    task = link.send(link.join(), 0.0, count=count)  # a task has none
    link.take(task)
    reply = link.answer(task, 1.0, count)
    *others, large = sorted(reply.parts, key=lambda name: len(reply.parts[name]))
    reply.push(*others)
    again = reply._replace(session=link.announce(reply.message)[0])
    again.push(*others)
    with pytest.raises(HTTPException, match="413"):
        again.push(large)
    assert not link.state.store_object(link.run, "", large, reply.parts[large])
    assert link.state.object_store.get(large) == b""


def test_a_part_that_comes_twice_counts_once(link: SuperLink) -> None:
    task = link.send(link.join(), 0.0)
    reply = link.answer(task, 1.0, MOST_BYTES // 8 * 3 // 4)
    *most, last = reply.parts
    reply.push(*most, *most)
    again = reply._replace(session=link.announce(reply.message)[0])
    again.push(*most, last, last)
    (whole,) = reply.fetch()
    assert not whole.has_error()


def test_a_part_that_nobody_awaits_is_not_taken(announced: Reply, link: SuperLink) -> None:
    first, second, *_ = announced.parts
    state, run, content = link.state, link.run, announced.parts[first]
    assert not state.store_object(run, "0", first, content)
    assert not state.store_object(run, "0", first, b"")
    announced.push(first)
    assert not state.store_object(run, announced.session, first, announced.parts[second])
    assert state.object_store.get(first) == content


def test_a_reply_of_which_nothing_comes_any_more_is_handed_out_to_fail(
    announced: Reply, link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced.push(next(iter(announced.parts)))
    link.state.acknowledge_node_heartbeat(announced.node, 1000.0)  # it lives, and sends nothing more
    later = sql_corestate.now() + timedelta(seconds=181)
    monkeypatch.setattr(link_state, "now", lambda: later - timedelta(seconds=5))
    assert announced.fetch() == []
    monkeypatch.setattr(link_state, "now", lambda: later)
    assert len(announced.fetch()) == 1
    monkeypatch.setattr(sql_corestate, "now", lambda: later)
    last = list(announced.parts)[-1]
    assert link.state.get_object(link.run, last) is None  # what Flower's Grid answers with an error


def test_the_parts_of_a_reply_that_nobody_waits_for_are_forgotten(
    announced: Reply, link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(iter(announced.parts))
    announced.push(part)
    later = sql_corestate.now() + timedelta(seconds=230)
    monkeypatch.setattr(link_state, "now", lambda: later)
    link.state.get_message_res({"0" * 64}, link.run)  # another task's
    assert link.state.object_store.get(part) == announced.parts[part]
    monkeypatch.setattr(link_state, "now", lambda: later + timedelta(seconds=30))
    link.state.get_message_res({"0" * 64}, link.run)
    assert link.state.object_store.get(part) is None


def test_a_site_that_is_gone_is_an_error_at_once(announced: Reply, link: SuperLink) -> None:
    assert announced.fetch() == []
    assert link.state.acknowledge_node_heartbeat(announced.node, 0.0)
    time.sleep(0.1)
    (reply,) = announced.fetch()
    assert reply.has_error()


def test_no_question_has_no_answer(announced: Reply, link: SuperLink) -> None:
    assert link.state.get_message_res(set(), link.run) == []


def test_a_lost_task_ends_with_its_sites_next_one_and_what_they_have_in_common_is_not_sent_again(
    link: SuperLink,
) -> None:
    site = link.join()
    link.send(site, 1.0)
    alone = link.objects()
    again = link.send(site, 1.0, pushed=False)  # the same model: nothing but the message itself is missing
    assert link.objects() == alone
    assert not link.has(again)
    link.send(site, 2.0)
    assert link.objects() == alone
    assert link.state.num_message_ins() == 1


def test_a_lost_task_ends_with_its_reply(announced: Reply, link: SuperLink) -> None:
    alone = link.objects()
    announced.push(*announced.parts)
    link.send(announced.node, 1.0)
    assert link.objects() == alone
    assert link.state.num_message_res() == 0
    assert announced.fetch()[0].has_error()


def test_what_is_over_stays_for_a_site_that_is_still_fetching_it(link: SuperLink, clock: list[float]) -> None:
    site = link.join()
    first = link.send(site, 1.0)
    link.send(site, 2.0)
    clock[0] += 299
    link.send(site, 3.0)
    link.take(first)  # which may be answered, too
    assert link.state.get_valid_message_ins(first.metadata.message_id) is not None
    clock[0] += 1
    newest = link.send(site, 3.0)
    assert link.state.get_valid_message_ins(first.metadata.message_id) is None
    clock[0] += 300
    last = link.send(site, 3.0)
    assert link.objects() == len(parts(last).keys() | parts(newest).keys())


def test_what_is_over_goes_with_the_answer_to_a_later_task(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_state, "_OVER_SECONDS", 300.0)
    first, second = link.join(), link.join()
    cut = link.answer(link.send(first, 1.0), 1.5)
    cut.push(next(iter(cut.parts)))
    unanswered = link.send(first, 1.0)
    away = link.send(first, 2.0)
    link.state.delete_messages({away.metadata.message_id})
    elsewhere, newest, current = link.send(second, 3.0), link.send(second, 4.0), link.send(first, 5.0)
    assert all(link.has(task) for task in (unanswered, away, elsewhere, newest, current))
    reply = link.answer(current, 6.0)
    kept = [parts(elsewhere), parts(newest), parts(current), reply.parts]
    assert link.objects() == len(set().union(*kept))
    assert link.has(current)


def test_an_answer_to_an_earlier_task_leaves_the_later_one(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_state, "_OVER_SECONDS", 300.0)
    site = link.join()
    first, second = link.send(site, 1.0), link.send(site, 2.0)
    link.answer(first, 3.0)
    assert link.has(first)
    assert link.has(second)


def test_what_flower_deletes_stays_as_long(link: SuperLink, clock: list[float]) -> None:
    task = link.send(link.join(), 1.0)
    link.state.delete_messages({task.metadata.message_id})  # its site was away for a minute
    assert link.has(task)
    clock[0] += 300
    other = link.send(link.join(), 2.0)
    assert link.objects() == len(parts(other))


def test_the_task_of_another_site_goes_on_until_its_time_is_over(
    link: SuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = link.join(), link.join()
    task = link.send(first, 1.0, lifetime=100.0)
    link.send(second, 2.0)
    assert link.has(task)
    later = sql_corestate.now() + timedelta(seconds=101)
    monkeypatch.setattr(link_state, "now", lambda: later)
    link.send(second, 3.0)
    assert not link.has(task)
    assert link.state.num_message_ins() == 1


def test_a_reply_on_its_way_to_a_task_that_is_over_arrives_and_ends_with_the_next(
    announced: Reply, link: SuperLink
) -> None:
    first, *others = announced.parts
    announced.push(first)
    link.send(announced.node, 1.0)
    announced.push(*others)  # and its site does not begin anew
    task = link.send(announced.node, 2.0)
    assert link.objects() == len(parts(task))
    assert link.state.num_message_res() == 0


def test_a_reply_that_is_being_fetched_stays_until_it_is_there(announced: Reply, link: SuperLink) -> None:
    announced.push(*announced.parts)
    (reply,) = announced.fetch()
    link.send(announced.node, 2.0)
    assert all(link.state.get_object(link.run, name) == part for name, part in announced.parts.items())
    link.state.object_store.delete(reply.metadata.message_id)
    assert not any(name in link.state.object_store for name in announced.parts)


def test_all_of_a_run_whose_server_application_died_ends_with_the_next_ones_first_task(
    announced: Reply, link: SuperLink
) -> None:
    announced.push(*announced.parts)
    announced.fetch()  # and it died over them
    link.send(link.join(), 1.0)
    link.begin()
    task = link.send(announced.node, 1.0)
    assert link.has(task)
    assert link.objects() == len(parts(task))


class Losses(RuleBasedStateMachine):
    """A server application that sends tasks to two sites, whose tasks and replies get lost in any order."""

    def __init__(self, link: SuperLink) -> None:
        super().__init__()
        self.link = link
        self.models = itertools.count(1)
        self.begin()

    @rule(site=st.sampled_from([0, 1]), same=st.booleans())
    def send(self, site: int, same: bool) -> None:
        self.tasks[site] = self.link.send(self.link.sites[site], 0.0 if same else next(self.models))

    @precondition(lambda self: self.tasks)
    @rule(
        chosen=st.randoms(use_true_random=False), end=st.sampled_from(["fetched", "dropped", "unread", "cut"])
    )
    def answer(self, chosen: random.Random, end: str) -> None:
        site = chosen.choice(sorted(self.tasks))
        task = self.tasks.pop(site)
        self.link.take(task)
        reply = self.link.answer(task, next(self.models))
        self.cut.pop(site, None)  # this site's earlier reply, which broke off
        pushed = len(reply.parts) if end != "cut" else chosen.randrange(len(reply.parts))
        reply.push(*list(reply.parts)[:pushed])
        if end in ("fetched", "dropped"):
            (whole,) = reply.fetch()
            if end == "fetched":
                self.link.state.object_store.delete(whole.metadata.message_id)
        if end == "cut":
            self.cut[site] = len(reply.parts)
        if end == "dropped":
            self.kept.append(len(reply.parts))
        if end == "unread":
            self.send(site, same=False)

    @rule()
    def begin(self) -> None:
        self.link.begin()
        self.tasks: dict[int, Message] = {}
        self.kept: list[int] = []
        self.cut: dict[int, int] = {}
        for site in (0, 1):
            self.send(site, same=False)

    @invariant()
    def all_that_is_awaited_is_here_and_nothing_else(self) -> None:
        assert all(self.link.has(task) for task in self.tasks.values())
        awaited = set().union(*(parts(task) for task in self.tasks.values()))
        assert self.link.objects() == len(awaited) + sum(self.kept) + sum(self.cut.values())


def test_whatever_gets_lost_nothing_is_kept_but_what_is_awaited_on_its_way_or_being_fetched(
    link: SuperLink,
) -> None:
    link.join(), link.join()
    run_state_machine_as_test(
        lambda: Losses(link), settings=settings(max_examples=6, stateful_step_count=15, deadline=None)
    )
