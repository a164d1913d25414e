"""What an archive listed, written down page by page: a stopped search goes on, and a round need not search."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_STALE_SECONDS = 24 * 3600.0
"""A search that was begun longer ago is begun again."""


class ListedFilm(NamedTuple):
    """A film of an archive.

    Attributes:
        name: study, series and SOP Instance UID with slashes between.
        stamp: a number that changes with what the archive says of the film.
        accession: Accession Number, or "".
    """

    name: str
    stamp: int
    accession: str


class Answer(NamedTuple):
    """What an archive has said.

    Attributes:
        films: each once, by name.
        passed_over: films that it could not list.
    """

    films: list[ListedFilm]
    passed_over: int


class KeptListing:
    """A file of lines: which question the archive was asked, then a page of its answer each.

    Until the last page has come it has another name, beside the last whole one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.unfinished")

    def state(self) -> tuple[int, ...]:
        """Changes when another listing is written."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def answer(self, question: str) -> Answer | None:
        """The last whole answer to this question; None where there is none."""
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            about, *pages = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
            if about["question"] == question:
                found = {film[0]: ListedFilm(*film) for page in pages for film in page["films"]}
                passed_over = sum(page["passed_over"] for page in pages)
                return Answer([found[name] for name in sorted(found)], passed_over)
        return None

    @contextmanager
    def written(self, question: str) -> Iterator[Pages]:
        """Where the pages go; what a stopped search of the same question left is in it. Kept if all goes well."""
        lines = self._begun(question)
        self._unfinished.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished.touch(mode=0o600)
        with self._unfinished.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
            file.flush()
            yield Pages(file, map(json.loads, lines[1:]))
            file.flush()
            os.fsync(file.fileno())
        self._unfinished.replace(self._path)

    def _begun(self, question: str) -> list[str]:
        whole: list[str] = []
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            for line in self._unfinished.read_text(encoding="utf-8").splitlines():
                said = json.loads(line)  # not of the last line, where the search was killed over it
                if not whole and (
                    said["question"] != question or time.time() - said["begun"] > _STALE_SECONDS
                ):
                    break
                whole.append(line)
        return whole or [json.dumps({"question": question, "begun": time.time()})]


class Pages:
    """Pages of one answer: how far each search has come, and what it found."""

    def __init__(self, file: TextIO, pages: Iterable[dict[str, Any]]) -> None:
        self._file = file
        self._next: dict[int, int | None] = {page["search"]: page["next"] for page in pages}

    def next_offset(self, search: int) -> int | None:
        """Where search number `search` goes on; None where it is done."""
        return self._next.get(search, 0)

    def add(
        self, search: int, next_offset: int | None, films: Sequence[ListedFilm], passed_over: int = 0
    ) -> None:
        """Write a page down."""
        page = {"search": search, "next": next_offset, "films": films, "passed_over": passed_over}
        self._file.write(json.dumps(page) + "\n")
        self._file.flush()
        self._next[search] = next_offset
