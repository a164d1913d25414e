"""What of a report may leave under each policy."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hospitals import FINDINGS
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import estimate, leaves, metrics, model, read, report, shortcuts

from acm_core.config.site import SitePrivacy
from acm_core.federated.report import FindingReport, SiteReport, read_report
from acm_core.training.metrics import evaluate_findings
from client.round.release import MAY_LEAVE, figures_leave, noised_model, released
from server.report.content import site_sentence

REPORT: dict[str, Any] = {
    **report(
        federated=model(estimate(0.81234, 0.0345), estimate(0.0123)),
        local_only=model(estimate(0.7)),
    ),
    "films": 123,
    "patients": 99,
    "training_films": 512,
    "set_aside": {"blank": 3, "lateral": 77},
    "shortcuts": shortcuts({"grey": 0.71234, "view": 0.61234}, estimate(0.1012, 0.0345)),
}


def policy(**changes: Any) -> SitePrivacy:
    return SitePrivacy.model_validate({"epsilon": 1.0, "population": 100, **changes})


def test_by_default_nothing_leaves() -> None:
    kept = leaves(REPORT, policy())
    assert kept == {
        "films": None,
        "patients": None,
        "training_films": None,
        "set_aside": {},
        "models": {},
        "delivered": None,
        "metrics": "withheld",
        "counts": "withheld",
        "fingerprint": None,
        "smallest_group": 10,
        "shortcuts": {},
        "invented": False,
        "about": None,
    }
    assert read_report(json.dumps(kept), FINDINGS).films is None


def test_what_films_a_site_has_leaves_whatever_it_withholds() -> None:
    about = {"invented": True, "about": "PA films of 2016 to 2019"}
    assert about.items() <= leaves({**REPORT, **about}, policy()).items()


def test_coarsened_counts_are_rounded_down() -> None:
    kept = leaves(REPORT, policy(counts="coarsened", metrics="coarsened"))
    assert (kept["films"], kept["patients"], kept["training_films"]) == (100, 50, 500)
    assert kept["set_aside"] == {"lateral": 50}  # a 0 would say that some film is blank
    assert read_report(json.dumps(kept), FINDINGS).counts == "coarsened"
    figure = kept["models"]["federated"]["findings"][FINDINGS[0]]
    assert (figure["positives"], figure["negatives"]) == (0, 0)
    assert figure["auroc"] == {"value": 0.81, "low": 0.74, "high": 0.89, "standard_error": 0.04, "dropped": 0}


@pytest.mark.parametrize("metrics", ["withheld", "noised"])
@pytest.mark.parametrize("counts", ["withheld", "coarsened", "exact"])
def test_shortcuts_which_training_films_made_stay_at_home_unless_figures_leave_without_noise(
    counts: str, metrics: str
) -> None:
    assert leaves(REPORT, policy(counts=counts, metrics=metrics))["shortcuts"] == {}


@pytest.mark.parametrize(
    ("counts", "metrics", "digits"),
    [("coarsened", "coarsened", 2), ("exact", "coarsened", 2), ("withheld", "exact", 3)],
)
def test_shortcuts_are_as_coarse_as_the_models_figures_and_views_cannot_be_counted(
    counts: str, metrics: str, digits: int
) -> None:
    kept = leaves(REPORT, policy(counts=counts, metrics=metrics))["shortcuts"]
    assert list(kept) == ["grey"]
    figures = kept["grey"][FINDINGS[0]]
    assert figures["auroc"]["value"] == round(0.71234, digits)
    margin = figures["margins"]["federated"]
    assert (margin["low"], margin["high"]) == (0.03, 0.18)  # outward from 0.0322 and 0.1702


def test_coarsening_does_not_make_a_verdict_certain() -> None:
    figures = {"value": 0.006, "low": 0.002, "high": 0.014, "standard_error": 0.004, "dropped": 0}
    given = {**REPORT, "models": {**REPORT["models"], "federated": model(estimate(0.8), figures)}}
    kept = leaves(given, policy(metrics="coarsened"))
    gain = kept["models"]["federated"]["gain"]
    assert gain == {"value": 0.01, "low": 0.0, "high": 0.02, "standard_error": 0.01, "dropped": 0}
    summary = metrics({"A": kept, "B": kept})
    assert summary["answer"].startswith("These films do not settle whether training together helps")
    assert site_sentence(read(kept)).startswith("This site's test films do not settle")


def test_exact_is_as_it_was() -> None:
    report = read(REPORT)
    assert released(report, policy(counts="exact", metrics="exact")) == report
    assert released(report, None) == report


@pytest.mark.parametrize(
    ("counts", "metrics"),
    [("withheld", "exact"), ("coarsened", "exact"), ("exact", "coarsened"), ("coarsened", "coarsened")],
)
def test_nothing_by_which_films_can_be_counted_leaves_unless_counts_and_figures_do(
    counts: str, metrics: str
) -> None:
    kept = leaves(REPORT, policy(counts=counts, metrics=metrics))
    assert kept["fingerprint"] == (REPORT["fingerprint"] if counts == "exact" else None)
    for some in kept["models"].values():
        assert some["subgroups"] == {}
        for finding in some["findings"].values():
            assert (finding["operating_points"], finding["calibration"], finding["histogram"]) == (
                [],
                None,
                None,
            )
    assert read_report(json.dumps(kept), FINDINGS).metrics == metrics


@pytest.mark.parametrize("counts", ["withheld", "coarsened"])
def test_exact_figures_do_not_give_away_counts_that_are_not_exact(counts: str) -> None:
    auroc = 6461 / 7807
    exact = {**estimate(auroc, 0.05), "dropped": 3}
    assert Fraction(auroc).limit_denominator(10**6).denominator == 37 * 211  # positives and negatives
    given = {**REPORT, "models": {"federated": model(exact, exact)}}
    kept = leaves(given, policy(counts=counts, metrics="exact"))["models"]["federated"]
    finding = kept["findings"][FINDINGS[0]]
    assert finding["auprc"] is None
    for figure in (finding["auroc"], kept["mean_auroc"], kept["gain"]):
        assert figure["value"] == 0.828
        assert figure["dropped"] == 0
        assert all(number == round(number, 3) for number in figure.values())
    assert (finding["positives"] is None) == (counts == "withheld")


@pytest.mark.parametrize("counts", ["withheld", "coarsened"])
@pytest.mark.parametrize("metrics", ["coarsened", "exact"])
@given(positives=st.integers(2, 40), negatives=st.integers(2, 40))
@settings(max_examples=10, deadline=None)
def test_of_a_constant_model_nothing_leaves_that_tells_how_many_patients_there_are(
    counts: str, metrics: str, positives: int, negatives: int
) -> None:
    """Its AUPRC is the share of films with the finding, and that figure's standard error gave their number."""

    def told(present: int, absent: int) -> Any:
        labels = np.repeat(np.array([[1.0], [0.0]], np.float32), [present, absent], axis=0)
        scores = np.full_like(labels, 0.5)
        measured = evaluate_findings(
            scores, labels, np.arange(len(labels)), FINDINGS[:1], resamples=100, seed=1
        )
        detail = {"operating_points": [], "calibration": None, "histogram": None}
        finding = {FINDINGS[0]: {"defined": True, **asdict(measured[FINDINGS[0]]), **detail}}
        given_ = {**REPORT, "models": {"federated": {**model(estimate(0.5)), "findings": finding}}}
        figures = leaves(given_, policy(counts=counts, metrics=metrics))["models"]["federated"]["findings"]
        return {
            name: value
            for name, value in figures[FINDINGS[0]].items()
            if name not in ("positives", "negatives")
        }

    assert told(positives, negatives) == told(20, 21)


