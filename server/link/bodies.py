"""Bodies of requests and answers: how long one is waited for, and how it goes out over a slow link."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from acm_core.fleet import Application, Event, Receive, Scope, Send

_IDLE_SECONDS = 30.0  # between two pieces of a request
_BODY_SECONDS, _BODY_BYTES_A_SECOND = 60.0, 2**14
_PIECE_BYTES = 2**16
# Flower's client tries again; after 408 or 429 it would drop the reply, and the server wait for it.
LATER = 503


@dataclass(frozen=True)
class Refusal:
    """A call that did not pass: the HTTP status, and why in a word that is stable."""

    status: int
    reason: str


class RefusedCallError(Exception):
    """A call that is answered with a refusal."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


@dataclass
class Answered:
    """An answer of the application's, whole."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def send(self, send: Send) -> None:
        """Give it to the peer."""
        kept = [header for header in self.headers if header[0].lower() != b"content-length"]
        length = (b"content-length", str(len(self.body)).encode())
        await send({"type": "http.response.start", "status": self.status, "headers": [*kept, length]})
        await in_pieces(send)({"type": "http.response.body", "body": self.body})


async def asked(app: Application, scope: Scope, body: bytes) -> Answered:
    """What the application says to this request."""
    answer, content, given = Answered(500, [], b""), bytearray(), False

    async def receive() -> Event:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # the peer is still there
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event: Event) -> None:
        if event["type"] == "http.response.start":
            answer.status, answer.headers = event["status"], list(event.get("headers", ()))
        else:
            content.extend(event.get("body", b""))

    await app(dict(scope), receive, send)
    answer.body = bytes(content)
    return answer


async def read_whole(scope: Scope, receive: Receive, most: int) -> bytes:
    """A request's body.

    Raises:
        RefusedCallError: it is larger than `most` bytes, comes too slowly, or breaks off.
    """
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > most:
        raise RefusedCallError(413, "request_too_large")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(_BODY_SECONDS + most / _BODY_BYTES_A_SECOND):
            while more:
                event = await asyncio.wait_for(receive(), _IDLE_SECONDS)
                if event["type"] != "http.request":
                    raise RefusedCallError(400, "broken_off")
                body += event.get("body", b"")
                more = event.get("more_body", False)
                if len(body) > most:
                    raise RefusedCallError(413, "request_too_large")
    except TimeoutError:
        raise RefusedCallError(LATER, "too_slow") from None
    return bytes(body)


def paced(receive: Receive) -> Receive:
    """A body as it comes, of which the next piece comes soon and the whole not much slower than at 128 kbit/s: else it
    is as if the peer had gone.
    """
    begun, size = time.monotonic(), 0

    async def read() -> Event:
        nonlocal size
        left = begun + _BODY_SECONDS + size / _BODY_BYTES_A_SECOND - time.monotonic()
        try:
            event = await asyncio.wait_for(receive(), max(min(left, _IDLE_SECONDS), 0))
        except TimeoutError:
            return {"type": "http.disconnect"}
        size += len(event.get("body", b""))
        return event

    return read


def in_pieces(send: Send) -> Send:
    """Sends a body as fast as the link takes it, however slow that is.

    Uvicorn takes a connection for idle as soon as it has all of an answer, and half a minute later breaks it off with
    what is still on its way: of 5 MB at 1 Mbit/s more than half.
    """

    async def send_in_pieces(event: Event) -> None:
        if event["type"] != "http.response.body":
            await send(event)
            return
        body, more = event.get("body", b""), event.get("more_body", False)
        for start in range(0, max(len(body), 1), _PIECE_BYTES):
            end = start + _PIECE_BYTES
            await send({**event, "body": body[start:end], "more_body": more or end < len(body)})

    return send_in_pieces


async def answer_with(send: Send, status: int) -> None:
    """An answer of a status alone."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
