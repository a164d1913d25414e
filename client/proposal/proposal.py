"""A site's file as its label table and films suggest it: to look over, before anything is done by it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from acm_core.config.loading import load_config
from acm_core.config.site import LabelMap, SiteConfig
from acm_core.data.intake.readers import read_files
from acm_core.data.label_file import LabelError
from acm_core.data.labels import read_labels
from acm_core.data.set_aside import SetAside
from acm_core.data.source.folder import FolderSource
from client.proposal.presets import Preset, presets, recognised
from client.proposal.table import (
    Films,
    Table,
    film_column,
    finding_list,
    likely_film_columns,
    listed_names,
    patient_column,
    patient_pattern,
    read_table,
    stated_findings,
)
from client.proposal.text import entry, site_file_text

_FILMS_READ = 24
_VALUES_SHOWN = 12
_LONGEST_VALUE = 16
_WORDS = {
    "positive": "1 1.0 yes y true t positive pos present ja oui si sí sim tak ano igen +",
    "negative": "0 0.0 no n false f negative neg absent nein non não nie ne nem -",
    "uncertain": "-1 -1.0 uncertain unsure maybe possible probable equivocal u ?",
    "not_labelled": "na n/a nan none null unknown missing not_mentioned",
}
"""Of a finding's column, in small letters."""
_ACCEPT = {SetAside.BODY_PART: "body_part", SetAside.MODALITY: "modality"}


class ProposalError(Exception):
    """Nothing can be proposed; the text says why and what to do."""


@dataclass
class Proposal:
    """A site file that was written.

    Attributes:
        path: of the file.
        preset: the public table that the label file looks like.
        told: what the file goes by.
        left: what a person has to decide before it can be used.
    """

    path: Path
    preset: str | None
    told: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def propose(sites: Path, name: str, films: Path | None, labels: Path | None) -> Proposal:
    """Look at a label file and some films, and write the site file that they suggest.

    Where the site has a file, its paths serve where none are given, and the proposal is written beside it. No file is
    overwritten. Films have to be in a folder: a file that names an archive is written by hand.

    Args:
        sites: folder of site files.
        name: of the site.
        films, labels: where they are.

    Raises:
        ProposalError: a path is missing, the label file is no table of films, or the proposal is there already.
        ConfigError: the site's file is wrong.
        LabelError: the label file has no columns or no rows.
        OSError: something cannot be read or written.
    """
    present, state = sites / f"{name}.yaml", None
    path = present
    if present.exists():
        site = load_config(present, SiteConfig)
        if films is None and isinstance(site.films, Path):
            films = site.films
        labels, state = labels or site.labels, site.state
        path = sites / f"{name}.proposed.yaml"
    if films is None or labels is None:
        raise ProposalError(
            f"expected --films, a folder, and --labels beside --propose, since there is no {present} that names them"
        )
    films, labels = films.absolute(), labels.absolute()
    if not films.is_dir():
        raise ProposalError(f"expected a folder of films, found none at {films}")
    if not labels.is_file():
        raise ProposalError(f"expected a label file, found none at {labels}{_from_folders(films)}")
    if path.exists():
        raise ProposalError(f"expected no {path}, which this would write: move it away")
    table = read_table(labels)
    preset = recognised(table.columns, {column: table.values(column) for column in table.columns if column})
    known = presets().get(preset or "")
    if known is not None and known.instead is not None:
        raise ProposalError(f"{preset}: {known.instead}")
    proposal = Proposal(path, preset)
    films, label_map, read = _decided(proposal, table, known, films, labels)
    paths = {"films": films, "labels": labels, "state": state or films.parent / "acm-fed-state"}
    separator = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.get(
        table.written.separator, "others"
    )
    comments = [
        *([] if path == present else [f"The proposal is used once it is called {present.name}."]),
        f"The label file is read as {table.written.encoding}, {separator} between columns.",
        *proposal.told,
        *read,
    ]
    text = site_file_text(name, paths, label_map, comments, proposal.left)
    sites.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    try:
        read_labels(labels, None, load_config(path, SiteConfig).label_map)
    except LabelError as error:
        proposal.left.append(f"the label file itself: {error}")
    return proposal


def _from_folders(films: Path) -> str:
    """How a table is made of films whose folders are their labels."""
    named = {folder.name for folder in films.glob("**/*") if folder.is_dir()}
    if not {"NORMAL", "PNEUMONIA"} <= named:
        return ""
    return (
        "; the folders NORMAL and PNEUMONIA are labels, and a table of them is made by\n"
        f"(echo image; cd '{films}' && find . -name '*.jpeg') > labels.csv"
    )


