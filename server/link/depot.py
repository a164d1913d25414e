"""The depot: tasks that sites fetch and replies that they bring, as files under their SHA-256.

The round loop's process and the SuperLink's share it by its folder. What either has to tell the other of a task is a
file without content, which is there or not.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from acm_core.federated.messages import Task
from acm_core.federated.payload import Payload, write_payload
from acm_core.files import file_sha256

SHA256 = re.compile(r"[0-9a-f]{64}")


class UploadError(ValueError):
    """Bytes that do not belong where they came; `have` are there already, None: all of them."""

    def __init__(self, have: int | None) -> None:
        super().__init__(f"expected what follows byte {have}, got other bytes")
        self.have = have


class Depot:
    """A folder of payloads; its interface is an object store's: put, get a range, delete, by digest.

    Args:
        folder: of the depot, made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tasks, self._replies = folder / "tasks", folder / "replies"
        self._fetched, self._answered = folder / "fetched", folder / "answered"
        self._idle, self._bell = folder / "idle", folder / "bell"

    def clear(self) -> None:
        """Remove everything: a run begins with an empty depot."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def put_task(self, task: Task) -> Payload:
        """Have a task ready for its sites."""
        return write_payload(task, self._tasks)

    def remove_tasks(self, *, but: set[str]) -> None:
        """Remove the tasks of other digests than these, and who fetched them."""
        for folder in (self._tasks, self._fetched):
            for path in folder.iterdir() if folder.exists() else ():
                if path.name.rpartition(".")[2] not in but:
                    path.unlink(missing_ok=True)

    def task(self, digest: str) -> Path | None:
        """The file of a task, if it is here."""
        return _existing(self._tasks / digest)

    def note_fetched(self, site: str, digest: str) -> None:
        """A site has begun to fetch a task, or has it already."""
        _mark(self._fetched / f"{site}.{digest}")

    def fetched(self, site: str, digest: str) -> float | None:
        """When a site last asked for a task, in seconds since the epoch; None where it never did."""
        return _time(self._fetched / f"{site}.{digest}")

    def note_idle(self, site: str, when: float) -> None:
        """A site asked for something to do, and at this time there was nothing, in seconds since the epoch."""
        _mark(self._idle / site, when)

    def idle(self, site: str) -> float | None:
        """When there last was nothing to do for a site that asked; None where that never was so."""
        return _time(self._idle / site)

    def have(self, site: str, digest: str) -> int | None:
        """Bytes of a site's reply that are here; None: all of them."""
        if _existing(self._replies / site / digest):
            return None
        part = self._part(site, digest)
        return part.stat().st_size if part.exists() else 0

    def append(self, site: str, digest: str, offset: int, content: bytes) -> None:
        """Add to a site's reply what follows `offset`. Another reply that the site has begun goes, as it has one task.

        Raises:
            UploadError: other bytes are wanted.
        """
        part = self._part(site, digest)
        if (have := self.have(site, digest)) != offset:
            raise UploadError(have)
        part.parent.mkdir(parents=True, exist_ok=True)
        if not offset:
            for other in part.parent.glob("*.part"):
                other.unlink()
        with part.open("ab") as file:
            file.write(content)

    def finish(self, site: str, digest: str) -> bool:
        """Take a reply whose bytes are all here; False, and none of them is kept, where they have another digest."""
        part = self._part(site, digest)
        if file_sha256(part) != digest:
            part.unlink()
            return False
        for other in part.parent.iterdir():
            if other != part:
                other.unlink()
        part.replace(part.with_suffix(""))
        return True

    def reply(self, site: str, digest: str) -> Path | None:
        """The file of a site's reply, if it is here whole."""
        return _existing(self._replies / site / digest)

    def remove_reply(self, site: str, digest: str) -> None:
        """Remove a reply that was read."""
        (self._replies / site / digest).unlink(missing_ok=True)

    def note_answered(self, message: str) -> None:
        """A site's message to this one of the server's is whole."""
        _mark(self._answered / message)

    def answered(self, message: str) -> bool:
        """Whether the answer to this message can be asked for."""
        return (self._answered / message).exists()

    def remove_answered(self, message: str) -> None:
        """Nobody asks for it any more."""
        (self._answered / message).unlink(missing_ok=True)

    def ring(self) -> None:
        """Tell the SuperLink's process that there are messages for sites."""
        _mark(self._bell)

    def rung(self) -> int:
        """Another number after each `ring`."""
        with contextlib.suppress(FileNotFoundError):
            return self._bell.stat().st_mtime_ns
        return 0

    def _part(self, site: str, digest: str) -> Path:
        return self._replies / site / f"{digest}.part"


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _mark(path: Path, when: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, None if when is None else (when, when))


def _time(path: Path) -> float | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return None
