"""Readings and labels of a site to the rows of its manifest: what only all files together can tell."""

from __future__ import annotations

import hashlib
import sys
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import SplitShares
from acm_core.data.intake.duplicates import Groups, first_of_each, join_by_identity, look_alikes
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import Reading, hashed
from acm_core.data.intake.signature import SIGNATURE_BYTES, SIGNATURE_SIDE
from acm_core.data.set_aside import SetAside
from acm_core.data.splits import Split, split_of

_SHARES = SplitShares()

OLDEST_AGE = 90.0
"""Ages above are written as this one: so few are older that the age would name them."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the label file says beside the labels of one film."""

    patient: str = field(repr=False)
    view: str | None = None
    sex: str | None = None
    age: float | None = None


_UNLISTED = Listed("")


@dataclass
class Judgement:
    """The rows, in the order of `film`, and what else came to light.

    Attributes:
        linked: patients that turned out to be one person with another.
        placeholders: identities in headers that stand for too many patients to be one person.
        shared: films that are there twice, under patients who were not known to be one.
    """

    rows: list[Row]
    linked: int = 0
    placeholders: int = 0
    shared: int = 0


@dataclass(slots=True)
class _File:
    """What judging needs of a reading, and no more: a site has many files.

    Attributes:
        number: of its signature.
        known: whether anything says whose film it is.
        shown: digest that is the same for one film in two encodings.
    """

    path: str
    number: int
    listed: bool
    known: bool
    reason: SetAside | None
    patient: str
    header_patient: str | None
    person: str | None
    shown: bytes
    content: str | None
    view: str | None
    sex: str | None
    age: float | None
    size: tuple[int | None, int | None, int | None]
    duplicate_of: str | None = None
    own_reason: SetAside | None = None


Prove = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Of pairs of paths, whether the two films are one."""


def _as_they_look(pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
    return [True] * len(pairs)


def judge(
    readings: Iterable[tuple[str, Reading]],
    listed: Mapping[str, Listed],
    salt: bytes,
    unknown_view: Literal["keep", "set_aside"] = "keep",
    shares: SplitShares = _SHARES,
    prove: Prove = _as_they_look,
) -> Judgement:
    """Judge a site's files together.

    A film that is there twice is kept once: the listed one before the unlisted, then the first by path. Patients who
    share a film, a Patient ID or name, birth date and sex are one person, so that a split never parts them.

    Beside that each row says how it would be judged if the site had no other patient. Differential privacy promises
    that one patient more or less changes one unit; a person joined, or a film dropped, because of another would be two.

    Args:
        readings: (path, reading) of every file and, as missing, of every film that only the label file knows.
        listed: path → what the label file says of it.
        unknown_view: what becomes of films whose view nobody states.
        shares: of the patients in each split.
        prove: whether films that look alike are one; by no more than the two films.
    """
    files, signatures = _files(readings, listed, salt, unknown_view)
    _judge_apart(files, signatures, prove)
    groups = Groups()
    placeholders = join_by_identity(groups, ((file.header_patient, file.patient) for file in files))
    placeholders += join_by_identity(groups, ((file.person, file.patient) for file in files))
    for file in files:
        file.header_patient = file.person = None
    shared = _set_duplicates_aside(files, signatures, groups, salt, prove)
    del signatures
    patients = {file.patient for file in files if file.known}
    linked = len(patients) - len({groups.representative(patient) for patient in patients})
    raw = {hashed(f"patient\0{entry.patient}", salt): entry.patient for entry in listed.values()}
    rows = []
    while files:  # each makes room for its row
        rows.append(_row(files.pop(), groups, raw, salt, shares))
    rows.sort()
    return Judgement(rows, linked, placeholders, shared)


def film_id(path: str, salt: bytes) -> str:
    """The name of a file in the manifest."""
    return hashed(f"film\0{path}", salt)[:16]


def unusable_view(view: str | None, unknown_view: str) -> SetAside | None:
    """Why a film of this view cannot be used, if so; `unknown_view` as in a site's file."""
    if view is None:
        return SetAside.UNKNOWN_VIEW if unknown_view == "set_aside" else None
    return None if view in ("AP", "PA") else SetAside.NOT_FRONTAL


def _files(
    readings: Iterable[tuple[str, Reading]], listed: Mapping[str, Listed], salt: bytes, unknown_view: str
) -> tuple[list[_File], NDArray[np.int8]]:
    """The files by path, and signatures N×2×S×S by the files' numbers."""
    files: list[_File] = []
    signatures = bytearray()
    for path, reading in readings:
        signatures += b64decode(reading.signature) or bytes(SIGNATURE_BYTES)
        files.append(_file(len(files), path, reading, listed.get(path), salt, unknown_view))
    files.sort(key=lambda file: file.path)
    return files, np.frombuffer(signatures, np.int8).reshape(-1, 2, SIGNATURE_SIDE, SIGNATURE_SIDE)


