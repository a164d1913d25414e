"""Flower's SuperLink as one program with two listeners: for sites over TLS, and for its own processes on loopback.

`server.superlink` starts it: `python -m server.superlink_program SETTINGS`, a JSON file of `Settings`.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import uvicorn
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from pydantic import BaseModel, ConfigDict
from uvicorn.protocols.http.h11_impl import H11Protocol

from acm_core.audit_events import PeerRefused
from acm_core.audit_log import AuditLog
from server.gates import LoopbackGate, PublicGate, Refusal
from server.link_database import give_disk_back, serialize_transactions
from server.link_state import use_link_state

LOOPBACK = "127.0.0.1"
_FIRST_REQUEST_SECONDS = 20.0
_CONNECTIONS, _CONNECTIONS_A_PEER = 1000, 64
_CERTIFICATE_SECONDS = 30.0
_GRACE_SECONDS = 2


class Settings(BaseModel):
    """What the program is told; `secret` opens the Control API, `superexec_secret` the tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int
    loopback_port: int
    certificate: Path
    key: Path
    database: Path
    secret: str
    superexec_secret: Path
    most_bytes: int
    audit: Path


def main() -> None:
    """Run until it is told to end."""
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    serialize_transactions()
    give_disk_back()
    use_link_state(settings.most_bytes)
    app = create_app(_flower_settings(settings), SuperLinkLifespan)
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
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certificate, settings.key)
    public = uvicorn.Config(
        PublicGate(app, app.state.linkstate_factory.state, refused),
        host=settings.host,
        port=settings.port,
        http=_SiteConnection,
        ws="none",
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ssl_context_factory=lambda _config, _default: context,
    )
    outer = uvicorn.Server(public)
    serving = asyncio.create_task(inner.serve())
    while not inner.started and not serving.done():
        await asyncio.sleep(0.05)
    # The outer one is steered by the inner one, which has the signals.
    listening = asyncio.create_task(outer._serve())  # `serve` would take the signals as well
    renewing = asyncio.create_task(_take_renewed_certificates(context, settings))
    done, _ = await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    renewing.cancel()
    inner.should_exit = outer.should_exit = True
    await asyncio.gather(serving, listening)
    if listening in done:
        sys.exit(1)


def _flower_settings(settings: Settings) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=settings.loopback_port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=settings.superexec_secret.read_bytes(),
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(settings.database),
        isolation="process",
        runtime_dependency_install=False,
    )


class _SiteConnection(H11Protocol):
    """A connection that is closed if no request comes after the handshake, or if its peer has too many."""

    _open: ClassVar[Counter[str]] = Counter()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._peer = self.client[0] if self.client else ""
        self._open[self._peer] += 1
        self._waiting = self.loop.call_later(_FIRST_REQUEST_SECONDS, transport.close)
        if self._open[self._peer] > _CONNECTIONS_A_PEER:
            transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:
            self._waiting.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        self._open[self._peer] -= 1
        if not self._open[self._peer]:
            del self._open[self._peer]
        super().connection_lost(exc)


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
