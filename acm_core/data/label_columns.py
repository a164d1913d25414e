"""Which column of a label file is what: the patient, the film, what is known of both, and the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

from acm_core.config.site import LabelMap
from acm_core.data.label_file import LabelError
from acm_core.vocabulary import FINDINGS, canonical, plain

Fact = Literal["view", "sex", "age"]

_NAMES: Mapping[Fact, frozenset[str]] = {
    "view": frozenset(
        ("view", "viewposition", "viewpos", "projection", "appa", "frontallateral", "incidence")
    ),
    "sex": frozenset(("sex", "gender", "patientsex", "patientgender", "geschlecht", "sexe", "sesso", "sexo")),
    "age": frozenset(
        ("age", "patientage", "ageyears", "ageinyears", "ageatstudy", "alter", "edad", "eta", "idade")
    ),
}
"""What such columns are called, see `plain`."""
_NEAR = 0.86
"""Of letters alike from which a column looks like a misspelt finding."""
_SHORTEST = 6


def key_of(name: str) -> str:
    """The same for all names of one finding."""
    return plain(canonical(name) or name)


def fact_columns(header: Sequence[str], label_map: LabelMap) -> dict[Fact, tuple[str, ...]]:
    """Columns of view, sex and age: those that the map names, else those that are called so.

    A view may stand in two columns, such as CheXpert's Frontal/Lateral and AP/PA. Of two columns that could be the sex
    or the age none is read.
    """
    taken = {label_map.patient, label_map.image, label_map.list_column, *label_map.columns.values()}
    found: dict[Fact, tuple[str, ...]] = {}
    for fact, names in _NAMES.items():
        named: str | None = getattr(label_map, fact)
        if named is not None:
            found[fact] = (named,) if named else ()
            continue
        columns = tuple(name for name in header if plain(name) in names and name not in taken)
        found[fact] = columns if len(columns) == 1 or fact == "view" else ()
    return found


def misspelt(
    header: Sequence[str],
    facts: Mapping[Fact, Sequence[str]],
    columns: Mapping[str, str],
    label_map: LabelMap,
) -> dict[str, str]:
    """Column that is nothing → the finding that its name is nearly that of, of findings without a column."""
    known = {plain(name): finding for finding, aliases in FINDINGS.items() for name in (finding, *aliases)}
    taken = {
        *_special_columns(label_map),
        *columns.values(),
        *(name for names in facts.values() for name in names),
    }
    denied = {key_of(finding) for finding in label_map.columns}
    found: dict[str, str] = {}
    for column in header:
        key = plain(column)
        if column in taken or key in known or len(key) < _SHORTEST:
            continue
        near = get_close_matches(key, known, n=1, cutoff=_NEAR)
        if near and (finding := known[near[0]]) and key_of(finding) not in columns.keys() | denied:
            found[column] = finding
    return found


def all_findings(asked: Sequence[str], label_map: LabelMap) -> list[str]:
    """Those asked for, then all others of the map and the vocabulary."""
    own = (*label_map.columns, *label_map.list_findings, *label_map.list_names.values())
    taken = {key_of(name) for name in asked}
    others = {key_of(name): name for name in (*own, *FINDINGS)}
    return [*asked, *(name for key, name in others.items() if key not in taken)]


def finding_columns(
    header: Sequence[str],
    keys: set[str],
    label_map: LabelMap,
    facts: Mapping[Fact, Sequence[str]],
) -> dict[str, str]:
    """Key of a finding → its column, of those that have one."""
    mapped: dict[str, str | None] = {}
    for finding, column in label_map.columns.items():
        if key_of(finding) in mapped:
            raise LabelError(f"expected {finding} once under label_map: columns, got it under two names")
        mapped[key_of(finding)] = column
    taken = {
        *_special_columns(label_map),
        *mapped.values(),
        *(name for names in facts.values() for name in names),
    }
    found: dict[str, list[str]] = {}
    for name in header:
        if name not in taken and key_of(name) in keys and key_of(name) not in mapped:
            found.setdefault(key_of(name), []).append(name)
    for columns in found.values():
        if len(columns) > 1:
            raise LabelError(
                f"expected one column for {canonical(columns[0]) or columns[0]}, got {_quoted(columns)}: name the "
                "right one under label_map: columns in the site file"
            )
    named = {key: column for key, column in mapped.items() if column is not None}
    named |= {key: column for key, (column,) in found.items()}
    for finding in label_map.list_findings:
        if key_of(finding) in named:
            raise LabelError(
                f"expected {finding} in a column or in the list, got column '{named[key_of(finding)]}' and "
                f"list_findings: take it out of there, or write '{finding}: null' under label_map: columns"
            )
    return named


def _special_columns(label_map: LabelMap) -> list[str]:
    columns = (label_map.view, label_map.sex, label_map.age, label_map.list_column)
    return [label_map.patient, label_map.image, *(name for name in columns if name)]


def check_header(header: Sequence[str], label_map: LabelMap) -> None:
    if not {label_map.patient, label_map.image} & set(header):
        # No hint from what stands there: in a file without a header it is a patient.
        raise LabelError(
            "expected the label file to begin with a line of column names, separated by commas, semicolons or tabs: "
            f"{label_map.patient}, {label_map.image} and one a finding; other names go into the site file's label_map"
        )
    problems = []
    for name in (*_special_columns(label_map), *label_map.columns.values()):
        if name is not None and name not in header:
            near = get_close_matches(name, header, n=1)
            hint = f"; the nearest there is '{near[0]}'" if near else ""
            problems.append(f"expected a column '{name}' in the label file{hint}")
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        problems.append(f"expected each column once in the label file, got twice: {', '.join(repeated)}")
    if problems:
        raise LabelError("\n".join(dict.fromkeys(problems)))


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(repr(value) for value in values)
