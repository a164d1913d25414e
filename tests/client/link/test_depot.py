"""A task is fetched and a reply brought over links that break, from servers that lie."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from acm_core.federated.payload import MOST_BYTES, Payload
from acm_core.trust import certificates, keys
from client.link import depot as depot_module
from client.link.depot import Depot, DepotError, TaskOverError
from client.site.membership import Membership

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A depot that breaks off when it is told to.

    Attributes:
        breaks: after how many bytes of a body a connection ends, one number for each that does.
        statuses: what is answered first, before it serves.
        sent: bytes of bodies that went out.
        here: the reply, as far as it came.
    """

    def __init__(self, folder: Path) -> None:
        self.content, self.breaks, self.statuses = CONTENT, list[int](), list[int]()
        self.sent, self.here, self.calls = 0, bytearray(), list[str]()
        authority, key = certificates.make_authority("test"), certificates.make_key()
        (folder / "ca.crt").write_bytes(authority.certificate)
        (folder / "server.crt").write_bytes(certificates.issue(authority, key, ["127.0.0.1"]))
        (folder / "server.key").write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        begin = int(self.headers["range"].removeprefix("bytes=").removesuffix("-"))
        content = self.server.content[begin:]
        if self.refuses():
            return
        self.answer(206 if begin else 200, len(content))
        limit = self.server.breaks.pop(0) if self.server.breaks else len(content)
        self.server.sent += len(content[:limit])
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[:limit])
        self.close_connection = True

    def do_HEAD(self) -> None:
        if not self.refuses():
            self.about()

    def do_PATCH(self) -> None:
        assert int(self.headers["upload-offset"]) == len(self.server.here)
        length = int(self.headers["content-length"])
        assert length + len(self.server.here) == int(self.headers["upload-length"])
        if self.refuses():
            return
        limit = self.server.breaks.pop(0) if self.server.breaks else length
        self.server.here += self.rfile.read(min(limit, length))
        if limit < length:
            self.connection.close()
            self.close_connection = True
        else:
            self.about()

    def about(self) -> None:
        if "/replies/" in self.path and len(self.server.here) < len(CONTENT):
            self.answer(200, 0, offset=len(self.server.here))
        else:
            self.answer(204 if "/replies/" in self.path else 200, 0)

    def refuses(self) -> bool:
        self.server.calls.append(self.command)
        if self.server.statuses:
            self.answer(self.server.statuses.pop(0), 0)
            return True
        return False

    def answer(self, status: int, length: int, offset: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length))
        if offset is not None:
            self.send_header("upload-offset", str(offset))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(depot_module, "_FIRST_PAUSE", 0.01)
    server = Server(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def depot(server: Server, tmp_path: Path) -> Iterator[Depot]:
    keys.create_key(tmp_path / "keys" / "site.key")
    address = f"127.0.0.1:{server.server_port}"
    membership = Membership(tmp_path, tmp_path / "keys" / "site.key", tmp_path / "ca.crt", address, "test")
    depot = Depot("A", membership)
    yield depot
    depot.close()


@pytest.fixture
def reply(tmp_path: Path) -> Payload:
    path = tmp_path / DIGEST
    path.write_bytes(CONTENT)
    return Payload(path, len(CONTENT))


@pytest.mark.parametrize("breaks", [[], [0], [1000, 0, 200_000], [len(CONTENT) - 1]])
def test_a_task_comes_whole_and_nothing_of_it_twice(
    server: Server, depot: Depot, tmp_path: Path, breaks: list[int]
) -> None:
    server.breaks = list(breaks)
    assert depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks").read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_a_killed_site_goes_on_where_it_was(server: Server, depot: Depot, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / f"{DIGEST}.part").write_bytes(CONTENT[:300_000])
    (tmp_path / "tasks" / ("0" * 64)).write_bytes(b"a former task")
    assert depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks").read_bytes() == CONTENT
    assert server.sent == len(CONTENT) - 300_000
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == [DIGEST]


def test_a_task_that_is_here_is_only_asked_for(server: Server, depot: Depot, tmp_path: Path) -> None:
    for _ in range(2):
        depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks")
    assert (server.sent, server.calls) == (len(CONTENT), ["GET", "HEAD"])


def test_a_server_that_is_away_is_waited_for(server: Server, depot: Depot, tmp_path: Path) -> None:
    server.statuses = [503, 500, 502]
    assert depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", bytes(2**24)])
def test_other_bytes_are_no_task(server: Server, depot: Depot, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DepotError):
        depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks")
    assert sum(path.stat().st_size for path in (tmp_path / "tasks").iterdir()) <= len(CONTENT)
    assert not (tmp_path / "tasks" / DIGEST).exists()


def test_a_task_has_a_limit(server: Server, depot: Depot, tmp_path: Path) -> None:
    with pytest.raises(DepotError, match="at most"):
        depot.fetch(DIGEST, MOST_BYTES + 1, tmp_path / "tasks")
    assert server.calls == []


def test_a_task_that_is_over_is_told_as_such(server: Server, depot: Depot, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(TaskOverError):
        depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks")


@pytest.mark.parametrize("status", [401, 403, 302])
def test_a_refusal_is_not_asked_for_again(
    server: Server, depot: Depot, tmp_path: Path, reply: Payload, status: int
) -> None:
    server.statuses = [status, status]
    with pytest.raises(DepotError, match=str(status)):
        depot.fetch(DIGEST, len(CONTENT), tmp_path / "tasks")
    with pytest.raises(DepotError, match=str(status)):
        depot.deliver(reply)
    assert len(server.calls) == 2


@pytest.mark.parametrize("breaks", [[], [0], [1000, 200_000], [len(CONTENT) - 1]])
def test_a_reply_is_brought_whole_and_goes_on_where_it_was_cut_off(
    server: Server, depot: Depot, reply: Payload, breaks: list[int]
) -> None:
    server.breaks = list(breaks)
    depot.deliver(reply)
    assert bytes(server.here) == CONTENT


def test_a_reply_that_is_there_is_not_sent(server: Server, depot: Depot, reply: Payload) -> None:
    server.here = bytearray(CONTENT)
    depot.deliver(reply)
    assert server.calls == ["HEAD"]


def test_a_damaged_reply_is_told(server: Server, depot: Depot, reply: Payload) -> None:
    server.statuses = [422]
    with pytest.raises(DepotError, match="422"):
        depot.deliver(reply)
