"""Does the label file make sense, and does it say what the films' headers say?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from acm_core.config.site import SiteConfig
from acm_core.data.intake.disagreements import About, Disagreement
from acm_core.data.intake.intake import Intake
from acm_core.data.intake.judgement import by_split
from acm_core.data.label_table import LabelTable
from acm_core.data.splits import Split
from client.intake_page.advice import VALUES_TOLD, Problem, Weight

_ROUNDED_ID = re.compile(r"\d(?:[.,]\d+)?E\+?\d+", re.IGNORECASE)
"""1.23457E+11: a spreadsheet's way to show a long number."""
_FEW_TEST_FILMS = 20
_EXPECTED_PATIENTS = 5
"""Patients that a split should have from which having none is no chance."""
_SAME_FILMS = 20
"""Films with labels from which two findings that agree on all of them are one column twice."""

_DISAGREEMENTS: Mapping[About, tuple[str, str]] = {
    "view": (
        "films have one view in the header and another in the label file",
        "find out which is right; until then the header's counts",
    ),
    "sex": (
        "films are of one sex by the header and of another by the label file",
        "find out whether the rows belong to these films; until then the header's sex counts",
    ),
    "age": (
        "films have ages in header and label file that are more than two years apart",
        "find out whether the rows belong to these films; until then the header's age counts",
    ),
    "header": (
        "films have a header whose words say something else than its codes",
        "find out which is right; until then the code counts",
    ),
    "patient": (
        "films are of another patient by the header than by the label file",
        "find out whether the rows belong to these films",
    ),
    "leading_zeros": (
        "films have the header's patient id in the label file without its leading zeros, as spreadsheets write it",
        "write the label file anew, with the ids as text",
    ),
}


def table_problems(site: SiteConfig, taken: Intake) -> Iterator[Problem]:
    """What is odd in the label file as a whole."""
    yield from _patients(site, taken)
    yield from _columns(taken.table)
    yield from _findings(taken)
    several = sum(count > 1 for count in Counter(taken.label_rows).values())
    if several:
        yield Problem(
            "several_films_a_row",
            several,
            "note",
            "rows of the label file stand for several films each",
            f"nothing, if the labels of a row hold for each frontal film of its {site.label_map.image_is}",
        )
    written = taken.table.written
    if (written.encoding, written.separator) != ("UTF-8", ","):
        separator = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}[written.separator]
        yield Problem(
            "label_file_written",
            1,
            "note",
            f"label file is read as {written.encoding} with {separator} between its columns",
            "nothing, if names and labels look right",
        )


def disagreement_problems(found: Sequence[Disagreement]) -> Iterator[Problem]:
    """Films of which header and label file, or two parts of the header, say different things, by what about."""
    counts = Counter(one.about for one in found)
    values: defaultdict[About, Counter[str]] = defaultdict(Counter)
    for one in found:
        if one.about == "header":
            values[one.about][one.header] += 1
        elif one.about in ("view", "sex"):
            values[one.about][f"{one.header} in the header, {one.table} in the label file"] += 1
    for about, (what, do) in _DISAGREEMENTS.items():
        if counts[about]:
            told = dict(values[about].most_common(VALUES_TOLD))
            code = about if about == "leading_zeros" else f"{about}_conflict"
            yield Problem(code, counts[about], "act", what, f"{do}; the page lists them", told)


def _patients(site: SiteConfig, taken: Intake) -> Iterator[Problem]:
    rounded = sum(_ROUNDED_ID.fullmatch(patient) is not None for patient in taken.table.patients)
    if rounded:
        yield Problem(
            "rounded_ids",
            rounded,
            "act",
            "rows have a patient id that a spreadsheet rounded (like 1.23457E+11): different patients have the same",
            "write the label file anew from its source, with the ids as text",
        )
    used = [row for row in taken.rows if row.reason is None and row.listed]
    patients = len({row.patient for row in used})
    splits = by_split(taken.rows)
    if patients == 1 and len(used) > 1:
        without = [name for split, name in _SPLITS if not splits[split]]
        yield Problem(
            "one_patient",
            len(used),
            "act",
            f"films, all of one patient: none is left to {' and none to '.join(without)}",
            "look at the column of the patient id in the label file, and at label_map: patient",
        )
        return
    shares = {
        Split.TRAIN: 1 - site.splits.validation - site.splits.test,
        Split.VALIDATION: site.splits.validation,
        Split.TEST: site.splits.test,
    }
    for split, name in _SPLITS:
        if patients and shares[split] and not splits[split]:
            by_chance = shares[split] * patients < _EXPECTED_PATIENTS
            weight: Weight = "note" if by_chance else "act"
            do = (
                "expect no figures; more patients would bring some"
                if by_chance
                else "look at splits in the site file"
            )
            yield Problem(f"no_{split.value}_films", patients, weight, f"patients, and no film to {name}", do)
    if 0 < splits[Split.TEST] < _FEW_TEST_FILMS:
        yield Problem(
            "few_test_films",
            splits[Split.TEST],
            "note",
            "films are there to test on",
            "expect wide intervals; more patients would narrow them",
        )


_SPLITS = ((Split.TRAIN, "train on"), (Split.VALIDATION, "validate on"), (Split.TEST, "test on"))


def _columns(table: LabelTable) -> Iterator[Problem]:
    if table.misspelt:
        yield Problem(
            "misspelt_finding",
            len(table.misspelt),
            "act",
            "columns are not read, and are called nearly like a finding",
            "did you mean these findings? Correct the names, or write the columns under label_map: columns (null for a "
            "finding: the column is something else)",
            dict.fromkeys((f"'{column}': {finding}?" for column, finding in table.misspelt.items()), 1),
        )
    if table.by_name:
        yield Problem(
            "read_by_name",
            len(table.by_name),
            "note",
            "columns are read for what they are called",
            "nothing; set label_map: view, sex or age to another column, or to '' for none",
            dict.fromkeys((f"{fact} from {column}" for fact, column in table.by_name.items()), 1),
        )


def _findings(taken: Intake) -> Iterator[Problem]:
    labels = taken.table.labels
    if len(labels) < _SAME_FILMS:
        return
    same = [
        (one, other)
        for one, other in combinations(range(labels.shape[1]), 2)
        if _both_classes(labels[:, one]) and np.array_equal(labels[:, one], labels[:, other], equal_nan=True)
    ]
    if same:
        names = taken.table.findings
        yield Problem(
            "same_findings",
            len(same),
            "act",
            "pairs of findings have the same labels in every row",
            "look whether a column was copied into another; leave one of each pair out under label_map: columns",
            dict.fromkeys((f"{names[one]} and {names[other]}" for one, other in same), 1),
        )


def _both_classes(labels: np.ndarray) -> bool:
    values = labels[~np.isnan(labels)]
    return len(values) >= _SAME_FILMS and bool((values == 0).any() and (values == 1).any())
