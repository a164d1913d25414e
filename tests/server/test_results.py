"""A run's figures: means counted on paper, missing figures stay missing, and no answer is surer than its interval."""

from __future__ import annotations

import json
import math

import pytest
from hospitals import FINDINGS, federation
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import estimate, metrics, model, read, report

from acm_core.figures import Estimate
from server.round.results import add_pooled, difference_text, interval_text, summarise
from server.round.state import RoundState

NORMAL = 1.959963984540054  # 97.5 % quantile


def test_what_is_said_about_the_run() -> None:
    summary = metrics({"B": report(federated=model(estimate(0.8)))})
    assert summary["run"] == "test"
    assert summary["seed"] == 3
    assert summary["rounds"] == 2
    assert summary["seconds"] == 3.8
    assert summary["findings"] == FINDINGS
    assert summary["context"] == "acm"
    assert summary["not_evaluated"] == ["A"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_all_that_was_sent_and_received_is_counted() -> None:
    transfer = {"asked": [], "metrics": {}, "seconds": 1.0, "bytes_sent": 100, "bytes_received": 10}
    records = (
        {"round": 1, **transfer},
        {"round": 2, **transfer, "earlier_attempts": [transfer, transfer]},
    )
    moved = {"local_only": {"sent": 7, "received": 5}, "evaluate": {"sent": 70, "received": 50}}
    summary = summarise(federation(), RoundState(2, {}, records), {"A": read(report())}, moved)
    assert summary["bytes"] == {"train": {"sent": 400, "received": 40}, **moved}
    assert summary["seconds"] == 4.0


def test_the_mean_over_sites_counts_each_site_once() -> None:
    sites = {
        "A": report(federated=model(estimate(0.7, 0.03)), local_only=model(estimate(0.6, 0.03))),
        "B": report(federated=model(estimate(0.9, 0.04)), local_only=model(estimate(0.8, 0.04))),
    }
    sites["B"]["films"] = 12_000
    means = metrics(sites)["mean_over_sites"]
    half = NORMAL * 0.05 / 2  # √(0.03² + 0.04²) = 0.05
    assert means["federated"] == {
        "value": pytest.approx(0.8),
        "low": pytest.approx(0.8 - half),
        "high": pytest.approx(0.8 + half),
        "sites": 2,
    }
    assert means["local_only"]["value"] == pytest.approx(0.7)
    assert "pooled" not in means


def test_the_interval_of_a_mean_ends_where_an_auroc_does() -> None:
    mean = metrics({"A": report(federated=model(estimate(0.75, 0.3)))})["mean_over_sites"]["federated"]
    assert (mean["low"], mean["high"]) == (pytest.approx(0.75 - NORMAL * 0.3), 1.0)
    mean = metrics({"A": report(federated=model(estimate(0.25, 0.3)))})["mean_over_sites"]["federated"]
    assert (mean["low"], mean["high"]) == (0.0, pytest.approx(0.25 + NORMAL * 0.3))


def test_a_site_without_a_defined_auroc_does_not_enter_the_mean() -> None:
    sites = {
        "A": report(federated=model(estimate(0.9, 0.02))),
        "B": report(federated=model(None)),
    }
    mean = metrics(sites)["mean_over_sites"]["federated"]
    assert mean["value"] == pytest.approx(0.9)
    assert mean["high"] - mean["value"] == pytest.approx(NORMAL * 0.02)
    assert mean["sites"] == 1


def test_a_site_without_test_films_does_not_enter_the_mean() -> None:
    summary = metrics({"A": report(federated=model(estimate(0.9))), "B": report()})
    assert summary["mean_over_sites"]["federated"]["sites"] == 1
    assert summary["not_evaluated"] == []


def test_a_value_without_an_interval_stands_at_its_site_and_not_in_the_mean() -> None:
    bare = {"value": 1.0, "low": None, "high": None, "standard_error": None, "dropped": 100}
    sites = {"A": report(federated=model(estimate(0.8))), "B": report(federated=model(bare))}
    assert metrics(sites)["mean_over_sites"]["federated"]["value"] == pytest.approx(0.8)
    assert interval_text(Estimate(**bare)) == "1.000"


def test_where_no_site_has_a_defined_auroc_the_model_is_there_and_not_defined() -> None:
    summary = metrics({"A": report(federated=model(None), local_only=model(None))})
    assert summary["mean_over_sites"] == {"local_only": None, "federated": None, "delivered": None}
    assert summary["gain"] is None
    assert summary["answer"] == ""


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_missing_figures_are_said_in_words(value: float) -> None:
    assert interval_text(None) == "not defined"
    assert interval_text(Estimate(value, 0.125, 0.876, 0.1, dropped=0)) == f"{value:.3f} (0.12–0.88)"


def test_the_text_of_a_difference_has_signs_at_which_no_line_breaks() -> None:
    assert difference_text(Estimate(**estimate(-0.02, 0.02))) == "−0.020 (−0.060 to +0.020)"
    assert difference_text(Estimate(0.0334, None, None, None, dropped=0)) == "+0.033"


@pytest.mark.parametrize(
    ("gains", "answer"),
    [
        # ±1.96 · √(0.01² + 0.01²) / 2 = ±0.0139
        (
            [(0.02, 0.01), (0.04, 0.01)],
            "Training together helps: mean AUROC +0.030 against training alone, on average over 2 sites "
            "(95 % interval +0.016 to +0.044); A +0.020, B +0.040.",
        ),
        (
            [(-0.02, 0.01), (-0.04, 0.01)],
            "Training together hurts: mean AUROC −0.030 against training alone, on average over 2 sites "
            "(95 % interval −0.044 to −0.016); A −0.020, B −0.040.",
        ),
        (
            [(0.01, 0.01), (0.01, 0.01)],
            "These films do not settle whether training together helps: mean AUROC +0.010 against training alone, "
            "on average over 2 sites (95 % interval −0.004 to +0.024); A +0.010, B +0.010.",
        ),
    ],
)
def test_the_answer(gains: list[tuple[float, float]], answer: str) -> None:
    sites = {
        name: report(federated=model(estimate(0.8), estimate(*gain)), local_only=model(estimate(0.7)))
        for name, gain in zip("AB", gains, strict=True)
    }
    sites["C"] = report(federated=model(None), local_only=model(None))
    assert metrics(sites)["answer"] == answer


def test_the_answer_is_about_what_each_site_has_in_the_end() -> None:
    federated = model(estimate(0.8), estimate(0.01, 0.01))
    mixture = model(estimate(0.9), estimate(0.05, 0.01))
    reports = {
        "A": {**report(federated=federated, mixture=mixture), "delivered": "mixture"},
        "B": {**report(federated=federated, mixture=mixture), "delivered": "federated"},
    }
    summary = metrics(reports)
    assert summary["gain"]["value"] == pytest.approx(0.03)
    assert summary["mean_over_sites"]["delivered"]["value"] == pytest.approx(0.85)
    assert summary["answer"].endswith("A +0.050, B +0.010.")


def test_without_local_only_models_there_is_no_answer() -> None:
    summary = metrics({"A": report(federated=model(estimate(0.8)))})
    assert (summary["gain"], summary["answer"]) == (None, "")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(0, 0.2)), min_size=1, max_size=6))
