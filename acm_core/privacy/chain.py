"""The rows of a privacy ledger on disk: append-only, hash-chained, flushed one by one.

In the folder lie `ledger.jsonl` (a row a line), `head.json` (where the ledger ends) and `lock`. Killed anywhere, it
holds at least what was spent and opens again. It notices a row that was changed, a ledger or a head that is older than
the other, and, where a witness lies on another disk, a folder that was restored as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from acm_core.config.sections import PrivacyUnit
from acm_core.files import flush_folder, write_atomically, write_private
from acm_core.privacy.accounting import Accountant, NoisedSteps, Plan

log = logging.getLogger("acm_fed.client")

Population = Literal["train", "test"]
"""Whose films a step is about: test patients are others than training patients, and their ε is another."""

_START = "0" * 64
_TRIES = 100
_MOST_STEPS = 10**9
_LONGEST_ROW = 2**14  # bytes, far more than any has: what is longer is no row that a crash cut short
_LOST = (
    "what the patients have spent can no longer be shown; keep the folder as it is, and train on them again only when "
    "its newest copy is back"
)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,128}$")]


class LedgerError(Exception):
    """The ledger permits nothing: no noise may be drawn."""


class LedgerMissingError(LedgerError):
    """Head or witness speak of a ledger that is not there."""


class LedgerBrokenError(LedgerError):
    """A row is not the one that was written."""


class LedgerRolledBackError(LedgerError):
    """Ledger, head and witness are not of the same time."""


class LedgerBusyError(LedgerError):
    """Another process has the ledger open."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Head(_Strict):
    """Where a ledger ends: the number of its rows and the last one's hash."""

    rows: int = Field(ge=0)
    hash: _Hex


class _Row(_Strict):
    """What every row has; `time` in seconds, UTC; `hash` is over all the rest."""

    index: int = Field(ge=0)
    previous: _Hex
    hash: _Hex
    time: int


class Opened(_Row):
    """The first row; its nonce tells one ledger from another."""

    kind: Literal["opened"]
    site: str
    unit: PrivacyUnit
    adjacency: Literal["add_remove"]
    versions: dict[str, str]
    nonce: _Hex


class Dataset(_Row):
    """From here on the site trains on the films of this manifest."""

    kind: Literal["dataset"]
    fingerprint: _Hex


class Planned(_Row):
    """A run was admitted: the fields are `Plan`'s; `epsilon` is what it may cost, not what it has."""

    kind: Literal["planned"]
    run: str
    settings: str
    unit: PrivacyUnit
    sigma: float = Field(gt=0)
    q: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    expected_batch: int = Field(ge=1)
    steps_per_round: int = Field(ge=1, le=_MOST_STEPS)
    rounds: int = Field(ge=1, le=_MOST_STEPS)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    accountant: Accountant
    sampler: Literal["poisson"]

    @property
    def plan(self) -> Plan:
        """The plan as it was admitted."""
        return Plan(**{field.name: getattr(self, field.name) for field in fields(Plan)})


class Step(_Row):
    """Noise was permitted to be drawn: for a step of training, or for a released metric (population "test")."""

    kind: Literal["step"]
    run: str
    settings: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    sigma: float = Field(gt=0)
    q: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    steps: int = Field(ge=1, le=_MOST_STEPS)
    expected_batch: int | None = Field(ge=1)
    unit: PrivacyUnit
    adjacency: Literal["add_remove"]
    sampler: Literal["poisson"]
    accountant: Accountant
    dataset: _Hex
    model: _Hex
    population: Population
    versions: dict[str, str]

    @property
    def noised(self) -> NoisedSteps:
        """What the accountants know of it."""
        return NoisedSteps(self.sigma, self.q, self.steps)


Row = Opened | Dataset | Planned | Step
_ROW: TypeAdapter[Row] = TypeAdapter(Annotated[Row, Field(discriminator="kind")])


