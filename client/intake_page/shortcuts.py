"""What tells this site's findings and is no medicine: figures for the page, and a sentence where one tells much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from acm_core.data.intake.intake import Intake
from acm_core.shortcuts import NAMES, Features, Shortcut
from acm_core.training.shortcuts import Alone, measure_alone
from client.intake_page.advice import Problem

_SEED = 0


def measure_shortcuts(
    taken: Intake, films: Sequence[str], features: Features[Shortcut]
) -> dict[str, dict[Shortcut, Alone]]:
    """Finding → shortcut → figures, of the films that are used.

    Args:
        films: of the manifest, in the order of `features`.
    """
    if not films:
        return {}
    places = {film: place for place, film in enumerate(taken.images)}
    persons = {row.film: row.patient for row in taken.rows}
    _, patients = np.unique([persons[film] for film in films], return_inverse=True)
    labels = taken.table.labels[[places[film] for film in films]]
    return measure_alone(features, labels, patients, taken.table.findings, seed=_SEED)


def shortcut_problems(
    shortcuts: Mapping[str, Mapping[Shortcut, Alone]], findings: Mapping[str, Mapping[str, int]]
) -> Iterator[Problem]:
    """A sentence for each finding that a shortcut alone tells far better than chance.

    Args:
        findings: finding → positive and negative films.
    """
    for finding, alone in shortcuts.items():
        telling = sorted(
            ((one.auroc, NAMES[name], one) for name, one in alone.items() if one.far), key=lambda of: -of[0]
        )
        if not telling:
            continue
        auroc, name, best = telling[0]
        also = ", ".join(f"{other} alone with {value:.2f}" for value, other, _ in telling[1:])
        yield Problem(
            "shortcut",
            findings[finding]["positive"] + findings[finding]["negative"],
            "note",
            f"labelled films: {name} alone tells {finding} with AUROC {auroc:.2f} at this site "
            f"({interval(best)}){', ' if also else ''}{also}",
            "find out why films with the finding differ in this from films without; a model may learn it instead",
        )


def interval(one: Alone) -> str:
    """The 95 % interval in words; empty where there is none."""
    return "no interval" if one.low is None or one.high is None else f"{one.low:.2f}–{one.high:.2f}"
