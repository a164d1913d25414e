"""Rows on disk that nobody changes unnoticed: append-only, hash-chained, flushed one by one.

In the folder lie a file of rows (a JSON object a line), `head.json` (where they end) and `lock`. Killed anywhere, it
holds at least what was appended and opens again. It notices a row that was changed, rows or a head that are older than
the other, and, where a witness lies on another disk, a folder that was restored as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from acm_core.files import flush_folder, write_atomically, write_private

LONGEST_ROW = 2**14
"""Bytes, far more than any row has: what is longer is no row that a crash cut short."""

_START = "0" * 64
_TRIES = 100
_TAIL = 3 * LONGEST_ROW  # two whole rows and an unfinished one
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,128}$")]


class Strict(BaseModel):
    """Values of declared names and exact types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Head(Strict):
    """Where a chain ends: the number of its rows and the last one's hash."""

    rows: int = Field(ge=0)
    hash: Hex


class ChainRow(Strict):
    """What every row has; `time` in seconds, UTC; `hash` is over all the rest."""

    index: int = Field(ge=0)
    previous: Hex
    hash: Hex
    time: int


R = TypeVar("R", bound=ChainRow)


class Faults(NamedTuple):
    """Errors of one kind of chain.

    Attributes:
        error: of any other sort; the others are best its subclasses.
        missing: the rows that a mark speaks of are not there.
        broken: a row is not the one that was written.
        rolled_back: rows and marks are not of the same time.
        busy: another process has the chain.
    """

    error: type[Exception]
    missing: type[Exception]
    broken: type[Exception]
    rolled_back: type[Exception]
    busy: type[Exception]


@dataclass(frozen=True)
class ChainKind(Generic[R]):
    """A kind of chain.

    Attributes:
        name: what messages call it.
        file: the rows' file in its folder.
        rows: what a row may be.
        lost: what it means, and what to do, where the rows cannot be trusted.
        halted: the same where the disk fails.
        busy: what to do where another process has it open. None: several processes append to it in turn, each waiting
            for the other and verifying the end alone.
    """

    name: str
    file: str
    rows: TypeAdapter[R]
    faults: Faults
    lost: str
    halted: str
    busy: str | None

    @contextmanager
    def disk(self, folder: Path) -> Iterator[None]:
        """Turn what the disk refuses into the chain's own error."""
        try:
            yield
        except OSError as error:
            raise self.faults.error(
                f"expected to read and write the {self.name} in {folder}, got {error}: {self.halted}"
            ) from error

    def broken(self, number: int) -> Exception:
        """The error that names a row."""
        return self.faults.broken(
            f"expected the {self.name} as it was written, got another row {number}: {self.lost}"
        )


