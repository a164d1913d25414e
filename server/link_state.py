"""Flower's state of a SuperLink, in which a reply arrives whole and what was lost is deleted.

Flower hands a reply out as soon as it is announced, and its Grid then waits for the parts: for three minutes where the
site died over them or never sends them, in which no other site's reply is read and no deadline is kept.

Flower deletes a task's parts when its site has them all, a reply's when the server application has them all, and those
of what never got there when the run is stopped: each is a model, and a site that is cut off again and again would fill
the server's disk.

Flower takes a reply of any size, and more of it each time that it is announced.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import OrderedDict
from datetime import timedelta

from fastapi import HTTPException
from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.object_store import ObjectStore
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node
from flwr.supercore.state.schema.objectstore_models import ObjectChild, RunObject, StoredObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from flwr.superlink.federation import FederationManager
from sqlalchemy import ColumnElement, Result, Select, and_, exists, func, or_, select

_ABANDONED_SECONDS = 60
"""Behind Flower's three minutes: a reply that somebody waits for has been handed out to fail by then."""

_OVER_SECONDS = 300.0
"""A task that is over is kept for so long where its site, which may still be fetching it, does not answer another."""

_SESSIONS = 10_000  # in memory; what came in another is read again


def use_link_state(most_bytes: int) -> None:
    """Every state on a database that is made from now on is a `LinkState` with this limit."""
    linkstate_factory.SqlLinkState = functools.partial(  # type: ignore[assignment,attr-defined]  # no hook
        LinkState, most_bytes=most_bytes
    )


