"""The site's label file: which film shows what, and what nobody looked for."""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from acm_core.config.sections import LabelMap
from acm_core.data.terms import NOTHING, Accepted, named_view
from acm_core.vocabulary import FINDINGS, NO_FINDING, REMARKS, canonical, is_device, plain, stated

_NOT_LABELLED = float("nan")
_POLICIES = {"positive": 1.0, "negative": 0.0, "ignore": _NOT_LABELLED}
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}
_OLDEST = 130.0


class LabelError(ValueError):
    """The label file cannot be used. The text names lines and columns, never what stands in a patient's row."""


class Conflict(NamedTuple):
    """A film that is labelled No Finding and something.

    Attributes:
        row: index in the table.
        findings: labelled present beside No Finding.
    """

    row: int
    findings: tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """One row a film, in the file's order.

    Attributes:
        patients: N patient ids as the hospital writes them; they never leave the site.
        images: N paths relative to the films folder, or file names.
        findings: F names, the columns of `labels`.
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
        views: N, "AP", "PA", another view in capitals, or None where the file does not say which.
        sexes: N, "F", "M" or None.
        ages: N, years or None.
        conflicts: films labelled No Finding together with a finding; their labels stand as they are.
        uncertain: finding → number of uncertain labels.
        unknown_names: name in the list column that neither the vocabulary nor the map knows → number of films.
    """

    patients: tuple[str, ...] = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    findings: tuple[str, ...]
    labels: NDArray[np.float32] = field(repr=False)
    views: tuple[str | None, ...] = field(repr=False)
    sexes: tuple[str | None, ...] = field(repr=False)
    ages: tuple[float | None, ...] = field(repr=False)
    conflicts: tuple[Conflict, ...]
    uncertain: Mapping[str, int]
    unknown_names: Mapping[str, int] = field(repr=False)


