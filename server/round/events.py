"""What happens in a run, as JSON lines that the terminal follows and a person can read later."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acm_core.files import LineTail

Event = dict[str, Any]


class EventLog:
    """Appends events to a file; each is on disk for other processes to see when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event of the given kind, whole or, where the disk is full, not at all.

        Raises:
            OSError: the disk does not take it.
        """
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **fields}, ensure_ascii=False)
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(row := f"{line}\n".encode()) < len(row):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


class EventReader:
    """Reads the events that were appended since the last call; a line that is still being written waits."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._lines = LineTail(path, from_end=from_end)

    def read(self) -> Iterator[Event]:
        """The new events, oldest first."""
        return (json.loads(line) for line in self._lines.read())
