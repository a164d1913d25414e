"""The card beside a site's own model: which model it is, and how well it does on the site's test films."""

from __future__ import annotations

from acm_core.config.sections import Delivered
from acm_core.deployment import Deployment
from acm_core.federated.report import SiteReport
from acm_core.figures import Estimate

_HEADINGS: dict[Delivered, str] = {
    "local_only": "alone",
    "federated": "federated",
    "fine_tuned": "fine-tuned",
    "mixture": "mixture",
}


def site_card(deployment: Deployment, report: SiteReport | None) -> str:
    """The card's text, Markdown. It stays at the site.

    Args:
        report: of `evaluate_models`; None where the model was not tested.
    """
    model = deployment.model
    lines = [
        f"# Model of site {deployment.site}, run {deployment.run}",
        "",
        deployment.notice,
        "",
        *([f"**{deployment.warning}**", ""] if deployment.warning else []),
        f"- which model: {deployment.summary}",
        *(f"- learnt from: {films}" for films in deployment.learnt_from),
        f"- {model.architecture} with context module `{model.context}`; films of {model.image_size} × "
        f"{model.image_size} pixels; findings: {', '.join(deployment.findings)}",
        "- thresholds were chosen on this site's validation films",
        f"- trained and written by acm-fed {deployment.version}",
        "",
        *([] if report is None else _tested(deployment, report)),
    ]
    return "\n".join(lines)


def _tested(deployment: Deployment, report: SiteReport) -> list[str]:
    models = report.models
    if not models:
        return ["The site has no test films: nothing is known of how well it does.", ""]
    names = [name for name in _HEADINGS if name in models]
    heads = [f"**{_HEADINGS[name]}**" if name == deployment.delivered else _HEADINGS[name] for name in names]
    rows = [
        f"| {finding} | " + " | ".join(_figure(models[name].findings[finding].auroc) for name in names) + " |"
        for finding in deployment.findings
    ]
    means = " | ".join(_figure(models[name].mean_auroc) for name in names)
    return [
        f"AUROC on this site's {report.films} test films of {report.patients} patients (95 % interval); this "
        "model in bold:",
        "",
        f"| finding | {' | '.join(heads)} |",
        "| --- " * (1 + len(names)) + "|",
        *rows,
        f"| mean | {means} |",
        "",
    ]


def _figure(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}–{estimate.high:.2f})"
