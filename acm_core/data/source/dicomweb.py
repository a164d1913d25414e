"""Films in an archive that speaks DICOMweb: searched for by QIDO-RS, fetched by WADO-RS one by one, never kept."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from acm_core.config.archive import Archive
from acm_core.data.header import IDENTIFIERS
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.source.dicomweb_link import ArchiveError, DicomwebLink, SearchFailedError
from acm_core.data.source.film_source import FoundFile, Listing, Progress, Stamp
from acm_core.data.source.kept_listing import KeptListing, ListedFilm, Pages

_PAGE = 500
"""Instances asked for at a time."""
_FEW = 25
"""Instances of a page below which none is behind it: no archive answers with so few of more."""
_PASSED_OVER = 20
"""Films in a row over which the archive may fail in a search."""
_UIDS_AT_ONCE = 40
_UID = re.compile(r"[0-9.]{1,64}")
_PATTERN = re.compile(r"[*?\\]")
"""What makes a pattern of a value (PS3.4 C.2.2.2.4), or a list of it."""
_TAGS = {
    "modality": "00080060",
    "body_part": "00180015",
    "date": "00080020",
    "instance": "00080018",
    "series": "0020000E",
    "study": "0020000D",
    "accession": "00080050",
}
_STAMPED = (
    *("00080016", "00080060", "00180015", "00080020", "00080050", "00280010", "00280011", "00280100"),
    *("00100010", "00100020", "00100030", "00100040"),
)
"""Of a film that stays one by its UID these are what an archive corrects; a changed one is read anew."""
_FIELDS = (
    *(
        "Modality",
        "BodyPartExamined",
        "StudyDate",
        "AccessionNumber",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
)
"""Asked for besides what each answer has (PS3.18 10.6.3.3.3)."""


class Wanted(NamedTuple):
    """What the label file lists.

    Attributes:
        kind: see `IDENTIFIERS`.
    """

    kind: str
    values: frozenset[str]


class DicomwebSource:
    """The films of an archive that a query finds.

    A film's name is its study, series and SOP Instance UID with slashes between and `.dcm` behind, as exports lay
    files down.

    Args:
        kept: where the listing is kept, at the site.
        wanted: gives what the label file lists, where the query asks for that alone.
    """

    seconds = 300.0
    passing = frozenset((SetAside.NOT_SENT, SetAside.TOO_SLOW))

    def __init__(
        self, archive: Archive, kept: Path | None = None, wanted: Callable[[], Wanted] | None = None
    ) -> None:
        self._archive, self._wanted = archive, wanted
        self._kept = None if kept is None else KeptListing(kept)
        self._next_turn = 0.0
        self._link = DicomwebLink(archive, self._wait)
        self._accessions: dict[str, str] = {}

    @property
    def place(self) -> dict[str, Any]:
        """The archive's section of the site file; of the credential it holds the file's path alone."""
        return self._archive.model_dump(mode="json")

    @property
    def at_once(self) -> int:
        """As the site file says."""
        return self._archive.at_once

    def turn(self) -> float:
        """When the next request may be made."""
        now = max(time.monotonic(), self._next_turn)
        self._next_turn = now + 1 / self._archive.requests_a_second
        return now

    def _wait(self) -> None:
        time.sleep(max(0.0, self.turn() - time.monotonic()))

    def state(self) -> object:
        """Which listing is kept: the archive is not asked."""
        return self._listing().state()

    def look(self, *, anew: bool = False, progress: Progress | None = None) -> Listing:
        """What the archive has; as it said the last time, unless it is to be asked `anew` or for something else.

        Raises:
            ArchiveError: it does not answer; what it has said so far is kept for the next time.
        """
        wanted, searches = self._searches()
        question = hashlib.sha256(
            json.dumps([str(self._archive), self._archive.query.model_dump(), searches]).encode()
        ).hexdigest()
        kept = self._listing()
        answer = None if anew else kept.answer(question)
        if answer is None:
            with kept.written(question) as pages:
                for number, filters in enumerate(searches):
                    self._search(number, filters, wanted, pages)
                    if progress is not None:
                        progress(number + 1, len(searches))
            answer = kept.answer(question)
        if answer is None:
            raise ArchiveError(f"{self._archive}: expected its answer in the state folder", "run it again")
        self._accessions = {film.name: film.accession for film in answer.films if film.accession}
        files = [FoundFile(film.name, Stamp(film.stamp, 0, 0)) for film in answer.films]
        return Listing(files, passed_over=answer.passed_over)

    def first_page(self) -> tuple[int, int]:
        """Films on the first page of the first search, and the number of searches.

        Raises:
            ArchiveError: the archive does not answer.
        """
        wanted, searches = self._searches()
        if not searches:
            return 0, 0
        try:
            page = self._link.search(searches[0], _FIELDS, _PAGE, 0)
        except SearchFailedError:
            page = self._link.search(searches[0], _FIELDS, 1, 0)
        return sum(self._film(said, wanted) is not None for said in page), len(searches)

    def expect_there(self) -> None:
        """Raise ArchiveError where the archive is gone, and not only a film of it."""
        with suppress(SearchFailedError):  # it is there
            self._link.search({"Modality": self._archive.query.modality[0]}, (), 1, 0)

    def read(self, name: str) -> bytes:
        """A film as the archive stores it.

        Raises:
            FilmSetAside: NOT_SENT, or TOO_LARGE.
        """
        uids = name.removesuffix(".dcm").split("/")
        if len(uids) != 3 or not all(map(_UID.fullmatch, uids)):
            raise FilmSetAside(SetAside.MISSING_FILE)
        return self._link.retrieve(*uids)

    def identifiers(self, name: str) -> Mapping[str, str]:
        """What the archive told a film by."""
        uids = zip(("study", "series", "instance"), name.removesuffix(".dcm").split("/"), strict=True)
        accession = self._accessions.get(name)
        return dict(uids) | ({"accession": accession} if accession else {})

    def _listing(self) -> KeptListing:
        if self._kept is None:
            raise ValueError("expected a place for the listing: this source was opened to read only")
        return self._kept

    def _searches(self) -> tuple[Wanted | None, list[dict[str, str]]]:
        """What is listed, where that counts, and the filters of each search."""
        query = self._archive.query
        if self._wanted is not None:
            wanted = self._wanted()
            return wanted, [{IDENTIFIERS[wanted.kind]: value} for value in _asked(wanted)]
        dates = {} if query.dates is None else {"StudyDate": "-".join(_days(query.dates))}
        return None, [
            {"Modality": modality, **({"BodyPartExamined": body_part} if body_part else {}), **dates}
            for modality, body_part in product(query.modality, query.body_part or ("",))
        ]

    def _search(self, number: int, filters: dict[str, str], wanted: Wanted | None, pages: Pages) -> None:
        before: set[str] = set()
        limit, passed_over = _PAGE, 0
        while (offset := pages.next_offset(number)) is not None:
            try:
                page = self._link.search(filters, _FIELDS, limit, offset)
            except SearchFailedError:
                # Ever smaller pages up to the film over which the archive fails.
                if limit == 1:
                    passed_over += 1
                    if passed_over > _PASSED_OVER:
                        raise
                    pages.add(number, offset + 1, (), passed_over=1)
                limit = max(1, limit // 5)
                continue
            instances = {_value(said, "instance") for said in page}
            if len(page) == limit > _FEW and instances <= before:
                raise ArchiveError(
                    f"{self._archive}: expected the search to go on at an offset (PS3.18 8.3.4.4), got the same page",
                    f"narrow films: query until each search finds less than {_PAGE}",
                )
            last = len(page) < min(limit, _FEW) or instances <= before
            films = [film for said in page if (film := self._film(said, wanted)) is not None]
            pages.add(number, None if last else offset + len(page), films)
            before = instances
            limit, passed_over = min(_PAGE, 5 * limit), 0

    def _film(self, said: Mapping[str, Any], wanted: Wanted | None) -> ListedFilm | None:
        """An instance of an answer, if it fits: archives pass over filters that they do not know (PS3.18 8.3.4)."""
        query = self._archive.query
        uids = [_value(said, level) for level in ("study", "series", "instance")]
        if not all(map(_UID.fullmatch, uids)):
            return None
        fits = (
            _among(_value(said, "modality"), query.modality)
            and _among(_value(said, "body_part"), query.body_part)
            and _within(_value(said, "date"), query.dates)
            and (wanted is None or _value(said, wanted.kind) in wanted.values)
        )
        stamp = hashlib.sha256(json.dumps([said.get(tag) for tag in _STAMPED], sort_keys=True).encode())
        number = int.from_bytes(stamp.digest()[:7], "big")
        return ListedFilm("/".join(uids) + ".dcm", number, _value(said, "accession")) if fits else None


def _asked(wanted: Wanted) -> Iterator[str]:
    """The values to search for: of UIDs a list at a time (PS3.4 C.2.2.2.2), of accession numbers one."""
    if wanted.kind == "accession":
        yield from (value for value in sorted(wanted.values) if not _PATTERN.search(value))
        return
    uids = [value for value in sorted(wanted.values) if _UID.fullmatch(value)]
    for start in range(0, len(uids), _UIDS_AT_ONCE):
        yield ",".join(uids[start : start + _UIDS_AT_ONCE])


def _value(said: Mapping[str, Any], name: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18 F.2); "" where there is none."""
    element = said.get(_TAGS[name])
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values else ""


def _among(value: str, asked: Sequence[str]) -> bool:
    return not value or not asked or value.upper() in map(str.upper, asked)


def _within(date: str, dates: str | None) -> bool:
    if dates is None or not date:
        return True
    first, last = _days(dates)
    return first <= date <= last


def _days(dates: str) -> tuple[str, str]:
    """First and last day as DICOM writes them (PS3.5 6.2, DA)."""
    first, _, last = dates.replace("-", "").partition("..")
    return first, last