def _file(
    number: int, path: str, reading: Reading, listed: Listed | None, salt: bytes, unknown_view: str
) -> _File:
    said = listed or _UNLISTED
    if listed is not None:
        patient = hashed(f"patient\0{listed.patient}", salt)
    else:
        patient = reading.patient or hashed(f"patient of\0{path}", salt)
    view, sex = reading.view or said.view, reading.sex or said.sex
    age = reading.age if reading.age is not None else said.age
    return _File(
        path=path,
        number=number,
        listed=listed is not None,
        known=listed is not None or reading.patient is not None,
        reason=unusable_view(view, unknown_view) if reading.reason is None else reading.reason,
        patient=patient,
        header_patient=reading.patient,
        person=reading.person,
        shown=hashlib.blake2b((reading.pixels or "").encode(), digest_size=16).digest(),
        content=None if reading.content is None else hashed(f"content\0{reading.content}", salt),
        view=sys.intern(view) if view in ("AP", "PA") else None,
        sex=None if sex is None else sys.intern(sex),
        age=None if age is None else min(age, OLDEST_AGE),
        size=(reading.rows, reading.columns, reading.bits),
    )


def _judge_apart(files: Iterable[_File], signatures: NDArray[np.int8], prove: Prove) -> None:
    """Set `own_reason`: of the films of one patient alone."""
    of_patient: defaultdict[str, list[_File]] = defaultdict(list)
    for file in files:
        file.own_reason = file.reason
        if file.reason is None:
            of_patient[file.patient].append(file)
    for films in of_patient.values():
        for film, _, reason in _duplicates(films, signatures, prove):
            film.own_reason = reason


def _set_duplicates_aside(
    files: Sequence[_File], signatures: NDArray[np.int8], groups: Groups, salt: bytes, prove: Prove
) -> int:
    """Returns how many of them lie under two patients."""
    shared = 0
    usable = [file for file in files if file.reason is None]
    for film, kept, reason in _duplicates(usable, signatures, prove):
        film.reason, film.duplicate_of = reason, film_id(kept.path, salt)
        if film.known and kept.known:
            shared += groups.representative(film.patient) != groups.representative(kept.patient)
        groups.join(film.patient, kept.patient)
    return shared


def _duplicates(
    films: Sequence[_File], signatures: NDArray[np.int8], prove: Prove
) -> Iterator[tuple[_File, _File, SetAside]]:
    """Each film that is there twice, and the one that is kept."""
    if len(films) < 2:
        return
    films = sorted(films, key=lambda file: (not file.listed, file.path))
    different = []
    for film, first in zip(films, first_of_each([film.shown for film in films]), strict=True):
        if films[first] is film:
            different.append(film)
        else:
            yield film, films[first], SetAside.DUPLICATE
    pairs = look_alikes(signatures, [film.number for film in different])
    gone: set[int] = set()
    proved = prove([(different[one].path, different[other].path) for one, other in pairs])
    for (one, other), same in zip(pairs, proved, strict=True):
        if same and one not in gone and other not in gone:
            gone.add(other)
            yield different[other], different[one], SetAside.NEAR_DUPLICATE


def _row(file: _File, groups: Groups, raw: Mapping[str, str], salt: bytes, shares: SplitShares) -> Row:
    person = groups.representative(file.patient)
    rows, columns, bits = file.size
    return Row(
        film=film_id(file.path, salt),
        content=file.content,
        reason=file.reason,
        duplicate_of=file.duplicate_of,
        patient=person,
        split=split_of(raw.get(person, person), salt, shares),
        listed=file.listed,
        view=file.view,
        sex=file.sex,
        age=file.age,
        rows=rows,
        columns=columns,
        bits=bits,
        own_patient=file.patient,
        own_split=split_of(raw.get(file.patient, file.patient), salt, shares),
        own_reason=file.own_reason,
    )


def by_reason(rows: Iterable[Row]) -> dict[str, int]:
    """Reason code → number of files set aside for it."""
    return dict(sorted(Counter(row.reason.value for row in rows if row.reason is not None).items()))


def by_split(rows: Iterable[Row]) -> dict[Split, int]:
    """Split → number of films used and listed."""
    counts = Counter(row.split for row in rows if row.reason is None and row.listed)
    return {split: counts[split] for split in Split}
