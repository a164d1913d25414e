"""Files that are the old one or the new one, whole, whatever happens; and files that are read while they grow."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_MOST_LOG_BYTES = 2**25
_SEAL = hashlib.sha256().digest_size


class DamagedFileError(ValueError):
    """A file is not the one that was written."""


def keep_files_private() -> None:
    """What this process and those that it starts write is for its user alone: called by the commands, before all else.

    A site's state says which films it has, and a run's folder how each site did. Whoever shares a file says so.
    """
    os.umask(0o077)


def own_folder(folder: Path) -> None:
    """Make a folder, or have one that was made before, that nobody else can look into."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(
        PermissionError
    ):  # one of another user, such as a mount, is that user's business
        folder.chmod(0o700)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and put it in `path`'s place.

    A crash at any point leaves either the previous file or the new one. The folder is created where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_atomically` for UTF-8 text."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """`write_atomically` for bytes, with their SHA-256 behind them, by which `read_sealed` knows them again.

    Only the file's owner may read it (mode 0600).
    """

    def write(temporary: Path) -> None:
        with _private(temporary) as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())

    write_atomically(path, write)


def read_sealed(path: Path) -> bytes:
    """The content that `write_sealed` was given.

    Raises:
        OSError: the file is missing or cannot be read.
        DamagedFileError: it holds anything else.
    """
    with path.open("rb") as file:
        content = file.read(max(os.fstat(file.fileno()).st_size - _SEAL, 0))
        seal = file.read()
    if hashlib.sha256(content).digest() != seal:
        raise DamagedFileError(f"expected {path.name} as it was written, got something else")
    return content


def remove_unfinished(folder: Path) -> None:
    """Remove what writes that were killed have left in `folder`, in which nobody else writes now."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()


def bound_log(path: Path) -> None:
    """Keep a log that other processes append to below 32 MiB: what is older goes to `NAME.1`, over what was there.

    Lines that are written meanwhile may be lost. Who has the file open for appending goes on.
    """
    with contextlib.suppress(OSError):
        if path.stat().st_size < _MOST_LOG_BYTES:
            return
        before = path.with_name(f"{path.name}.1")
        shutil.copyfile(path, before)
        before.chmod(path.stat().st_mode & 0o777)
        os.truncate(path, 0)


class LineTail:
    """Reads the lines appended to a file since the last call; a line that is still being written waits.

    Args:
        path: of the file, which may come into being later.
        from_end: leave out what the file holds now.
    """

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if from_end and path.exists() else 0

    def read(self) -> Iterator[str]:
        """The new complete lines as UTF-8 text without their ends, oldest first."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                self._offset = 0  # `bound_log`
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield line.decode("utf-8", "replace").rstrip("\r\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read (mode 0600)."""
    with _private(path) as file:
        file.write(content)


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def turn(lock: Path) -> Iterator[None]:
    """Wait until no other process is between this and its end for the same `lock`, a file that is made for it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Have the disk hold the names of a folder's files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
