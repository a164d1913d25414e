"""What a label file says, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acm_core.data.label_file import Written


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
        images: N paths relative to the films folder, or file names; or identifiers, see `LabelMap.image_is`.
        findings: F names, the columns of `labels`.
        labels: float32 N×F; 1 present, 0 absent, NaN not labelled.
        views: N, "AP", "PA", another view in capitals, or None where the file does not say which.
        sexes: N, "F", "M" or None.
        ages: N, years or None.
        conflicts: films labelled No Finding together with a finding; their labels stand as they are.
        uncertain: finding → number of uncertain labels.
        unknown_names: name in the list column that neither the vocabulary nor the map knows → number of films.
        written: how the file is written.
        by_name: view, sex or age → the column that is read for it because it is called so.
        misspelt: column that is not read → the finding that its name is nearly that of.
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
    written: Written = field(default_factory=Written)
    by_name: Mapping[str, str] = field(default_factory=dict)
    misspelt: Mapping[str, str] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> LabelTable:
        """These rows, in this order; a row may come several times."""
        if rows == range(len(self.images)):
            return self
        conflicts = {conflict.row: conflict.findings for conflict in self.conflicts}
        return replace(
            self,
            patients=tuple(self.patients[row] for row in rows),
            images=tuple(self.images[row] for row in rows),
            labels=self.labels[np.array(rows, np.int64)],
            views=tuple(self.views[row] for row in rows),
            sexes=tuple(self.sexes[row] for row in rows),
            ages=tuple(self.ages[row] for row in rows),
            conflicts=tuple(
                Conflict(place, conflicts[row]) for place, row in enumerate(rows) if row in conflicts
            ),
        )
