"""What Flower carries is one of two declared sets of fields, whatever a record holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import MessageError, Refusal
from acm_core.federated.payload import MOST_BYTES

DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
BYTES = st.integers(0, MOST_BYTES)
TASK = TaskEnvelope(payload="0" * 64, bytes=1, audit="").fields()
REPLY = ReplyEnvelope(payload="0" * 64, bytes=1).fields()
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | st.binary(max_size=3)
)


@given(DIGESTS, BYTES, DIGESTS | st.just(""))
def test_a_tasks_envelope_comes_back_from_its_fields(payload: str, size: int, audit: str) -> None:
    envelope = TaskEnvelope(payload=payload, bytes=size, audit=audit)
    assert TaskEnvelope.read(envelope.fields()) == envelope


@given(DIGESTS | st.just(""), BYTES, st.sampled_from([*Refusal, ""]), DIGESTS | st.just(""))
def test_a_replys_envelope_comes_back_from_its_fields(
    payload: str, size: int, refusal: Any, audit: str
) -> None:
    envelope = ReplyEnvelope(payload=payload, bytes=size, refusal=refusal, audit=audit, signature="c2ln")
    assert ReplyEnvelope.read(envelope.fields()) == envelope


@given(
    st.dictionaries(
        st.sampled_from([*REPLY, "patient"]) | st.text(max_size=5), VALUES | st.lists(VALUES, max_size=2)
    )
)
def test_whatever_a_record_holds_is_an_envelope_or_refused_without_being_quoted(
    fields: dict[str, object],
) -> None:
    for kind, whole in ((TaskEnvelope, TASK), (ReplyEnvelope, REPLY)):
        try:
            envelope = kind.read({**whole, **fields})
        except MessageError as error:
            assert str(error) == f"expected the fields of a {kind.__name__}, got others"
        else:
            assert envelope.fields() == {**whole, **fields}


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": ".."},
        {"payload": "0" * 63},
        {"payload": "A" * 64},
        {"bytes": -1},
        {"bytes": MOST_BYTES + 1},
        {"bytes": True},
        {"bytes": 1.0},
        {"bytes": "1"},
        {"audit": "x"},
        {"audit": 1},
        {"patient": "17"},
    ],
)
def test_no_field_is_of_another_kind(changes: dict[str, object]) -> None:
    for kind, whole in ((TaskEnvelope, TASK), (ReplyEnvelope, REPLY)):
        with pytest.raises(MessageError):
            kind.read({**whole, **changes})


@pytest.mark.parametrize("name", TASK)
def test_no_field_of_a_task_is_left_out(name: str) -> None:
    with pytest.raises(MessageError):
        TaskEnvelope.read({other: value for other, value in TASK.items() if other != name})
