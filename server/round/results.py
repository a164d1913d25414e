"""What stands in `metrics.json`: every site's own figures, and their mean over sites. Never one pooled figure alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from acm_core.config.sections import Delivered, FederationConfig, FederationSection
from acm_core.federated.report import COUNT_STEP, FindingReport, ModelReport, SiteReport
from acm_core.figures import Estimate, ModelName
from acm_core.histograms import ScoreHistogram
from acm_core.installation import software
from acm_core.training.metrics import mean_over_sites
from server.round.run_folder import site_reports
from server.round.state import RoundState

Metrics = dict[str, Any]

_STEP_NAMES = {"fedavgm": "FedAvgM", "fedadam": "FedAdam"}
MODELS: tuple[ModelName, ...] = ("local_only", "federated", "fine_tuned", "mixture", "pooled")
DELIVERED = "delivered"
DELIVERED_WORDS = {
    "federated": "federated",
    "fine_tuned": "federated and fine-tuned",
    "mixture": "federated, half and half with alone",
    "local_only": "alone, which the site keeps",
}


def summarise(
    config: FederationConfig,
    state: RoundState,
    reports: Mapping[str, SiteReport],
    moved: Mapping[str, Mapping[str, int]],
    start: Metrics | None = None,
) -> Metrics:
    """Put the sites' reports together.

    Args:
        reports: site → what it said of the models.
        moved: task after the rounds → the bytes that it `sent` and `received`.
        start: what the run began from, see `server.round.starts.described`; None: drawn weights.
    """
    tries = [attempt for record in state.records for attempt in attempts(record)]
    return _with_means(
        {
            "run": config.name,
            "software": software(),
            "seed": config.seed,
            "rounds": state.round,
            "context": config.model.context,
            "architecture": config.model.architecture,
            "encoding": config.federation.encoding,
            "findings": list(config.findings),
            "start": start,
            "privacy": {
                "short": privacy_in_short(config),
                "statement": privacy_statement(config),
                "target": None if config.privacy is None else config.privacy.epsilon,
                "ledgers": ledgers(config, state.records),
            },
            "seconds": round(sum(attempt["seconds"] for attempt in tries), 1),
            "bytes": {
                "train": {
                    way: sum(attempt[f"bytes_{way}"] for attempt in tries) for way in ("sent", "received")
                },
                **moved,
            },
            "not_evaluated": [site for site in config.federation.sites if site not in reports],
        },
        reports,
    )


def estimate_in(figure: Mapping[str, Any] | None) -> Estimate | None:
    """A figure that stands in a file, or a mean over sites."""
    return None if figure is None else Estimate(figure["value"], figure["low"], figure["high"], None, 0)


def add_pooled(metrics: Metrics, pooled: Mapping[str, SiteReport]) -> Metrics:
    """The metrics with the pooled model's figures beside the others at every site."""
    sites = site_reports(metrics)
    for site in sites.keys() & pooled.keys():
        models = {**sites[site].models, **pooled[site].models}
        sites[site] = sites[site].model_copy(update={"models": models})
    return _with_means(metrics, sites)


def start_sentence(start: Mapping[str, Any] | None) -> str:
    """For the model card and the report; empty for a run that began with drawn weights."""
    if start is None:
        return ""
    made = f", made from {start['made_from']}" if start["made_from"] else ""
    rows = ", ".join(start["findings"])
    head = f"its rows of the head for {rows}" if rows else "no row of its head"
    return f"started from {start['file']} (sha256 {start['sha256']}){made}, with {head}"


def privacy_in_short(config: FederationConfig) -> str:
    """A line for the terminal."""
    if config.privacy is None:
        return "no differential privacy"
    return (
        f"differential privacy by {config.privacy.unit} and site: ε = {config.privacy.epsilon:g}, δ = "
        f"{config.privacy.delta:g} for the whole run; the model card says what is not covered"
    )


