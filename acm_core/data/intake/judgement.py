"""Readings and labels of a site to the rows of its manifest: what only all files together can tell."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import SplitShares
from acm_core.data.intake.duplicates import Groups, first_of_each, join_by_identity, look_alikes
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import SIGNATURE_SIDE, Reading, hashed
from acm_core.data.set_aside import SetAside
from acm_core.data.splits import Split, split_of

_SHARES = SplitShares()

OLDEST_AGE = 90.0
"""Ages above are written as this one: so few are older that the age would name them."""


@dataclass(frozen=True)
class Listed:
    """What the label file says beside the labels of one film."""

    patient: str = field(repr=False)
    view: str | None = None
    sex: str | None = None
    age: float | None = None


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


@dataclass
class _File:
    path: str
    reading: Reading
    listed: Listed | None
    reason: SetAside | None
    patient: str
    signatures: tuple[bytes, bytes]
    duplicate_of: str | None = None
    own_reason: SetAside | None = None

    @property
    def known(self) -> bool:
        """Whether anything says whose film it is."""
        return self.listed is not None or self.reading.patient is not None


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
    files = [_file(path, reading, listed.get(path), salt, unknown_view) for path, reading in readings]
    files.sort(key=lambda file: file.path)
    _judge_apart(files, prove)
    groups = Groups()
    placeholders = join_by_identity(groups, ((file.reading.patient, file.patient) for file in files))
    placeholders += join_by_identity(groups, ((file.reading.person, file.patient) for file in files))
    shared = _set_duplicates_aside(files, groups, salt, prove)
    raw = {hashed(f"patient\0{entry.patient}", salt): entry.patient for entry in listed.values()}
    rows = sorted(_row(file, groups, raw, salt, shares) for file in files)
    patients = {file.patient for file in files if file.known}
    persons = {groups.representative(patient) for patient in patients}
    return Judgement(rows, len(patients) - len(persons), placeholders, shared)


def film_id(path: str, salt: bytes) -> str:
    """The name of a file in the manifest."""
    return hashed(f"film\0{path}", salt)[:16]


def unusable_view(view: str | None, unknown_view: str) -> SetAside | None:
    """Why a film of this view cannot be used, if so; `unknown_view` as in a site's file."""
    if view is None:
        return SetAside.UNKNOWN_VIEW if unknown_view == "set_aside" else None
    return None if view in ("AP", "PA") else SetAside.NOT_FRONTAL


def _file(path: str, reading: Reading, listed: Listed | None, salt: bytes, unknown_view: str) -> _File:
    if listed is not None:
        patient = hashed(f"patient\0{listed.patient}", salt)
    else:
        patient = reading.patient or hashed(f"patient of\0{path}", salt)
    reason = reading.reason
    if reason is None:
        reason = unusable_view(reading.view or (listed.view if listed is not None else None), unknown_view)
    # Only what judging needs: a site has many films.
    slim = replace(reading, known_as={}, histogram=(), appearance=(), signature="", inner_signature="")
    signatures = b64decode(reading.signature), b64decode(reading.inner_signature)
    return _File(path, slim, listed, reason, patient, signatures)


def _judge_apart(files: Iterable[_File], prove: Prove) -> None:
    """Set `own_reason`: of the films of one patient alone."""
    of_patient: defaultdict[str, list[_File]] = defaultdict(list)
    for file in files:
        file.own_reason = file.reason
        if file.reason is None:
            of_patient[file.patient].append(file)
    for films in of_patient.values():
        for film, _, reason in _duplicates(films, prove):
            film.own_reason = reason


def _set_duplicates_aside(files: Sequence[_File], groups: Groups, salt: bytes, prove: Prove) -> int:
    """Returns how many of them lie under two patients."""
    shared = 0
    for film, kept, reason in _duplicates([file for file in files if file.reason is None], prove):
        film.reason, film.duplicate_of = reason, film_id(kept.path, salt)
        if film.known and kept.known:
            shared += groups.representative(film.patient) != groups.representative(kept.patient)
        groups.join(film.patient, kept.patient)
    return shared


def _duplicates(films: Sequence[_File], prove: Prove) -> Iterator[tuple[_File, _File, SetAside]]:
    """Each film that is there twice, and the one that is kept."""
    if len(films) < 2:
        return
    films = sorted(films, key=lambda file: (file.listed is None, file.path))
    different = []
    for film, first in zip(films, first_of_each([film.reading.pixels or "" for film in films]), strict=True):
        if films[first] is film:
            different.append(film)
        else:
            yield film, films[first], SetAside.DUPLICATE
    pairs = look_alikes(*(_signatures(different, which) for which in range(2)))
    gone: set[int] = set()
    proved = prove([(different[one].path, different[other].path) for one, other in pairs])
    for (one, other), same in zip(pairs, proved, strict=True):
        if same and one not in gone and other not in gone:
            gone.add(other)
            yield different[other], different[one], SetAside.NEAR_DUPLICATE


def _signatures(films: Sequence[_File], which: int) -> NDArray[np.uint8]:
    signatures = np.zeros((len(films), SIGNATURE_SIDE, SIGNATURE_SIDE), np.uint8)
    for signature, film in zip(signatures, films, strict=True):
        levels = np.frombuffer(film.signatures[which], np.uint8)
        signature[:] = levels.reshape(signature.shape) if levels.size else 0
    return signatures


def _row(file: _File, groups: Groups, raw: Mapping[str, str], salt: bytes, shares: SplitShares) -> Row:
    reading, listed = file.reading, file.listed
    person = groups.representative(file.patient)
    age = reading.age if reading.age is not None else (listed.age if listed is not None else None)
    view = reading.view or (listed.view if listed is not None else None)
    return Row(
        film=film_id(file.path, salt),
        content=None if reading.content is None else hashed(f"content\0{reading.content}", salt),
        reason=file.reason,
        duplicate_of=file.duplicate_of,
        patient=person,
        split=split_of(raw.get(person, person), salt, shares),
        listed=listed is not None,
        view=view if view in ("AP", "PA") else None,
        sex=reading.sex or (listed.sex if listed is not None else None),
        age=None if age is None else min(age, OLDEST_AGE),
        rows=reading.rows,
        columns=reading.columns,
        bits=reading.bits,
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
