"""The transport over a real SuperLink: what a site sends that is no reply is refused, and the others are heard."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from consortium import Consortium, begun
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_body
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from acm_core.federated.messages import Reply, Task, TaskKind
from client.app import to_records
from server.flower_transport import FlowerTransport
from server.transport import Ticket

# Flower's migrations.
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")


class Part(NamedTuple):
    """An object of a message as it travels, and those within it."""

    content: bytes
    children: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def tree(self) -> ObjectTree:
        return ObjectTree(object_id=self.name, children=[child.tree for child in self.children])

    def contents(self) -> dict[str, bytes]:
        return {self.name: self.content} | {
            name: content for child in self.children for name, content in child.contents().items()
        }


def part(kind: str, body: bytes, *children: Part) -> Part:
    """An object of Flower's, whatever its body says."""
    head = f"{kind} {','.join(child.name for child in children)} {len(body)}"
    return Part(head.encode() + b"\0" + body, children)


def packed(whole: InflatableObject) -> Part:
    return Part(whole.deflate(), tuple(packed(child) for child in (whole.children or {}).values()))


def content(reply: Part, arrays: Part) -> Part:
    names = {"reply": reply.name, "arrays": arrays.name}
    return part("RecordDict", json.dumps(names).encode(), reply, arrays)


def fields(**changes: Any) -> Part:
    return packed(ConfigRecord({**Reply("B", 1, films=3, labelled=(3,)).to_wire(), **changes}))


def file(array: Part) -> Part:
    return part("ArrayRecord", json.dumps({"encoded": array.name}).encode(), array)


def numpy_file(data: bytes) -> Part:
    return file(packed(Array("uint8", (1,), "numpy.ndarray", data)))


def claiming(items: int) -> bytes:
    """A NumPy file that ends where its array should begin."""
    written = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (items,)}
    np.lib.format.write_array_header_1_0(written, header)
    return written.getvalue()


def dates() -> bytes:
    written = io.BytesIO()
    np.save(written, np.zeros(3, "datetime64[s]"))
    return written.getvalue()


EMPTY = packed(ArrayRecord())
CONTENTS = {
    "an_array_without_fields": content(fields(), file(part("Array", b"{}"))),
    "garbage_in_place_of_fields": content(part("ConfigRecord", b"\xff" * 9), EMPTY),
    "fields_in_place_of_a_record": fields(),
    "an_array_of_no_bytes": content(fields(), numpy_file(b"")),
    "an_array_of_64_TiB": content(fields(), numpy_file(claiming(2**46))),
    "an_array_of_dates": content(fields(), numpy_file(dates())),
    "a_number_of_400_digits": content(fields(metrics='{"train_loss": 1' + "0" * 400 + "}"), EMPTY),
    "half_a_character": content(fields(metrics='{"\\ud800": 1.0}'), EMPTY),
    "a_forged_line": content(fields(metrics='{"\\u001b[2K\\nround 9 done": 1.0}'), EMPTY),
}


class Site:
    """A registered site that sends what it likes."""

    def __init__(self, consortium: Consortium, name: str) -> None:
        key = consortium.keys[name]
        self.client = consortium.fleet(key)
        greeting = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=300
        )
        self._node = Node(node_id=self.client.ActivateNode(greeting).node_id)

    def task(self) -> Message:
        """The task that waits for it."""
        (given,) = self.client.PullMessages(PullMessagesRequest(node=self._node)).messages_list
        return message_from_proto(given)

    def reply(self, task: Message, records: RecordDict) -> Message:
        reply = Message(records, reply_to=task)
        reply.metadata.__dict__["_src_node_id"] = self._node.node_id
        return reply

    def around(self, task: Message, within: Part) -> Part:
        """A message that replies to a task, with some content."""
        body = get_object_body(self.reply(task, RecordDict()).deflate(), Message)
        return part("Message", body, within)

    def send(self, task: Message, whole: Part) -> None:
        """Announce what replies to a task, and push its parts."""
        announced = self.reply(task, RecordDict())
        announced.metadata.__dict__["_message_id"] = whole.name
        run, contents = task.metadata.run_id, whole.contents()
        taken = self.client.PushMessages(
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(announced)],
                message_object_trees=[whole.tree],
            )
        )
        for name in taken.objects_to_push:
            self.client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=run,
                    session_id=taken.session_id,
                    object_id=name,
                    object_content=contents[name],
                )
            )


class Running(NamedTuple):
    """A run that goes on, and its two sites."""

    transport: FlowerTransport
    a: Site
    b: Site

    def ask(self) -> tuple[list[Ticket], Message, Message]:
        """Ask both sites: the tickets, B's first, and the task as A and as B have it."""
        connected = self.transport.connected()
        tickets = self.transport.send(
            Task(TaskKind.TRAIN, 1), {site: connected[site] for site in "BA"}, 100.0
        )
        return tickets, self.a.task(), self.b.task()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    consortium = Consortium(tmp_path_factory.mktemp("consortium"), "A", "B")
    a, b = Site(consortium, "A"), Site(consortium, "B")
    _, run, token = begun(consortium)
    grid = HttpGrid(consortium.link.loopback, insecure=True, token=token)
    grid.set_run(Run.create_empty(run))
    yield Running(FlowerTransport(grid, "AB"), a, b)
    for opened in (grid, a.client, b.client):
        opened.close()
    consortium.end()


def expect_refused(running: Running, made: Callable[[Message], Part]) -> None:
    """What B sends is refused, and A's reply, read after it, is taken."""
    tickets, for_a, for_b = running.ask()
    honest = Reply(
        "A", 1, films=3, labelled=(3,), metrics={"train_loss": 0.5}, arrays={"encoded": np.arange(5)}
    )
    running.b.send(for_b, made(for_b))
    reply = running.a.reply(for_a, to_records(honest))
    running.a.send(for_a, running.a.around(for_a, packed(reply.content)))
    refused, taken = (answer.reply for answer in running.transport.receive(tickets))
    assert refused == Reply("B", refusal="unreadable")
    assert taken.content == honest.content


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_reply_is_refused_and_the_others_are_heard(
    running: Running, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expect_refused(running, lambda task: running.b.around(task, CONTENTS[name]))
    (said,) = [row.getMessage() for row in caplog.records if row.name == "acm_fed.server"]
    assert re.fullmatch(r"the reply of B cannot be read: \w+", said)


def test_what_is_no_message_is_refused_and_the_others_are_heard(running: Running) -> None:
    expect_refused(running, lambda _: content(fields(), EMPTY))


def test_a_superlink_that_fails_is_no_fault_of_a_site(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets, *_ = running.ask()

    def broken(_: httpx.Client, request: httpx.Request, **__: object) -> httpx.Response:
        return httpx.Response(500, request=request)

    monkeypatch.setattr(httpx.Client, "send", broken)
    with pytest.raises(httpx.HTTPStatusError):
        list(running.transport.receive(tickets))
