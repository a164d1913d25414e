"""A body that does not come to its end is not waited for, and one over a slow link is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from client import site_node
from server import gates
from server.gates import PublicGate, Refusal


async def reads(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class NobodysKeys:
    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        return None

    def get_valid_message_ins(self, message_id: str) -> dict[str, Any] | None:
        return None


def asked(size: int, pause: float) -> tuple[int, list[Refusal], float]:
    """The answer to a call of that many bytes with a pause before each, the refusals, and the seconds it took."""
    refusals: list[Refusal] = []
    gate = PublicGate(reads, NobodysKeys, lambda _peer, _path, refusal: refusals.append(refusal))
    headers = [(b"content-length", str(size).encode())]
    path = "/v1/fleet/pull-object"
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": ("192.0.2.1", 1)}
    sent: list[Any] = []
    left = iter(range(size - 1, -1, -1))

    async def receive() -> Any:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"x", "more_body": next(left) > 0}

    async def send(event: Any) -> None:
        sent.append(event)

    begun = time.monotonic()
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], refusals, time.monotonic() - begun


def test_a_body_that_comes_byte_by_byte_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_BODY_SECONDS", 0.5)
    monkeypatch.setattr(gates, "_BODY_BYTES_A_SECOND", 2**20)
    status, refusals, seconds = asked(100, 0.05)
    assert (status, refusals) == (503, [Refusal(503, "too_slow")])
    assert seconds < 2
    assert asked(5, 0.05)[:2] == (200, [])


def test_a_body_has_the_time_that_a_site_gives_it() -> None:
    piece = 2**20
    assert gates._BODY_SECONDS + piece / gates._BODY_BYTES_A_SECOND > site_node._PIECE_SECONDS
    most = max(gates._LARGE_BYTES.values())
    assert gates._BODY_SECONDS + most / gates._BODY_BYTES_A_SECOND > 4 * most / (1e6 / 8)