class Wider(SiteReport):
    """A report with a field more."""

    postcodes: tuple[str, ...] = ()


class WiderFinding(FindingReport):
    """One with a field more, deep in a report."""

    youngest: int | None = None


EVERYTHING = policy(counts="exact", metrics="exact")


@pytest.mark.parametrize("terms", [None, EVERYTHING, policy()], ids=["open", "exact", "withheld"])
def test_a_new_field_stays_at_home_until_it_is_listed(
    terms: SitePrivacy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Wider.model_validate_json(json.dumps({**REPORT, "postcodes": ["8001"]}))
    assert report.postcodes == ("8001",)
    assert released(report, terms) == released(report.model_copy(update={"postcodes": ()}), terms)
    assert "8001" not in released(report, terms).model_dump_json()
    monkeypatch.setitem(MAY_LEAVE[SiteReport], "postcodes", lambda postcodes, _: postcodes)
    left = released(report, terms)
    assert isinstance(left, Wider)
    assert left.postcodes == ("8001",)


def test_a_new_field_deep_in_a_report_stays_at_home_too(monkeypatch: pytest.MonkeyPatch) -> None:
    report = read(REPORT)
    federated = report.models["federated"]
    wider = {name: WiderFinding(**dict(finding), youngest=17) for name, finding in federated.findings.items()}
    models = {"federated": federated.model_copy(update={"findings": wider})}
    report = report.model_copy(update={"models": models})
    assert 'youngest":17' not in released(report, EVERYTHING).model_dump_json(serialize_as_any=True)
    monkeypatch.setitem(MAY_LEAVE[FindingReport], "youngest", lambda youngest, _: youngest)
    assert 'youngest":17' in released(report, EVERYTHING).model_dump_json(serialize_as_any=True)


@pytest.mark.parametrize(
    ("metrics", "reported"), [("withheld", False), ("noised", False), ("coarsened", True), ("exact", True)]
)
def test_the_open_local_model_is_measured_only_where_figures_leave_without_noise(
    metrics: str, reported: bool
) -> None:
    assert figures_leave(policy(metrics=metrics)) is reported


def test_a_noised_model_has_values_and_nothing_else() -> None:
    report = noised_model({"Lung Opacity": 0.8, "Pleural Effusion": None})
    assert report.mean_auroc is not None
    assert report.mean_auroc.value == 0.8
    assert report.findings["Pleural Effusion"] == FindingReport(
        defined=False, auroc=None, auprc=None, positives=None, negatives=None
    )
