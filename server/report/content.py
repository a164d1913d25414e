"""What stands in a run's report: numbers and sentences, no layout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from acm_core.audit_events import ReplyRefused, RunStarted, SiteMissing, SiteRefused
from acm_core.audit_log import AuditError, AuditRow, verify
from acm_core.config.sections import FederationConfig
from acm_core.federated.cohort import Cohort, cohorts_of, invented_warning
from acm_core.federated.report import SiteReport
from acm_core.figures import Estimate, ReliabilityBin
from acm_core.histograms import ScoreHistogram
from server.consortium.authority import ServerState
from server.consortium.registry import Registry
from server.round.results import (
    DELIVERED_WORDS,
    MODELS,
    as_of,
    delivered,
    delivered_model,
    difference_text,
    federated_findings,
    federated_histograms,
    ledgers,
    not_proved,
    privacy_in_short,
    privacy_statement,
    start_sentence,
    strategy,
)
from server.round.run_folder import FinishedRun, RunFolder
from server.round.shortcuts import shortcut_sentences, shortcuts_beside_model, shortcuts_in_short

Content = dict[str, Any]

_SILENCES = {"withheld": "withholds its figures", "no test films": "has no test films"}


def report_content(folder: RunFolder, state: ServerState | None) -> Content:
    """A finished run's report, JSON-ready.

    Args:
        state: the server's state folder, for what its registry and audit log say; None where there is none.

    Raises:
        NoResultsError: the folder holds no finished run.
        RegistryError: the state folder's registry cannot be read.
    """
    run = folder.finished()
    config, metrics, cohorts = run.config, run.metrics, cohorts_of(run.sites)
    return {
        "run": config.name,
        "written": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "simulated": run.simulated,
        "software": metrics["software"],
        "warning": invented_warning(cohorts),
        "findings": list(config.findings),
        "answer": metrics["answer"],
        "shortcuts": shortcuts_in_short(run.sites),
        "gain": metrics["gain"],
        "mean_over_sites": metrics["mean_over_sites"],
        "sites": {
            site: _site(report, cohort)
            for (site, report), cohort in zip(run.sites.items(), cohorts, strict=True)
        },
        "not_evaluated": metrics["not_evaluated"],
        "not_proved": not_proved(run.sites),
        "crosswise": metrics.get("crosswise"),
        "unlabelled": metrics.get("unlabelled"),
        "counted": sorted({site for one in config.findings for site in federated_histograms(run.sites, one)}),
        "curves": {finding: _curves(run.sites, finding) for finding in config.findings},
        "calibration": {finding: _calibration(run.sites, finding) for finding in config.findings},
        "strategy": strategy(config.federation),
        "rounds": run.records,
        "bytes": metrics.get("bytes"),
        "participation": _participation(run),
        "privacy": _privacy(run),
        "security": None if state is None else _security(config, state),
        "config": _without_paths(folder.config.read_text(encoding="utf-8")),
        "seed": config.seed,
        "start": start_sentence(metrics.get("start")),
    }


def _site(report: SiteReport, cohort: Cohort) -> Content:
    said = report.model_dump(mode="json")
    models = said["models"]
    subgroups = models.get("federated", {}).get("subgroups", {})
    return {
        **{
            name: said[name]
            for name in ("films", "patients", "training_films", "set_aside", "fingerprint", "smallest_group")
        },
        "learnt_from": cohort.films,
        "released": report.metrics,
        "counts": report.counts,
        "sentence": site_sentence(report),
        "silence": _silence(report),
        "delivered": delivered(report),
        "gain": models.get(delivered(report), {}).get("gain"),
        "mean_auroc": {name: models[name]["mean_auroc"] for name in MODELS if name in models},
        "findings": {name: models[name]["findings"] for name in MODELS if name in models},
        "shortcuts": said["shortcuts"] if shortcuts_beside_model(report) else {},
        "shortcut_sentences": shortcut_sentences(report),
        "subgroups": subgroups,
        "alike": ", ".join(
            f"{attribute} {name}"
            for attribute, groups in subgroups.items()
            if len(groups) == 1
            for name in groups
        ),
    }


def site_sentence(report: SiteReport) -> str:
    """What training together gave a site, in plain words and no more than its figures show."""
    model = delivered_model(report)
    if model is None:
        return f"The site {_SILENCES[_silence(report)]}."
    mean, gain = model.mean_auroc, model.gain
    if mean is None and report.metrics == "noised":
        return (
            "The site's noised counts do not prove for any finding that there are films with and without it: nothing "
            "can be said here."
        )
    if mean is None:
        return (
            "No finding has films with and without it among this site's test films: nothing can be said here."
        )
    text = f"{DELIVERED_WORDS[delivered(report)].capitalize()}, mean AUROC {_with_interval(mean)}"
    if gain is None:
        return f"{text}. The site did not train alone: whether it gained is not known."
    alone = report.models["local_only"].mean_auroc
    text += f", alone {_with_interval(alone)}; difference {difference_text(gain)}."
    if gain.low is None or gain.high is None:
        return f"{text} Too few patients for an interval."
    if gain.low > 0:
        return f"Training together helped this site. {text}"
    if gain.high < 0:
        return f"Training together hurt this site. {text}"
    return f"This site's test films do not settle whether training together helped it. {text}"


def _silence(report: SiteReport) -> str:
    """Why a site reports no figures; empty where it does."""
    if "federated" in report.models:
        return ""
    return "withheld" if report.metrics == "withheld" else "no test films"


def _with_interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not defined"
    value = f"{estimate.value:.3f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:.3f} to {estimate.high:.3f})"


def _curves(sites: Mapping[str, SiteReport], finding: str) -> Content:
    """ROC and precision–recall of the federated model, of each site and of all sites' films together."""
    histograms = federated_histograms(sites, finding)
    curves = {site: _curve(one) for site, one in histograms.items() if one.auroc is not None}
    merged = ScoreHistogram.merged(histograms.values())
    return {
        "sites": curves,
        "merged": None if merged.auroc is None else _curve(merged),
    }


