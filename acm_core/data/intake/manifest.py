"""The manifest: one row a file, with a verdict and without anything that says who the patient is.

The same files, labels and salt give the same manifest, byte for byte; its hash is the dataset's fingerprint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from acm_core.data.set_aside import SetAside
from acm_core.data.splits import Split
from acm_core.files import file_sha256, write_atomically

_SCHEMA = """
CREATE TABLE film (
    film TEXT PRIMARY KEY, content TEXT, reason TEXT, duplicate_of TEXT, patient TEXT NOT NULL, split TEXT NOT NULL,
    listed INTEGER NOT NULL, view TEXT, sex TEXT, age REAL, rows INTEGER, columns INTEGER, bits INTEGER,
    own_patient TEXT NOT NULL, own_split TEXT NOT NULL, own_reason TEXT
) WITHOUT ROWID;
CREATE TABLE label (
    film TEXT NOT NULL, finding TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (film, finding)
) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """One file.

    Attributes:
        film: hash of the path in the films folder, under the site's salt.
        content: hash of the content under the salt; None where it could not be read.
        reason: why it is set aside, or None for a film that is used.
        duplicate_of: the film that is kept in its place.
        patient: hash of the patient's id; one for all ids of a person.
        split: where the patient's films go.
        listed: whether the label file names it.
        view: "AP", "PA" or None.
        sex: "F", "M" or None.
        age: years, 90 for all above.
        rows, columns, bits: of the film as it was stored.
        own_patient, own_split, own_reason: as `patient`, `split` and `reason` would be if the site had no other
            patient: of the label file's id alone, whatever headers say and whoever else has the same film.
    """

    film: str
    content: str | None
    reason: SetAside | None
    duplicate_of: str | None
    patient: str
    split: Split
    listed: bool
    view: str | None
    sex: str | None
    age: float | None
    rows: int | None
    columns: int | None
    bits: int | None
    own_patient: str
    own_split: Split
    own_reason: SetAside | None

    def apart(self) -> Row:
        """The row as if the site had no other patient: what private training goes by."""
        return self._replace(patient=self.own_patient, split=self.own_split, reason=self.own_reason)


class Label(NamedTuple):
    """What the label file says of a film: 1 present, 0 absent. Not labelled is no label."""

    film: str
    finding: str
    value: float


def write_manifest(path: Path, rows: Iterable[Row], labels: Iterable[Label]) -> None:
    """Write the manifest in the place of the one before, whole or not at all."""
    rows, labels = sorted(rows), sorted(labels)

    def write(temporary: Path) -> None:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as database:
            database.execute("PRAGMA page_size=4096")
            database.execute("PRAGMA journal_mode=OFF")
            database.executescript(_SCHEMA)
            database.execute("BEGIN")
            database.executemany(f"INSERT INTO film VALUES ({', '.join('?' * len(Row._fields))})", rows)  # noqa: S608  # question marks
            database.executemany("INSERT INTO label VALUES (?, ?, ?)", labels)
            database.execute("COMMIT")

    write_atomically(path, write)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a manifest, in the order of `film`.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        for row in map(Row._make, database.execute("SELECT * FROM film ORDER BY film")):
            yield row._replace(
                reason=None if row.reason is None else SetAside(row.reason),
                split=Split(row.split),
                listed=bool(row.listed),
                own_split=Split(row.own_split),
                own_reason=None if row.own_reason is None else SetAside(row.own_reason),
            )


def fingerprint(path: Path) -> str:
    """SHA-256 of a manifest: the dataset that the privacy ledger and the audit log speak of."""
    return file_sha256(path)


def changed(before: Sequence[Row], after: Sequence[Row]) -> dict[str, int]:
    """What another run found: numbers of files added, removed, with other content or with another verdict."""
    old, new = ({row.film: row for row in rows} for rows in (before, after))
    both = old.keys() & new.keys()
    return {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "content": sum(old[film].content != new[film].content for film in both),
        "verdict": sum(
            (old[film].reason, old[film].patient, old[film].split, old[film].apart())
            != (new[film].reason, new[film].patient, new[film].split, new[film].apart())
            for film in both
        ),
    }
