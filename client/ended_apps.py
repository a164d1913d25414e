"""A ClientApp that ended without its answer is answered for at once, by an error; the server then asks the site again.

Flower learns of a ClientApp that was killed by its silence, after a minute. Here the SuperExec, which started it, tells
the SuperNode as soon as it ends.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.date import now
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.nodestate import nodestate_factory
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState


def tell_ended(address: str, token: str) -> None:
    """Tell the SuperNode that the task of this token will not be answered; of one that was, it takes no notice.

    Args:
        address: of its Runtime API.
    """
    client = RuntimeHttpClient.from_server_address(
        address,
        True,
        None,
        interceptors=[RuntimeVersionHttpInterceptor("client.superexec"), RuntimeTokenHttpInterceptor(token)],
    )
    # A token that is no longer known, or a SuperNode that has ended as well.
    with client, contextlib.suppress(httpx.HTTPError, RuntimeError):
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED))


def answer_for_ended_apps() -> None:
    """Every state of a SuperNode that is made from now on does."""
    nodestate_factory.InMemoryNodeState = AnsweringState  # type: ignore[attr-defined]  # no hook


class AnsweringState(InMemoryNodeState):
    """A SuperNode's state, in which a task that failed is one whose time is over: an error is its answer, or, where it
    had not begun, it is given out again.
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
