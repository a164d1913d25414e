"""The report as one HTML file: no script, nothing loaded, readable in print and on a phone."""

from __future__ import annotations

from acm_core.groups import GROUPS
from server.pages import pages
from server.report import charts
from server.report.content import Content
from server.results import MODELS, interval_text

HEADINGS = {"local_only": "alone", "federated": "federated", "pooled": "pooled"}
_MERGED = "all sites together"


def render(content: Content) -> str:
    """The page of what `report_content` gave."""
    environment = pages()
    environment.filters |= {"interval": interval_text, "count": _count, "megabytes": _megabytes}
    return environment.get_template("report.html").render(
        **content,
        headings={model: HEADINGS[model] for model in MODELS if model in content["mean_over_sites"]},
        groups=GROUPS,
        forest=_forest(content),
        losses={title: _losses(content, name) for title, name in charts.LOSSES.items()},
        drawings={finding: _drawings(content, finding) for finding in content["findings"]},
        totals={
            "seconds": sum(record["seconds"] for record in content["rounds"]),
            "sent": sum(record["bytes_sent"] for record in content["rounds"]),
            "received": sum(record["bytes_received"] for record in content["rounds"]),
        },
    )


def _forest(content: Content) -> charts.Forest:
    means = {site: report["mean_auroc"] for site, report in content["sites"].items()}
    means["mean over sites"] = content["mean_over_sites"]
    return charts.forest(means, HEADINGS)


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
    if curves["merged"] is not None:
        for title, name, guide in (
            ("ROC", "roc", {"chance": [(0, 0), (1, 1)]}),
            ("Precision and recall", "precision_recall", {}),
        ):
            points = {site: curve[name] for site, curve in curves["sites"].items()}
            drawn[title] = charts.shares({**guide, **points, _MERGED: curves["merged"][name]}, kinds)
    if calibration is not None:
        points = {_MERGED: [(one["score"], one["positive"]) for one in calibration["bins"]]}
        drawn["Calibration"] = charts.shares({"perfect": [(0, 0), (1, 1)], **points}, kinds, dots=True)
    return drawn


def _count(count: int | None) -> str:
    return "withheld" if count is None else f"{count:,}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
