"""How well a model serves each group of patients, with the cells that are too small to be shown left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from acm_core.figures import Estimate, Group, GroupFinding
from acm_core.groups import GroupName
from acm_core.training.metrics import Floats, Ints, evaluate_findings
from acm_core.training.rounding import rounded_outward

_DIGITS = 3


def evaluate_groups(
    scores: Floats,
    labels: Floats,
    patients: Ints,
    findings: Sequence[str],
    groups: npt.NDArray[np.str_],
    *,
    smallest: int,
    resamples: int = 1000,
    seed: int,
) -> dict[GroupName, Group]:
    """AUROC of each finding in each group that has films, sorted by name.

    A finding has an AUROC in a group where at least `smallest` patients there have a film labelled 1, and as many one
    labelled 0. Where one group of an attribute is too small, the counts of all of them are withheld: with the whole's,
    which is known, the others' would give away the smallest's. An AUROC is a fraction over twice the pairs of films,
    and all its digits would give the counts away as well: three are shown. So would the
    number of dropped resamples, which is 0 here.

    Args:
        groups: N, each film's group.
        smallest: patients.

    Other arguments and errors as in `evaluate_findings`.
    """
    chosen = {str(name): np.flatnonzero(groups == name) for name in np.unique(groups)}
    measured = {
        name: evaluate_findings(
            scores[rows], labels[rows], patients[rows], findings, resamples=resamples, seed=seed
        )
        for name, rows in chosen.items()
    }
    seen = {name: len(np.unique(patients[rows])) for name, rows in chosen.items()}
    countable = all(count >= smallest for count in seen.values())
    large = {
        name: [_patients_of_both(labels[rows, f], patients[rows], smallest) for f in range(len(findings))]
        for name, rows in chosen.items()
    }
    shown = countable_findings(labels, patients, groups, smallest=smallest)
    return {
        cast(GroupName, name): Group(
            seen[name] if countable else None,
            len(rows) if countable else None,
            {
                finding: GroupFinding(
                    _rounded(measured[name][finding].auroc) if large[name][f] else None,
                    measured[name][finding].positives if shown[f] else None,
                    measured[name][finding].negatives if shown[f] else None,
                )
                for f, finding in enumerate(findings)
            },
        )
        for name, rows in chosen.items()
    }


def countable_findings(
    labels: Floats, patients: Ints, groups: npt.NDArray[np.str_], *, smallest: int
) -> list[bool]:
    """For each finding, whether its films may be counted by group (F): no group has a small cell of it.

    Arguments as in `evaluate_groups`.
    """
    chosen = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    if any(len(np.unique(patients[rows])) < smallest for rows in chosen):
        return [False] * labels.shape[1]
    return [
        all(
            np.isnan(labels[rows, f]).all() or _patients_of_both(labels[rows, f], patients[rows], smallest)
            for rows in chosen
        )
        for f in range(labels.shape[1])
    ]


def _rounded(estimate: Estimate | None) -> Estimate | None:
    return None if estimate is None else rounded_outward(estimate, _DIGITS)


def _patients_of_both(labels: Floats, patients: Ints, smallest: int) -> bool:
    return all(len(np.unique(patients[labels == label])) >= smallest for label in (1, 0))
