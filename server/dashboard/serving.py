"""The dashboard's page over HTTP on loopback: read-only, one page and the part of it that changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from acm_core.config.sections import FederationConfig
from server.dashboard.live import LiveRun, curves, settings
from server.pages import pages
from server.report import charts
from server.round.event_log import EventReader

_LOOPBACK = "127.0.0.1"
_HOSTS = frozenset((_LOOPBACK, "localhost"))
# Inline styles and the page's own script; nothing from elsewhere, and no other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Dashboard:
    """Serves a run's page while the block lasts.

    Args:
        events: the run's file of events.
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, config: FederationConfig, events: Path, port: int) -> None:
        self._reader = EventReader(events)
        self._lock = threading.Lock()
        self._run = LiveRun(config.name, {}, config.federation.rounds)
        self._sites: Sequence[str] = config.federation.sites
        self._pages = pages()
        self._server = ThreadingHTTPServer((_LOOPBACK, port), _handler(self))
        self.address = f"http://{_LOOPBACK}:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def page(self, template: str) -> str:
        """A template with where the run stands now."""
        with self._lock:
            for event in self._reader.read():
                self._run.take(event)
            kinds = charts.kinds_of(self._run.sites or self._sites)
            drawings = {
                title: charts.over_rounds(found, kinds)
                for title, name in charts.LOSSES.items()
                if (found := curves(self._run, name))
            }
            return self._pages.get_template(template).render(
                **settings(self._run),
                drawings=drawings,
                clock=lambda at: time.strftime("%H:%M:%S", time.localtime(at)),
            )


def _handler(dashboard: Dashboard) -> type[BaseHTTPRequestHandler]:
    templates = {"/": "dashboard.html", "/now": "dashboard_now.html"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's page in the same browser could reach loopback under a name of its own.
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in _HOSTS:
                self.send_error(403)
            elif (template := templates.get(self.path)) is None:
                self.send_error(404)
            else:
                self._send(dashboard.page(template).encode())

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: the terminal shows the run."""

    return Handler