class Chain(Generic[R]):
    """The rows on disk: locked, verified, set right after a crash and appended to.

    Attributes:
        rows: all, oldest first; where processes take turns, the last ones only.
        cut: bytes of an unfinished row that were cut off when it was opened.
    """

    def __init__(self, folder: Path, kind: ChainKind[R], witness: Path | None = None) -> None:
        self._folder, self._kind, self._process = folder, kind, os.getpid()
        self._marks = (folder / "head.json", *([] if witness is None else [witness]))
        with ExitStack() as opening, kind.disk(folder):
            if witness is not None and not witness.parent.is_dir():
                raise kind.faults.error(
                    f"expected the witness's folder {witness.parent}, found none: is its disk there?"
                )
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock(opening)
            found = _read(folder, kind, witness, tail=kind.busy is None)
            self.rows, self.cut = found.rows, found.unfinished
            self._file = os.open(folder / kind.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            opening.callback(os.close, self._file)
            if not self.rows or self.cut or any(mark != self.head for mark in found.marks):
                self._settle(found.length)
            self._opened = opening.pop_all()
        self._sound = True

    @property
    def head(self) -> Head:
        """Where the chain ends."""
        return head_of(self.rows)

    def append(self, values: dict[str, Any]) -> R:
        """Add a row; when this returns it is on disk, and head and witness say so.

        Raises:
            ValueError: the values are none of such a row's; nothing was written.
            Exception: the kind's error: the row is not on disk, or not surely; the chain must be opened again.
        """
        if not self._sound or os.getpid() != self._process:
            raise self._kind.faults.error(
                f"expected a {self._kind.name} that this process has open, got one that is closed, another process's, "
                "or one whose last write failed: open it again"
            )
        head = self.head
        values = {**values, "index": head.rows, "previous": head.hash, "time": int(time.time())}
        values["hash"] = _hash(values)
        line = f"{_ENCODER.encode(values)}\n".encode()
        row = self._kind.rows.validate_json(line)
        self._sound = False
        with self._kind.disk(self._folder):
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
            self.rows.append(row)
            self._write_marks()
        self._sound = True
        return row

    def begin_witness(self, witness: Path) -> None:
        """Write where the chain ends into a file that is not there yet, by which it is opened from then on.

        Raises:
            FileExistsError: it is there.
        """
        if witness.exists():
            raise FileExistsError(f"expected no file {witness} yet, found one: a witness is begun once")
        with self._kind.disk(self._folder):
            write_atomically(witness, partial(write_private, content=self._mark()))

    def close(self) -> None:
        """Let go of the lock."""
        self._sound = False
        self._opened.close()

    def _lock(self, opening: ExitStack) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        opening.callback(self._release, lock)
        if self._kind.busy is None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._kind.faults.busy(
                f"expected nobody else at the {self._kind.name} in {self._folder}, got another process: "
                f"{self._kind.busy}"
            ) from None

    def _release(self, lock: int) -> None:
        if os.getpid() == self._process:  # a fork has this lock too: it neither keeps it nor lets go of it
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)

    def _settle(self, length: int) -> None:
        """What a crash leaves: names and rows that are not surely on disk, an unfinished row, marks a row behind."""
        flush_folder(self._folder.parent)
        flush_folder(self._folder)
        if self.cut:
            os.ftruncate(self._file, length)
        os.fsync(self._file)
        for path in self._marks:
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink()
        if self.rows:
            self._write_marks()

    def _write_marks(self) -> None:
        for path in self._marks:
            write_atomically(path, partial(write_private, content=self._mark()))

    def _mark(self) -> bytes:
        return f"{self.head.model_dump_json()}\n".encode()


class Found(NamedTuple, Generic[R]):
    """What a folder holds: rows in `length` bytes, then `unfinished` ones; the marks are head and, if any, witness."""

    rows: list[R]
    length: int
    unfinished: int
    marks: Sequence[Head | None]


def read(folder: Path, kind: ChainKind[R], witness: Path | None = None) -> Found[R]:
    """All rows, verified, none where none was begun; reads only, also while another process appends.

    Raises:
        Exception: one of the kind's faults.
    """
    with ExitStack() as reading, kind.disk(folder):
        if kind.busy is None and (lock := folder / "lock").exists():
            fcntl.flock(reading.enter_context(lock.open("rb")), fcntl.LOCK_SH)
        return _read(folder, kind, witness, tail=False)


def head_of(rows: Sequence[ChainRow]) -> Head:
    """Where these rows end."""
    return Head(rows=rows[-1].index + 1, hash=rows[-1].hash) if rows else Head(rows=0, hash=_START)


