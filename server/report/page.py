"""The report as one HTML file: no script, nothing loaded, readable in print and on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acm_core.federated.report import COUNT_STEP
from acm_core.groups import GROUPS
from server.pages import pages
from server.report import charts
from server.report.content import Content
from server.round.results import MODELS, attempts, difference_text, estimate_in, interval_text
from server.round.shortcuts import NAMES

HEADINGS = {
    "local_only": "alone",
    "federated": "federated",
    "fine_tuned": "fine-tuned",
    "mixture": "mixture",
    "pooled": "pooled",
}
_MERGED = "all sites together"


def render(content: Content) -> str:
    """The page of what `report_content` gave."""
    environment = pages()
    tries = [attempt for record in content["rounds"] for attempt in attempts(record)]
    environment.filters |= {
        "interval": _interval,
        "difference": _difference,
        "count": _count,
        "megabytes": _megabytes,
    }
    return environment.get_template("report.html").render(
        **content,
        headings={model: HEADINGS[model] for model in MODELS if model in content["mean_over_sites"]},
        groups=GROUPS,
        shortcut_names=NAMES,
        count_step=COUNT_STEP,
        forest=_forest(content),
        losses={title: _losses(content, name) for title, name in charts.LOSSES.items()},
        drawings={finding: _drawings(content, finding) for finding in content["findings"]},
        attempts=tries,
        totals=_totals(tries, content["bytes"]),
    )


def _totals(
    tries: Sequence[Mapping[str, Any]], moved: Mapping[str, Mapping[str, int]] | None
) -> dict[str, Any]:
    """Seconds and bytes, and of what; an earlier version noted the bytes of attempts that counted alone."""
    totals = {"seconds": sum(attempt["seconds"] for attempt in tries)}
    if moved is None:
        return {
            **totals,
            **{way: sum(attempt[f"bytes_{way}"] for attempt in tries) for way in ("sent", "received")},
            "of": "the attempts that counted",
        }
    return {
        **totals,
        **{way: sum(task[way] for task in moved.values()) for way in ("sent", "received")},
        "of": "rounds, local-only training and evaluation, but for what a stop of the server cut short",
    }


def _forest(content: Content) -> charts.Forest:
    means = {site: report["mean_auroc"] for site, report in content["sites"].items()}
    means[_mean_heading(content["mean_over_sites"])] = content["mean_over_sites"]
    return charts.forest(means, HEADINGS)


def _mean_heading(means: Mapping[str, Any]) -> str:
    """How many sites stand behind a mean; model by model where they differ."""
    sites = {HEADINGS[model]: means[model]["sites"] for model in MODELS if means.get(model) is not None}
    if len(set(sites.values())) == 1:
        return f"mean over sites ({next(iter(sites.values()))})"
    return f"mean over sites ({', '.join(f'{model} {count}' for model, count in sites.items())})"


def _losses(content: Content, name: str) -> charts.Plot | None:
    sites = content["participation"]
    curves = {
        site: points
        for site, part in sites.items()
        if (
            points := [
                (one["round"], one["metrics"][name]) for one in part["rounds"] if name in one["metrics"]
            ]
        )
    }
    return charts.over_rounds(curves, charts.kinds_of(sites)) if curves else None


def _drawings(content: Content, finding: str) -> dict[str, charts.Plot]:
    """Title → plot, of the federated model."""
    curves, calibration = content["curves"][finding], content["calibration"][finding]
    drawn = {}
    kinds = {**charts.kinds_of(content["sites"]), _MERGED: "merged", "chance": "guide", "perfect": "guide"}
    if (merged := curves["merged"]) is not None:
        share = merged["positives"] / (merged["positives"] + merged["negatives"])
        for title, name, chance in (
            ("ROC", "roc", [(0, 0), (1, 1)]),
            ("Precision and recall", "precision_recall", [(0, share), (1, share)]),
        ):
            points = {site: curve[name] for site, curve in curves["sites"].items()}
            drawn[title] = charts.shares({"chance": chance, **points, _MERGED: merged[name]}, kinds)
    if calibration is not None:
        bins = calibration["bins"]
        points = {"perfect": [(0, 0), (1, 1)], _MERGED: [(one["score"], one["positive"]) for one in bins]}
        drawn["Calibration"] = charts.shares(points, kinds, {_MERGED: [one["films"] for one in bins]})
    return drawn


def _interval(figure: Mapping[str, Any] | None) -> str:
    """Without a break inside the brackets."""
    return interval_text(estimate_in(figure)).replace("–", "–\N{WORD JOINER}")


def _difference(figure: Mapping[str, Any] | None) -> str:
    return difference_text(estimate_in(figure))


def _count(count: int | None) -> str:
    return "withheld" if count is None else f"{count:,}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
