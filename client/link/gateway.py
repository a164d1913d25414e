"""The only way from this site's SuperNode to the server: it lets through what a site does, and looks at what comes.

The SuperNode connects to a port of loopback, as if the server were there, over TLS, without which it does not use its
key. Its calls go on over TLS to the server whose authority this site trusts. The app bundle is answered from here and
never taken from the server.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import uvicorn

from acm_core.audit_events import BundleRefused, TaskRefused
from acm_core.audit_log import AuditLog
from acm_core.federated.messages import Refusal
from acm_core.files import write_private
from acm_core.fleet import (
    ACTIVATE,
    CONFIRM,
    DEACTIVATE,
    GET_BUNDLE,
    GET_RUN,
    INSTANCE_HEADER,
    MEDIA_TYPE,
    PULL_MESSAGES,
    PULL_OBJECT,
    PUSH_MESSAGES,
    PUSH_OBJECT,
    SITE_CALLS,
    Receive,
    Scope,
    Send,
    WireError,
)
from acm_core.processes import free_port
from acm_core.proxies import proxy_for
from acm_core.trust import certificates
from acm_core.trust.address import split_address
from client.link import flower_internals as flower

log = logging.getLogger("acm_fed.client")

_LOOPBACK, _NODE_ID = "127.0.0.1", "node_id"
_MOST_BYTES = 2**18
"""Of a request or an answer: messages carry no weights."""
_SECONDS = 60.0
_SURE_SECONDS = 30.0  # after which it is no process that was killed just now
_LATER, _FORBIDDEN, _UNKNOWN = 503, 403, 401
_NOT_PASSED_ON = frozenset(
    {b"host", b"content-length", b"connection", b"accept-encoding", b"transfer-encoding"}
)


class TooMuchError(ValueError):
    """An answer is larger than any that this site asks for: it is not read on."""


class Gateway:
    """A gateway, from `__init__` to `stop`.

    Args:
        server: host:port.
        authority: PEM file that the server's certificate has to come from.
        folder: of this site's membership, for the gateway's own certificate, which is made anew each time, and for
            the number that the server gave this site, by which its place is free after a crash.
        bundle: the only one that this site runs.
        audit: where what the server may not is written down.
        instance: a text at random of this `client.run`, by which the server tells it from a copy of this site.
        trouble: called, from a thread, when the SuperNode has lost a message or a reply and has to begin anew.

    Attributes:
        address: where the SuperNode connects.
        own_authority: PEM file that the gateway's certificate comes from.
        given: how many messages the SuperNode has been given.
    """

    def __init__(
        self,
        server: str,
        authority: Path,
        folder: Path,
        bundle: flower.Bundle,
        audit: AuditLog,
        instance: str,
        trouble: Callable[[str], None],
    ) -> None:
        self._known, self._bundle, self._audit, self._trouble = folder / _NODE_ID, bundle, audit, trouble
        self.given = 0
        self._refused_since: float | None = None
        self._instance = (INSTANCE_HEADER.encode(), instance.encode())
        self._runs: dict[int, bool] = {}  # whether this site runs its bundle
        self._server = httpx.AsyncClient(
            base_url=f"https://{server}",
            verify=ssl.create_default_context(cafile=str(authority)),
            timeout=_SECONDS,
            proxy=proxy_for(split_address(server)[0]),
            trust_env=False,
        )
        port = free_port()
        self.address = f"{_LOOPBACK}:{port}"
        self.own_authority, certificate, key = (folder / f"gateway.{end}" for end in ("ca", "crt", "key"))
        authority_here, key_here = certificates.make_authority("gateway"), certificates.make_key()
        write_private(self.own_authority, authority_here.certificate)
        write_private(certificate, certificates.issue(authority_here, key_here, [_LOOPBACK]))
        write_private(key, key_here)
        config = uvicorn.Config(
            self,
            host=_LOOPBACK,
            port=port,
            ws="none",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._listener = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._listener.run, daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Serve no longer."""
        self._listener.should_exit = self._listener.force_exit = True
        self._thread.join()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path not in SITE_CALLS or scope["method"] != "POST":
            await _say(send, httpx.Response(404))
            return
        body = bytearray()
        while (event := await receive())["type"] == "http.request":
            body += event.get("body", b"")
            if len(body) > _MOST_BYTES:
                await _say(send, httpx.Response(413))
                return
            if not event.get("more_body", False):
                break
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_PASSED_ON]
        try:
            response = await self._answer(path, headers, bytes(body))
        except TooMuchError as error:
            self._refuse(str(error))
            response = httpx.Response(_LATER)
        except (httpx.HTTPError, OSError) as error:
            log.debug("the server cannot be asked: %s", type(error).__name__)
            response = httpx.Response(_LATER)
        await _say(send, response)

    async def _answer(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        if path == GET_BUNDLE:
            return _own(self._bundle.answer)
        if path == PUSH_MESSAGES and flower.is_error(body):
            self._trouble("the server's task ended without an answer")
            return httpx.Response(_FORBIDDEN)
        if path == ACTIVATE:
            await self._leave_former_place(headers)
        response = await self._ask(path, headers, body)
        if response.status_code == httpx.codes.CONFLICT:
            self._note_another()
            return httpx.Response(_LATER)
        self._refused_since = None
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            return httpx.Response(_LATER)  # which the SuperNode tries again
        if response.status_code == _UNKNOWN:
            if path == ACTIVATE:
                log.error("the server does not know this site's key: client.doctor says what to do")
            else:
                log.info("the server has begun anew: this site connects anew")
        elif 400 <= response.status_code < 500 and self._is_lost(path, response.status_code):
            self._trouble("a message or a reply was lost on its way")
        if response.status_code == 200 and path == ACTIVATE:
            self._known.write_text(str(flower.activated_node(response.content)), encoding="utf-8")
        if (
            response.status_code == 200
            and path == PULL_MESSAGES
            and not await self._is_taken(headers, body, response)
        ):
            return _own(flower.NOTHING_TO_DO)
        return response

    def _note_another(self) -> None:
        """The server serves another process with this site's key; one that has just been killed for some seconds."""
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > _SURE_SECONDS:
            log.error(
                "the server serves another client.run with this site's key: a copy of its state folder runs somewhere. "
                "End that one, or this one; two that answer for one site would spoil its privacy ledger"
            )
            self._refused_since = now

    @staticmethod
    def _is_lost(path: str, status: int) -> bool:
        """Whether the SuperNode keeps half a message, or drops a reply that the server waits for."""
        return path in (PULL_OBJECT, CONFIRM) or (
            path in (PUSH_MESSAGES, PUSH_OBJECT) and status != _FORBIDDEN
        )

    async def _leave_former_place(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Tell the server that this site's earlier SuperNode, which was perhaps killed, is gone: its place is free at
        once. Without it Flower refuses the site for a minute.
        """
        with contextlib.suppress(OSError, ValueError):
            node = int(self._known.read_text(encoding="utf-8"))
            await self._ask(DEACTIVATE, headers, flower.leaving(node))

    async def _is_taken(
        self, headers: list[tuple[bytes, bytes]], body: bytes, response: httpx.Response
    ) -> bool:
        """Whether the SuperNode may have the message that was given, if one was."""
        try:
            run = flower.given_run(response.content)
            if run is None:
                return True
            if run not in self._runs:
                about = await self._ask(GET_RUN, headers, flower.asking_for_run(body, run))
                if about.status_code != 200:
                    return False
                self._runs[run] = self._is_own(flower.wanted_bundle(about.content))
        except WireError as error:
            self._refuse(str(error))
            return False
        self.given += self._runs[run]
        return self._runs[run]

    def _is_own(self, wanted: str) -> bool:
        own = self._bundle.sha256
        if wanted != own:
            self._audit.append(BundleRefused(offered=wanted, own=own))
            log.error(
                "a message of the server is refused: expected the bundle %s that is built from what is installed here, "
                "got %s: the server has another version of acm-fed or Flower, or wants other code to run",
                own[:12],
                wanted[:12],
            )
        return wanted == own

    def _refuse(self, text: str) -> None:
        self._audit.append(TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None))
        log.error("a message of the server is refused: %s", text)

    async def _ask(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> httpx.Response:
        """The server's answer, of which no more is read than an honest one sends, and nothing that is compressed.

        Raises:
            TooMuchError: it is larger.
            httpx.HTTPError: there is none.
        """
        own = [*headers, (b"accept-encoding", b"identity"), self._instance]
        request = self._server.build_request("POST", path, content=body, headers=own)
        response = await self._server.send(request, stream=True)
        try:
            content = bytearray()
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > _MOST_BYTES:
                    raise TooMuchError(f"expected an answer of at most {_MOST_BYTES} bytes, got more")
        finally:
            await response.aclose()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooMuchError("expected an answer that is not compressed, got one that is")
        kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _NOT_PASSED_ON]
        return httpx.Response(response.status_code, content=bytes(content), headers=kept)


def _own(content: bytes) -> httpx.Response:
    """An answer in the server's place."""
    return httpx.Response(200, content=content, headers={"content-type": MEDIA_TYPE})


async def _say(send: Send, response: httpx.Response) -> None:
    headers = [header for header in response.headers.raw if header[0].lower() not in _NOT_PASSED_ON]
    length = (b"content-length", str(len(response.content)).encode())
    await send({"type": "http.response.start", "status": response.status_code, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": response.content})
