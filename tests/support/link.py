"""The wire between a site and the server: it can be cut, with both ends believing in it, or torn."""

from __future__ import annotations

import contextlib
import socket
import threading


class Link:
    """Relays connections to a port of this machine.

    Attributes:
        port: where the site connects.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._open = threading.Event()
        self._open.set()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through, and neither end is told."""
        self._open.clear()

    def mend(self) -> None:
        """What was on its way arrives."""
        self._open.set()

    def tear(self) -> None:
        """Every connection breaks."""
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()
        self.tear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=[near], daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._open.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._to), 10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        back = threading.Thread(target=self._pump, args=[far, near], daemon=True)
        self._sockets |= {near, far}
        back.start()
        self._pump(near, far)
        back.join()
        self._sockets -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
