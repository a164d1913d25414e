"""A task whose process ended without an answer."""

from __future__ import annotations

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity

from client.ended_apps import AnsweringState

RUN = 7


@pytest.fixture
def state() -> AnsweringState:
    return AnsweringState(ObjectStoreFactory().store())


def begun(state: AnsweringState) -> int:
    """A task that a ClientApp has been started for."""
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="f")
    assert task is not None
    assert state.claim_task(task)
    return task


def running(state: AnsweringState, *, taken: bool = True) -> tuple[int, str]:
    """A task whose ClientApp has begun and taken its message, or not yet, and the message's id."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SUPERLINK_NODE_ID, 1
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_message_id"] = message.object_id
    state.store_message(message)
    task = begun(state)
    assert state.activate_task(task)
    if taken:
        assert len(state.get_messages_legacy(run_ids=[RUN], is_reply=False)) == 1
        state.record_message_processing_start(message.metadata.message_id)
    return task, message.metadata.message_id


def replies(state: AnsweringState) -> list[Message]:
    return list(state.get_messages_legacy(run_ids=[RUN], is_reply=True))


@pytest.mark.parametrize("taken", [True, False], ids=["message taken", "not yet"])
def test_a_task_whose_process_ended_is_answered_by_an_error(state: AnsweringState, taken: bool) -> None:
    task, message = running(state, taken=taken)
    assert replies(state) == []
    assert state.finish_task(task, SubStatus.FAILED, "")
    (reply,) = replies(state)
    assert reply.metadata.reply_to_message_id == message
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert state.get_tasks(task_ids=[task])[0].status.status == Status.FINISHED


def test_one_that_had_not_begun_is_given_out_again(state: AnsweringState) -> None:
    task = begun(state)
    assert state.finish_task(task, SubStatus.FAILED, "")
    assert state.get_tasks(task_ids=[task])[0].status.status == Status.PENDING
    assert state.claim_task(task)


def test_one_that_was_answered_stays_so(state: AnsweringState) -> None:
    task, _ = running(state)
    assert state.finish_task(task, SubStatus.COMPLETED, "")
    assert not state.finish_task(task, SubStatus.FAILED, "")
    assert replies(state) == []
