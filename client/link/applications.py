"""The ClientApps of a site: one process that has Flower's loaded, and divides itself for each message.

Loading takes a second of a processor, each time that `flwr-clientapp` is started; dividing takes some milliseconds. The
process is told what to run over a socket that the two alone have, and no token stands in a command line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from acm_core.hash_chain import Strict
from acm_core.processes import KeptChild, name_of_file, name_process, secret_file

_MOST_BYTES = 2**12
_PROGRAM, _ANSWERED = "flwr-clientapp", b"answered"


class _Order(Strict):
    """Of a ClientApp: the SuperNode's Runtime API, and the token that it takes there."""

    runtime: str
    token: str


class Applications:
    """A site's ClientApps, from `__init__` to `stop`.

    Each holds one end of a socket as long as it runs, and ends when this process lets go of the other.

    Args:
        log: what they print.
        environment: of theirs.
    """

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._orders, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "client.link.applications", str(self._theirs.fileno())]
        self._loaded = KeptChild("ClientApps", command, log, environment, files=[self._theirs.fileno()])
        self._running: list[socket.socket] = []

    def start(self, runtime: str, token: str) -> None:
        """Run a ClientApp: now, or as soon as it is loaded."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        order = _Order(runtime=runtime, token=token).model_dump_json().encode()
        socket.send_fds(self._orders, [order], [its.fileno()])
        its.close()
        self._running.append(mine)

    def tend(self) -> int:
        """Keep it loaded, and look at those that run; how many of them ended without an answer."""
        self._loaded.tend()
        running, failed = [], 0
        for application in self._running:
            try:
                said = application.recv(_MOST_BYTES)
            except BlockingIOError:
                running.append(application)
                continue
            except OSError:
                said = b""
            application.close()
            failed += said != _ANSWERED
        self._running = running
        return failed

    def end_all(self) -> None:
        """End those that run."""
        for application in self._running:
            application.close()
        self._running = []

    def stop(self) -> None:
        """End everything."""
        self.end_all()
        self._loaded.stop()
        self._orders.close()
        self._theirs.close()


def main() -> None:
    """Load Flower's ClientApp and this site's, and run them as ordered, until `client.run` ends."""
    name_process("acm-fed-apps")
    orders = socket.socket(fileno=int(sys.argv[1]))
    (program,) = entry_points(group="console_scripts", name=_PROGRAM)
    run = program.load()
    import client.app  # noqa: F401  # which Flower finds loaded

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    while True:
        content, files, _, _ = socket.recv_fds(orders, _MOST_BYTES, 1)
        if not content:
            return
        with socket.socket(fileno=files[0]) as connection:
            if os.fork() == 0:
                orders.close()
                _run(run, _Order.model_validate_json(content), connection)


def _run(program: Callable[[], None], order: _Order, connection: socket.socket) -> NoReturn:
    """What `flwr-clientapp` does, in this process, which ends with it or with the connection."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    name_process(_PROGRAM)

    def watch() -> None:
        connection.recv(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    answered = False
    try:
        with secret_file(order.token) as token:
            where = ["--runtime-api-address", order.runtime, "--insecure"]
            sys.argv = [_PROGRAM, *where, "--token-file", name_of_file(token)]
            program()
        answered = True
    except SystemExit as ended:
        answered = not ended.code
    except BaseException:
        logging.getLogger("acm_fed.client").exception("the process that carries the server's task failed")
    if answered:
        with contextlib.suppress(OSError):
            connection.send(_ANSWERED)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(not answered)


if __name__ == "__main__":
    main()
