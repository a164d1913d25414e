"""A task or a reply as a file: the same message has the same digest, and what is no message is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acm_core.federated.messages import MessageError, Reply, Task, TaskKind
from acm_core.federated.payload import read_reply, read_task, write_payload

HEAD = "a" * 64
ARRAYS = st.dictionaries(
    st.sampled_from("abc"),
    hnp.arrays(st.sampled_from([np.uint8, np.float32, np.int64]), hnp.array_shapes(min_side=0)),
)


@given(ARRAYS, st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_written_is_read_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], config: str
) -> None:
    task = Task(TaskKind.TRAIN, 3, config, HEAD, arrays)
    payload = write_payload(task, tmp_path_factory.mktemp("payload"))
    back = read_task(payload.path, HEAD)
    assert (back.kind, back.round, back.config, back.audit) == (task.kind, 3, config, HEAD)
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in back.arrays.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }
    assert payload.sha256 == hashlib.sha256(payload.path.read_bytes()).hexdigest()
    assert payload.size == payload.path.stat().st_size


def test_the_same_message_is_the_same_file_whatever_the_logs_heads_are(tmp_path: Path) -> None:
    reply = Reply("A", 1, films=3, labelled=(3,), metrics={"train_loss": 0.5}, arrays={"a": np.arange(4)})
    one, two = (write_payload(replace(reply, audit=head), tmp_path) for head in ("", HEAD))
    assert one == two
    assert [path.name for path in tmp_path.iterdir()] == [one.sha256]
    assert read_reply(one.path, HEAD).content == reply.content
    assert write_payload(replace(reply, films=4), tmp_path) != one


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 100,
        (2**63).to_bytes(8, "little"),
        safetensors.numpy.save({"a": np.arange(3)}),
        safetensors.numpy.save({}, {"acm_fed": "[]"}),
        safetensors.numpy.save({}, {"acm_fed": "null"}),
        safetensors.numpy.save({}, {"acm_fed": "{"}),
        safetensors.numpy.save({}, {"acm_fed": json.dumps({"kind": "train"})}),
        safetensors.numpy.save({}, {"acm_fed": json.dumps(Reply("A").to_wire())}),
    ],
)
def test_what_is_no_task_is_refused_without_repeating_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "payload"
    path.write_bytes(content)
    with pytest.raises(MessageError):
        read_task(path, "")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("payload") / "payload"
    path.write_bytes(content)
    with pytest.raises(MessageError):
        read_reply(path, "")


def test_a_file_that_is_not_there_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        read_task(tmp_path / "absent", "")