def read_labels(
    path: Path,
    findings: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    accepted: Accepted = NOTHING,
) -> LabelTable:
    """Read a CSV by the site's label map.

    A column is a finding's if the map says so, or if its name is the finding's or an alias of it. A finding that the
    file does not label is not labelled at this site. Blank means "not labelled", which is not "negative".

    Args:
        path: UTF-8, with or without a byte order mark.
        findings: F names, the order of the columns of `labels`; None: all of the vocabulary and the map that the file
            labels.
        label_map: of the site file.
        accepted: the site's own words for views.

    Raises:
        LabelError: a missing, misspelt or double column, a value that the map does not know, a film named twice, a path
            out of the folder.
        OSError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _Reader(file, findings, label_map or LabelMap(), accepted).read()
    except UnicodeDecodeError:
        problem = "expected the label file in UTF-8: save it as 'CSV UTF-8'"
    except csv.Error:
        problem = "expected a CSV file with balanced quotes and one row a line"
    # Outside the handlers: a decoding error holds the whole file and would hang on as context.
    raise LabelError(problem)


class _Reader:
    """One pass over the rows; only what the table holds is kept."""

    def __init__(
        self, file: TextIO, findings: Sequence[str] | None, label_map: LabelMap, accepted: Accepted
    ) -> None:
        self._accepted = accepted
        self._rows, self._map = csv.reader(file, strict=True), label_map
        self._header = [name.strip() for name in next(self._rows, [])]
        _check_header(self._header, label_map)
        self._places = {name: place for place, name in enumerate(self._header)}
        self._asked = findings
        known = _all_findings(findings or (), label_map)
        self._columns = _finding_columns(self._header, {_key(name) for name in known}, label_map)
        # Contradictions are looked for among all findings of the file, whatever the run trains.
        self._findings = [
            name
            for place, name in enumerate(known)
            if place < len(findings or ()) or label_map.list_column is not None or _key(name) in self._columns
        ]
        self._keys = [_key(name) for name in self._findings]
        self._cells = [
            (index, self._columns[key]) for index, key in enumerate(self._keys) if key in self._columns
        ]
        self._no_finding = [index for index, key in enumerate(self._keys) if key == _key(NO_FINDING)]
        self._contradicting = [
            index
            for index, name in enumerate(self._findings)
            if index not in self._no_finding and not is_device(name)
        ]
        listed = {_key(name) for name in label_map.list_findings}
        self._not_named = [0.0 if key in listed else _NOT_LABELLED for key in self._keys]
        self._list_names = {plain(name): finding for name, finding in label_map.list_names.items()}
        self._stated: dict[str, tuple[int, ...]] = {}
        self._values = {
            value.strip().casefold(): label
            for values, label in (
                (label_map.positive, 1.0),
                (label_map.negative, 0.0),
                (label_map.not_labelled, _NOT_LABELLED),
                (label_map.uncertain, _POLICIES[label_map.uncertain_policy]),
            )
            for value in values
        }
        self._uncertain_values = {value.strip().casefold() for value in label_map.uncertain}
        self._uncertain: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    def read(self) -> LabelTable:
        patients: list[str] = []
        images: list[str] = []
        views: list[str | None] = []
        sexes: list[str | None] = []
        ages: list[float | None] = []
        conflicts: list[Conflict] = []
        labels = array("f")
        width = len(self._findings) if self._asked is None else len(self._asked)
        seen: dict[str, int] = {}
        for row in self._rows:
            if not any(map(str.strip, row)):
                continue
            line = self._rows.line_num
            if len(row) != len(self._header):
                raise LabelError(f"line {line}: expected {len(self._header)} values, one a column")
            patient, image = self._film(row, line)
            if image in seen:
                raise LabelError(
                    f"line {line}: the film of line {seen[image]} stands here again; keep one of the two"
                )
            seen[image] = line
            values = self._labels(row, line)
            if conflict := self._conflict(values):
                conflicts.append(Conflict(len(images), conflict))
            patients.append(patient)
            images.append(image)
            views.append(named_view(self._text(row, self._map.view), self._accepted))
            sexes.append(_SEXES.get(self._text(row, self._map.sex).upper()))
            ages.append(_age(self._text(row, self._map.age)))
            labels.extend(values[:width])
        findings, table = self._labelled(np.array(labels, np.float32).reshape(len(images), width))
        return LabelTable(
            tuple(patients),
            tuple(images),
            findings,
            table,
            tuple(views),
            tuple(sexes),
            tuple(ages),
            tuple(conflicts),
            dict(self._uncertain),
            dict(self._unknown),
        )

    def _text(self, row: Sequence[str], column: str | None) -> str:
        return "" if column is None else row[self._places[column]].strip()

    def _film(self, row: Sequence[str], line: int) -> tuple[str, str]:
        """Patient and image."""
        patient, image = self._text(row, self._map.patient), self._text(row, self._map.image)
        if not patient or not image:
            raise LabelError(
                f"line {line}: expected a {self._map.patient} and an {self._map.image}, got a blank"
            )
        if self._map.patient_pattern is not None:
            found = re.search(self._map.patient_pattern, patient)
            patient = (found[1] if found.re.groups else found[0]) or "" if found else ""
            if not patient:
                raise LabelError(
                    f"line {line}, column '{self._map.patient}': expected text with what the site file's "
                    "patient_pattern describes"
                )
        _expect_inside(image, line, self._map.image)
        return patient, str(PurePosixPath(image))  # "a.png" and "./a.png" are one film

    def _labels(self, row: Sequence[str], line: int) -> list[float]:
        values = self._listed(row)
        for index, column in self._cells:
            values[index] = self._value(row, column, line, self._findings[index])
        return values

    def _value(self, row: Sequence[str], column: str, line: int, finding: str) -> float:
        text = self._text(row, column).casefold()
        if text not in self._values:
            kinds = (
                (self._map.positive, "present"),
                (self._map.negative, "absent"),
                (self._map.uncertain, "uncertain"),
                (self._map.not_labelled, "not labelled"),
            )
            accepted = ", ".join(f"{_quoted(values)} ({kind})" for values, kind in kinds if values)
            raise LabelError(
                f"line {line}, column '{column}': expected one of {accepted}; add other values to the site file's "
                f"label_map, or '{finding}: null' to its columns if this column is something else"
            )
        if text in self._uncertain_values:
            self._uncertain[finding] += 1
        return self._values[text]

    def _listed(self, row: Sequence[str]) -> list[float]:
        """What the list column says of every finding: nothing where there is none, or it is blank."""
        parts = self._text(row, self._map.list_column).strip("[]").split(self._map.list_separator)
        names = dict.fromkeys(name for part in parts if (name := part.strip().strip("'\"").strip()))
        if not names or any(plain(name) in _REMARKS for name in names):
            values = [_NOT_LABELLED] * len(self._keys)
        else:
            values = self._not_named.copy()
        for name in names:
            for index in self._stated_by(name):
                values[index] = 1.0
        return values

    def _stated_by(self, name: str) -> tuple[int, ...]:
        """Which of the findings a name in the list states."""
        if name not in self._stated:
            finding = self._list_names.get(plain(name), name)
            keys = {plain(one) for one in stated(finding)} or {plain(finding)}
            self._stated[name] = tuple(index for index, key in enumerate(self._keys) if key in keys)
        if not self._stated[name] and plain(name) not in _REMARKS:
            self._unknown[name] += 1
        return self._stated[name]

    def _conflict(self, values: Sequence[float]) -> tuple[str, ...]:
        if not any(values[index] == 1 for index in self._no_finding):
            return ()
        return tuple(self._findings[index] for index in self._contradicting if values[index] == 1)

    def _labelled(self, labels: NDArray[np.float32]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """The findings asked for, or all that the file labels, and their columns of the table."""
        if self._asked is not None:
            return tuple(self._asked), labels
        kept = [
            index
            for index, (key, not_named) in enumerate(zip(self._keys, self._not_named, strict=True))
            if key in self._columns or not_named == 0 or not np.isnan(labels[:, index]).all()
        ]
        return tuple(self._findings[index] for index in kept), labels[:, kept]


def _key(name: str) -> str:
    """The same for all names of one finding."""
    return plain(canonical(name) or name)


_REMARKS = {plain(remark) for remark in REMARKS}


def _all_findings(asked: Sequence[str], label_map: LabelMap) -> list[str]:
    """Those asked for, then all others of the map and the vocabulary."""
    own = (*label_map.columns, *label_map.list_findings, *label_map.list_names.values())
    taken = {_key(name) for name in asked}
    others = {_key(name): name for name in (*own, *FINDINGS)}
    return [*asked, *(name for key, name in others.items() if key not in taken)]


def _finding_columns(header: Sequence[str], keys: set[str], label_map: LabelMap) -> dict[str, str]:
    """Key of a finding → its column, of those that have one."""
    mapped: dict[str, str | None] = {}
    for finding, column in label_map.columns.items():
        if _key(finding) in mapped:
            raise LabelError(f"expected {finding} once under label_map: columns, got it under two names")
        mapped[_key(finding)] = column
    taken = {*_special_columns(label_map), *mapped.values()}
    found: dict[str, list[str]] = {}
    for name in header:
        if name not in taken and _key(name) in keys and _key(name) not in mapped:
            found.setdefault(_key(name), []).append(name)
    for columns in found.values():
        if len(columns) > 1:
            raise LabelError(
                f"expected one column for {canonical(columns[0]) or columns[0]}, got {_quoted(columns)}: name the "
                "right one under label_map: columns in the site file"
            )
    named = {key: column for key, column in mapped.items() if column is not None}
    named |= {key: column for key, (column,) in found.items()}
    for finding in label_map.list_findings:
        if _key(finding) in named:
            raise LabelError(
                f"expected {finding} in a column or in the list, got column '{named[_key(finding)]}' and "
                f"list_findings: take it out of there, or write '{finding}: null' under label_map: columns"
            )
    return named


def _special_columns(label_map: LabelMap) -> list[str]:
    columns = (label_map.view, label_map.sex, label_map.age, label_map.list_column)
    return [label_map.patient, label_map.image, *(name for name in columns if name is not None)]


def _check_header(header: Sequence[str], label_map: LabelMap) -> None:
    if not {label_map.patient, label_map.image} & set(header):
        # No hint from what stands there: in a file without a header it is a patient.
        raise LabelError(
            "expected the label file to begin with a line of column names, separated by commas: "
            f"{label_map.patient}, {label_map.image} and one a finding; other names go into the site file's label_map"
        )
    for name in (*_special_columns(label_map), *label_map.columns.values()):
        if name is not None and name not in header:
            near = get_close_matches(name, header, n=1)
            hint = f"; the nearest there is '{near[0]}'" if near else ""
            raise LabelError(f"expected a column '{name}' in the label file{hint}")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise LabelError(f"expected each column once in the label file, got twice: {', '.join(repeated)}")


def _age(text: str) -> float | None:
    """Years; ChestX-ray14's "063Y" as well. A text that is no age says nothing."""
    try:
        age = float(text.upper().removesuffix("Y"))
    except ValueError:
        return None
    return age if 0 <= age <= _OLDEST else None


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(repr(value) for value in values)


def _expect_inside(image: str, line: int, column: str) -> None:
    posix, windows = PurePosixPath(image), PureWindowsPath(image)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise LabelError(
            f"line {line}, column '{column}': expected a path inside the films folder, without '..'"
        )
