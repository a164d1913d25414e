"""The site's label file: which film shows what, and what nobody looked for."""

from __future__ import annotations

import csv
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import LabelMap
from acm_core.data.label_columns import (
    Fact,
    all_findings,
    check_header,
    fact_columns,
    finding_columns,
    key_of,
    misspelt,
)
from acm_core.data.label_file import LabelError, Written, opened
from acm_core.data.label_rows import Problems
from acm_core.data.label_table import Conflict, LabelTable
from acm_core.data.terms import NOTHING, Accepted, named_view
from acm_core.vocabulary import NO_FINDING, REMARKS, is_device, plain, stated

_NOT_LABELLED = float("nan")
_POLICIES = {"positive": 1.0, "negative": 0.0, "ignore": _NOT_LABELLED}
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}
_OLDEST = 130.0


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
        path: in UTF-8, UTF-16 or Latin-1, with commas, semicolons or tabs.
        findings: F names, the order of the columns of `labels`; None: all of the vocabulary and the map that the file
            labels.
        label_map: of the site file.
        accepted: the site's own words for views.

    Raises:
        LabelError: missing, misspelt or double columns, values that the map does not know, films in several rows, paths
            out of the folder; all of them, by their lines.
        OSError: the file cannot be read.
    """
    label_map = label_map or LabelMap()
    try:
        with opened(path, (label_map.patient, label_map.image)) as (file, written):
            return _Reader(file, written, findings, label_map, accepted).read()
    except UnicodeDecodeError:
        problem = "expected the label file in UTF-8: save it as 'CSV UTF-8'"
    except csv.Error:
        problem = "expected a CSV file with balanced quotes and one row a line"
    # Outside the handlers: a decoding error holds the whole file and would hang on as context.
    raise LabelError(problem)


class _Reader:
    """One pass over the rows; only what the table holds is kept."""

    def __init__(
        self,
        file: TextIO,
        written: Written,
        findings: Sequence[str] | None,
        label_map: LabelMap,
        accepted: Accepted,
    ) -> None:
        self._written, self._accepted, self._map = written, accepted, label_map
        self._rows = csv.reader(file, delimiter=written.separator, strict=True)
        self._header = [name.strip() for name in next(self._rows, [])]
        check_header(self._header, label_map)
        self._facts = fact_columns(self._header, label_map)
        self._places = {name: place for place, name in enumerate(self._header)}
        self._asked = findings
        known = all_findings(findings or (), label_map)
        self._columns = finding_columns(
            self._header, {key_of(name) for name in known}, label_map, self._facts
        )
        # Contradictions are looked for among all findings of the file, whatever the run trains.
        self._findings = [
            name
            for place, name in enumerate(known)
            if place < len(findings or ())
            or label_map.list_column is not None
            or key_of(name) in self._columns
        ]
        self._keys = [key_of(name) for name in self._findings]
        self._cells = [
            (index, self._columns[key]) for index, key in enumerate(self._keys) if key in self._columns
        ]
        self._no_finding = [index for index, key in enumerate(self._keys) if key == key_of(NO_FINDING)]
        self._contradicting = [
            index
            for index, name in enumerate(self._findings)
            if index not in self._no_finding and not is_device(name)
        ]
        listed = {key_of(name) for name in label_map.list_findings}
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
        problems = Problems(self._header)
        for row in self._rows:
            if not any(map(str.strip, row)):
                continue
            line = self._rows.line_num + self._written.skipped
            try:
                patient, image = self._film(row, line)
                if (first := seen.setdefault(image, line)) != line:
                    problems.repeat(line, first)
                    continue
                values = self._labels(row, line)
            except LabelError as error:
                problems.add(error)
                continue
            if conflict := self._conflict(values):
                conflicts.append(Conflict(len(images), conflict))
            patients.append(patient)
            images.append(image)
            views.append(self._view(row))
            sexes.append(_SEXES.get(self._fact(row, "sex").upper()))
            ages.append(_age(self._fact(row, "age")))
            labels.extend(values[:width])
        problems.expect_none()
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
            self._written,
            {
                fact: " and ".join(columns)
                for fact, columns in self._facts.items()
                if columns and getattr(self._map, fact) is None
            },
            misspelt(self._header, self._facts, self._columns, self._map),
        )

    def _text(self, row: Sequence[str], column: str | None) -> str:
        return "" if column is None else row[self._places[column]].strip()

    def _fact(self, row: Sequence[str], fact: Fact) -> str:
        return next((self._text(row, column) for column in self._facts[fact]), "")

    def _view(self, row: Sequence[str]) -> str | None:
        """Of several columns the one that says most: a side view before a frontal one, that before none."""
        views = {named_view(self._text(row, column), self._accepted) for column in self._facts["view"]} - {
            None
        }
        return min(views, key=lambda view: view in ("AP", "PA")) if views else None

    def _film(self, row: Sequence[str], line: int) -> tuple[str, str]:
        """Patient and image."""
        if len(row) != len(self._header):
            raise LabelError(f"line {line}: expected {len(self._header)} values, one a column")
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
        if self._map.image_is != "path":
            return patient, image
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
            text = text.replace(",", ".")  # "1,0", where a comma is the decimal point
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


_REMARKS = {plain(remark) for remark in REMARKS}


def _age(text: str) -> float | None:
    """Years; ChestX-ray14's "063Y" as well. A text that is no age says nothing."""
    try:
        age = float(text.upper().removesuffix("Y").replace(",", "."))
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
