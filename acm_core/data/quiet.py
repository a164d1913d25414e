"""Silence around the readers of films: what they warn of and log quotes the header, and with it the patient."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

for _reader in ("pydicom", "PIL"):
    # Their records would reach the site's log through the root logger, or standard error where nobody listens.
    logging.getLogger(_reader).addHandler(logging.NullHandler())
    logging.getLogger(_reader).propagate = False


class _Silence:
    """Ignores warnings from the first thread that enters to the last that leaves.

    `warnings.catch_warnings` alone restores, when threads overlap, the filters of another thread: some warnings come
    through, and the filters stay changed for good.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warning of any thread is shown or raised meanwhile; afterwards the filters are as they were."""
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()
