"""What stands between a network and the server: which calls pass, how large, how many, and in whose name.

Flower authenticates a site by its key, but lets whoever reaches the port use the whole API, takes a message's sender
from the message and has no limits. The public gate lets sites do what a site does; the loopback gate asks whoever
steers the SuperLink for the secret that `server.run` made.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from acm_core.fleet import (
    ACTIVATE,
    CONFIRM,
    INSTANCE_HEADER,
    MEDIA_TYPE,
    PULL_MESSAGES,
    PUSH_MESSAGES,
    PUSH_OBJECT,
    SITE_CALLS,
    Application,
    Receive,
    Scope,
    Send,
    WireError,
)
from acm_core.trust.signatures import (
    OFFSET_HEADER,
    SIGNATURE_HEADER,
    SITE_HEADER,
    TIME_HEADER,
    is_signed_call,
)
from server.link import flower_internals as flower
from server.link.allowance import Allowance
from server.link.bodies import (
    LATER,
    Answered,
    Refusal,
    RefusedCallError,
    answer_with,
    asked,
    in_pieces,
    paced,
    read_whole,
)
from server.link.depot import Depot
from server.link.doors import Client, peer_of
from server.link.known_keys import KnownKeys
from server.link.leases import Leases

CONTROL_HEADER = "x-acm-fed-control"
SITE = "acm_fed.site"
"""In a scope: the site whose key has signed the call."""

_DEPOT = "/v1/depot/"
_DEPOT_CALL = re.compile(_DEPOT + r"(greeting|(tasks|replies)/[0-9a-f]{64})")
_DEPOT_METHODS = {"greeting": ("GET",), "tasks": ("GET", "HEAD"), "replies": ("HEAD", "PATCH")}
_MOST_BYTES = 2**16  # of a message to Flower, which carries no weights
_HELD_SECONDS, _LOOK_SECONDS = 10.0, 0.05
_MESSAGES = 10_000


Refused = Callable[[str, str, Refusal], None]
"""Called with the peer's address, the path (one of those known, or "other") and the refusal."""