def privacy_statement(config: FederationConfig) -> str:
    """What the run promises about the sites' patients, and no more than that."""
    privacy = config.privacy
    if privacy is None:
        return "no differential privacy: the weights may reveal that a film was among the training films"
    unit = "patient" if privacy.unit == "patient" else "film (not of a patient with several)"
    caveat = "" if privacy.caveat is None else f". {privacy.caveat}"
    return (
        f"differential privacy: each {unit}'s presence, films and labels at one site, (ε = {privacy.epsilon:g}, δ = "
        f"{privacy.delta:g}) for the whole run under add/remove adjacency, against the server, the other sites and "
        "whoever holds the model, if the site runs unmodified code. Not covered: which site it is, facts about a "
        "cohort, a patient treated at several sites, figures that a site releases besides, side channels, poisoning"
        f"{caveat}"
    )


def strategy(federation: FederationSection) -> str:
    """How the sites' models became one, in a few words."""
    rule = federation.aggregation.rule
    said = "FedAvg" if rule == "fedavg" else rule.replace("_", " ").capitalize()
    if federation.proximal_mu:
        proximal = f"FedProx (μ = {federation.proximal_mu:g})"
        said = proximal if rule == "fedavg" else f"{proximal} with {rule.replace('_', ' ')}"
    step = federation.server_step.model_dump(exclude={"rule"}, exclude_none=True)
    if step:
        settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in step.items())
        said += f" and the server step {_STEP_NAMES[federation.server_step.rule]} ({settings})"
    return said


def ledgers(config: FederationConfig, records: Iterable[Mapping[str, Any]]) -> dict[str, Metrics]:
    """Site → what its last answer said of its ledger, of the sites that were asked in a private run.

    `epsilon` is what the run had cost there as of `round`, `noise_multiplier` its σ; all three are None where no answer
    was taken in. `asked_since`: it was asked after that, or at all, and may have spent more.
    """
    found: dict[str, Metrics] = {}
    if config.privacy is None:
        return found
    for record in records:
        for attempt in attempts(record):
            for site in attempt["asked"]:
                last = found.setdefault(
                    site, {"epsilon": None, "noise_multiplier": None, "round": None, "asked_since": True}
                )
                said = attempt["metrics"].get(site, {})
                last["asked_since"] = "epsilon" not in said
                if "epsilon" in said:
                    last["epsilon"], last["round"] = said["epsilon"], record["round"]
                    last["noise_multiplier"] = said.get("noise_multiplier")
    return dict(sorted(found.items()))


def attempts(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A round's attempts in their order, of which the last is the one that counts."""
    return [*record.get("earlier_attempts", ()), record]


def as_of(ledger: Mapping[str, Any], before: str = "") -> str:
    """What a ledger's ε is as of: `2`, or what makes it uncertain."""
    unanswered = "without an answer that was taken in"
    if ledger["epsilon"] is None:
        return f"asked {unanswered}"
    known = f"{before}{ledger['round']}"
    return f"{known}, asked since {unanswered}" if ledger["asked_since"] else known


def federated_findings(sites: Mapping[str, SiteReport], finding: str) -> dict[str, FindingReport]:
    """Site → the federated model's figures for a finding, of the sites that let them leave."""
    return {
        site: report.models["federated"].findings[finding]
        for site, report in sites.items()
        if "federated" in report.models
    }


def delivered(report: SiteReport) -> Delivered:
    """The name of the model that a site has in the end; `federated` where it does not say."""
    return report.delivered or "federated"


def delivered_model(report: SiteReport) -> ModelReport | None:
    """Its figures, or None where the site reports none."""
    return report.models.get(delivered(report))


def federated_histograms(sites: Mapping[str, SiteReport], finding: str) -> dict[str, ScoreHistogram]:
    """Site → its test films by the federated model's score, of the sites that let that leave."""
    return {
        site: ScoreHistogram.from_pairs(figures.histogram.positives, figures.histogram.negatives)
        for site, figures in federated_findings(sites, finding).items()
        if figures.histogram is not None
    }


def nothing_known(finding: FindingReport) -> bool:
    """Whether a site can say nothing of a model and a finding: no figure, and no film that it counts."""
    return not finding.defined and finding.auroc is None and finding.positives == finding.negatives == 0


def rounded_counts(sites: Mapping[str, SiteReport]) -> str:
    """Whose numbers of films are not what they seem, in a sentence; empty where nobody's are."""
    rounded = [site for site, report in sites.items() if report.counts == "coarsened"]
    if not rounded:
        return ""
    return f"Numbers of films and patients at {', '.join(rounded)} are rounded down to steps of {COUNT_STEP}."


def not_proved(sites: Mapping[str, SiteReport]) -> str:
    """What "not defined" means at sites that noise their figures, to go on with after what it means elsewhere."""
    noised = [site for site, report in sites.items() if report.metrics == "noised"]
    return f"; at {', '.join(noised)}: the noised counts do not prove that there are both" if noised else ""


def interval_text(estimate: Estimate | None) -> str:
    """`0.812 (0.74–0.87)`, or what is missing: the interval, or the value because a class is missing."""
    if estimate is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}–{estimate.high:.2f})"


