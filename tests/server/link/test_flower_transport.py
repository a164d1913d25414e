"""The transport over a real SuperLink: what a site sends that is no reply is refused, and the others are heard."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import safetensors.numpy
from consortium import Consortium, ScriptedSite, begun
from flwr.app import ConfigRecord, Message, RecordDict

from acm_core.federated.envelope import ReplyEnvelope
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.payload import Payload, write_payload
from acm_core.trust.signatures import sign_reply
from server.link import flower_transport
from server.link.depot import Depot
from server.link.flower_transport import FlowerTransport
from server.round.transport import Ticket

HONEST = Reply("A", 1, films=3, labelled=(3,), metrics={"train_loss": 0.5}, arrays={"encoded": np.arange(5)})


class Running(NamedTuple):
    """A run that goes on, and its two sites."""

    transport: FlowerTransport
    a: ScriptedSite
    b: ScriptedSite
    folder: Path

    def ask(self) -> tuple[list[Ticket], Message, Message]:
        """Ask both sites: the tickets, B's first, and the task as A and as B have it."""
        connected = self.transport.connected()
        tickets = self.transport.send(
            Task(TaskKind.TRAIN, 1), {site: connected[site] for site in "BA"}, 100.0
        )
        return tickets, self.a.task(), self.b.task()

    def told(self, site: ScriptedSite, task: Message, payload: Payload, **changes: Any) -> RecordDict:
        """What an honest ClientApp says of a payload that is in the depot."""
        envelope = ReplyEnvelope.model_construct(payload=payload.sha256, bytes=payload.size)
        said = sign_reply(site.key, task.metadata.message_id, envelope).fields()
        return RecordDict({"reply": ConfigRecord({**said, **changes})})

    def send(self, site: ScriptedSite, task: Message, reply: Reply) -> None:
        """As an honest ClientApp does."""
        payload = write_payload(reply, self.folder)
        site.depot.deliver(payload)
        site.send(task, self.told(site, task, payload))

    def received(self, tickets: list[Ticket]) -> list[Reply]:
        return [answer.reply for answer in self.transport.receive(tickets)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    consortium = Consortium(tmp_path_factory.mktemp("consortium"), "A", "B")
    a, b = ScriptedSite(consortium, "A"), ScriptedSite(consortium, "B")
    grid = begun(consortium)
    depot = Depot(consortium.state.folder / "superlink" / "depot")
    transport = FlowerTransport(grid, "AB", depot, consortium.state.registry)
    yield Running(transport, a, b, tmp_path_factory.mktemp("payloads"))
    for opened in (a, b):
        opened.end()
    grid.close()
    consortium.end()


def expect_refused(
    running: Running, said: Callable[[Message], RecordDict], reason: str = "unreadable"
) -> None:
    """What B sends is refused, and A's reply, read after it, is taken."""
    tickets, for_a, for_b = running.ask()
    running.b.send(for_b, said(for_b))
    running.send(running.a, for_a, HONEST)
    refused, taken = running.received(tickets)
    assert refused == Reply("B", refusal=reason)
    assert taken.content == HONEST.content


def file(running: Running, content: bytes) -> Payload:
    """A payload of any bytes, in the depot."""
    path = running.folder / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    payload = Payload(path, len(content))
    running.b.depot.deliver(payload)
    return payload


def tensors(arrays: dict[str, Any], **changes: Any) -> bytes:
    """A well-formed file: the fields of a reply, some of them changed, and arrays."""
    fields = {**Reply("B", 1, films=3, labelled=(3,)).to_wire(), **changes}
    return safetensors.numpy.save(arrays, {"acm_fed": json.dumps(fields)})


def claiming_64_tib() -> bytes:
    head = json.dumps({"encoded": {"dtype": "U8", "shape": [2**46], "data_offsets": [0, 2**46]}}).encode()
    return len(head).to_bytes(8, "little") + head


FILES = {
    "empty": b"x",
    "no_fields": safetensors.numpy.save({"encoded": np.arange(3)}),
    "no_json": safetensors.numpy.save({}, {"acm_fed": "{"}),
    "no_object": safetensors.numpy.save({}, {"acm_fed": "[1]"}),
    "nested": safetensors.numpy.save({}, {"acm_fed": "[" * 10**5}),
    "cut_off": tensors({"encoded": np.arange(100)})[:-8],
    "a_head_without_end": (2**40).to_bytes(8, "little") + b"{}",
    "an_array_of_64_TiB": claiming_64_tib(),
    "a_number_of_400_digits": tensors({}, metrics='{"train_loss": 1' + "0" * 400 + "}"),
    "half_a_character": tensors({}, metrics='{"\\ud800": 1.0}'),
    "a_forged_line": tensors({}, metrics='{"\\u001b[2K\\nround 9 done": 1.0}'),
    "an_undeclared_field": tensors({}, patient="17"),
    "an_audit_head_of_its_own": tensors({}, audit="x" * 64),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_reply_is_refused_and_the_others_are_heard(
    running: Running, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "an_audit_head_of_its_own":  # that of the message counts
        tickets, for_a, for_b = running.ask()
        running.b.send(for_b, running.told(running.b, for_b, file(running, FILES[name])))
        running.send(running.a, for_a, HONEST)
        assert [reply.audit for reply in running.received(tickets)] == ["", ""]
        return
    expect_refused(running, lambda task: running.told(running.b, task, file(running, FILES[name])))
    (said,) = [row.getMessage() for row in caplog.records if row.name == "acm_fed.server"]
    assert re.fullmatch(r"the reply of B cannot be read: \w+", said)


WORDS: dict[str, Callable[[Running, Message], RecordDict]] = {
    "no_record": lambda *_: RecordDict(),
    "another_record": lambda *_: RecordDict({"task": ConfigRecord({"payload": ""})}),
    "a_field_more": lambda running, task: running.told(running.b, task, paid(running), patient="17"),
    "a_number_for_a_text": lambda running, task: running.told(running.b, task, paid(running), audit=1),
}


def paid(running: Running) -> Payload:
    payload = write_payload(Reply("B", 1, films=3, labelled=(3,)), running.folder)
    running.b.depot.deliver(payload)
    return payload


@pytest.mark.parametrize("name", WORDS)
def test_words_that_are_no_replys_are_refused(running: Running, name: str) -> None:
    expect_refused(running, lambda task: WORDS[name](running, task))


def test_a_payload_that_is_not_here_is_refused(running: Running) -> None:
    absent = Payload(running.folder / ("0" * 64), 10)
    outside = Payload(running.folder / "..", 10)
    for payload in (absent, outside):
        expect_refused(running, lambda task, payload=payload: running.told(running.b, task, payload))  # type: ignore[misc]


def test_a_reply_counts_only_with_its_sites_signature_of_just_this(running: Running) -> None:
    payload = paid(running)

    def unsigned(task: Message) -> RecordDict:
        return running.told(running.b, task, payload, signature="")

    def of_another_key(task: Message) -> RecordDict:
        said = running.told(running.a, task, payload)
        return said

    def of_another_size(task: Message) -> RecordDict:
        return running.told(running.b, task, payload, bytes=payload.size + 1)

    for said in (unsigned, of_another_key, of_another_size):
        expect_refused(running, said, "wrong_site")


def test_the_reply_of_another_site_is_no_reply(running: Running) -> None:
    forged = write_payload(replace(HONEST, site="A"), running.folder)
    running.b.depot.deliver(forged)
    expect_refused(running, lambda task: running.told(running.b, task, forged), "wrong_site")


def refused(running: Running, task: Message, code: str) -> RecordDict:
    """What an honest ClientApp says where there is no reply."""
    envelope = ReplyEnvelope.model_construct(refusal=code)  # type: ignore[arg-type]  # some are no codes
    said = dict(sign_reply(running.b.key, task.metadata.message_id, envelope))
    return RecordDict({"reply": ConfigRecord(said)})


@pytest.mark.parametrize("code", [Refusal.STORAGE, Refusal.LOST, Refusal.POLICY_HOURS])
def test_a_refusal_needs_no_payload(running: Running, code: Refusal) -> None:
    expect_refused(running, lambda task: refused(running, task, code), code)


def test_a_refusal_of_another_code_is_unreadable(running: Running) -> None:
    expect_refused(running, lambda task: refused(running, task, "whatever"))


def test_a_refusal_that_nobody_signed_is_none(running: Running) -> None:
    forged = ReplyEnvelope(refusal=Refusal.POLICY).fields()
    expect_refused(running, lambda _: RecordDict({"reply": ConfigRecord(dict(forged))}), "wrong_site")


def test_a_task_whose_answer_was_lost_is_sent_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_transport, "_SURE_SECONDS", 0.2)
    monkeypatch.setattr(flower_transport, "_AGAIN_SECONDS", 0.5)
    tickets, for_a, lost = running.ask()
    running.send(running.a, for_a, HONEST)
    assert [reply.site for reply in running.received(tickets)] == ["A"]
    time.sleep(1)
    running.b.ask_in_vain()  # so the server sees that nobody has the task
    assert running.received(tickets) == []
    again = running.b.task()
    assert again.metadata.message_id != lost.metadata.message_id
    assert payload(again) == payload(lost)
    running.b.depot.fetch(*payload(again), running.folder / "tasks")
    running.send(running.b, again, replace(HONEST, site="B"))
    assert [reply.site for reply in running.received(tickets)] == ["B"]


def test_a_task_that_is_lost_again_and_again_is_given_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_transport, "_SURE_SECONDS", 0.0)
    monkeypatch.setattr(flower_transport, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(flower_transport, "_TRIES", 3)
    tickets, for_a, _ = running.ask()
    running.send(running.a, for_a, HONEST)
    refused: list[Reply] = []
    for _ in range(2):
        running.b.ask_in_vain()
        refused += running.received(tickets)
        running.b.task()
    running.b.ask_in_vain()
    refused += running.received(tickets)
    assert [(reply.site, reply.refusal) for reply in refused] == [("A", ""), ("B", Refusal.LOST)]


def test_a_task_that_is_fetched_is_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_transport, "_SURE_SECONDS", 0.2)
    monkeypatch.setattr(flower_transport, "_AGAIN_SECONDS", 0.5)
    tickets, for_a, for_b = running.ask()
    for site, task in ((running.a, for_a), (running.b, for_b)):
        site.depot.fetch(*payload(task), running.folder / "tasks")
    time.sleep(1)
    for site in (running.a, running.b):
        site.ask_in_vain()
    assert running.received(tickets) == []
    for site in (running.a, running.b):
        site.ask_in_vain()  # nothing was sent again


def payload(task: Message) -> tuple[str, int]:
    record = task.content.config_records["task"]
    return str(record["payload"]), int(str(record["bytes"]))


def test_a_superlink_that_fails_is_no_fault_of_a_site(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets, _, for_b = running.ask()
    running.send(running.b, for_b, replace(HONEST, site="B"))

    def broken(_: httpx.Client, request: httpx.Request, **__: object) -> httpx.Response:
        return httpx.Response(500, request=request)

    monkeypatch.setattr(httpx.Client, "send", broken)
    with pytest.raises(httpx.HTTPStatusError):
        running.received(tickets)
