"""Flower's state of a SuperLink, in which a reply arrives whole and what was lost is deleted.

Flower hands a reply out as soon as it is announced, and its Grid then waits for the parts: for three minutes where the
site died over them or never sends them, in which no other site's reply is read and no deadline is kept.

Flower deletes a task's parts when its site has them all, a reply's when the server application has them all, and those
of what never got there when the run is stopped: each is a model, and a site that is cut off again and again would fill
the server's disk.
"""

from __future__ import annotations

from datetime import timedelta

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageIns, MessageRes, Node
from flwr.supercore.state.schema.objectstore_models import RunObject
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import Select, or_, select

_ABANDONED_SECONDS = 60
"""Behind Flower's three minutes: a reply that somebody waits for has been handed out to fail by then."""


def use_link_state() -> None:
    """Every state on a database that is made from now on is a `LinkState`."""
    linkstate_factory.SqlLinkState = LinkState  # type: ignore[attr-defined]  # no hook


class LinkState(SqlLinkState):
    """Flower's state of a SuperLink that serves one run at a time, whose sites have one task at a time.

    A reply has not arrived while parts of it are on their way. It is handed out all the same when no part has come for
    Flower's three minutes, or when its site is gone: an error is then what the server application gets, and it asks the
    site again. A part may come more than once.

    A task is over with its site's next one, with its time, and with its run; it takes its reply and all parts with it.
    """

    def store_object(self, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        """Whether this part of a reply is here now, be it from an earlier push.

        A site to which the answer was lost, or too late, pushes again, and drops its reply where Flower has it that the
        part is not awaited.
        """
        if super().store_object(run_id, session_id, object_id, object_content):
            return True
        stored = self.object_store.get(object_id)
        return bool(stored) and stored == object_content

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
        """Whether the message was stored, and which of its parts are not here; a task ends those that are over."""
        with self.session():
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            if stored and not message.metadata.reply_to_message_id:
                self._end_tasks_before(message)  # behind: what this task has in common with them stays
            return stored, missing

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Delete these tasks, their replies, and all parts but those of replies that are being fetched."""
        if not message_ins_ids:
            return
        waiting = select(MessageRes.message_id).where(
            MessageRes.reply_to_message_id.in_(message_ins_ids), MessageRes.delivered_at == ""
        )
        with self.session() as session:
            replies = [reply for reply in session.scalars(waiting) if reply is not None]
            super().delete_messages(message_ins_ids)
            for message in [*message_ins_ids, *replies]:
                self.object_store.delete(message)

    def _end_tasks_before(self, message: Message) -> None:
        run = message.metadata.run_id
        others = select(RunObject.run_id).where(RunObject.run_id != uint64_to_int64(run)).distinct()
        over = select(MessageIns.message_id).where(
            MessageIns.message_id != message.metadata.message_id,
            or_(
                MessageIns.dst_node_id == uint64_to_int64(message.metadata.dst_node_id),
                MessageIns.created_at + MessageIns.ttl <= now().timestamp(),
            ),
            # A reply on its way arrives, and is deleted with the next task: a site that is told it is not awaited
            # begins anew.
            MessageIns.message_id.not_in(_coming()),
        )
        with self.session() as session:
            for other in session.scalars(others).all():
                self.cleanup_run(int64_to_uint64(other))
            self.delete_messages({task for task in session.scalars(over) if task is not None})


def _coming() -> Select[str | None]:
    """Tasks whose replies are on their way."""
    return (
        select(MessageRes.reply_to_message_id)
        .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
        .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
        .where(ObjectPushSession.pending_count > 0, ObjectPushSession.expires_at > now())
    )
