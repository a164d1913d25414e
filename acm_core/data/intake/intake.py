"""A site's films and label file to its manifest: read what is new, judge all together, keep what was found."""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acm_core.config.site import SiteConfig
from acm_core.data.intake.films_meant import films_meant
from acm_core.data.intake.journal import Journal
from acm_core.data.intake.judgement import Listed, film_id, judge
from acm_core.data.intake.manifest import Label, Row, changed, fingerprint, read_rows, write_manifest
from acm_core.data.intake.names import Match
from acm_core.data.intake.proof import Prover
from acm_core.data.intake.readers import read_files
from acm_core.data.intake.reading import Reading, identifier_hashes
from acm_core.data.label_file import LabelError
from acm_core.data.label_table import LabelTable
from acm_core.data.labels import read_labels
from acm_core.data.prepared import Adder, PreparedFilms
from acm_core.data.readers_version import readers_version
from acm_core.data.source.choice import film_source
from acm_core.data.source.film_source import FilmSource, FoundFile, Listing
from acm_core.data.splits import load_or_create_salt
from acm_core.data.terms import Accepted
from acm_core.files import write_text_atomically
from acm_core.processes import usable_cores

_VERSION = 6
"""Raise when the same readings and labels give another manifest."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Intake:
    """What the intake found.

    Attributes:
        manifest: path of the manifest.
        fingerprint: SHA-256 of the manifest: the dataset.
        rows: of the manifest.
        names: film → its name in the source, for the site's own eyes.
        table: the label file as it was read, with a row a film.
        label_rows: for each of the table's rows which of the label file's it is.
        images: for each of the table's rows the film that it means.
        read: files that were read in this run; the others were known.
        absent: image of the label file that means no file → what more is to be said of why, if anything.
        respelled: images of the label file that mean a file whose name is spelt otherwise.
        closed: folders below the films folder that may not be entered, for the site's own eyes.
        links: links to folders, which are not followed, for the site's own eyes.
        passed_over: films that the archive has and cannot list.
        linked, placeholders, shared: see `Judgement`.
        changes: against the manifest before, or None where there was none.
    """

    manifest: Path
    fingerprint: str
    rows: Sequence[Row] = field(repr=False)
    names: dict[str, str] = field(repr=False)
    table: LabelTable = field(repr=False)
    label_rows: Sequence[int] = field(repr=False)
    images: Sequence[str] = field(repr=False)
    absent: Mapping[str, str] = field(repr=False)
    respelled: int
    closed: Sequence[str] = field(repr=False)
    links: Sequence[str] = field(repr=False)
    passed_over: int
    read: int
    linked: int
    placeholders: int
    shared: int
    changes: dict[str, int] | None

    def listed(self) -> dict[str, Listed]:
        """Name in the source → what the label file says of the film, for the site's own eyes."""
        return _listed([self.names[film] for film in self.images], self.table)


def intake_folder(site: SiteConfig) -> Path:
    """Where a site keeps what the intake found."""
    return site.state / "intake"


def take_in(
    site: SiteConfig,
    *,
    image_size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    anew: bool = False,
    searching: Progress | None = None,
) -> Intake:
    """Bring the site's manifest up to date and return what it says.

    Files are read in processes of their own, and only those that are new or changed. A run that was stopped goes on;
    runs at the same time wait for each other.

    Args:
        image_size: S to also prepare films for training while they are read.
        workers: processes; default: one a core.
        progress: called with (files done, files in all) while files are read.
        anew: ask an archive for its list again, and for the films that it did not send.
        searching: called with (searches done, searches in all) while an archive is asked for its list.

    Raises:
        LabelError: the label file is malformed.
        OSError: the films, the label file or the state folder cannot be read or written; ArchiveError: the archive does
            not answer; what was read is kept.
    """
    folder = intake_folder(site)
    with _alone(folder):
        salt = load_or_create_salt(site.state)
        accepted = Accepted.of(site.accept)
        table = read_labels(site.labels, None, site.label_map, accepted)
        source = film_source(site)
        films = source.look(anew=anew, progress=searching)
        with Journal(folder / "journal.sqlite") as journal:
            journal.keep_only_of(str(accepted))
            if anew:
                journal.forget(source.passing)
            workers = workers or usable_cores()
            read = _read_new(source, films.files, journal, salt, site, image_size, workers, progress)
            journal.keep_only(file.name for file in films.files)
            return _judged(site, source, films, table, journal, salt, workers, read)


def prepare(
    site: SiteConfig, names: Sequence[str], image_size: int, *, progress: Progress | None = None
) -> tuple[PreparedFilms, list[str | None]]:
    """The films of these names, prepared for training.

    Returns:
        The films, and each name's content; None where the file has changed or gone since it was taken in.
    """
    films = PreparedFilms(site.state / "prepared", image_size)
    with Journal(intake_folder(site) / "journal.sqlite") as journal:
        known = journal.contents()
    contents = [known.get(name) for name in names]
    missing = [
        index for index, content in enumerate(contents) if content is not None and content not in films
    ]
    salt = load_or_create_salt(site.state)
    answers = read_files(
        film_source(site),
        (names[index] for index in missing),
        salt,
        image_size,
        workers=usable_cores(),
        accepted=Accepted.of(site.accept),
    )
    with films.adder() as adder:
        for done, answer in enumerate(answers, 1):
            index = missing[answer.index]
            content = answer.reading.content
            if answer.film is not None and content is not None and content == contents[index]:
                adder.add(content, answer.film)
            else:
                contents[index] = None
            if progress is not None:
                progress(done, len(missing))
    films.refresh()
    return films, contents


