"""Whether a model is above what tells a finding without medicine, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acm_core.shortcuts import Shortcut
from server.results import delivered

NAMES: dict[Shortcut, str] = {
    "grey": "brightness",
    "size": "film size",
    "border": "border",
    "view": "view",
}
"""Shortcut → its name, in the order in which they are shown."""

_ALONE: dict[Shortcut, str] = {
    "grey": "film brightness alone",
    "size": "the film's size and shape alone",
    "border": "the film's border alone",
    "view": "the film's view alone",
}


def shortcuts_beside_model(report: Mapping[str, Any]) -> Mapping[Shortcut, Mapping[str, Any]]:
    """A site's shortcuts; none where it does not report the model that they stand beside."""
    return report.get("shortcuts", {}) if delivered(report) in report["models"] else {}


def shortcut_sentences(report: Mapping[str, Any]) -> list[str]:
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
                f"{finding} ({_model(report, finding):.2f} against {best['auroc']['value']:.2f})"
                for finding, (name, best) in compared.items()
                if name == shortcut and _verdict(best, delivered(report)) == verdict
            ]
            if findings:
                sentences.append(f"At this site the model is {verdict} {alone} for {_listed(findings)}.")
    if not sentences:
        return ["At this site the model is clearly better than the best shortcut for each finding compared."]
    return sentences


def shortcuts_in_short(metrics: Mapping[str, Any]) -> str:
    """A line on all sites; empty where the model is clearly above the shortcuts everywhere, or none are reported."""
    sites = []
    for site, report in metrics["sites"].items():
        compared = _compared(report)
        below = sum(_verdict(best, delivered(report)) != "" for _, best in compared.values())
        if below:
            sites.append(f"{below} of {len(compared)} findings at {site}")
    if not sites:
        return ""
    return f"Not clearly better than brightness, film size, border or view alone: {', '.join(sites)}."


def _compared(report: Mapping[str, Any]) -> dict[str, tuple[Shortcut, Mapping[str, Any]]]:
    """Finding → its best shortcut and that one's figures, where the model has been compared with it."""
    best: dict[str, tuple[Shortcut, Mapping[str, Any]]] = {}
    shortcuts = shortcuts_beside_model(report)
    for shortcut in NAMES:
        for finding, figures in shortcuts.get(shortcut, {}).items():
            if delivered(report) not in figures["margins"]:
                continue
            if finding not in best or figures["auroc"]["value"] > best[finding][1]["auroc"]["value"]:
                best[finding] = shortcut, figures
    return best


def _verdict(figures: Mapping[str, Any], model: str) -> str:
    margin = figures["margins"][model]
    if None in (margin["low"], margin["high"]) or margin["low"] <= 0 <= margin["high"]:
        return "not clearly better than"
    return "worse than" if margin["high"] < 0 else ""


def _model(report: Mapping[str, Any], finding: str) -> float:
    value: float = report["models"][delivered(report)]["findings"][finding]["auroc"]["value"]
    return value


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
