"""A ClientApp that ended without its answer is answered for at once, by an error; the server then asks the site again.

Flower learns of a ClientApp that was killed by its silence, after a minute. Here the SuperExec, which started it, tells
the SuperNode as soon as it ends.
"""

from __future__ import annotations

from datetime import timedelta

from flwr.common.constant import SubStatus
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import TaskType
from flwr.supercore.date import now
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState


def answer_for_ended_apps() -> None:
    """Every state of a SuperNode that is made from now on does."""
    nodestate_factory.InMemoryNodeState = AnsweringState  # type: ignore[attr-defined]  # no hook


class AnsweringState(InMemoryNodeState):
    """A SuperNode's state, in which a task that failed is one whose time is over: an error is its answer, or, where it
    had not begun, it is given out again.

    Flower answers for messages alone that a ClientApp has taken. One that died between beginning and taking would never
    be answered, and the SuperNode waits for an answer before it does anything else.
    """

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """End a task; False where it has ended before."""
        if sub_status != SubStatus.FAILED:
            return super().finish_task(task_id, sub_status, details)
        with self.lock_task_store:
            token = self.task_token_store.get(task_id)
            if token is not None:
                token.active_until = now() - timedelta(seconds=1)
                self._cleanup_expired_task_tokens_locked()
        return token is not None

    def _on_task_tokens_expired(self, tasks: list[Task]) -> None:
        runs = {task.run_id for task in tasks if task.type == TaskType.CLIENT_APP}
        with self.lock_msg_store:
            for entry in self.msg_store.values():
                about = entry.message.metadata
                if about.run_id in runs and not about.reply_to_message_id and not entry.is_retrieved:
                    entry.is_retrieved = True
                    self.record_message_processing_start(about.message_id)
        super()._on_task_tokens_expired(tasks)