def _read_new(
    source: FilmSource,
    files: Sequence[FoundFile],
    journal: Journal,
    salt: bytes,
    site: SiteConfig,
    image_size: int | None,
    workers: int,
    progress: Progress | None,
) -> int:
    new = [file for file in files if not journal.knows(file.name, file.stamp)]
    with ExitStack() as stack:
        adder: Adder | None = None
        prepared: Container[str] = ()
        if image_size is not None and new:
            films = PreparedFilms(site.state / "prepared", image_size)
            prepared, adder = films, stack.enter_context(films.adder())
        now = time.time_ns()
        for done, answer in enumerate(
            read_files(
                source,
                (file.name for file in new),
                salt,
                image_size,
                workers=workers,
                accepted=Accepted.of(site.accept),
            ),
            1,
        ):
            file, reading = new[answer.index], answer.reading
            if not reading.known_as:
                known_as = identifier_hashes(source.identifiers(file.name), salt)
                reading = replace(reading, known_as=known_as)
            content = reading.content
            if (
                adder is not None
                and answer.film is not None
                and content is not None
                and content not in prepared
            ):
                adder.add(content, answer.film)
            journal.record(file.name, file.stamp, reading, now)
            if progress is not None:
                progress(len(files) - len(new) + done, len(files))
    return len(new)


def _judged(
    site: SiteConfig,
    source: FilmSource,
    found: Listing,
    table: LabelTable,
    journal: Journal,
    salt: bytes,
    workers: int,
    read: int,
) -> Intake:
    names = [file.name for file in found.files]
    matches, label_rows = films_meant(table.images, site.label_map, found, journal, salt)
    table = table.take(label_rows)
    images = [one.name for one in matches]
    _expect_each_once(images, label_rows)
    listed = _listed(images, table)
    absent = {one.name: one for one in matches if one.reason is not None}
    films = {film_id(name, salt): name for name in (*names, *absent)}
    ids = {name: film for film, name in films.items()}
    folder = intake_folder(site)
    manifest, summary = folder / "manifest.sqlite", folder / "manifest.json"
    state = _inputs(site, journal, salt, absent)
    about = _summary(summary)
    if about.get("inputs") == state and about["fingerprint"] == _fingerprint(manifest):
        rows: Sequence[Row] = list(read_rows(manifest))
        about["changes"] = changed(rows, rows)
    else:
        prover = Prover(source, journal, salt, Accepted.of(site.accept), workers)
        judgement = judge(_with_absent(journal, absent), listed, salt, site.unknown_view, site.splits, prover)
        labels = (
            Label(ids[name], finding, float(value))
            for name, values in zip(images, table.labels, strict=True)
            for finding, value in zip(table.findings, values, strict=True)
            if value == value  # not NaN, which is not labelled
        )
        before = _rows_before(manifest)
        write_manifest(manifest, judgement.rows, labels)
        about = {
            "inputs": state,
            "fingerprint": fingerprint(manifest),
            "linked": judgement.linked,
            "placeholders": judgement.placeholders,
            "shared": judgement.shared,
            "changes": None if before is None else changed(before, judgement.rows),
        }
        write_text_atomically(summary, json.dumps(about, indent=1) + "\n")
        rows = judgement.rows
    return Intake(
        manifest,
        about["fingerprint"],
        rows,
        films,
        table,
        label_rows,
        [ids[name] for name in images],
        {name: one.value for name, one in absent.items() if one.value is not None},
        sum(one.respelled for one in matches),
        found.closed,
        found.linked,
        found.passed_over,
        read,
        about["linked"],
        about["placeholders"],
        about["shared"],
        about["changes"],
    )


def _listed(images: Sequence[str], table: LabelTable) -> dict[str, Listed]:
    facts = zip(images, table.patients, table.views, table.sexes, table.ages, strict=True)
    return {name: Listed(patient, view, sex, age) for name, patient, view, sex, age in facts}


def _expect_each_once(images: Sequence[str], label_rows: Sequence[int]) -> None:
    seen: dict[str, int] = {}
    for image, row in zip(images, label_rows, strict=True):
        if image in seen:
            raise LabelError(
                f"expected each film once in the label file, got rows {seen[image] + 1} and {row + 1} (without the "
                "header) for the same file; merge the two rows, or name the file that is meant"
            )
        seen[image] = row


def _with_absent(journal: Journal, absent: Mapping[str, Match]) -> Iterator[tuple[str, Reading]]:
    yield from journal.readings()
    for name, one in absent.items():
        yield name, Reading(None, one.reason)


def _inputs(site: SiteConfig, journal: Journal, salt: bytes, absent: Mapping[str, Match]) -> str:
    """Changes when the manifest might."""
    digest = hashlib.sha256(f"{_VERSION} {readers_version()} {site.unknown_view} ".encode())
    digest.update(str(Accepted.of(site.accept)).encode())
    digest.update(site.label_map.model_dump_json().encode() + hashlib.sha256(salt).digest())
    digest.update(site.splits.model_dump_json().encode())
    digest.update(site.labels.read_bytes())
    digest.update(
        "\n".join(f"{name} {one.reason}" for name, one in absent.items()).encode("utf-8", "surrogatepass")
    )
    for line in journal.lines():
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _summary(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about


def _fingerprint(manifest: Path) -> str | None:
    return fingerprint(manifest) if manifest.exists() else None


def _rows_before(manifest: Path) -> list[Row] | None:
    try:
        return list(read_rows(manifest)) if manifest.exists() else None
    except (sqlite3.DatabaseError, TypeError, ValueError):  # damaged: nothing to compare with
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One intake at a time; the second then finds everything done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
