"""Whether a model is above what tells a finding without medicine, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from acm_core.federated.report import SiteReport
from acm_core.figures import Estimate, ShortcutFigures
from acm_core.shortcuts import NAMES as ALL_NAMES
from acm_core.shortcuts import REPORTED, ReportedShortcut
from server.round.results import delivered

NAMES: dict[ReportedShortcut, str] = {name: ALL_NAMES[name] for name in REPORTED}
"""Shortcut → its name, in the order in which they are shown."""

_ALONE: dict[ReportedShortcut, str] = {
    "grey": "film brightness alone",
    "size": "the film's size and shape alone",
    "border": "the film's border alone",
    "view": "the film's view alone",
}


class _Compared(NamedTuple):
    """A shortcut, its AUROC, and by how much the model that the site has is above it."""

    shortcut: ReportedShortcut
    auroc: float
    margin: Estimate


def shortcuts_beside_model(report: SiteReport) -> Mapping[ReportedShortcut, Mapping[str, ShortcutFigures]]:
    """A site's shortcuts; none where it does not report the model that they stand beside."""
    return report.shortcuts if delivered(report) in report.models else {}


def shortcut_sentences(report: SiteReport) -> list[str]:
    """For which findings a site's test films do not show the model above the best shortcut, and by which.

    Empty where the model was compared with none.
    """
    compared = _compared(report)
    if not compared:
        return []
    sentences = []
    for verdict in ("worse than", "not clearly better than"):
        for shortcut, alone in _ALONE.items():
            findings = [
                f"{finding} ({_model(report, finding)} against {best.auroc:.2f})"
                for finding, best in compared.items()
                if best.shortcut == shortcut and _verdict(best.margin) == verdict
            ]
            if findings:
                sentences.append(f"At this site the model is {verdict} {alone} for {_listed(findings)}.")
    if not sentences:
        return ["At this site the model is clearly better than the best shortcut for each finding compared."]
    return sentences


def shortcuts_in_short(reports: Mapping[str, SiteReport]) -> str:
    """A line on all sites; empty where the model is clearly above the shortcuts everywhere, or none are reported."""
    sites = []
    for site, report in reports.items():
        compared = _compared(report)
        below = sum(_verdict(best.margin) != "" for best in compared.values())
        if below:
            sites.append(f"{below} of {len(compared)} findings at {site}")
    if not sites:
        return ""
    return f"Not clearly better than brightness, film size, border or view alone: {', '.join(sites)}."


def _compared(report: SiteReport) -> dict[str, _Compared]:
    """Finding → its best shortcut, where the model has been compared with it."""
    best: dict[str, _Compared] = {}
    shortcuts = shortcuts_beside_model(report)
    for shortcut in NAMES:
        for finding, figures in shortcuts.get(shortcut, {}).items():
            if delivered(report) not in figures.margins or figures.auroc is None:
                continue
            if finding not in best or figures.auroc.value > best[finding].auroc:
                best[finding] = _Compared(shortcut, figures.auroc.value, figures.margins[delivered(report)])
    return best


def _verdict(margin: Estimate) -> str:
    if margin.low is None or margin.high is None or margin.low <= 0 <= margin.high:
        return "not clearly better than"
    return "worse than" if margin.high < 0 else ""


def _model(report: SiteReport, finding: str) -> str:
    auroc = report.models[delivered(report)].findings[finding].auroc
    return "not defined" if auroc is None else f"{auroc.value:.2f}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
