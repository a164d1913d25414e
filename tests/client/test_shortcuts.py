"""What a site says of shortcuts: nothing by which the films of a small group could be counted."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from reports import estimate, model, report

from acm_core.data.site_films import FilmFacts, FilmSet, SiteFilms
from acm_core.data.splits import Split
from acm_core.federated.report import read_report
from client.round.shortcuts import measure_shortcuts

FINDINGS = ["Lung Opacity", "Pleural Effusion"]


def site_films(views: list[str], positives: list[int]) -> SiteFilms:
    """Training and test films alike: a patient each, a view each, positive for the first finding by number; bright
    where positive. The second finding is labelled for no film."""
    films = len(views)
    labels = np.full((films, 2), np.nan, np.float32)
    labels[:, 0] = np.isin(np.arange(films), positives)
    grey = np.random.default_rng(0).uniform(0, 0.5, films) + 0.5 * labels[:, 0]
    images = np.full((films, 8, 8), grey[:, None, None], np.float16)
    some = FilmSet(images, labels, np.arange(films))
    shapes = np.tile([8, 8], (films, 1)).astype(np.int64)
    facts = FilmFacts(shapes, np.array(views, np.str_))
    none = FilmFacts(shapes[:0], facts.views[:0])
    empty = FilmSet(images[:0], labels[:0], some.patients[:0])
    return SiteFilms(
        some,
        empty,
        some,
        {Split.TRAIN: facts, Split.VALIDATION: none, Split.TEST: facts},
        tuple(f"{number}.dcm" for number in range(films)),
        {"view": facts.views},
        {},
        "0a" * 32,
    )


def shortcuts(films: SiteFilms, smallest: int = 10) -> dict[str, dict[str, Any]]:
    scores = np.random.default_rng(1).random((len(films.test), 2)).astype(np.float32)
    found = measure_shortcuts(films, {"federated": scores}, FINDINGS, smallest=smallest, resamples=50, seed=1)
    return {
        name: {finding: asdict(figures) for finding, figures in by_finding.items()}
        for name, by_finding in found.items()
    }


def test_every_shortcut_is_reported_for_every_finding_and_taken_in() -> None:
    found = shortcuts(site_films(["PA", "AP"] * 30, [*range(0, 60, 3), 2, 4]))
    assert {name: list(by_finding) for name, by_finding in found.items()} == dict.fromkeys(
        ("grey", "size", "border", "view"), FINDINGS
    )
    grey = found["grey"]["Lung Opacity"]
    assert grey["auroc"]["value"] == 1.0
    assert grey["margins"]["federated"]["value"] < -0.2
    nothing = {"auroc": None, "margins": {}}
    assert found["size"]["Lung Opacity"] == nothing  # all films are alike
    assert all(by_finding["Pleural Effusion"] == nothing for by_finding in found.values())
    whole = {**report(federated=model(estimate(0.8))), "shortcuts": found}
    assert read_report(json.dumps(whole), FINDINGS).model_dump(mode="json")["shortcuts"] == found


@pytest.mark.parametrize(
    ("views", "positives", "shown"),
    [
        (["PA"] * 30 + ["AP"] * 30, [*range(10), *range(40, 52)], True),
        (["PA"] * 30 + ["AP"] * 30, [*range(9), *range(40, 50)], False),  # nine positive PA films
        (["PA"] * 30 + ["AP"] * 30, [*range(21), *range(40, 50)], False),  # nine negative ones
        (["PA"] * 50 + ["AP"] * 9, [*range(20), *range(52, 55)], False),
        (["PA"] * 30 + ["AP"] * 30 + ["unknown"], [*range(10), *range(40, 52)], False),
    ],
)
def test_the_view_is_withheld_where_its_films_may_not_be_counted(
    views: list[str], positives: list[int], shown: bool
) -> None:
    found = shortcuts(site_films(views, positives))
    assert (found["view"]["Lung Opacity"]["auroc"] is not None) == shown
    assert bool(found["view"]["Lung Opacity"]["margins"]) == shown
    assert found["grey"]["Lung Opacity"]["auroc"] is not None
    assert shortcuts(site_films(views, positives), smallest=0)["view"]["Lung Opacity"]["auroc"] is not None


def test_figures_have_three_digits_and_no_count_of_resamples() -> None:
    films = site_films(["PA", "AP"] * 6, [0, 5])  # some resamples lack the positive class
    found = shortcuts(films, smallest=1)
    for by_finding in found.values():
        for figures in by_finding.values():
            for figure in [figures["auroc"], *figures["margins"].values()]:
                if figure is not None:
                    assert figure["dropped"] == 0
                    assert all(number == round(number, 3) for number in figure.values())
