"""Flower's SuperLink and the depot as one program with two listeners: for sites over TLS, and for its own on loopback.

`server.link.superlink` starts it: `python -m server.link.program SETTINGS`, a JSON file of `Settings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import sys
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import BaseModel, ConfigDict
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from acm_core.audit_events import PeerRefused
from acm_core.audit_log import AuditLog
from acm_core.fleet import Application
from server.link.bodies import Refusal
from server.link.calls import depot_calls
from server.link.depot import Depot
from server.link.doors import Doors
from server.link.flower_internals import superlink_app
from server.link.gates import SITE, LoopbackGate, PublicGate

LOOPBACK = "127.0.0.1"
_HANDSHAKE_SECONDS = 20
_IDLE_SECONDS = 20.0  # until the whole head of a request is there
_STUCK_SECONDS = 120.0  # in which a peer takes nothing of an answer
_CONNECTIONS, _CONNECTIONS_A_PEER = 2000, 64
"""Open at a time, those included that have not shaken hands."""
_BACKLOG = 2048  # connections that wait to be accepted
_CERTIFICATE_SECONDS = 30.0
_GRACE_SECONDS = 2


class Settings(BaseModel):
    """What the program is told; `secret` opens what steers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int
    loopback_port: int
    certificate: Path
    key: Path
    secret: str
    depot: Path
    registry: Path
    most_bytes: int
    audit: Path


def main() -> None:
    """Run until it is told to end."""
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    take_all_files()
    app = superlink_app()
    audit = AuditLog(settings.audit)

    def refused(peer: str, path: str, refusal: Refusal) -> None:
        audit.append(
            PeerRefused(address=peer or None, path=path, status=refusal.status, reason=refusal.reason)
        )

    inner = uvicorn.Server(
        uvicorn.Config(
            LoopbackGate(app, settings.secret),
            host=LOOPBACK,
            port=settings.loopback_port,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certificate, settings.key)
    depot = Depot(settings.depot)
    calls = depot_calls(depot, settings.most_bytes, lambda request: str(request.scope[SITE]))
    doors = Doors(_CONNECTIONS, _CONNECTIONS_A_PEER)
    gate = PublicGate(app, calls, depot, settings.registry, refused, doors.know)
    outer = site_listener(gate, context, doors)
    # Who finds that the inner one answers finds the outer one as well. The inner one has the signals and steers it.
    entrance = door(settings.host, settings.port)
    serving = asyncio.create_task(inner.serve())
    while not inner.started and not serving.done():
        await asyncio.sleep(0.05)
    listening = asyncio.create_task(outer._serve([entrance]))  # `serve` would take the signals as well
    logging.getLogger("uvicorn.error").info("Sites are served over TLS on %s", entrance.getsockname())
    renewing = asyncio.create_task(_take_renewed_certificates(context, settings))
    done, _ = await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    renewing.cancel()
    inner.should_exit = outer.should_exit = True
    await asyncio.gather(serving, listening)
    if listening in done:
        sys.exit(1)


def take_all_files() -> None:
    """As many open files as the system permits, of which a connection is one: a process often begins with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # not everywhere is that a number which may be set
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def door(host: str, port: int) -> socket.socket:
    """Where sites come in; who comes before anybody serves them waits.

    Raises:
        OSError: the address is not this machine's, or the port is taken.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def site_listener(app: Application, context: ssl.SSLContext, doors: Doors) -> uvicorn.Server:
    """What serves sites, and whoever else reaches a door, over TLS, and holds no connection for nothing."""
    config = uvicorn.Config(
        app,
        http=_behind(doors, context),  # type: ignore[arg-type]  # whatever makes a protocol will do
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def _behind(doors: Doors, context: ssl.SSLContext) -> Callable[..., SSLProtocol]:
    def connection(**parts: Any) -> SSLProtocol:
        return _Door(_SiteConnection(**parts), context, doors)

    return connection


class _Door(SSLProtocol):
    """A connection's TLS, which is broken off if no handshake comes."""

    def __init__(self, inside: asyncio.Protocol, context: ssl.SSLContext, doors: Doors) -> None:
        self._doors = doors
        super().__init__(
            asyncio.get_running_loop(),
            inside,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio has it
        super().connection_made(transport)
        self._client = get_remote_addr(transport) or ("", 0)
        self._doors.enter(self._client, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._doors.leave(self._client)
        super().connection_lost(exc)


class _SiteConnection(H11Protocol):
    """A connection that is closed where no request comes, first or next, or where an answer is not taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._idle = self.loop.call_later(_IDLE_SECONDS, transport.close)
        self._stuck: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._idle.cancel()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle.cancel()
        if not self._is_answering():  # it may have the next request already
            self._idle = self.loop.call_later(_IDLE_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(_STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.cancel()
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


async def _take_renewed_certificates(context: ssl.SSLContext, settings: Settings) -> None:
    """A certificate that `server.init --renew` writes is used from the next handshake on."""
    known = settings.certificate.stat().st_mtime_ns
    while True:
        await asyncio.sleep(_CERTIFICATE_SECONDS)
        try:
            if (now := settings.certificate.stat().st_mtime_ns) != known:
                context.load_cert_chain(settings.certificate, settings.key)
                known = now
        except (OSError, ssl.SSLError):
            continue  # half of the pair is new: the other follows


if __name__ == "__main__":
    main()
