"""A body that does not come to its end is not waited for, and one over a slow link is; a site waits for its task."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata

from acm_core.fleet import Application
from acm_core.trust import keys
from acm_core.trust.signatures import sign_call
from server.consortium.registry import Registry
from server.link import bodies, gates
from server.link.bodies import Refusal
from server.link.depot import Depot
from server.link.doors import Client
from server.link.gates import PublicGate
from server.link.known_keys import flower_key


async def reads(scope: Any, receive: Any, send: Any) -> None:
    event, size = await receive(), 0
    while event["type"] == "http.request":
        size += len(event.get("body", b""))
        if not event.get("more_body", False):
            break
        event = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"size", str(size).encode())]})
    await send({"type": "http.response.body", "body": b""})


class Gated:
    """A gate with one site, A, before an application."""

    def __init__(self, folder: Path, application: Application) -> None:
        self.key = keys.create_key(folder / "A.key")
        registry = folder / "sites.json"
        Registry.create(registry)
        Registry.load(registry).approve("A", keys.public_text(self.key.public_key()))
        self.depot, self.refusals = Depot(folder / "depot"), list[Refusal]()
        self.known: list[Client] = []
        self._gate = PublicGate(
            application,
            reads,
            self.depot,
            registry,
            lambda _peer, _path, refusal: self.refusals.append(refusal),
            self.known.append,
        )

    def ask(
        self, method: str, path: str, body: Iterator[bytes], pause: float
    ) -> tuple[int, dict[bytes, bytes], float]:
        """Status, headers and seconds of the answer to a body of which each piece comes after a pause."""
        pieces = list(body)
        public = base64.b64encode(flower_key(self.key.public_key()))
        signed = sign_call(self.key, "A", method, path)
        headers = [
            (b"flwr-public-key", public),
            (b"content-type", b"application/protobuf"),
            (b"content-length", str(sum(map(len, pieces))).encode()),
        ]
        headers += [(name.encode(), value.encode()) for name, value in signed.items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": headers,
            "client": ("192.0.2.1", 1),
        }
        sent: list[Any] = []

        async def receive() -> Any:
            if not pieces:
                await asyncio.Event().wait()
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(event: Any) -> None:
            sent.append(event)

        begun = time.monotonic()
        asyncio.run(self._gate(scope, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]), time.monotonic() - begun


def byte_by_byte(count: int) -> Iterator[bytes]:
    return iter([b"x"] * count)


def test_a_message_that_comes_byte_by_byte_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.5)
    monkeypatch.setattr(bodies, "_BODY_BYTES_A_SECOND", 2**20)
    gated = Gated(tmp_path, reads)
    status, _, seconds = gated.ask("POST", "/v1/fleet/pull-object", byte_by_byte(100), 0.05)
    assert (status, gated.refusals) == (503, [Refusal(503, "too_slow")])
    assert seconds < 2
    assert gated.ask("POST", "/v1/fleet/pull-object", byte_by_byte(5), 0.05)[0] == 200


def test_an_upload_that_comes_byte_by_byte_has_an_end_and_what_came_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.5)
    monkeypatch.setattr(bodies, "_BODY_BYTES_A_SECOND", 1000)
    gated, path = Gated(tmp_path, reads), f"/v1/depot/replies/{'0' * 64}"
    _, headers, seconds = gated.ask("PATCH", path, byte_by_byte(1000), 0.05)
    assert 5 <= int(headers[b"size"]) < 20
    assert seconds < 2
    # At twice that speed it may take as long as it likes.
    _, headers, seconds = gated.ask("PATCH", path, iter([bytes(100)] * 30), 0.05)
    assert int(headers[b"size"]) == 3000
    assert seconds > 1


def test_a_link_of_one_megabit_is_none_that_is_too_slow() -> None:
    most = 2**30
    assert bodies._BODY_SECONDS + most / bodies._BODY_BYTES_A_SECOND > 4 * most / (1e6 / 8)


@pytest.fixture
def task() -> bytes:
    """An answer that gives a message."""
    message = Message(metadata=Metadata(message_id="a" * 64, message_type="train", src_node_id=1))
    return PullMessagesResponse(messages_list=[message]).SerializeToString()


def giving(answers: Callable[[int], bytes]) -> tuple[Application, list[float]]:
    """An application that answers the n-th call with `answers(n)`, and when it was asked."""
    asked: list[float] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        asked.append(time.monotonic())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answers(len(asked))})

    return application, asked


def test_a_site_that_asks_is_answered_as_soon_as_there_is_a_task(tmp_path: Path, task: bytes) -> None:
    def answers(number: int) -> bytes:
        if number == 1:
            asyncio.get_running_loop().call_later(0.5, gated.depot.ring)
        return task if number == 2 else b""

    application, asked = giving(answers)
    gated = Gated(tmp_path, application)
    assert gated.depot.idle("A") is None
    status, _, seconds = gated.ask("POST", "/v1/fleet/pull-messages", iter([b""]), 0.0)
    assert (status, len(asked)) == (200, 2)
    assert 0.5 <= seconds < 2
    idle = gated.depot.idle("A")
    assert idle is not None
    assert abs(idle - time.time()) < 5


def test_a_task_that_comes_while_flower_is_asked_is_not_overlooked(tmp_path: Path, task: bytes) -> None:
    def answers(number: int) -> bytes:
        if number == 1:
            gated.depot.ring()
        return task if number == 2 else b""

    application, asked = giving(answers)
    gated = Gated(tmp_path, application)
    _, _, seconds = gated.ask("POST", "/v1/fleet/pull-messages", iter([b""]), 0.0)
    assert (len(asked), seconds < 1) == (2, True)


def test_a_site_for_which_there_is_nothing_hears_so_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "_HELD_SECONDS", 0.5)
    application, asked = giving(lambda _: b"")
    _, _, seconds = Gated(tmp_path, application).ask("POST", "/v1/fleet/pull-messages", iter([b""]), 0.0)
    assert (len(asked), 0.5 <= seconds < 2) == (1, True)
