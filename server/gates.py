"""What stands between a network and Flower's SuperLink: which calls pass, how large, how many, and in whose name.

Flower authenticates a site by its key, but lets whoever reaches the port use the whole API, takes a message's sender
from the message and has no limits. The public gate lets sites do what a site does; the loopback gate asks whoever
steers the SuperLink for the secret that `server.run` made.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from google.protobuf.message import DecodeError, Message

from acm_core.bundle import VERSIONS_HEADER, versions
from server.redelivery import Redelivery

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CONTROL_HEADER = "x-acm-fed-control"

_FLEET = "/v1/fleet/"
_SITE_CALLS = frozenset(
    _FLEET + call
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
_NAMES_A_SENDER: dict[str, type[Message]] = {
    _FLEET + "push-messages": PushMessagesRequest,
    _FLEET + "confirm-message-received": ConfirmMessageReceivedRequest,
}
_ACTIVATE, _PULL = _FLEET + "activate-node", _FLEET + "pull-messages"
# What a site asks next when a task has reached it, or when it begins anew.
_SHOWS_ARRIVAL = frozenset(
    (
        _ACTIVATE,
        *(_FLEET + call for call in ("get-run", "get-fab", "pull-object", "confirm-message-received")),
    )
)
_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
_SIGNATURE_HEADER = FLEET_HTTP_SIGNATURE_HEADER.lower().encode()
_TIMESTAMP_HEADER = TIMESTAMP_HEADER.encode()
_SMALL_BYTES = 2**16  # a request of anybody
_LARGE_BYTES = {  # one of a site
    _FLEET + "push-object": 16 * 2**20,  # Flower cuts arrays into objects of 5 MB, this package of 1 MiB
    _FLEET + "push-messages": 2 * 2**20,  # 70 bytes for each part
}
_IDLE_SECONDS = 30.0  # between two pieces of a request
_BODY_SECONDS, _BODY_BYTES_A_SECOND = 60.0, 2**14  # 124 s for 1 MiB, and a site gives up after 120
_PIECE_BYTES = 2**16
_MOST_PARTS = 20_000  # of an answer, as of a task at a site
_BUCKETS = 10_000
_VERSIONS = (VERSIONS_HEADER.encode(), versions().encode())  # for a site to compare with its own
# Flower's client tries again; after 408 or 429 it would drop the reply, and the server wait for it.
_LATER = 503


@dataclass(frozen=True)
class Refusal:
    """A call that did not pass: the HTTP status, and why in a word that is stable."""

    status: int
    reason: str


class LinkState(Protocol):
    """Flower's state on a database, of which this is asked."""

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        """The number of the site that has this key."""
        ...

    def get_valid_message_ins(self, message_id: str) -> dict[str, Any] | None:
        """The message of that id that is on its way to a site, with its `dst_node_id` as a signed integer."""
        ...


Refused = Callable[[str, str, Refusal], None]
"""Called with the peer's address, the path (one of those known, or "other") and the refusal."""


class _Refusing(Exception):  # noqa: N818  # an answer, not a defect
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


class Allowance:
    """A token bucket for each key: `burst` at once, then `a_second`; those not heard of for long are forgotten."""

    def __init__(self, a_second: float, burst: float) -> None:
        self._rate, self._burst = a_second, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> bool:
        """Whether `key` still had one left, which is now used."""
        now = time.monotonic()
        left, at = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        return left >= 1


