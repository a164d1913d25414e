"""The listener for sites holds no connection for nothing, and cuts none off that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acm_core.processes import free_port
from server.consortium.authority import ServerState
from server.link import program
from server.link.doors import Doors
from server.link.program import LOOPBACK, Settings, door, site_listener, take_all_files

PIECE = bytes(2**16)
PIECES = 512
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"

Connect = Callable[[], ssl.SSLSocket]


async def reads_and_answers(scope: Any, receive: Any, send: Any) -> None:
    """To a body of n bytes, n pieces."""
    size, more = 0, True
    while more:
        event = await receive()
        size, more = size + len(event["body"]), event["more_body"]
    length = str(size * len(PIECE)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for number in range(size):
        await send({"type": "http.response.body", "body": PIECE, "more_body": number + 1 < size})


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Of a listener that hangs up after half a second."""
    monkeypatch.setattr(program, "_IDLE_SECONDS", 0.5)
    monkeypatch.setattr(program, "_STUCK_SECONDS", 0.5)
    state = ServerState(tmp_path / "server_state")
    state.create("test", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state.certificate, state.key)
    entrance = door("127.0.0.1", 0)
    port = entrance.getsockname()[1]
    listener = site_listener(reads_and_answers, context, Doors(100, 100))
    thread = threading.Thread(target=lambda: asyncio.run(listener.serve([entrance])))
    thread.start()
    while not listener.started:
        time.sleep(0.01)
    trust = ssl.create_default_context(cafile=str(state.authority))

    def shaken() -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        return trust.wrap_socket(plain, server_hostname="127.0.0.1")

    yield shaken
    listener.should_exit = True
    thread.join()


def taken(connection: ssl.SSLSocket, pause: float = 0.0) -> int:
    """Bytes of what comes until the listener hangs up."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(2**14):
            count += len(piece)
            time.sleep(pause)
    return count


def test_a_slow_body_and_a_slow_answer_are_not_cut_off(connect: Connect) -> None:
    with connect() as connection:
        for _ in range(2):
            connection.sendall(HEAD % 8)
            for _ in range(8):
                time.sleep(0.2)
                connection.sendall(b"x")
        connection.sendall(HEAD % 1 + b"x" + HEAD % PIECES + bytes(PIECES))
        assert taken(connection, pause=0.001) > (8 + 8 + 1 + PIECES) * len(PIECE)


@pytest.mark.parametrize("said", [b"", b"P", HEAD % 1 + b"x", HEAD % 1 + b"xP", 2 * (HEAD % 1 + b"x") + b"P"])
def test_who_does_not_go_on_is_hung_up_on(connect: Connect, said: bytes) -> None:
    with connect() as connection:
        connection.sendall(said)
        begun = time.monotonic()
        answers = taken(connection) // len(PIECE)
        assert answers == said.count(b"POST")
        assert 0.4 < time.monotonic() - begun < 3


def test_who_takes_nothing_of_an_answer_is_hung_up_on(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(HEAD % PIECES + bytes(PIECES))
        time.sleep(2)
        assert taken(connection) < PIECES * len(PIECE)


def test_the_limit_of_open_files_is_the_systems() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
    try:
        take_all_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_who_finds_that_it_answers_on_loopback_is_let_in_from_outside(tmp_path: Path) -> None:
    state = ServerState(tmp_path / "server_state")
    state.create("test", ["127.0.0.1"])
    port, loopback = free_port(), free_port()
    settings = Settings(
        host="127.0.0.1",
        port=port,
        loopback_port=loopback,
        certificate=state.certificate,
        key=state.key,
        secret=secrets.token_hex(),
        depot=tmp_path / "depot",
        registry=state.registry,
        most_bytes=2**20,
        audit=state.audit,
    )
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "server.link.program", str(file)])
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((LOOPBACK, loopback)):
                break
            assert process.poll() is None
        with socket.create_connection((LOOPBACK, port)) as entered:
            assert entered.getpeername() == (LOOPBACK, port)
    finally:
        process.terminate()
        process.wait()


def test_a_door_that_is_taken_is_said_to_be() -> None:
    with door(LOOPBACK, 0) as taken, pytest.raises(OSError, match="in use"):
        door(LOOPBACK, taken.getsockname()[1])