def _curve(histogram: ScoreHistogram) -> Content:
    roc, precision_recall = histogram.roc(), histogram.precision_recall()
    return {
        "auroc": histogram.auroc,
        "positives": int(histogram.positives.sum()),
        "negatives": int(histogram.negatives.sum()),
        "roc": _points(*roc),
        "precision_recall": _points(*precision_recall),
    }


def _points(xs: Iterable[float], ys: Iterable[float]) -> list[tuple[float, float]]:
    """Without points that are there twice."""
    points = dict.fromkeys((round(float(x), 5), round(float(y), 5)) for x, y in zip(xs, ys, strict=True))
    return list(points)


def _calibration(sites: Mapping[str, SiteReport], finding: str) -> Content | None:
    """Reliability of all sites' films together, exact, since the bins are the same; None without both classes."""
    tenths = [
        figures.calibration.bins
        for figures in federated_findings(sites, finding).values()
        if figures.calibration is not None
    ]
    columns = zip(*tenths, strict=True)
    bins = [merged for column in columns if (merged := _merged([one for one in column if one]))]
    films = sum(one.films for one in bins)
    if all(one.positive == 0 for one in bins) or all(one.positive == 1 for one in bins):
        return None  # one class alone, or no film
    error = sum(one.films * abs(one.score - one.positive) for one in bins) / films
    return {"error": error, "bins": [asdict(one) for one in bins], "films": films}


def _merged(bins: list[ReliabilityBin]) -> ReliabilityBin | None:
    films = sum(one.films for one in bins)
    if not films:
        return None
    score = sum(one.films * one.score for one in bins) / films
    return ReliabilityBin(films, score, sum(one.films * one.positive for one in bins) / films)


def _participation(run: FinishedRun) -> dict[str, Content]:
    """Site → what came of every round there, and the losses that it reported.

    The site list may have changed when a run was resumed: those that were once asked are there too.
    """
    asked = (site for record in run.records for site in record["asked"])
    sites = {}
    for site in dict.fromkeys((*run.config.federation.sites, *asked)):
        rounds = [
            {
                "round": record["round"],
                "outcome": _outcome(record, site),
                "reason": record["refused"].get(site, ""),
                "films": record["films"].get(site),
                "metrics": record["metrics"].get(site, {}),
            }
            for record in run.records
        ]
        outcomes = Counter(one["outcome"] for one in rounds)
        sites[site] = {
            "rounds": rounds,
            **{
                name.replace(" ", "_"): outcomes[name]
                for name in ("answered", "refused", "missing", "not asked")
            },
        }
    return sites


