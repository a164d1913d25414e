"""Hand-made reports of sites and the metrics of a run made of them: figures small enough to check on paper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hospitals import FINDINGS, federation

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SitePrivacy
from acm_core.federated.report import SiteReport
from client.round.release import noised_model, released
from server.round.results import Metrics, summarise
from server.round.state import RoundState

TRANSFER = {"seconds": 1.25, "bytes_sent": 2_000_000, "bytes_received": 1_000_000}


def estimate(value: float, error: float = 0.1) -> dict[str, Any]:
    """A site's figure with its standard error and a 95 % interval of ± 2 of them, as far as a figure can go."""
    return {
        "value": value,
        "low": max(value - 2 * error, -1.0),
        "high": min(value + 2 * error, 1.0),
        "standard_error": error,
        "dropped": 0,
    }


def model(
    figure: dict[str, Any] | None, gain: dict[str, Any] | None = None, findings: Sequence[str] = FINDINGS
) -> dict[str, Any]:
    """One model at one site, `figure` for the mean and every finding; None is a site with positives only."""
    report = {
        "defined": figure is not None,
        "auroc": figure,
        "auprc": figure,
        "positives": 5,
        "negatives": 0 if figure is None else 7,
        "operating_points": [],
        "calibration": {"error": None if figure is None else 0.125, "bins": [None] * 10},
        "histogram": {"positives": [[600, 5]], "negatives": [] if figure is None else [[400, 6], [700, 1]]},
    }
    if figure is not None:
        report["operating_points"] = [{"specificity": 0.9, "threshold": 0.75, "sensitivity": figure}]
    return {
        "findings": {name: deepcopy(report) for name in findings},
        "mean_auroc": figure,
        "gain": gain,
        "subgroups": {
            "sex": {
                "F": {
                    "patients": 20,
                    "films": 21,
                    "findings": {
                        name: {"auroc": figure, "positives": 5, "negatives": 7} for name in findings
                    },
                }
            }
        },
    }


def report(**models: dict[str, Any]) -> dict[str, Any]:
    """A site's report with these models."""
    return {
        "films": 12,
        "patients": 9,
        "training_films": 30,
        "set_aside": {},
        "models": models,
        "fingerprint": "0a" * 32,
        "smallest_group": 10,
        "metrics": "exact",
        "counts": "exact",
        "shortcuts": {},
    }


def read(report: dict[str, Any]) -> SiteReport:
    """A report as the server reads it."""
    return SiteReport.model_validate_json(json.dumps(report))


def leaves(report: dict[str, Any], policy: SitePrivacy | None) -> dict[str, Any]:
    """What of a report leaves, as the server has it."""
    return released(read(report), policy).model_dump(mode="json")


def noised(aurocs: dict[str, float | None]) -> dict[str, Any]:
    """A model's part of a report with noised AUROCs."""
    return noised_model(aurocs).model_dump(mode="json")


def shortcuts(
    aurocs: dict[str, float | None],
    margin: dict[str, Any] | None = None,
    findings: Sequence[str] = FINDINGS,
) -> dict[str, Any]:
    """A site's shortcuts, each with one AUROC for every finding, the federated model above it by `margin`."""
    return {
        name: {
            finding: {
                "auroc": None if value is None else estimate(value, 0.05),
                "margins": {} if value is None or margin is None else {"federated": margin},
            }
            for finding in findings
        }
        for name, value in aurocs.items()
    }


def coarsened() -> dict[str, Any]:
    """The report of a site with 40 and 45 films of the two classes, its counts rounded down to steps of 50."""
    whole = report(federated=model(estimate(0.8)))
    for finding in whole["models"]["federated"]["findings"].values():
        finding |= {
            "positives": 0,
            "negatives": 0,
            "operating_points": [],
            "calibration": None,
            "histogram": None,
        }
    whole["models"]["federated"]["subgroups"] = {}
    return {
        **whole,
        "films": 50,
        "patients": 50,
        "training_films": 200,
        "counts": "coarsened",
        "fingerprint": None,
    }


def metrics(sites: dict[str, dict[str, Any]], config: FederationConfig | None = None) -> Metrics:
    """`metrics.json` of a run of two rounds, 1.25 s and 2.5 s, which asked A alone and had its answer in the second."""
    config = config or federation()
    spent = {"epsilon": 1.5, "noise_multiplier": 0.75}
    records = (
        {"round": 1, **TRANSFER, "asked": ["A"], "metrics": {}},
        {"round": 2, **TRANSFER, "seconds": 2.5, "asked": ["A"], "metrics": {"A": spent}},
    )
    state = RoundState(2, {}, records)
    return summarise(config, state, {site: read(report) for site, report in sites.items()}, {})