class Chain:
    """The rows on disk: locked, verified, set right after a crash and appended to."""

    def __init__(self, folder: Path, witness: Path | None) -> None:
        self._folder, self._process = folder, os.getpid()
        self._marks = (folder / "head.json", *([] if witness is None else [witness]))
        with ExitStack() as opening, disk(folder):
            if witness is not None and not witness.parent.is_dir():
                raise LedgerError(
                    f"expected the witness's folder {witness.parent}, found none: is its disk there?"
                )
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            flush_folder(folder.parent)
            self._lock(opening)
            found = read(folder, witness)
            self.rows = found.rows
            self._file = os.open(folder / "ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            opening.callback(os.close, self._file)
            flush_folder(folder)
            if found.unfinished:
                os.ftruncate(self._file, found.length)
                log.warning(
                    "privacy ledger: cut off %d bytes of an unfinished row %d, which was never spent",
                    found.unfinished,
                    len(self.rows),
                )
            os.fsync(self._file)  # whoever was killed had perhaps not come to that, and the marks build on it
            self._tidy(found)
            self._opened = opening.pop_all()
        self._sound = True

    def append(self, values: dict[str, Any]) -> None:
        """Add a row; when this returns it is on disk, and head and witness say so.

        Raises:
            LedgerError: it is not, or not surely; the ledger must be opened again.
        """
        if not self._sound or os.getpid() != self._process:
            raise LedgerError(
                "expected a ledger that this process has open, got one that is closed, another process's, or one whose "
                "last write failed: open it again"
            )
        head = head_of(self.rows)
        values = {**values, "index": head.rows, "previous": head.hash, "time": int(time.time())}
        values["hash"] = _hash(values)
        row = _ROW.validate_python(values)
        line = f"{_ENCODER.encode(values)}\n".encode()
        self._sound = False
        with disk(self._folder):
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
            self.rows.append(row)
            self._write_marks()
        self._sound = True

    def close(self) -> None:
        """Let go of the lock."""
        self._sound = False
        self._opened.close()

    def _lock(self, opening: ExitStack) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        opening.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerBusyError(
                f"expected nobody else at the ledger in {self._folder}, got another process: a site trains once at a "
                "time; wait for the other run to end"
            ) from None

    def _tidy(self, found: Found) -> None:
        """What a crash leaves: half-written marks, and marks that are a row behind."""
        for path in self._marks:
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink()
        if self.rows and any(mark != head_of(self.rows) for mark in found.marks):
            self._write_marks()

    def _write_marks(self) -> None:
        content = f"{head_of(self.rows).model_dump_json()}\n".encode()
        for path in self._marks:
            write_atomically(path, partial(write_private, content=content))


class Found(NamedTuple):
    """What a folder holds: rows in `length` bytes, then `unfinished` ones; the marks are head and, if any, witness."""

    rows: list[Row]
    length: int
    unfinished: int
    marks: Sequence[Head | None]


def read(folder: Path, witness: Path | None) -> Found:
    paths = (folder / "head.json", *([] if witness is None else [witness]))
    for _ in range(_TRIES):
        contents = [_content(path) for path in paths]
        ledger = _content(folder / "ledger.jsonl")
        if [_content(path) for path in paths] == contents:
            break
    else:
        raise LedgerBusyError(
            f"expected the ledger in {folder} to rest for a moment, got new rows all the time"
        )
    marks = [_parse_mark(path, content) for path, content in zip(paths, contents, strict=True)]
    if ledger is None:
        for path, mark in zip(paths, marks, strict=True):
            if mark is not None:
                raise LedgerMissingError(
                    f"expected the ledger of {mark.rows} rows that {path} speaks of in {folder}, found none: {_LOST}"
                )
        return Found([], 0, 0, marks)
    rows, length = _parse_rows(ledger, 0 if marks[0] is None else marks[0].rows)
    for path, mark in zip(paths, marks, strict=True):
        _expect_at_end(path, mark, rows, may_be_new=path == witness)
    return Found(rows, length, len(ledger) - length, marks)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse_mark(path: Path, content: bytes | None) -> Head | None:
    if content is None:
        return None
    try:
        return Head.model_validate_json(content)
    except ValidationError:
        raise LedgerBrokenError(
            f"expected where the ledger ends in {path}, got something else: {_LOST}"
        ) from None


def _parse_rows(ledger: bytes, marked: int) -> tuple[list[Row], int]:
    """The rows and the number of bytes they take; an unfinished row after those `marked` as written is left out."""
    *lines, rest = ledger.split(b"\n")
    rows: list[Row] = []
    length = 0
    for number, line in enumerate(lines):
        values = _parse(line)
        if values is None and number == marked == len(lines) - 1 and not rest:
            return rows, length
        rows.append(_checked(values, line, number, rows[-1].hash if rows else _START))
        length += len(line) + 1
    if rest and (marked != len(lines) or len(rest) > _LONGEST_ROW):
        raise _broken(len(lines))
    return rows, length


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _checked(values: dict[str, Any] | None, line: bytes, number: int, previous: str) -> Row:
    if values is None:
        raise _broken(number)
    try:
        row = _ROW.validate_python(values)
        # Compared as text too: then nothing in the line can differ from what was written.
        sound = _ENCODER.encode(values).encode() == line and row.hash == _hash(values)
    except (ValueError, RecursionError):
        raise _broken(number) from None
    follows = row.index == number and row.previous == previous and isinstance(row, Opened) == (number == 0)
    if not (sound and follows):
        raise _broken(number)
    return row


def _broken(number: int) -> LedgerBrokenError:
    return LedgerBrokenError(f"expected the ledger as it was written, got another row {number}: {_LOST}")


def _expect_at_end(path: Path, mark: Head | None, rows: Sequence[Row], *, may_be_new: bool) -> None:
    """The last write may have been interrupted before the mark: it may be one row behind."""
    if mark is None and may_be_new:
        return
    at = 0 if mark is None else mark.rows
    if not len(rows) - 1 <= at <= len(rows):
        raise LedgerRolledBackError(
            f"expected {path} to end with the ledger, after {len(rows)} rows, got {at}: one is an older copy; {_LOST}"
        )
    if mark is not None and at and rows[at - 1].hash != mark.hash:
        raise LedgerBrokenError(
            f"expected row {at - 1} of the ledger to be the one that {path} speaks of, got another: {_LOST}"
        )


def head_of(rows: Sequence[Row]) -> Head:
    """Where these rows end."""
    return Head(rows=len(rows), hash=rows[-1].hash if rows else _START)


def _hash(values: dict[str, Any]) -> str:
    text = _ENCODER.encode({name: value for name, value in values.items() if name != "hash"})
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"expected to read and write the ledger in {folder}, got {error}: nothing more is permitted; mend that, "
            "then start again"
        ) from error
