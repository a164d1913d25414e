"""What is in a label table: columns, some rows, and which column is what."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from acm_core.config.site import LabelMap
from acm_core.data.intake.names import match
from acm_core.data.label_columns import fact_columns, misspelt
from acm_core.data.label_file import LabelError, Written, opened
from acm_core.data.set_aside import SetAside
from acm_core.vocabulary import FINDINGS, REMARKS, canonical, plain, stated

_ROWS = 20_000
_NAMES_LOOKED_UP = 200
_SHARE_OF_NAMES = 0.5
"""Of a column's values that are files from which it is taken for that of the films."""
_SHARE_OF_FINDINGS = 0.5
"""Of a column's names that are findings from which it is taken for a list of them."""
_SEPARATORS = ("|", ";", ",", "/")

_PATIENTS = """
    patientid patient patid patnr patno pid subjectid subject personid person patientno patientnumber patientnr mrn
    medicalrecordnumber casenumber patientenid patientennummer idpaciente idpatient numeropatient pseudonym pseudoid
    """
"""What the column of the patient is called, see `plain`; the first that is there."""
_PATIENT_PATTERNS = (
    r"patient[_-]?\d+",
    r"person[_-]?\d+",
    r"subject[_-]?\d+",
    r"(?:^|(?<=[/_]))p\d{4,}(?=[/_])",
)
_ENDING = re.compile(r"\.[A-Za-z]{2,5}$")


@dataclass(frozen=True)
class Table:
    """A label table, or its first 20,000 rows.

    Attributes:
        columns: names, in the table's order, without blanks around them.
        written: encoding and separator.
        rows: of as many cells as there are columns.
    """

    columns: list[str]
    written: Written
    rows: list[list[str]] = field(repr=False)

    def values(self, column: str) -> list[str]:
        """The column's texts that are not blank, by row."""
        place = self.columns.index(column)
        return [row[place].strip() for row in self.rows if row[place].strip()]

    def findings(self) -> dict[str, str]:
        """Finding → the column that is called so, of those that one column only is called."""
        named = Counter(canonical(column) for column in self.columns)
        return {
            finding: column
            for column in self.columns
            if (finding := canonical(column)) and named[finding] == 1
        }

    def facts(self) -> dict[str, tuple[str, ...]]:
        """View, sex or age → the columns that preflight reads for it by their names."""
        found = fact_columns(self.columns, LabelMap())
        return {fact: columns for fact, columns in found.items() if columns}

    def misspelt(self) -> dict[str, str]:
        """Column that is nearly called like a finding → that finding."""
        known = {plain(finding): column for finding, column in self.findings().items()}
        return misspelt(self.columns, fact_columns(self.columns, LabelMap()), known, LabelMap())


def read_table(path: Path) -> Table:
    """The table's columns and first rows.

    Raises:
        LabelError: it has no line of column names that can be printed, or no row.
        OSError: it cannot be read.
    """
    try:
        with opened(path, ()) as (file, written):
            reader = csv.reader(file, delimiter=written.separator)
            columns = [name.strip() for name in next(reader, [])]
            rows = [row for row in islice(reader, _ROWS) if len(row) == len(columns)]
    except (UnicodeDecodeError, csv.Error):
        columns, rows = [], []
    if not any(columns) or not rows:
        raise LabelError(
            "expected a table with a line of column names and a row a film, separated by commas, semicolons or tabs"
        )
    if not all(map(str.isprintable, columns)):
        raise LabelError("expected column names of printable characters: correct the label file's first line")
    return Table(columns, written, rows)


@dataclass(frozen=True)
class Films:
    """The column that names the films.

    Attributes:
        column: its name.
        found, looked_up: how many of its values are files of the folder, and how many were looked up.
        suffix: the ending that its values lack; empty where they have theirs.
        files: files that some of its values mean, as paths in the films folder.
    """

    column: str
    found: int
    looked_up: int
    suffix: str
    files: list[str] = field(repr=False)


