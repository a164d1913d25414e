"""Messages consist of the declared fields, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.federated.messages import MessageError, Metric, Refusal, Reply, Task, TaskKind

counts = st.integers(0, 10**6)
replies = st.builds(
    Reply,
    site=st.text(max_size=20),
    round=counts,
    refusal=st.sampled_from(["", *(code.value for code in Refusal)]),
    films=counts,
    labelled=st.lists(counts, max_size=5).map(tuple),
    metrics=st.dictionaries(st.sampled_from(Metric), st.floats(0, 1e12)),
    report=st.text(max_size=30),
)
scalars = st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.booleans(), st.lists(st.integers()))


@given(replies)
def test_a_reply_survives_the_wire(reply: Reply) -> None:
    assert Reply.from_wire(reply.to_wire(), {}) == reply


@given(st.sampled_from(TaskKind), counts, st.text())
def test_a_task_survives_the_wire(kind: TaskKind, number: int, config: str) -> None:
    task = Task(kind, number, config)
    assert Task.from_wire(task.to_wire(), {}) == task


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*Reply("A").to_wire(), "extra"]), scalars))
def test_any_fields_give_a_reply_or_a_message_error(wire: dict[str, Any]) -> None:
    complete = {**Reply("A").to_wire(), **wire}
    try:
        reply = Reply.from_wire(complete, {})
    except MessageError:
        return
    assert set(complete) == set(reply.to_wire())


@pytest.mark.parametrize("field", list(Reply("A").to_wire()))
def test_a_missing_field_is_refused(field: str) -> None:
    wire = Reply("A").to_wire()
    del wire[field]
    with pytest.raises(MessageError, match=f"missing: {field}"):
        Reply.from_wire(wire, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("films", "3"),
        ("films", True),
        ("round", 1.5),
        ("site", 3),
        ("refusal", "because"),
        ("labelled", "1,x"),
        ("metrics", "[]"),
        ("metrics", '{"train_loss": NaN}'),
        ("metrics", '{"train_loss": 1e999}'),
        ("metrics", '{"train_loss": 1e13}'),
        ("metrics", '{"epsilon": -1}'),
        ("metrics", '{"epsilon": 1' + "0" * 400 + "}"),
        ("metrics", '{"epsilon": 1' + "0" * 5000 + "}"),
        ("metrics", '{"train_loss": "low"}'),
        ("metrics", '{"train_loss": true}'),
        ("metrics", '{"because": 1.0}'),
        ("metrics", '{"\\ud800": 1.0}'),
        ("metrics", '{"train_loss\\u001b[2K": 1.0}'),
        ("metrics", "{"),
        ("patient", "extra"),
    ],
)
def test_a_wrong_field_is_refused_without_repeating_it(field: str, value: object) -> None:
    with pytest.raises(MessageError) as caught:
        Reply.from_wire({**Reply("A").to_wire(), field: value}, {})
    assert "because" not in str(caught.value)
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [np.zeros(2, "datetime64[s]"), np.zeros(2, object), np.zeros(2, "U3"), np.zeros(2, [("x", "f4")])],
    ids=["dates", "objects", "text", "records"],
)
def test_arrays_of_anything_but_numbers_are_refused(array: npt.NDArray[Any]) -> None:
    for message in (Task(TaskKind.TRAIN), Reply("A")):
        with pytest.raises(MessageError, match="expected arrays of numbers"):
            type(message).from_wire(message.to_wire(), {"encoded": array})
