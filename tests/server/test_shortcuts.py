"""Whether a model is above what needs no medicine, in words that say no more than the figures."""

from __future__ import annotations

from typing import Any

import pytest
from hospitals import FINDINGS, federation
from reports import estimate, metrics, model, read, report, shortcuts

from server.round.model_card import model_card
from server.round.run_folder import site_reports
from server.round.shortcuts import shortcut_sentences, shortcuts_beside_model, shortcuts_in_short

ABOVE, EVEN, BELOW = estimate(0.2, 0.05), estimate(0.01, 0.05), estimate(-0.2, 0.05)


def site(aurocs: dict[str, float | None], margin: dict[str, Any] | None, at: float = 0.61) -> dict[str, Any]:
    return {**report(federated=model(estimate(at))), "shortcuts": shortcuts(aurocs, margin)}


def one_by_one(**margins: dict[str, Any]) -> dict[str, Any]:
    """Brightness 0.6 and border 0.55, each with its own margin."""
    both = site({"grey": 0.6, "border": 0.55}, ABOVE)
    for name, margin in margins.items():
        for figures in both["shortcuts"][name].values():
            figures["margins"]["federated"] = margin
    return both


@pytest.mark.parametrize(
    ("of_site", "said"),
    [
        (
            site({"grey": 0.6, "border": 0.55}, EVEN),
            "At this site the model is not clearly better than film brightness alone for Lung Opacity (0.61 against "
            "0.60) and Pleural Effusion (0.61 against 0.60).",
        ),
        (
            site({"grey": 0.4, "size": None, "border": 0.55, "view": 0.72}, BELOW, at=0.52),
            "At this site the model is worse than the film's view alone for Lung Opacity (0.52 against 0.72) and "
            "Pleural Effusion (0.52 against 0.72).",
        ),
        (
            site({"size": 0.6}, {**EVEN, "low": None, "high": None}),
            "At this site the model is not clearly better than the film's size and shape alone for Lung Opacity (0.61 "
            "against 0.60) and Pleural Effusion (0.61 against 0.60).",
        ),
        (
            one_by_one(border=EVEN),  # the best shortcut counts
            "At this site the model is clearly better than the best shortcut for each finding compared.",
        ),
        (
            site({"border": 0.6}, {**EVEN, "low": 0.0, "high": 0.1}),
            "not clearly better than the film's border alone",
        ),
        (site({"grey": None, "view": None}, EVEN), ""),
        (report(federated=model(estimate(0.6))), ""),
        ({**report(), "shortcuts": shortcuts({"grey": 0.6}, EVEN)}, ""),
    ],
)
def test_a_sentence_says_no_more_than_the_figures(of_site: dict[str, Any], said: str) -> None:
    text = " ".join(shortcut_sentences(read(of_site)))
    assert said in text
    assert bool(said) == bool(text)


def test_findings_are_named_beside_the_shortcut_that_each_is_not_above() -> None:
    mixed = one_by_one()
    mixed["shortcuts"]["grey"]["Lung Opacity"]["margins"]["federated"] = EVEN
    mixed["shortcuts"]["border"]["Pleural Effusion"].update(auroc=estimate(0.7), margins={"federated": BELOW})
    assert shortcut_sentences(read(mixed)) == [
        "At this site the model is worse than the film's border alone for Pleural Effusion (0.61 against 0.70).",
        "At this site the model is not clearly better than film brightness alone for Lung Opacity (0.61 against 0.60).",
    ]


def test_one_line_for_all_sites_or_none() -> None:
    sites = {
        "A": site({"grey": 0.6}, EVEN),
        "B": site({"grey": 0.6}, ABOVE),
        "C": site({"grey": 0.6, "view": 0.5}, BELOW),
        "D": report(federated=model(estimate(0.6))),
    }
    sites["C"]["shortcuts"]["grey"]["Lung Opacity"]["margins"]["federated"] = ABOVE
    assert shortcuts_in_short(site_reports(metrics(sites))) == (
        "Not clearly better than brightness, film size, border or view alone: 2 of 2 findings at A, "
        "1 of 2 findings at C."
    )
    assert shortcuts_in_short(site_reports(metrics({"B": sites["B"], "D": sites["D"]}))) == ""


def test_metrics_of_an_earlier_version_have_no_shortcuts() -> None:
    former = report(federated=model(estimate(0.6)))
    del former["shortcuts"]
    assert shortcuts_beside_model(read(former)) == {}
    assert shortcuts_in_short(site_reports(metrics({"A": former}))) == ""
    assert "What needs no medicine" not in model_card(federation(), metrics({"A": former}))


def test_the_card_has_a_row_for_every_finding_that_a_shortcut_was_measured_for() -> None:
    whole = site({"grey": 0.6, "size": None, "border": 0.55, "view": 0.5}, EVEN)
    for by_finding in whole["shortcuts"].values():
        by_finding["Pleural Effusion"] = {"auroc": None, "margins": {}}
    del whole["shortcuts"]["view"]
    text = model_card(federation(), metrics({"A": whole, "B": report(federated=model(None))}))
    assert "| A | Lung Opacity | 0.610 (0.41–0.81) | 0.600 (0.50–0.70) | – | 0.550 (0.45–0.65) | – |" in text
    assert "| A | Pleural Effusion | 0.610 (0.41–0.81) | 0.600" not in text
    assert (
        "- A: At this site the model is not clearly better than film brightness alone for Lung Opacity ("
        in text
    )
    assert "- B: At this site" not in text
    assert len(FINDINGS) == 2
