"""A run's events in a file of JSON lines, which the terminal and the dashboard follow and a person can read later."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from acm_core.files import LineTail
from server.round.events import Event, RunFailed, Sink, read_event


class EventLog:
    """Where a run's events are told: every sink takes one in, then it stands in the file.

    So what the operator reads has been taken everywhere. A failure is the exception: the file has it first, since
    whoever follows the file waits for the end.
    """

    def __init__(self, path: Path, sinks: Sequence[Sink] = ()) -> None:
        self._path, self._sinks = path, sinks
        path.parent.mkdir(parents=True, exist_ok=True)

    def tell(self, event: Event) -> str | None:
        """Tell one event; it is on disk for other processes to see when this returns.

        Returns:
            The head of the audit log, where it stands there.

        Raises:
            OSError: the disk does not take it.
            Exception: a sink does not; the sinks after it and the file then do not have it.
        """
        if failed := isinstance(event, RunFailed):
            self._write(event)
        heads = [sink.take(event) for sink in self._sinks]
        if not failed:
            self._write(event)
        return next(filter(None, heads), None)

    def _write(self, event: Event) -> None:
        """Append a line, whole or, where the disk is full, not at all."""
        row = (json.dumps(event.model_dump(mode="json"), ensure_ascii=False) + "\n").encode()
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(row) < len(row):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


class EventReader:
    """Reads the events that were appended since the last call; a line that is still being written waits."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._lines = LineTail(path, from_end=from_end)

    def read(self) -> Iterator[Event]:
        """The new events, oldest first; what another version wrote and this one does not know is passed over."""
        for line in self._lines.read():
            try:
                event = read_event(line)
            except ValueError:
                continue
            yield event