def _outcome(record: Mapping[str, Any], site: str) -> str:
    if site in record["answered"]:
        return "answered"
    if site in record["refused"]:
        return "refused"
    return "missing" if site in record["asked"] else "not asked"


def _without_paths(config: str) -> str:
    """The run's file with names in place of this machine's paths: a report is shown around."""
    settings = yaml.safe_load(config)
    if settings["model"]["weights"] is not None:
        settings["model"]["weights"] = Path(settings["model"]["weights"]).name
    if (simulation := settings.get("simulation")) is not None:
        simulation.pop("data", None)
        simulation["folders"] = {site: Path(path).name for site, path in simulation["folders"].items()}
    text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return text


def _privacy(run: FinishedRun) -> Content:
    config = run.config
    sites = ledgers(config, run.records)
    sigmas = {
        site: one["noise_multiplier"] for site, one in sites.items() if one["noise_multiplier"] is not None
    }
    return {
        "short": privacy_in_short(config),
        "statement": privacy_statement(config),
        "settings": None if config.privacy is None else config.privacy.model_dump(mode="json"),
        "ledgers": {site: {**one, "as_of": as_of(one)} for site, one in sites.items()},
        "sigmas": sigmas,
        "left": _left(config, run.sites),
    }


def _left(config: FederationConfig, sites: Mapping[str, SiteReport]) -> str:
    """What left the sites of a run, in a sentence."""
    figures = f"the counts and figures that stand in this report{_left_of_local_only(sites)}"
    if config.privacy is None:
        left = (
            "Every site's weights left it, with the number of its training films and of those labelled for each "
            f"finding, its losses, which model it has in the end, and {figures}"
        )
    else:
        left = (
            "Every site's noised weights left it, with the population that it has made public in place of numbers of "
            f"training films, σ, ε by its ledger, and, as far as its file permits, {figures}"
        )
    return f"{left}; no film, name or patient's number did."


def _left_of_local_only(sites: Mapping[str, SiteReport]) -> str:
    """What left of the site's other models and does not stand in the report."""
    findings = [
        finding
        for report in sites.values()
        for name, model in report.models.items()
        if name not in ("federated", "pooled")
        for finding in model.findings.values()
    ]
    if not findings:
        return ""
    more = ""
    if any(finding.histogram for finding in findings):
        more = ", sensitivity at fixed specificity, calibration and numbers of test films by score"
    return f", and of the sites' other models also average precision{more}, which stand in metrics.json"


def _security(config: FederationConfig, state: ServerState) -> Content:
    """What the server's registry and audit log say of this run; `refused` is None where the log cannot be trusted."""
    enrolled = [
        {"site": entry.name, "key": entry.fingerprint} for entry in Registry.load(state.registry).active()
    ]
    try:
        rows = verify(state.audit).rows
    except AuditError as error:
        audit = {"sound": False, "text": str(error), "rows": 0}
        return {"enrolled": enrolled, "audit": audit, "refused": None}
    refused = [
        {
            "round": row.event.round,
            "site": row.event.site,
            "task": row.event.task,
            "reason": _reason(row.event),
        }
        for row in _rows_of_run(rows, config.name)
        if isinstance(row.event, ReplyRefused | SiteRefused | SiteMissing)
    ]
    head = rows[-1].hash if rows else ""
    return {
        "enrolled": enrolled,
        "audit": {"sound": True, "rows": len(rows), "head": head},
        "refused": refused,
    }


def _rows_of_run(rows: Sequence[AuditRow], run: str) -> list[AuditRow]:
    """Those that name it, from its last start on: before that lies another of the same name, whose folder is gone."""
    of_run = [row for row in rows if getattr(row.event, "run", None) == run]
    starts = [place for place, row in enumerate(of_run) if isinstance(row.event, RunStarted)]
    return of_run[starts[-1] :] if starts else of_run


def _reason(event: ReplyRefused | SiteRefused | SiteMissing) -> str:
    return "no answer" if isinstance(event, SiteMissing) else str(event.reason)