def _decided(
    proposal: Proposal, table: Table, preset: Preset | None, films: Path, labels: Path
) -> tuple[Path, dict[str, Any], list[str]]:
    """The films folder, the label map, and what is said of the films that were read."""
    label_map = dict(preset.label_map) if preset is not None else {}
    if preset is not None:
        proposal.told.append(f"the table looks like {proposal.preset}: {preset.source}")
        proposal.told += preset.notes
        for fact in ("view", "sex", "age"):
            if label_map.get(fact, "") not in table.columns:
                label_map.pop(fact, None)
    asked = [[label_map["image"]]] if preset is not None else likely_film_columns(table)
    found, films = _films(table, asked, films, labels)
    label_map["image"] = found.column
    proposal.told.append(
        f"{found.found} of {found.looked_up} names in '{found.column}' that were looked up are files"
    )
    if found.suffix:
        label_map["image_suffix"] = found.suffix
    _patient(proposal, table, label_map, found)
    _findings(proposal, table, label_map)
    chosen = found.files[:: max(1, len(found.files) // _FILMS_READ)][:_FILMS_READ]
    return films, label_map, _look(proposal, FolderSource(films), chosen)


def _films(table: Table, asked: Sequence[Sequence[str]], films: Path, labels: Path) -> tuple[Films, Path]:
    """The column of the films, and the folder that its paths begin in.

    Args:
        asked: columns that may be it, the likeliest first.
    """
    there = FolderSource(films, (labels,)).look().files
    for folder, before in ((films, ""), (films.parent, f"{films.name}/")):
        names = [before + file.name for file in there]
        for columns in asked:
            found = film_column(table, names, columns)
            if found is None:
                continue
            if found.column in {PurePosixPath(name).name for name in names}:
                # Not repeated: the first row is a patient's.
                raise ProposalError(
                    "expected the label file to begin with a line of column names, got a row of a film"
                )
            return found, folder
    column = f"column '{asked[0][0]}'" if len(asked) == 1 else "any column"
    raise ProposalError(
        f"expected files below {films} that the label file names, found those of less than half the names in {column}: "
        "is this the folder of the films?"
    )


def _patient(proposal: Proposal, table: Table, label_map: dict[str, Any], films: Films) -> None:
    if "patient" in label_map:
        return
    column = patient_column(table)
    if column is not None and column != films.column:
        label_map["patient"] = column
        return
    label_map["patient"] = films.column
    pattern = patient_pattern(table.values(films.column))
    label_map["patient_pattern"] = pattern or ".+"
    if pattern is None:
        proposal.left.append(
            "no column looks like the patient's id, so that each film counts as another patient: set label_map: "
            "patient, or films of one patient will be trained on and tested on"
        )


def _findings(proposal: Proposal, table: Table, label_map: dict[str, Any]) -> None:
    named = table.findings()
    misspelt = {column: finding for column, finding in table.misspelt().items() if finding not in named}
    if misspelt:
        own = label_map.get("columns", {})
        label_map["columns"] = {**{finding: column for column, finding in misspelt.items()}, **own}
        proposal.left += [
            f"is the column '{column}' the finding {finding}?" for column, finding in misspelt.items()
        ]
    columns: dict[str, str] = {**named, **label_map.get("columns", {})}
    if label_map.get("list_findings") == "seen":
        values = table.values(label_map["list_column"])
        names = Counter(name for value in values for name in listed_names(value, label_map["list_separator"]))
        label_map["list_findings"] = stated_findings(names)
    elif "list_column" not in label_map and not columns:
        others = [
            column for column in table.columns if column not in (label_map["patient"], label_map["image"])
        ]
        listed = finding_list(table, others)
        if listed is None:
            proposal.left.append(
                "no column is called like a finding, or lists findings: write them under label_map: columns"
            )
        else:
            label_map |= {
                "list_column": listed.column,
                "list_separator": listed.separator,
                "list_findings": listed.findings,
            }
            proposal.left.append(
                f"is a finding of list_findings absent where '{listed.column}' does not name it? Take out those that "
                "nobody looked for"
            )
    if columns:
        proposal.told.append(f"findings by their columns: {', '.join(columns)}")
        _values(proposal, table, label_map, columns)
    for fact, of_fact in table.facts().items():
        if fact not in label_map:
            proposal.told.append(f"{fact} is read from {' and '.join(of_fact)}, by name")


def _values(proposal: Proposal, table: Table, label_map: dict[str, Any], columns: Mapping[str, str]) -> None:
    """Sort the values of the findings' columns into present, absent, uncertain and not labelled."""
    usual = LabelMap()
    found = Counter(
        value.casefold().replace(",", ".") for column in columns.values() for value in table.values(column)
    )
    unplaced = set(found)
    for kind, words in _WORDS.items():
        meant = {word.replace("_", " ") for word in words.split()}
        known = {value.casefold() for value in getattr(usual, kind)}
        if more := sorted(found.keys() & meant - known):
            label_map[kind] = [*getattr(usual, kind), *more]
        unplaced -= meant | known
    if unplaced:
        # Only what stands in several rows and is short: a free text may name a patient.
        shown = sorted(value for value in unplaced if found[value] > 1 and len(value) <= _LONGEST_VALUE)[
            :_VALUES_SHOWN
        ]
        values = f" ({', '.join(map(repr, shown))})" if shown else ""
        proposal.left.append(
            f"{len(unplaced)} values of findings have no meaning yet{values}: write them under label_map: positive, "
            "negative, uncertain or not_labelled"
        )


def _look(proposal: Proposal, source: FolderSource, names: Sequence[str]) -> list[str]:
    """Read some films; comments on what is set aside, with what would take it."""
    read = [answer.reading for answer in read_files(source, names, os.urandom(32), None, workers=2)]
    refused = Counter(
        (reading.reason, reading.refused or "") for reading in read if reading.reason is not None
    )
    lines = [f"Of {len(read)} films that were read {len(read) - refused.total()} can be used."]
    for (reason, value), count in refused.most_common():
        lines.append(f"{count} set aside: {reason.value.replace('_', ' ')} {value}".rstrip())
        if reason in _ACCEPT and value:
            lines.append(f"if those are chest films: {entry('accept', {_ACCEPT[reason]: [value]})}")
    if refused:
        proposal.left.append(
            f"{refused.total()} of {len(read)} films that were read are set aside; see the file"
        )
    return lines
