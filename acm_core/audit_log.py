"""A side's own record of what the other one asked, did and was told: a hash chain of declared events.

It lies in `STATE/audit/` of the server and of every site. The site's head travels with its reply and the server's with
its task, and each side writes the other's down: a log that was rewritten or put back as a whole is noticed by the
other side's.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from acm_core.audit_events import AnyEvent, Event, ReplyTaken, RowCut, TaskReceived
from acm_core.hash_chain import Chain, ChainKind, ChainRow, Faults, Found, Head, Hex, read


class AuditRow(ChainRow):
    """An event in its place; the nonce keeps others from guessing a row by its hash, which they are told."""

    time: int = Field(ge=0, lt=2**37)
    nonce: Hex
    event: Annotated[AnyEvent, Field(discriminator="kind")]


class AuditError(Exception):
    """Nothing can be written down or read: what has to be written down must not happen."""


class AuditBrokenError(AuditError):
    """The log is not the one that was written."""


AUDIT: ChainKind[AuditRow] = ChainKind(
    name="audit log",
    file="audit.jsonl",
    rows=TypeAdapter(AuditRow),
    faults=Faults(
        AuditError,
        missing=AuditBrokenError,
        broken=AuditBrokenError,
        rolled_back=AuditBrokenError,
        busy=AuditError,
    ),
    lost="what happened can no longer be shown; keep the folder for whoever looks into it, and move it aside to begin "
    "another log",
    halted="nothing happens that cannot be written down; mend that, then start again",
    busy=None,
)


def audit_folder(state: Path) -> Path:
    """Where a side keeps its log, in its state folder."""
    return state / "audit"


class AuditLog:
    """The log in a folder; several processes and threads of one side may each have it and append in turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, event: AnyEvent) -> Head:
        """Write an event down; when this returns it is on disk. The log's head, whose hash the other side may be told.

        Reads the log's end alone, however long it is, and waits for other processes' turns.

        Raises:
            AuditBrokenError: its end is not the one that was written.
            AuditError: the disk does not take it.
        """
        with closing(Chain(self._folder, AUDIT)) as chain:
            if chain.cut:
                chain.append(_values(RowCut(bytes=chain.cut)))
            chain.append(_values(event))
            return chain.head

    def newest(self, *kinds: type[Event]) -> Event | None:
        """The last event of these kinds, or None; only `verify` says whether the rows are those that were written.

        Raises:
            AuditError: the disk cannot be read.
        """
        names = [f'"{kind.model_fields["kind"].default}"'.encode() for kind in kinds]
        path = self._folder / AUDIT.file
        with AUDIT.disk(self._folder):
            lines = path.read_bytes().splitlines() if path.exists() else []
        for line in reversed(lines):
            if any(name in line for name in names):
                with suppress(ValidationError):  # unfinished: a process was killed over it
                    event = AUDIT.rows.validate_json(line).event
                    if isinstance(event, kinds):
                        return event
        return None


def verify(folder: Path) -> Found[AuditRow]:
    """All rows of a log, none where none was begun; reads only, also while other processes append.

    Raises:
        AuditBrokenError: it is not the one that was written; the row is named.
        AuditError: the disk cannot be read.
    """
    return read(folder, AUDIT)


def compare(rows: Iterable[AuditRow], others: Iterable[AuditRow], site: str | None) -> int:
    """How often the other side's verified log speaks of a row of this one, all of which must be here.

    Args:
        site: whose log `rows` are, None for the server's.

    Raises:
        AuditBrokenError: it speaks of a row that is not here.
    """
    here, spoken = {row.hash for row in rows}, 0
    for row in others:
        head = _noted(row.event, site)
        if head is None:
            continue
        if head not in here:
            raise AuditBrokenError(
                f"expected every row that the other side's log speaks of, got none for its row {row.index}: one of the "
                f"two is an older copy or was written anew; {AUDIT.lost}"
            )
        spoken += 1
    return spoken


def _noted(event: AnyEvent, site: str | None) -> str | None:
    if site is None:
        return event.server_head if isinstance(event, TaskReceived) else None
    return event.site_head if isinstance(event, ReplyTaken) and event.site == site else None


def _values(event: AnyEvent) -> dict[str, Any]:
    return {"nonce": secrets.token_hex(16), "event": event.model_dump(mode="json")}
