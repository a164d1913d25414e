"""What of a site's report leaves: what is listed here, and under differential privacy as the site's policy says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from acm_core.config.sections import FederationConfig
from acm_core.config.site import Release, SitePrivacy
from acm_core.federated.report import COUNT_STEP, FindingReport, HistogramReport, ModelReport, SiteReport
from acm_core.figures import (
    Calibration,
    Estimate,
    Group,
    GroupFinding,
    OperatingPoint,
    ReliabilityBin,
    ShortcutFigures,
)
from acm_core.training.rounding import rounded_outward

Report = TypeVar("Report")

_DIGITS_COARSENED, _DIGITS = 2, 3


class _Terms(NamedTuple):
    """On which figures leave; all is exact in a run without differential privacy."""

    counts: Release = "exact"
    metrics: str = "exact"

    @property
    def exact(self) -> bool:
        """Whether films may be counted."""
        return self.counts == self.metrics == "exact"

    @property
    def figures(self) -> bool:
        """Whether figures leave as they are measured."""
        return self.metrics in ("coarsened", "exact")


def labelled_counts(config: FederationConfig, policy: SitePrivacy) -> tuple[int, ...]:
    """The site's weight for each finding: its public population where it says that its films are labelled, else 0."""
    labelled = config.findings if policy.labelled is None else policy.labelled
    return tuple(policy.population if finding in labelled else 0 for finding in config.findings)


def figures_leave(policy: SitePrivacy) -> bool:
    """Whether figures leave as they are measured, and so also those of the model that is trained without privacy."""
    return _Terms(policy.counts, policy.metrics).figures


def released(report: SiteReport, policy: SitePrivacy | None) -> SiteReport:
    """The report as it may leave; a field that `MAY_LEAVE` does not list keeps its default.

    Args:
        policy: of the site, in a run with differential privacy; None: in one without.
    """
    return _leaving(report, _Terms() if policy is None else _Terms(policy.counts, policy.metrics))


def noised_model(findings: Mapping[str, float | None]) -> ModelReport:
    """A model's part of a report, of noised AUROCs (finding → value or None) alone."""
    values = [value for value in findings.values() if value is not None]
    return ModelReport(
        findings={
            name: FindingReport(
                defined=value is not None, auroc=_noised(value), auprc=None, positives=None, negatives=None
            )
            for name, value in findings.items()
        },
        mean_auroc=_noised(sum(values) / len(values)) if values else None,
        gain=None,
    )


def _noised(value: float | None) -> Estimate | None:
    if value is None:
        return None
    return Estimate(value, low=None, high=None, standard_error=None, dropped=0)


def _leaving(report: Report, terms: _Terms) -> Report:
    kind = next(kind for kind in type(report).__mro__ if kind in MAY_LEAVE)
    return type(report)(
        **{name: rule(getattr(report, name), terms) for name, rule in MAY_LEAVE[kind].items()}
    )


def _whole(value: Any, terms: _Terms) -> Any:
    """The value, and of the reports in it what they list."""
    if isinstance(value, dict):
        return {key: _whole(one, terms) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_whole(one, terms) for one in value)
    return _leaving(value, terms) if isinstance(value, BaseModel) or is_dataclass(value) else value


def _count(count: int | None, terms: _Terms) -> int | None:
    if terms.counts == "withheld" or count is None:
        return None
    return count if terms.counts == "exact" else count // COUNT_STEP * COUNT_STEP


def _set_aside(files: Mapping[str, int], terms: _Terms) -> dict[str, int]:
    """A reason with 0 would say that there is one."""
    return {reason: left for reason, count in files.items() if (left := _count(count, terms))}


def _figure(estimate: Estimate | None, terms: _Terms) -> Estimate | None:
    """All its digits beside exact counts alone: an AUROC is a fraction that only few counts of films make.

    The interval's width goes with the root of the number of patients: it has two digits, as has a coarsened value.
    """
    if estimate is None or terms.exact:
        return estimate and _leaving(estimate, terms)
    digits = _DIGITS if terms.metrics == "exact" else _DIGITS_COARSENED
    coarse = rounded_outward(estimate, _DIGITS_COARSENED)
    return replace(coarse, value=round(estimate.value, digits))


def _shortcuts(shortcuts: Mapping[str, Mapping[str, ShortcutFigures]], terms: _Terms) -> Any:
    """Films could be counted from the view's."""
    return {
        shortcut: _whole(by_finding, terms)
        for shortcut, by_finding in shortcuts.items()
        if terms.figures and (terms.exact or shortcut != "view")
    }


def _beside_exact_counts(otherwise: Any) -> Callable[[Any, _Terms], Any]:
    """Of what films could be counted from."""
    return lambda value, terms: _whole(value, terms) if terms.exact else otherwise


MAY_LEAVE: dict[type[object], dict[str, Callable[[Any, _Terms], Any]]] = {
    SiteReport: {
        "films": _count,
        "patients": _count,
        "training_films": _count,
        "set_aside": _set_aside,
        "models": lambda models, terms: _whole(models, terms) if terms.figures else {},
        "metrics": lambda _, terms: terms.metrics,
        "counts": lambda _, terms: terms.counts,
        "delivered": lambda delivered, terms: delivered if terms.figures else None,
        "fingerprint": lambda fingerprint, terms: fingerprint if terms.counts == "exact" else None,
        "smallest_group": _whole,
        "shortcuts": _shortcuts,
        "invented": _whole,
        "about": _whole,
    },
    ModelReport: {
        "findings": _whole,
        "mean_auroc": _figure,
        "gain": _figure,
        "subgroups": _beside_exact_counts({}),
    },
    FindingReport: {
        "defined": _whole,
        "auroc": _figure,
        # Of a model that says the same of each film, it is a share of the films.
        "auprc": _beside_exact_counts(None),
        "positives": _count,
        "negatives": _count,
        "operating_points": _beside_exact_counts(()),
        "calibration": _beside_exact_counts(None),
        "histogram": _beside_exact_counts(None),
    },
    ShortcutFigures: {
        "auroc": _figure,
        "margins": lambda margins, terms: {name: _figure(margin, terms) for name, margin in margins.items()},
    },
    Group: dict.fromkeys(("patients", "films", "findings"), _whole),
    GroupFinding: dict.fromkeys(("auroc", "positives", "negatives"), _whole),
    OperatingPoint: dict.fromkeys(("specificity", "threshold", "sensitivity"), _whole),
    Calibration: dict.fromkeys(("error", "bins"), _whole),
    ReliabilityBin: dict.fromkeys(("films", "score", "positive"), _whole),
    HistogramReport: dict.fromkeys(("positives", "negatives"), _whole),
    Estimate: dict.fromkeys(("value", "low", "high", "standard_error", "dropped"), _whole),
}
"""Report → its fields that may leave, each with what leaves of it on which terms. What is not here stays at home."""