class LinkState(SqlLinkState):
    """Flower's state of a SuperLink that serves one run at a time, whose sites have one task at a time.

    A reply has not arrived while parts of it are on their way. It is handed out all the same when no part has come for
    Flower's three minutes, or when its site is gone: an error is then what the server application gets, and it asks the
    site again. A part may come more than once.

    A task is over with its site's next one, with its time, or when Flower deletes it. It goes, and its reply and all
    parts with it, when its site has an answer to a later one, or some minutes later: a site from which they were taken
    while it fetches them would begin anew. With its run it goes at once.

    Args:
        database_path, federation_manager, object_store: as Flower has them.
        most_bytes: that one reply may have, all its parts together.
    """

    def __init__(
        self,
        database_path: str,
        federation_manager: FederationManager,
        object_store: ObjectStore,
        most_bytes: int,
    ) -> None:
        super().__init__(database_path, federation_manager, object_store)
        self._most_bytes, self._storing = most_bytes, threading.Lock()
        self._room: OrderedDict[str, float] = OrderedDict()  # bytes that may still come in a session
        self._over: dict[str, tuple[int, float]] = {}  # a message: its site, and when it goes at the latest

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Whether this part of a reply is here now, be it from an earlier push.

        A site to which the answer was lost, or too late, pushes again, and drops its reply where Flower has it that the
        part is not awaited. A part without a session, for which Flower would look one up, is nobody's.

        Raises:
            HTTPException: 413, the reply would have more bytes than one may have, whenever they came.
        """
        if not session_id:
            return False
        with self._storing:  # the parts that come meanwhile count
            fits = len(object_content) <= self._room_for(session_id)
            if fits and super().store_object(run_id, session_id, object_id, object_content):
                self._room[session_id] -= len(object_content)
                return True
        stored = self.object_store.get(object_id)
        if stored and stored == object_content:
            return True
        if not fits:
            raise HTTPException(413)
        return False

    def _room_for(self, session_id: str) -> float:
        """Bytes that may still come in this session, those of earlier ones counted; a task has no limit."""
        if session_id not in self._room:
            with self.session() as session:
                stored = session.scalar(_bytes_of_reply(session_id))
            self._room[session_id] = math.inf if stored is None else self._most_bytes - stored
            while len(self._room) > _SESSIONS:
                self._room.popitem(last=False)
        return self._room[session_id]

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """Replies to these messages that are whole, and errors in the place of those that will not come."""
        if not message_ids:
            return []
        coming = (
            _coming()
            .join(Node, Node.node_id == MessageRes.src_node_id)
            .where(
                MessageRes.reply_to_message_id.in_(message_ids),
                Node.online_until >= now().timestamp(),
            )
        )
        abandoned = select(ObjectPushSession.session_id).where(
            ObjectPushSession.pending_count > 0,
            ObjectPushSession.expires_at <= now() - timedelta(seconds=_ABANDONED_SECONDS),
        )
        with self.session() as session:
            # Nobody asks for them any more, and Flower looks after them only where somebody does.
            for push in session.scalars(abandoned).all():
                self._cleanup_push_session(push, cleanup_messages=True)
            whole = message_ids - set(session.scalars(coming))
            return super().get_message_res(whole, run_id)

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Whether the message was stored, and which of its parts are not here; what is over with it is deleted."""
        with self.session():
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            if stored and message.metadata.reply_to_message_id:
                self._delete_before(message)
            elif stored:
                # Behind: the parts that this task has in common with others stay.
                self._delete_other_runs(message.metadata.run_id)
                self._note_over(
                    and_(
                        MessageIns.message_id != message.metadata.message_id,
                        or_(
                            MessageIns.dst_node_id == uint64_to_int64(message.metadata.dst_node_id),
                            MessageIns.created_at + MessageIns.ttl <= now().timestamp(),
                        ),
                    )
                )
                self._delete_late()
            return stored, missing

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete these tasks and their replies as Flower does; the parts of what was not delivered go later."""
        if message_ins_ids:
            with self.session() as session:
                self._note_over(MessageIns.message_id.in_(message_ins_ids))
                self._note(session.execute(_unread_replies(message_ins_ids)))
                super().delete_messages(message_ins_ids)

    def _delete_other_runs(self, run: int) -> None:
        others = select(RunObject.run_id).where(RunObject.run_id != uint64_to_int64(run)).distinct()
        with self.session() as session:
            for other in session.scalars(others).all():
                self.cleanup_run(int64_to_uint64(other))

    def _note_over(self, which: ColumnElement[bool]) -> None:
        with self.session() as session:
            self._note(session.execute(select(MessageIns.message_id, MessageIns.dst_node_id).where(which)))

    def _note(self, messages: Result[str | None, int | None]) -> None:
        for message, site in messages:
            if message is not None and site is not None:
                self._over.setdefault(message, (site, time.monotonic() + _OVER_SECONDS))

    def _delete_before(self, reply: Message) -> None:
        """A site does one task after another: what is over before the one that has this reply goes now."""
        site = uint64_to_int64(reply.metadata.src_node_id)
        task = select(MessageIns.created_at).where(
            MessageIns.message_id == reply.metadata.reply_to_message_id
        )
        self._note_over(and_(MessageIns.dst_node_id == site, MessageIns.created_at < task.scalar_subquery()))
        here = {reply.metadata.message_id, reply.metadata.reply_to_message_id}
        self._delete({message for message, (of, _) in self._over.items() if of == site} - here)

    def _delete_late(self) -> None:
        late = {message for message, (_, when) in self._over.items() if when <= time.monotonic()}
        with self.session() as session:
            # A site would be told that its reply is not awaited, and begin anew.
            self._delete(late - set(session.scalars(_coming())))

    def _delete(self, messages: set[str]) -> None:
        with self.session() as session:
            replies = {reply for reply in session.scalars(_unread_replies(messages)) if reply is not None}
            super().delete_messages(messages)
            for message in messages | replies:
                self.object_store.delete(message)
                self._over.pop(message, None)


def _unread_replies(tasks: set[str]) -> Select[str | None, int | None]:
    """Replies to these, with their sites, that were not handed out; the parts of others are being fetched."""
    return select(MessageRes.message_id, MessageRes.src_node_id).where(
        MessageRes.reply_to_message_id.in_(tasks), MessageRes.delivered_at == ""
    )


def _coming() -> Select[str | None]:
    """Tasks whose replies are on their way."""
    return (
        select(MessageRes.reply_to_message_id)
        .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
        .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
        .where(ObjectPushSession.pending_count > 0, ObjectPushSession.expires_at > now())
    )


def _bytes_of_reply(session: str) -> Select[int | None]:
    """What is stored of the tree whose root comes in this session; null where that is a task, or unknown."""
    tree = (
        select(ObjectPushSessionRoot.root_object_id)
        .where(
            ObjectPushSessionRoot.session_id == session,
            ~exists().where(MessageIns.message_id == ObjectPushSessionRoot.root_object_id),
        )
        .cte(recursive=True)
    )
    tree = tree.union(select(ObjectChild.child_id).join(tree, ObjectChild.parent_id == tree.c.root_object_id))
    return select(func.sum(func.length(StoredObject.content))).join(
        tree, StoredObject.object_id == tree.c.root_object_id
    )
