"""What has been read so far: an interrupted run goes on, and a file that has not changed is not read again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from acm_core.data.intake.reading import Reading
from acm_core.data.readers_version import readers_version
from acm_core.data.set_aside import SetAside
from acm_core.data.source.film_source import Stamp

_COMMIT_SECONDS = 1.0
_RACY_NANOSECONDS = 2 * 10**9
"""A file changed this shortly before it was read may change again without its times telling."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (readers TEXT NOT NULL, accepted TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS file (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
    reading TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS likeness (
    one TEXT NOT NULL, other TEXT NOT NULL, similarity REAL NOT NULL, PRIMARY KEY (one, other)
) WITHOUT ROWID;
"""


def _expect_sound(database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise sqlite3.DatabaseError("expected a sound journal")


class Journal:
    """Readings by the film's name in its source. It never leaves the site: paths may name patients."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:  # damaged: what it held can be read again
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink()
            self._database = self._open()
        self._committed = time.monotonic()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            self._path.chmod(0o600)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            _expect_sound(database)
            database.executescript(_SCHEMA)
            columns = {name for _, name, *_ in database.execute("PRAGMA table_info(about)")}
            if "accepted" not in columns:  # of a version before
                database.executescript("DROP TABLE about; DELETE FROM file; DELETE FROM likeness")
                database.executescript(_SCHEMA)
            known = database.execute("SELECT readers FROM about").fetchone()
            if known != (readers_version(),):
                database.executescript("DELETE FROM file; DELETE FROM likeness; DELETE FROM about;")
                database.execute("INSERT INTO about VALUES (?, '')", (readers_version(),))
        except BaseException:
            database.close()
            raise
        return database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._database.in_transaction:
            self._database.execute("COMMIT")
        self._database.close()

    def knows(self, path: str, stamp: Stamp) -> bool:
        """Whether the file at `path` was read as it is now."""
        row = self._database.execute(
            "SELECT size, modified, changed FROM file WHERE path = ?", (path,)
        ).fetchone()
        return row is not None and Stamp(*row) == stamp

    def record(self, path: str, stamp: Stamp, reading: Reading, now: int) -> None:
        """Keep a reading; on disk after a second at the latest.

        Args:
            stamp: taken before the file was read.
            now: time at which it was taken, in nanoseconds since the epoch.
        """
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")
        if now - max(stamp.modified, stamp.changed) < _RACY_NANOSECONDS:
            stamp = Stamp(-1, -1, -1)
        self._database.execute(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", (path, *stamp, reading.to_json())
        )
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self._database.execute("COMMIT")
            self._committed = time.monotonic()

    def keep_only_of(self, accepted: str) -> None:
        """Forget every reading that was made while the site accepted other words of its own."""
        if self._database.execute("SELECT accepted FROM about").fetchone() == (accepted,):
            return
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("DELETE FROM file")
        self._database.execute("UPDATE about SET accepted = ?", (accepted,))
        self._database.execute("COMMIT")

    def forget(self, reasons: Collection[SetAside]) -> None:
        """Forget every file that was set aside for one of these."""
        self._database.executemany(
            "DELETE FROM file WHERE json_extract(reading, '$.reason') = ?",
            [(reason.value,) for reason in reasons],
        )

    def keep_only(self, paths: Iterable[str]) -> None:
        """Forget every file that is not among `paths`."""
        if self._database.in_transaction:
            self._database.execute("COMMIT")
        self._database.execute("CREATE TEMP TABLE present (path TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO present VALUES (?)", ((path,) for path in paths))
        self._database.execute("DELETE FROM file WHERE path NOT IN (SELECT path FROM present)")
        self._database.execute("COMMIT")
        self._database.execute("DROP TABLE present")

    def readings(self) -> Iterator[tuple[str, Reading]]:
        """Every reading, by path in the order of their bytes."""
        with closing(self._database.execute("SELECT path, reading FROM file ORDER BY path")) as rows:
            for path, reading in rows:
                yield path, Reading.from_json(reading)

    def contents(self) -> dict[str, str]:
        """Path → SHA-256 of the content, of every film."""
        chosen = "json_extract(reading, '$.content')"
        rows = self._database.execute(
            f"SELECT path, {chosen} FROM file WHERE json_extract(reading, '$.reason') IS NULL"  # noqa: S608  # a constant
        )
        return dict(rows.fetchall())

    def contents_of(self, paths: Iterable[str]) -> dict[str, str]:
        """Path → SHA-256 of the content, of these films."""
        query = "SELECT json_extract(reading, '$.content') FROM file WHERE path = ?"
        return {path: self._database.execute(query, (path,)).fetchone()[0] for path in paths}

    def likeness(self, contents: tuple[str, ...]) -> float | None:
        """How alike two contents, in order, were found to be at full size; None where nobody has looked."""
        query = "SELECT similarity FROM likeness WHERE one = ? AND other = ?"
        row = self._database.execute(query, contents).fetchone()
        return None if row is None else float(row[0])

    def keep_likeness(self, contents: tuple[str, ...], similarity: float) -> None:
        """Keep how alike two contents, in order, are."""
        self._database.execute("INSERT OR REPLACE INTO likeness VALUES (?, ?, ?)", (*contents, similarity))

    def no_films(self) -> set[str]:
        """Paths of the files that are no images of any kind, whatever they are called."""
        rows = self._database.execute(
            "SELECT path FROM file WHERE json_extract(reading, '$.reason') = ?",
            (SetAside.NOT_AN_IMAGE.value,),
        )
        return {path for (path,) in rows}

    def known_as(self, kind: str) -> Iterator[tuple[str, str, bool]]:
        """Hash of the identifier of this kind, name, and whether it is a film, of every file that has one; by name."""
        query = (
            "SELECT json_extract(reading, '$.known_as.' || ?) AS hash, path, "
            "json_extract(reading, '$.reason') IS NULL FROM file WHERE hash IS NOT NULL ORDER BY path"
        )
        with closing(self._database.execute(query, (kind,))) as rows:
            for hash_, path, film in rows:
                yield hash_, path, bool(film)

    def lines(self) -> Iterator[str]:
        """Every path with its reading as it is kept, by path."""
        with closing(self._database.execute("SELECT path || ' ' || reading FROM file ORDER BY path")) as rows:
            for (line,) in rows:
                yield line
