"""What of a film can tell its finding and is no medicine: the names of the shortcuts, and what they see of films."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

ReportedShortcut = Literal["grey", "size", "border", "view"]
"""What a run's model stands beside: a model may see it in the film."""
Shortcut = Literal["grey", "size", "border", "kind", "device", "view", "sex", "age", "year", "folder"]
"""What preflight looks at: also what tells where a film comes from, by file or header."""

REPORTED: tuple[ReportedShortcut, ...] = get_args(ReportedShortcut)
NAMES: dict[Shortcut, str] = {
    "grey": "brightness",
    "size": "film size",
    "border": "border",
    "kind": "file type",
    "device": "scanner model",
    "view": "view",
    "sex": "sex",
    "age": "age",
    "year": "acquisition year",
    "folder": "folder",
}
"""Shortcut → its name, in the order in which they are shown."""

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Features(Generic[Name]):
    """What the shortcuts see of N films, each in one of three forms.

    Attributes:
        levels: shortcut → N; a number of which more, or less, tells.
        numbers: shortcut → N×K; numbers of which a weighted sum tells.
        groups: shortcut → N×L; the film's groups from the widest to the narrowest, each within the one before: a
            folder, the folder in it.
    """

    levels: Mapping[Name, Floats] = field(repr=False)
    numbers: Mapping[Name, Floats] = field(repr=False)
    groups: Mapping[Name, npt.NDArray[Any]] = field(repr=False)

    def names(self) -> tuple[Name, ...]:
        """Of all shortcuts."""
        return (*self.levels, *self.numbers, *self.groups)

    def __len__(self) -> int:
        return len(next(iter((*self.levels.values(), *self.numbers.values(), *self.groups.values()))))

    def rows(self, chosen: npt.NDArray[np.integer[Any]]) -> Features[Name]:
        """Of some of the films."""
        return Features(
            {name: values[chosen] for name, values in self.levels.items()},
            {name: values[chosen] for name, values in self.numbers.items()},
            {name: values[chosen] for name, values in self.groups.items()},
        )