def difference_text(difference: Estimate | None) -> str:
    """`+0.033 (−0.020 to +0.086)`; the difference alone where there is no interval."""
    if difference is None:
        return "not known"
    value = signed(difference.value)
    if difference.low is None or difference.high is None:
        return value
    return f"{value} ({signed(difference.low)} to {signed(difference.high)})"


def signed(difference: float) -> str:
    """`+0.033` or `−0.020`: a minus sign, since a line can break at a hyphen."""
    return f"{difference:+.3f}".replace("-", "−")


def _with_means(metrics: Metrics, sites: Mapping[str, SiteReport]) -> Metrics:
    reports = sites.values()
    measured = [name for name in MODELS if any(name in report.models for report in reports)]
    means = {str(name): _mean([report.models.get(name) for report in reports]) for name in measured}
    in_the_end = {site: delivered_model(report) for site, report in sites.items()}
    if any(in_the_end.values()):
        means[DELIVERED] = _mean(in_the_end.values())
    gains = {
        site: model.gain
        for site, model in in_the_end.items()
        if model and model.gain and model.gain.standard_error is not None
    }
    gain = _estimate(gains.values())
    return {
        **metrics,
        "sites": {site: report.model_dump(mode="json") for site, report in sites.items()},
        "mean_over_sites": means,
        "gain": gain,
        "answer": _answer(gain, gains),
    }


def _mean(models: Iterable[ModelReport | None]) -> Metrics | None:
    """Of a model at each site, None where the site lacks it.

    None where no site has a defined AUROC; the interval ends where an AUROC does.
    """
    mean = _estimate(model.mean_auroc for model in models if model)
    return mean and {**mean, "low": max(mean["low"], 0.0), "high": min(mean["high"], 1.0)}


def _estimate(estimates: Iterable[Estimate | None]) -> Metrics | None:
    known = [(one.value, one.standard_error) for one in estimates if one and one.standard_error is not None]
    if not known:
        return None
    value, low, high = mean_over_sites(known)
    return {"value": value, "low": low, "high": high, "sites": len(known)}


def _answer(gain: Metrics | None, gains: Mapping[str, Estimate]) -> str:
    """How much the sites gained, on average and each, and what the interval makes of it."""
    if gain is None:
        return ""
    if gain["low"] > 0:
        verdict = "Training together helps"
    elif gain["high"] < 0:
        verdict = "Training together hurts"
    else:
        verdict = "These films do not settle whether training together helps"
    each = ", ".join(f"{site} {signed(one.value)}" for site, one in gains.items())
    return (
        f"{verdict}: mean AUROC {signed(gain['value'])} against training alone, on average over {len(gains)} sites "
        f"(95 % interval {signed(gain['low'])} to {signed(gain['high'])}); {each}."
    )