class PublicGate:
    """The listener that the network reaches: the Fleet API's calls of a registered site, and /health.

    Args:
        app: Flower's SuperLink.
        state: its LinkState, for whose a key and a message are.
        refused: told of every call that did not pass.
    """

    def __init__(self, app: Application, state: Callable[[], LinkState], refused: Refused) -> None:
        self._app, self._state, self._refused = app, state, refused
        self._tasks = Redelivery(state)
        self._calls = Allowance(a_second=200, burst=2000)
        self._said = Allowance(a_second=0.1, burst=10)
        self._said_of_all = Allowance(a_second=1, burst=1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        peer = scope["client"][0] if scope.get("client") else ""
        path = scope["path"] if scope["path"] in _SITE_CALLS else "other"
        key = dict(scope["headers"]).get(_KEY_HEADER, b"")
        status, pulled = 0, _Answer()

        async def watched(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                if path == _ACTIVATE:
                    if event["status"] >= 400 and await self._is_strange(scope):
                        event["status"] = 401
                    else:
                        event["headers"] = [*event["headers"], _VERSIONS]
                status = event["status"]
            if path == _PULL and status == 200:
                if pulled.is_whole_with(event):
                    await pulled.send(
                        await asyncio.to_thread(self._tasks.answer, key, bytes(pulled.body)), send
                    )
            elif event["type"] == "http.response.body":
                await _send_in_pieces(event, send)
            else:
                await send(event)

        try:
            await self._app(scope, await self._admitted(peer, scope, receive), watched)
        except _Refusing as refusing:
            self._say(peer, path, refusing.refusal)
            await _answer(send, refusing.refusal.status)
        else:
            if status in (401, 403):
                self._say(peer, path, Refusal(status, "not_registered"))
            elif status == 413:
                self._say(peer, path, Refusal(status, "message_too_large"))
            elif status == 200 and path in _SHOWS_ARRIVAL:
                self._tasks.arrived(key)

    async def _is_strange(self, scope: Scope) -> bool:
        """Whether a key whose signature Flower has verified is nobody's; Flower says the same as of one at work."""
        try:
            key = base64.b64decode(dict(scope["headers"])[_KEY_HEADER], validate=True)
        except (KeyError, binascii.Error):
            return True
        return await asyncio.to_thread(self._state().get_node_id_by_public_key, key) is None

    def _say(self, peer: str, path: str, refusal: Refusal) -> None:
        # Not each time, neither of one peer for one thing nor of many together: the log would fill the disk.
        if self._said.take(f"{peer} {path} {refusal.reason}") and self._said_of_all.take(""):
            self._refused(peer, path, refusal)

    async def _admitted(self, peer: str, scope: Scope, receive: Receive) -> Receive:
        """The call's body, read whole, and checked where it says in whose name it comes."""
        if not self._calls.take(peer):
            raise _Refusing(_LATER, "too_many")
        path, method = scope["path"], scope["method"]
        if path == "/health" and method == "GET":
            return receive
        if path not in _SITE_CALLS or method != "POST":
            raise _Refusing(404, "not_for_sites")
        body = await _read(receive, await self._most_bytes(scope))
        if (kind := _NAMES_A_SENDER.get(path)) is not None:
            await self._expect_own(kind, body)
        unread: Event | None = {"type": "http.request", "body": body}

        async def read_body() -> Event:
            nonlocal unread
            event, unread = unread, None
            return event if event is not None else await receive()

        return read_body

    async def _most_bytes(self, scope: Scope) -> int:
        """That are read of this call: few, before it is known that a site has signed it."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        most = _LARGE_BYTES.get(scope["path"], _SMALL_BYTES)
        if not declared.isdigit() or int(declared) > most:
            raise _Refusing(413, "request_too_large")
        if int(declared) <= _SMALL_BYTES:
            return _SMALL_BYTES
        if not await asyncio.to_thread(self._has_signed, dict(scope["headers"])):
            raise _Refusing(401, "not_registered")
        return int(declared)

    def _has_signed(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the key of a site has signed this call; when, and which site's, Flower asks behind."""
        try:
            key = base64.b64decode(headers[_KEY_HEADER], validate=True)
            signature = base64.b64decode(headers[_SIGNATURE_HEADER], validate=True)
            signed = headers[_TIMESTAMP_HEADER]
        except (KeyError, binascii.Error):
            return False
        if self._state().get_node_id_by_public_key(key) is None:
            return False
        return verify_signature(bytes_to_public_key(key), signed, signature)

    async def _expect_own(self, kind: type[Message], body: bytes) -> None:
        request = kind()
        try:
            request.ParseFromString(body)
        except DecodeError:
            raise _Refusing(400, "unreadable") from None
        if isinstance(request, PushMessagesRequest):
            _expect_own_reply(request)
        elif isinstance(request, ConfirmMessageReceivedRequest):
            await self._expect_own_message(request)

    async def _expect_own_message(self, request: ConfirmMessageReceivedRequest) -> None:
        found = await asyncio.to_thread(self._state().get_valid_message_ins, request.message_object_id)
        if found is None or found["dst_node_id"] % 2**64 != request.node.node_id:
            raise _Refusing(403, "of_another_site")


class _Answer:
    """An answer of the application's, held until it is whole."""

    def __init__(self) -> None:
        self._start: Event = {}
        self.body = bytearray()

    def is_whole_with(self, event: Event) -> bool:
        if event["type"] == "http.response.start":
            self._start = event
            return False
        self.body += event.get("body", b"")
        return not event.get("more_body", False)

    async def send(self, body: bytes, send: Send) -> None:
        """The answer with this body in the other's place."""
        headers = [header for header in self._start["headers"] if header[0].lower() != b"content-length"]
        await send({**self._start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await _send_in_pieces({"type": "http.response.body", "body": body}, send)


class LoopbackGate:
    """The listener on loopback: the Runtime API, which Flower guards itself, and the Control API for `secret`."""

    def __init__(self, app: Application, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._permitted(scope):
            await _answer(send, 403)
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)

    def _permitted(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == "/health" or path.startswith("/v1/runtime/"):
            return True
        given = dict(scope["headers"]).get(CONTROL_HEADER.encode(), b"")
        return bool(path.startswith("/v1/control/") and hmac.compare_digest(given, self._secret))


async def _read(receive: Receive, most: int) -> bytes:
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(_BODY_SECONDS + most / _BODY_BYTES_A_SECOND):
            while more:
                event = await asyncio.wait_for(receive(), _IDLE_SECONDS)
                if event["type"] != "http.request":
                    raise _Refusing(400, "broken_off")
                body += event.get("body", b"")
                more = event.get("more_body", False)
                if len(body) > most:
                    raise _Refusing(413, "request_too_large")
    except TimeoutError:
        raise _Refusing(_LATER, "too_slow") from None
    return bytes(body)


def _expect_own_reply(request: PushMessagesRequest) -> None:
    """One answer of the site that signed, to a message: Flower itself would take one in any site's or its own name.

    Its parts are those of its message: Flower would take any, others at each announcement, and as many as there are.
    """
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise _Refusing(400, "unreadable")
    about, tree = request.messages_list[0].metadata, request.message_object_trees[0]
    if about.src_node_id != request.node.node_id or not about.reply_to_message_id:
        raise _Refusing(403, "of_another_site")
    if tree.object_id != about.message_id:
        raise _Refusing(400, "unreadable")
    if sum(1 for _ in islice(iterate_object_tree(tree), _MOST_PARTS + 1)) > _MOST_PARTS:
        raise _Refusing(413, "too_many_parts")


async def _send_in_pieces(event: Event, send: Send) -> None:
    """A body as fast as the link takes it, however slow that is.

    Uvicorn takes a connection for idle as soon as it has all of an answer, and half a minute later breaks it off with
    what is still on its way: of 5 MB at 1 Mbit/s more than half.
    """
    body, more = event.get("body", b""), event.get("more_body", False)
    for start in range(0, max(len(body), 1), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        await send({**event, "body": body[start:end], "more_body": more or end < len(body)})


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
