"""A reply is handed to the server application when all of it is here.

Flower hands it out as soon as it is announced, and its Grid then waits for the parts: for three minutes where the site
died over them or never sends them, in which no other site's reply is read and no deadline is kept.
"""

from __future__ import annotations

from datetime import timedelta

from flwr.app import Message
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageRes, Node
from sqlalchemy import select

_ABANDONED_SECONDS = 60
"""Behind Flower's three minutes: a reply that somebody waits for has been handed out to fail by then."""


def withhold_unfinished_replies() -> None:
    """Every state on a database that is made from now on withholds them."""
    linkstate_factory.SqlLinkState = WholeReplies  # type: ignore[attr-defined]  # no hook


class WholeReplies(SqlLinkState):
    """Flower's state of a SuperLink, in which a reply has not arrived while parts of it are on their way.

    It is handed out all the same when no part has come for Flower's three minutes, or when its site is gone: an error
    is then what the server application gets, and it asks the site again. A part may come more than once.
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
            select(MessageRes.reply_to_message_id)
            .join(ObjectPushSessionRoot, ObjectPushSessionRoot.root_object_id == MessageRes.message_id)
            .join(ObjectPushSession, ObjectPushSession.session_id == ObjectPushSessionRoot.session_id)
            .join(Node, Node.node_id == MessageRes.src_node_id)
            .where(
                MessageRes.reply_to_message_id.in_(message_ids),
                ObjectPushSession.pending_count > 0,
                ObjectPushSession.expires_at > now(),
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