def _read(folder: Path, kind: ChainKind[R], witness: Path | None, *, tail: bool) -> Found[R]:
    paths = (folder / "head.json", *([] if witness is None else [witness]))
    for _ in range(_TRIES):
        contents = [_content(path) for path in paths]
        content, offset = _tail(folder / kind.file) if tail else (_content(folder / kind.file), 0)
        if [_content(path) for path in paths] == contents:
            break
    else:
        raise kind.faults.busy(
            f"expected the {kind.name} in {folder} to rest for a moment, got new rows all the time"
        )
    marks = [_parse_mark(kind, path, mark) for path, mark in zip(paths, contents, strict=True)]
    if content is None:
        for path, mark in zip(paths, marks, strict=True):
            if mark is not None:
                raise kind.faults.missing(
                    f"expected the {kind.name} of {mark.rows} rows that {path} speaks of in {folder}, found none: "
                    f"{kind.lost}"
                )
        return Found([], 0, 0, marks)
    marked = 0 if marks[0] is None else marks[0].rows
    start = _said_before(content, marked) if offset else head_of([])
    rows, length = _parse_rows(kind, content, start, marked)
    for path, mark in zip(paths, marks, strict=True):
        _expect_at_end(kind, path, mark, rows)
    return Found(rows, offset + length, len(content) - length, marks)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _tail(path: Path) -> tuple[bytes | None, int]:
    """The last two lines with what follows them, and where in the file they begin."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            *lines, rest = file.read().split(b"\n")
    except FileNotFoundError:
        return None, 0
    content = b"\n".join([*lines[-2:], rest])
    return content, size - len(content)


def _said_before(content: bytes, marked: int) -> Head:
    """Where the rows before these end, as the first of them says."""
    values = _parse(content.partition(b"\n")[0]) or {}
    try:
        return Head.model_validate({"rows": values.get("index"), "hash": values.get("previous")})
    except ValidationError:
        return Head(rows=max(marked - 2, 0), hash=_START)


def _parse_mark(kind: ChainKind[R], path: Path, content: bytes | None) -> Head | None:
    if content is None:
        return None
    try:
        return Head.model_validate_json(content)
    except ValidationError:
        raise kind.faults.broken(
            f"expected where the {kind.name} ends in {path}, got something else: {kind.lost}"
        ) from None


def _parse_rows(kind: ChainKind[R], content: bytes, start: Head, marked: int) -> tuple[list[R], int]:
    """The rows and the number of bytes they take; an unfinished row after those `marked` as written is left out."""
    *lines, rest = content.split(b"\n")
    rows: list[R] = []
    end, length = start, 0
    for line in lines:
        values = _parse(line)
        last = len(rows) == len(lines) - 1 and not rest and len(line) <= LONGEST_ROW
        if values is None and end.rows == marked and last:
            return rows, length
        rows.append(_checked(kind, values, line, end))
        end = head_of(rows)
        length += len(line) + 1
    if rest and (marked != end.rows or len(rest) > LONGEST_ROW):
        raise kind.broken(end.rows)
    return rows, length


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _checked(kind: ChainKind[R], values: dict[str, Any] | None, line: bytes, before: Head) -> R:
    if values is None:
        raise kind.broken(before.rows)
    try:
        row = kind.rows.validate_json(line)
        # Compared as text too: then nothing in the line can differ from what was written.
        sound = _ENCODER.encode(values).encode() == line and row.hash == _hash(values)
    except (ValueError, RecursionError):
        raise kind.broken(before.rows) from None
    if not sound or (row.index, row.previous) != (before.rows, before.hash):
        raise kind.broken(before.rows)
    return row


def _expect_at_end(kind: ChainKind[R], path: Path, mark: Head | None, rows: Sequence[R]) -> None:
    """The last write may have been interrupted before the mark: it may be one row behind."""
    at, end = 0 if mark is None else mark.rows, head_of(rows)
    if not end.rows - 1 <= at <= end.rows:
        raise kind.faults.rolled_back(
            f"expected {path} to end with the {kind.name}, after {end.rows} rows, got {at}: one is an older copy; "
            f"{kind.lost}"
        )
    if mark is not None and at and mark.hash != (end.hash if at == end.rows else rows[-1].previous):
        raise kind.faults.broken(
            f"expected row {at - 1} of the {kind.name} to be the one that {path} speaks of, got another: {kind.lost}"
        )


def _hash(values: dict[str, Any]) -> str:
    text = _ENCODER.encode({name: value for name, value in values.items() if name != "hash"})
    return hashlib.sha256(text.encode()).hexdigest()