def test_the_answer_is_as_sure_as_its_interval(gains: list[tuple[float, float]]) -> None:
    names = [f"S{number}" for number in range(len(gains))]
    sites = {
        name: report(federated=model(estimate(0.8), estimate(*gain)))
        for name, gain in zip(names, gains, strict=True)
    }
    summary = metrics(sites, federation(federation={"sites": names, "quorum": 1}))
    mean = sum(value for value, _ in gains) / len(gains)
    half = NORMAL * math.sqrt(sum(error**2 for _, error in gains)) / len(gains)
    gain = summary["gain"]
    assert (gain["low"], gain["high"]) == (pytest.approx(mean - half), pytest.approx(mean + half))
    answer = summary["answer"]
    assert answer.startswith("Training together helps:") == (gain["low"] > 0)
    assert answer.startswith("Training together hurts:") == (gain["high"] < 0)
    assert answer.startswith("These films do not settle") == (gain["low"] <= 0 <= gain["high"])


def test_the_pooled_model_stands_beside_the_others() -> None:
    before = metrics(
        {
            "A": report(federated=model(estimate(0.8), estimate(0.1, 0.01))),
            "B": report(federated=model(estimate(0.6))),
            "C": report(),
        }
    )
    after = add_pooled(
        before,
        {
            "A": read(report(pooled=model(estimate(0.9)))),
            "C": read(report()),
        },  # B was away, C has no test films
    )
    assert set(after["sites"]["A"]["models"]) == {"federated", "pooled"}
    assert set(after["sites"]["B"]["models"]) == {"federated"}
    assert after["sites"]["C"]["models"] == {}
    assert after["mean_over_sites"]["pooled"]["value"] == pytest.approx(0.9)
    assert after["mean_over_sites"]["federated"] == before["mean_over_sites"]["federated"]
    assert after["answer"] == before["answer"]
    assert "pooled" not in before["sites"]["A"]["models"]
    assert "pooled" not in before["mean_over_sites"]
