"""Public tables of labels, known by their columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from acm_core.config.section import Section

_FILE = Path(__file__).with_name("presets.yaml")


class Preset(Section):
    """One kind of table; see the head of `presets.yaml`."""

    source: str = Field(description="paper, and the names of the files")
    columns: tuple[str, ...] = Field(min_length=1, description="that a table of the kind has")
    lacks: tuple[str, ...] = Field((), description="columns that it has not")
    values: dict[str, str] = Field(
        default_factory=dict, description="column → regular expression that is found in each of its values"
    )
    label_map: dict[str, Any] = Field(default_factory=dict, description="of the site file")
    notes: tuple[str, ...] = Field((), description="what a person should know of the table")
    instead: str | None = Field(None, description="what to do with a table that cannot be used as it is")


@cache
def presets() -> Mapping[str, Preset]:
    """Name → preset."""
    document = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {name: Preset.model_validate(about) for name, about in document.items()}


def recognised(header: Sequence[str], values: Mapping[str, Sequence[str]]) -> str | None:
    """The preset that a table is: of those whose columns it has, the one with the most.

    Args:
        header: the table's columns.
        values: column → some of its values.
    """
    found = [
        name
        for name, preset in presets().items()
        if set(preset.columns) <= set(header)
        and set(preset.lacks).isdisjoint(header)
        and all(
            all(re.search(pattern, value) for value in values[column])
            for column, pattern in preset.values.items()
        )
    ]
    return max(found, key=lambda name: len(presets()[name].columns), default=None)