class PublicGate:
    """The listener that the network reaches: the calls of a registered site, and /health.

    A site that asks for a task when there is none is answered when there is one, or after ten seconds.

    Args:
        app: Flower's SuperLink.
        calls: the depot's calls.
        depot: which is told of answers that are whole, and says when there are tasks.
        registry: of the sites.
        refused: told of every call that did not pass.
        known: told of every connection over which a site's signature has come.
    """

    def __init__(
        self,
        app: Application,
        calls: Application,
        depot: Depot,
        registry: Path,
        refused: Refused,
        known: Callable[[Client], None],
    ) -> None:
        self._app, self._depot_calls, self._depot, self._refused = app, calls, depot, refused
        self._known = known
        self._keys = KnownKeys(registry)
        self._calls = Allowance(a_second=200, burst=2000)
        self._bytes = Allowance(a_second=2**14, burst=2**22)
        self._leases = Leases()
        self._said = Allowance(a_second=0.1, burst=10)
        self._said_of_all = Allowance(a_second=1, burst=1000)
        self._given: OrderedDict[str, str] = OrderedDict()  # a message: the site that was given it
        self._coming: dict[
            str, tuple[str, set[str]]
        ] = {}  # a site: which message it answers, the parts to come

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        peer, path = _peer(scope), scope["path"]
        try:
            await self._pass(peer, scope, receive, send)
        except RefusedCallError as refusing:
            self._say(peer, _shown(path), refusing.refusal)
            await answer_with(send, refusing.refusal.status)

    async def _pass(self, peer: str, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if not self._calls.take(peer_of(peer)):
            raise RefusedCallError(LATER, "too_many")
        if path == "/health" and scope["method"] == "GET":
            await self._app(scope, receive, send)
        elif call := _DEPOT_CALL.fullmatch(path):
            await self._pass_to_depot(call, scope, receive, send)
        elif path in SITE_CALLS and scope["method"] == "POST":
            await self._pass_to_flower(scope, receive, send)
        else:
            raise RefusedCallError(404, "not_for_sites")

    async def _pass_to_depot(self, call: re.Match[str], scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method not in _DEPOT_METHODS[call[2] or "greeting"]:
            raise RefusedCallError(404, "not_for_sites")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        site = headers.get(SITE_HEADER, "")
        key = self._keys.key(site)
        signed = key is not None and await asyncio.to_thread(
            is_signed_call,
            key,
            headers.get(SIGNATURE_HEADER, ""),
            site,
            method,
            scope["path"],
            headers.get(TIME_HEADER, ""),
            headers.get(OFFSET_HEADER, ""),
        )
        if not signed:
            raise RefusedCallError(401, "not_registered")
        self._known(_client(scope))
        await self._depot_calls({**scope, SITE: site}, paced(receive), in_pieces(send))

    async def _pass_to_flower(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = self._keys.site(_flower_key(scope))
        if site is None:
            raise RefusedCallError(401, "not_registered")
        if dict(scope["headers"]).get(b"content-type", b"") != MEDIA_TYPE.encode():
            raise RefusedCallError(415, "not_protobuf")  # Flower would log whatever stands there
        instance = dict(scope["headers"]).get(INSTANCE_HEADER.encode(), b"").decode("latin-1")
        body = await read_whole(scope, receive, _MOST_BYTES)
        if not self._leases.take(site, instance):
            raise RefusedCallError(409, "another_instance")
        with self._leases.call(site):
            await self._answer_site(site, scope, body, receive, send)

    async def _answer_site(self, site: str, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        path = scope["path"]
        try:
            announced = self._expect_own(path, site, body)
            rung, asked_at = self._depot.rung(), time.time()
            answer = await asked(self._app, scope, body)
            if answer.status == 200:  # Flower has looked at the signature
                self._known(_client(scope))
            if path == PULL_MESSAGES and answer.status == 200:
                answer = await self._held(_Pull(site, scope, body, rung, asked_at), receive, answer)
                for message in flower.given_messages(answer.body):
                    self._given[message] = site
                while len(self._given) > _MESSAGES:
                    self._given.popitem(last=False)
            elif announced is not None and answer.status == 200:
                self._coming[site] = announced.answers, flower.wanted_parts(answer.body)
                self._note_whole(site)
            elif path == PUSH_OBJECT and answer.status == 200 and site in self._coming:
                self._coming[site][1].discard(flower.pushed_part(body, answer.body) or "")
                self._note_whole(site)
        except WireError:
            raise RefusedCallError(400, "unreadable") from None
        if answer.status == 401 and path == ACTIVATE:
            raise RefusedCallError(LATER, "not_registered_yet")  # with Flower, which is told within a second
        if answer.status in (401, 403):
            self._say(_peer(scope), path, Refusal(answer.status, "not_registered"))
        await answer.send(send)

    def _expect_own(self, path: str, site: str, body: bytes) -> flower.Announcement | None:
        """Refuse what is of another site: Flower would take a reply in any site's or its own name, and of any size."""
        if path == PUSH_OBJECT and not self._bytes.take(site, len(body)):
            raise RefusedCallError(LATER, "too_many_bytes")
        if path == CONFIRM and self._given.get(flower.confirmed_message(body)) != site:
            raise RefusedCallError(403, "of_another_site")
        if path != PUSH_MESSAGES:
            return None
        announced = flower.announcement(body)
        if announced.source != announced.node or self._given.get(announced.answers) != site:
            raise RefusedCallError(403, "of_another_site")
        if not announced.sound:
            raise RefusedCallError(400, "unreadable")
        return announced

    def _note_whole(self, site: str) -> None:
        """Flower hands a reply out as soon as it is announced, and then waits for its parts: for minutes, and no other
        reply is read meanwhile. So it is asked for when it is whole.
        """
        answers, parts = self._coming[site]
        if not parts:
            del self._coming[site]
            self._depot.note_answered(answers)

    async def _held(self, pull: _Pull, receive: Receive, answer: Answered) -> Answered:
        """The answer, or a later one that gives something to do."""
        until = time.monotonic() + _HELD_SECONDS
        leaving = asyncio.ensure_future(receive())
        try:
            while answer.status == 200 and not flower.given_messages(answer.body):
                self._depot.note_idle(pull.site, pull.asked)
                while (now := self._depot.rung()) == pull.rung:
                    if leaving.done():
                        self._leases.release(pull.site)
                    if time.monotonic() >= until or leaving.done():
                        return answer
                    await asyncio.sleep(_LOOK_SECONDS)
                pull.rung, pull.asked = now, time.time()
                answer = await asked(self._app, pull.scope, pull.body)
        finally:
            leaving.cancel()
        return answer

    def _say(self, peer: str, path: str, refusal: Refusal) -> None:
        # Not each time, neither of one peer for one thing nor of many together: the log would fill the disk.
        if self._said.take(f"{peer} {path} {refusal.reason}") and self._said_of_all.take(""):
            self._refused(peer, path, refusal)


@dataclass
class _Pull:
    """A site's question for something to do: when it was last put to Flower, and what the depot had rung before."""

    site: str
    scope: Scope
    body: bytes
    rung: int
    asked: float


class LoopbackGate:
    """The listener on loopback: the Runtime API, which Flower guards by tokens, and what `secret` opens: the Control
    API, and the token of the server application.
    """

    def __init__(self, app: Application, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._permitted(scope):
            await answer_with(send, 403)
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)

    def _permitted(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == "/health" or (path.startswith("/v1/runtime/") and path != "/v1/runtime/acquire-task"):
            return True
        given = dict(scope["headers"]).get(CONTROL_HEADER.encode(), b"")
        known = path.startswith("/v1/control/") or path == "/v1/runtime/acquire-task"
        return bool(known and hmac.compare_digest(given, self._secret))


def _client(scope: Scope) -> Client:
    return tuple(scope["client"]) if scope.get("client") else ("", 0)


def _peer(scope: Scope) -> str:
    return _client(scope)[0]


def _shown(path: str) -> str:
    """The path as the audit log has it."""
    if call := _DEPOT_CALL.fullmatch(path):
        return _DEPOT + (call[2] or "greeting")
    return path if path in SITE_CALLS else "other"


def _flower_key(scope: Scope) -> bytes:
    try:
        return base64.b64decode(dict(scope["headers"]).get(flower.KEY_HEADER, b""), validate=True)
    except binascii.Error:
        return b""
