"""A site's report is taken in only with the declared structure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acm_core.federated.messages import MessageError
from acm_core.federated.report import read_report

ESTIMATE = {"value": 0.8, "low": 0.7, "high": 0.9, "standard_error": 0.05, "dropped": 0}
FINDING = {"defined": True, "auroc": ESTIMATE, "auprc": None, "positives": 3, "negatives": 4}
MODEL = {"findings": {"Nodule": FINDING}, "mean_auroc": ESTIMATE, "gain": None}


def report(**changes: Any) -> str:
    whole = {
        "films": 7,
        "patients": 5,
        "training_films": 20,
        "set_aside": {"blank": 1},
        "models": {"federated": MODEL},
        "metrics": "exact",
    }
    return json.dumps({**whole, **changes})


def test_a_whole_report_comes_back_as_it_was() -> None:
    assert read_report(report(), ["Nodule"]).model_dump(mode="json") == json.loads(report())


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
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(MessageError) as caught:
        read_report(text, ["Nodule"])
    assert "Müller" not in str(caught.value)