def film_column(table: Table, files: Sequence[str], columns: Sequence[str]) -> Films | None:
    """Of these columns the one whose values are files of the folder; None where no column's are.

    Args:
        files: paths in the films folder.
    """
    samples = {
        column: [str(PurePosixPath(value)) for value in _spread(table.values(column), _NAMES_LOOKED_UP)]
        for column in columns
    }
    matches = iter(match(files, [value for sample in samples.values() for value in sample]))
    best: Films | None = None
    for column, sample in samples.items():
        found = list(islice(matches, len(sample)))
        there = [(value, one.name) for value, one in zip(sample, found, strict=True) if one.reason is None]
        endings = Counter(ending for value, name in there if (ending := _lacking(value, name)))
        # Of names that lack their ending, where files of several endings have them, any may be meant.
        endings.update(
            ending
            for one in found
            if one.reason is SetAside.NO_ENDING and one.value
            for ending in one.value.split(" or ")
        )
        several = sum(one.reason is SetAside.NO_ENDING for one in found)
        suffix = endings.most_common(1)[0][0] if endings else ""
        films = Films(column, len(there) + several, len(sample), suffix, [name for _, name in there])
        if films.found and (best is None or films.found / films.looked_up > best.found / best.looked_up):
            best = films
    return best if best is not None and best.found >= _SHARE_OF_NAMES * best.looked_up else None


def _lacking(value: str, name: str) -> str:
    """The ending of the file that the value lacks."""
    if _ENDING.search(value):
        return ""
    return PurePosixPath(name).suffix


def likely_film_columns(table: Table) -> list[list[str]]:
    """The columns that may name films: those that are nothing else by their names, then also that of the patient."""
    taken = {
        *table.findings().values(),
        *(column for columns in table.facts().values() for column in columns),
    }
    others = [column for column in table.columns if column and column not in taken]
    patient = patient_column(table)
    return [[column for column in others if column != patient], others]


def patient_column(table: Table) -> str | None:
    """The column that is called like a patient's id."""
    by_name = {plain(column): column for column in reversed(table.columns)}
    return next((by_name[name] for name in _PATIENTS.split() if name in by_name), None)


def patient_pattern(names: Sequence[str]) -> str | None:
    """What names a patient in each of the films' names; None where nothing does."""
    for pattern in _PATIENT_PATTERNS:
        found = [re.search(pattern, name) for name in names]
        if names and all(found) and len({one[0] for one in found if one}) > 1:
            return pattern
    return None


@dataclass(frozen=True)
class FindingList:
    """A column that lists the findings present."""

    column: str
    separator: str
    findings: list[str]


def finding_list(table: Table, columns: Sequence[str]) -> FindingList | None:
    """Of these columns the one of whose names most are findings."""
    best, most = None, 0.0
    for column in columns:
        values = table.values(column) if column else []
        for separator in _SEPARATORS:
            names = Counter(name for value in values for name in listed_names(value, separator))
            known = {name for name in names if stated(name) or plain(name) in map(plain, REMARKS)}
            share = sum(names[name] for name in known) / max(1, names.total())
            if share >= _SHARE_OF_FINDINGS and share > most:
                best, most = FindingList(column, separator, stated_findings(names)), share
    return best


def stated_findings(names: Iterable[str]) -> list[str]:
    """The vocabulary's findings that these names state, in its order."""
    found = {finding for name in names for finding in stated(name)}
    return [finding for finding in FINDINGS if finding in found]


def listed_names(value: str, separator: str) -> Iterator[str]:
    """The names in a cell of a list, as `read_labels` parts them."""
    for part in value.strip("[]").split(separator):
        if name := part.strip().strip("'\"").strip():
            yield name


def _spread(values: Sequence[str], count: int) -> list[str]:
    """At most so many different values, from all over the table."""
    different = list(dict.fromkeys(values))
    step = max(1, len(different) // count)
    return different[::step][:count]
