"""The site's label file: which film shows what, and what nobody looked for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

_REQUIRED = ("patient_id", "image")
_VALUES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "": np.nan}


class LabelError(ValueError):
    """The label file cannot be used. The text names lines and columns, never what stands in a patient's row."""


@dataclass(frozen=True)
class LabelTable:
    """One row a film, in the file's order.

    Attributes:
        patients: N patient ids as the hospital writes them; they never leave the site.
        images: N paths relative to the films folder.
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
    """

    patients: tuple[str, ...] = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.float32] = field(repr=False)


def read_labels(path: Path, findings: Sequence[str], columns: Mapping[str, str] | None = None) -> LabelTable:
    """Read a CSV with the columns patient_id, image and one a finding.

    A finding without a column is not labelled at this site. Blank means "not labelled", which is not "negative".

    Args:
        path: UTF-8, with or without a byte order mark.
        findings: F names, the order of the columns of `labels`.
        columns: finding → its column in this file, where the name differs.

    Raises:
        LabelError: a missing or misspelt column, a value other than 1, 0 or blank, a film named twice, a path out of
            the folder.
        OSError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read(csv.DictReader(file, strict=True), findings, columns or {})
    except UnicodeDecodeError:
        problem = "expected the label file in UTF-8: save it as 'CSV UTF-8'"
    except csv.Error:
        problem = "expected a CSV file with balanced quotes and one row a line"
    # Outside the handlers: a decoding error holds the whole file and would hang on as context.
    raise LabelError(problem)


def _read(rows: csv.DictReader[str], findings: Sequence[str], columns: Mapping[str, str]) -> LabelTable:
    present = list(rows.fieldnames or ())
    _check_header(present, findings, columns)
    sources = [columns.get(finding, finding) for finding in findings]
    patients, images, labels = [], [], []
    seen: dict[str, int] = {}
    for row in rows:
        line = rows.line_num
        if None in row or None in row.values():
            raise LabelError(f"line {line}: expected {len(present)} values, one a column")
        patient, image = row["patient_id"].strip(), row["image"].strip()
        if not patient or not image:
            raise LabelError(f"line {line}: expected a patient_id and an image, got a blank")
        _expect_inside(image, line)
        image = str(PurePosixPath(image))  # "a.png" and "./a.png" are one film
        if image in seen:
            raise LabelError(
                f"line {line}: the film of line {seen[image]} stands here again; keep one of the two"
            )
        seen[image] = line
        patients.append(patient)
        images.append(image)
        labels.append([_value(row, source, present, line) for source in sources])
    array = np.array(labels, np.float32).reshape(len(labels), len(findings))
    return LabelTable(tuple(patients), tuple(images), array)


def _check_header(present: Sequence[str], findings: Sequence[str], columns: Mapping[str, str]) -> None:
    if not {*_REQUIRED, *findings, *columns.values()} & set(present):
        # No hint from what stands there: in a file without a header it is a patient.
        raise LabelError(
            "expected the label file to begin with a line of column names, separated by commas: patient_id, image and "
            "one a finding"
        )
    for name in (*_REQUIRED, *(columns[finding] for finding in findings if finding in columns)):
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"; the nearest there is '{near[0]}'" if near else ""
            raise LabelError(f"expected a column '{name}' in the label file{hint}")
    repeated = sorted({name for name in present if present.count(name) > 1})
    if repeated:
        raise LabelError(f"expected each column once in the label file, got twice: {', '.join(repeated)}")
    # Left alone, a slip of case would make the site one that does not label the finding, and nobody would notice.
    plain = {_plain(name): name for name in present}
    for finding in findings:
        near_name = plain.get(_plain(finding))
        if finding not in columns and finding not in present and near_name is not None:
            raise LabelError(
                f"expected a column '{finding}', got '{near_name}': rename it, or name it under 'columns' in the site "
                "file"
            )


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _value(row: Mapping[str, str], column: str, present: Sequence[str], line: int) -> float:
    if column not in present:
        return float("nan")
    text = row[column].strip()
    if text not in _VALUES:
        raise LabelError(
            f"line {line}, column '{column}': expected 1 (present), 0 (absent) or blank (not labelled)"
        )
    return _VALUES[text]


def _expect_inside(image: str, line: int) -> None:
    posix, windows = PurePosixPath(image), PureWindowsPath(image)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise LabelError(
            f"line {line}, column 'image': expected a path inside the films folder, without '..'"
        )
