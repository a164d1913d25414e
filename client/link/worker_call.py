"""How a ClientApp has this site's worker do a task: one line there and one back, over a socket in the site's state.

The payloads lie as files beside the socket, under their SHA-256: `tasks/` and `replies/`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.payload import Payload

_SITE, _STATE = "ACM_FED_SITE", "ACM_FED_STATE"
SOCKET = "worker.sock"
_START_SECONDS, _PAUSE = 60.0, 0.1
_MOST_BYTES = 2**16


class ThisSite(NamedTuple):
    """A site as its ClientApps know it, by their environment."""

    site: str
    state: Path

    def environment(self) -> dict[str, str]:
        """What they are started with."""
        return {_SITE: self.site, _STATE: str(self.state)}

    @classmethod
    def of_environment(cls) -> ThisSite:
        """The site of this ClientApp."""
        return cls(os.environ[_SITE], Path(os.environ[_STATE]))


class WorkerLostError(RuntimeError):
    """The worker ended before it answered."""


def link_folder(state: Path) -> Path:
    """Where a site keeps what is on its way."""
    return state / "link"


def reply_payload(state: Path, reply: ReplyEnvelope) -> Payload:
    """The file of a reply that the worker has found."""
    return Payload(link_folder(state) / "replies" / reply.payload, reply.bytes)


def ask_worker(state: Path, task: TaskEnvelope) -> ReplyEnvelope:
    """Have the worker do a task that is here; it is waited for as long as that takes.

    Raises:
        WorkerLostError: it is not there within a minute, or ended before it answered.
    """
    with _connected(link_folder(state)) as connection:
        line = b""
        with contextlib.suppress(OSError):
            connection.sendall(task.model_dump_json().encode() + b"\n")
            line = _read_line(connection)
    if not line:
        raise WorkerLostError("the process that does this site's tasks ended before it answered")
    return ReplyEnvelope.model_validate_json(line)


def serve_orders(state: Path, do: Callable[[TaskEnvelope], ReplyEnvelope]) -> NoReturn:
    """Do what ClientApps order, one after another, until the process ends."""
    folder = link_folder(state)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # a socket's path has at most 108 bytes, and a state folder's may have more
    Path(SOCKET).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            # One whose ClientApp has gone keeps what was found: the task comes again.
            with connection, contextlib.suppress(OSError):
                if line := _read_line(connection):
                    done = do(TaskEnvelope.model_validate_json(line))
                    connection.sendall(done.model_dump_json().encode() + b"\n")


def _read_line(connection: socket.socket) -> bytes:
    """What came until the end of a line, or b"" where the other side hung up before."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = connection.recv(_MOST_BYTES)
        if not piece or len(line) > _MOST_BYTES:
            return b""
        line += piece
    return bytes(line)


def _connected(folder: Path) -> socket.socket:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # as above
    until = time.monotonic() + _START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(SOCKET)
        except OSError:
            connection.close()
            if time.monotonic() > until:
                raise WorkerLostError("the process that does this site's tasks is not there") from None
            time.sleep(_PAUSE)
        else:
            return connection
