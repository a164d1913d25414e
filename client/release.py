"""What leaves a site under differential privacy besides noised weights: as its policy says, withheld by default."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from acm_core.config.sections import FederationConfig, Release, SitePrivacy
from acm_core.federated.report import COUNT_STEP
from acm_core.training.metrics import Estimate
from acm_core.training.rounding import rounded_outward
from client.evaluation import Report

_DIGITS_COARSENED, _DIGITS = 2, 3
_NO_DETAIL: dict[str, Any] = {
    "operating_points": [],
    "calibration": None,
    "histogram": None,
}  # films could be counted from these


def labelled_counts(config: FederationConfig, policy: SitePrivacy) -> tuple[int, ...]:
    """The site's weight for each finding: its public population where it says that its films are labelled, else 0."""
    labelled = config.findings if policy.labelled is None else policy.labelled
    return tuple(policy.population if finding in labelled else 0 for finding in config.findings)


def figures_leave(policy: SitePrivacy) -> bool:
    """Whether figures leave as they are measured, and so also those of the model that is trained without privacy."""
    return policy.metrics in ("coarsened", "exact")


def released(report: Report, policy: SitePrivacy) -> Report:
    """The report as the policy lets it leave; nothing in it that the policy withholds."""
    kept = deepcopy(report)
    for name in ("films", "patients", "training_films"):
        kept[name] = _count(report[name], policy.counts)
    kept["set_aside"] = {
        reason: count
        for reason, files in report["set_aside"].items()
        if (count := _count(files, policy.counts))  # a reason with 0 would say that there is one
    }
    if policy.counts != "exact":
        kept["fingerprint"] = None  # it changes with every film
    if not figures_leave(policy):
        kept["models"], kept["shortcuts"], kept["delivered"] = {}, {}, None
    if not (policy.counts == policy.metrics == "exact"):
        kept["shortcuts"].pop("view", None)  # films could be counted from it
    for finding in (one for shortcut in kept["shortcuts"].values() for one in shortcut.values()):
        finding["auroc"] = _figure(finding["auroc"], policy)
        finding["margins"] = {name: _figure(margin, policy) for name, margin in finding["margins"].items()}
    for model in kept["models"].values():
        if not (policy.counts == policy.metrics == "exact"):
            model["subgroups"] = {}
            for finding in model["findings"].values():
                finding.update(_NO_DETAIL)
        for finding in model["findings"].values():
            for name in ("positives", "negatives"):
                finding[name] = _count(finding[name], policy.counts)
            finding["auroc"] = _figure(finding["auroc"], policy)
            if not (policy.counts == policy.metrics == "exact"):
                finding["auprc"] = (
                    None  # of a model that says the same of each film, it is a share of the films
                )
        for name in ("mean_auroc", "gain"):
            model[name] = _figure(model[name], policy)
    return {**kept, "metrics": policy.metrics, "counts": policy.counts}


def noised_model(findings: Mapping[str, float | None]) -> dict[str, Any]:
    """A model's part of a report, of noised AUROCs (finding → value or None) alone."""
    values = [value for value in findings.values() if value is not None]
    return {
        "findings": {
            name: {
                "defined": value is not None,
                "auroc": _noised(value),
                "auprc": None,
                "positives": None,
                "negatives": None,
            }
            for name, value in findings.items()
        },
        "mean_auroc": _noised(sum(values) / len(values)) if values else None,
        "gain": None,
    }


def _count(count: int, policy: Release) -> int | None:
    match policy:
        case "withheld":
            return None
        case "coarsened":
            return count // COUNT_STEP * COUNT_STEP
        case "exact":
            return count


def _figure(estimate: Mapping[str, Any] | None, policy: SitePrivacy) -> dict[str, Any] | None:
    """All its digits beside exact counts alone: an AUROC is a fraction that only few counts of films make.

    The interval's width goes with the root of the number of patients: it has two digits, as has a coarsened value.
    """
    if estimate is None or policy.counts == policy.metrics == "exact":
        return None if estimate is None else dict(estimate)
    coarse = rounded_outward(Estimate(**estimate), _DIGITS_COARSENED)
    digits = _DIGITS if policy.metrics == "exact" else _DIGITS_COARSENED
    return {**coarse.to_dict(), "value": round(estimate["value"], digits)}


def _noised(value: float | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"value": value, "low": None, "high": None, "standard_error": None, "dropped": 0}
