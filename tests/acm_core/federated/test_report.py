"""A site's report is taken in only with the declared structure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acm_core.federated.messages import MessageError
from acm_core.federated.report import read_report

ESTIMATE = {"value": 0.8, "low": 0.7, "high": 0.9, "standard_error": 0.05, "dropped": 0}
POINT = {"specificity": 0.9, "threshold": None, "sensitivity": ESTIMATE}
BIN = {"films": 3, "score": 0.05, "positive": 0.0}
FINDING = {
    "defined": True,
    "auroc": ESTIMATE,
    "auprc": None,
    "positives": 3,
    "negatives": 4,
    "operating_points": [POINT],
    "calibration": {"error": 0.1, "bins": [BIN, *[None] * 9]},
    "histogram": {"positives": [[3, 1], [500, 2]], "negatives": [[0, 4]]},
}
GROUP = {
    "patients": None,
    "films": 12,
    "findings": {"Nodule": {"auroc": ESTIMATE, "positives": 3, "negatives": None}},
}
MODEL = {
    "findings": {"Nodule": FINDING},
    "mean_auroc": ESTIMATE,
    "gain": None,
    "subgroups": {"sex": {"F": GROUP, "unknown": GROUP}, "age": {"80 and over": GROUP}},
}
SHORTCUTS = {"grey": {"Nodule": {"auroc": ESTIMATE, "margins": {"federated": ESTIMATE}}}}


def finding(**changes: Any) -> dict[str, Any]:
    """Models of a report, one figure of which is another."""
    return {"federated": {**MODEL, "findings": {"Nodule": {**FINDING, **changes}}}}


def report(**changes: Any) -> str:
    whole = {
        "films": 7,
        "patients": 5,
        "training_films": 20,
        "set_aside": {"blank": 1},
        "invented": True,
        "about": "films of 2019, labelled by two readers",
        "models": {"federated": MODEL},
        "metrics": "exact",
        "counts": "coarsened",
        "delivered": "mixture",
        "fingerprint": "0a" * 32,
        "smallest_group": 10,
        "shortcuts": SHORTCUTS,
    }
    return json.dumps({**whole, **changes})


def test_a_whole_report_comes_back_as_it_was() -> None:
    assert read_report(report(), ["Nodule"]).model_dump(mode="json") == json.loads(report())


def test_a_report_of_before_sites_said_how_their_counts_leave_is_readable() -> None:
    former = json.loads(report())
    del former["counts"], former["shortcuts"], former["invented"], former["about"]
    read = read_report(json.dumps(former), ["Nodule"])
    assert (read.counts, read.shortcuts, read.invented, read.about) == ("exact", {}, False, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        report(films=-1),
        report(films="7"),
        report(patient="Müller"),
        report(set_aside={"Müller.dcm": 1}),
        report(models={"other": MODEL}),
        report(models={"federated": {**MODEL, "findings": {}}}),
        report(models={"federated": {**MODEL, "mean_auroc": {**ESTIMATE, "value": float("nan")}}}),
        report(models={"federated": {**MODEL, "mean_auroc": {**ESTIMATE, "value": 1.5}}}),
        report(fingerprint="Müller"),
        report(counts="Müller"),
        report(models={"federated": {**MODEL, "subgroups": {"name": {"F": GROUP}}}}),
        report(models={"federated": {**MODEL, "subgroups": {"sex": {"Müller": GROUP}}}}),
        report(models={"federated": {**MODEL, "subgroups": {"sex": {"F": {**GROUP, "films": -1}}}}}),
        report(models={"federated": {**MODEL, "subgroups": {"sex": {"F": {**GROUP, "findings": {}}}}}}),
        report(models=finding(histogram={"positives": [[1000, 1]], "negatives": []})),
        report(models=finding(histogram={"positives": [[5, 0]], "negatives": []})),
        report(models=finding(histogram={"positives": [[5, 1], [5, 2]], "negatives": []})),
        report(models=finding(histogram={"positives": [[5, 1, 2]], "negatives": []})),
        report(models=finding(calibration={"error": 0.1, "bins": [None] * 11})),
        report(models=finding(operating_points=[{**POINT, "threshold": 2.0}])),
        report(shortcuts={"Müller": SHORTCUTS["grey"]}),
        report(shortcuts={"grey": {}}),
        report(shortcuts={"grey": {"Müller": {"auroc": None, "margins": {}}}}),
        report(shortcuts={"grey": {"Nodule": {"auroc": ESTIMATE}}}),
        report(shortcuts={"grey": {"Nodule": {"auroc": {**ESTIMATE, "value": 1.5}, "margins": {}}}}),
        report(shortcuts={"grey": {"Nodule": {"auroc": ESTIMATE, "margins": {"Müller": ESTIMATE}}}}),
        # A margin over nothing, of a model that is not there, and of one without an AUROC.
        report(shortcuts={"grey": {"Nodule": {"auroc": None, "margins": {"federated": ESTIMATE}}}}),
        report(shortcuts={"grey": {"Nodule": {"auroc": ESTIMATE, "margins": {"pooled": ESTIMATE}}}}),
        report(models=finding(auroc=None)),
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(MessageError) as caught:
        read_report(text, ["Nodule"])
    assert "Müller" not in str(caught.value)
