"""The model card: what the model is, on whose films it was trained, how well it does where, what it must not do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acm_core.config.sections import FederationConfig
from acm_core.federated.cohort import cohorts_of, invented_warning
from acm_core.federated.report import SiteReport
from acm_core.files import write_text_atomically
from server.round.results import (
    DELIVERED_WORDS,
    as_of,
    delivered,
    delivered_model,
    difference_text,
    estimate_in,
    interval_text,
    not_proved,
    nothing_known,
    privacy_statement,
    rounded_counts,
    start_sentence,
    strategy,
)
from server.round.run_folder import site_reports
from server.round.shortcuts import NAMES, shortcut_sentences, shortcuts_beside_model

_HEADINGS = {
    "local_only": "local-only",
    "federated": "federated (this model)",
    "fine_tuned": "fine-tuned at the site",
    "mixture": "federated and local-only, half and half",
    "pooled": "pooled",
}


def write_model_card(path: Path, config: FederationConfig, metrics: dict[str, Any]) -> None:
    """Write the card in Markdown."""
    write_text_atomically(path, model_card(config, metrics))


def model_card(config: FederationConfig, metrics: dict[str, Any]) -> str:
    """The card's text."""
    model, federation, sites = config.model, config.federation, site_reports(metrics)
    cohorts = cohorts_of(sites)
    warning = invented_warning(cohorts)
    lines = [
        f"# Model card: {config.name}",
        "",
        "For research only. Not a medical device; no claim of diagnostic performance.",
        "",
        *([f"**{warning}**", ""] if warning else []),
        "## Intended use",
        "- research: comparing ways of training, and finding out where the model fails",
        "- not for diagnosis, triage or any decision about a patient; not for lateral films or other parts of the body",
        "",
        "## The model",
        f"- {model.architecture} with context module `{model.context}`, {model.norm} normalisation, {_head(config)}",
        f"- input: one frontal chest X-ray, {model.image_size} × {model.image_size}, dense tissue bright",
        f"- output: a probability each for {', '.join(config.findings)}",
        f"- {strategy(federation)}, {metrics['rounds']} rounds of {config.training.epochs} local epochs, "
        f"seed {config.seed}, acm-fed {metrics['software']['acm-fed']}",
    ]
    if start := start_sentence(metrics.get("start")):
        lines.append(f"- {start}")
    if federation.normalisation == "site" and model.norm == "batch":
        lines.append(
            "- each site measures the statistics of batch normalisation on its own films, and its figures below are "
            "with these; `model.safetensors` has their average, and a new hospital measures its own with `client.adapt`"
        )
    lines += [
        "",
        "## Privacy",
        *_privacy(config, metrics),
        "",
        "## Films",
        *(f"- {cohort.site}: {cohort.films}" for cohort in cohorts),
        "",
        "| site | training films | test films | test patients | set aside |",
        "| --- | --- | --- | --- | --- |",
    ]
    for site, report in sites.items():
        aside = ", ".join(f"{count} {reason}" for reason, count in sorted(report.set_aside.items()))
        if not aside:
            aside = "withheld" if report.training_films is None else "none"
        numbers = (report.training_films, report.films, report.patients)
        lines.append(f"| {site} | {' | '.join(map(_count, numbers))} | {aside} |")
    if rounded := rounded_counts(sites):
        lines += ["", rounded]
    if metrics["not_evaluated"]:
        lines += ["", f"Not evaluated: {', '.join(metrics['not_evaluated'])}."]
    lines += ["", "## Results: AUROC on each site's test films (95 % patient-bootstrap interval)", ""]
    lines += _results(metrics, sites)
    if metrics["answer"]:
        lines += ["", metrics["answer"]]
    lines += ["", *_in_the_end(sites)]
    lines += [
        "",
        f'"Not defined": the site\'s test films lack one of the two classes{not_proved(sites)}. The mean is over the '
        "sites with a defined AUROC, each counted once; its interval speaks of other patients of these sites, not of "
        "other hospitals.",
        "",
        *_shortcuts(sites),
        *_by_group(sites),
        "",
        "## Limits",
        "- Sites differ in scanner, patients and labelling; the figures hold for these sites only.",
        "- Labels come from each site as they are; errors in them are in the figures too.",
        "",
    ]
    return "\n".join(lines)


def _head(config: FederationConfig) -> str:
    model = config.model
    if model.head == "projected":
        return f"a linear head on the pooled features' first {model.dimensions} axes, at unit length"
    return f"global {model.head} pooling of the findings' score maps"


def _results(metrics: dict[str, Any], sites: Mapping[str, SiteReport]) -> list[str]:
    names = [name for name in _HEADINGS if name in metrics["mean_over_sites"]]
    rows = [
        "| site | finding | positive / negative | " + " | ".join(_HEADINGS[name] for name in names) + " |",
        "| --- " * (3 + len(names)) + "|",
    ]
    for site, report in sites.items():
        for finding in metrics["findings"]:
            figures = {str(name): model.findings[finding] for name, model in report.models.items()}
            if all(map(nothing_known, figures.values())):
                continue
            cells = " | ".join(
                interval_text(figures[name].auroc) if name in figures else "–" for name in names
            )
            counts = next(iter(figures.values()))
            both = f"{_count(counts.positives)} / {_count(counts.negatives)}"
            rows.append(f"| {site} | {finding} | {both} | {cells} |")
    means = " | ".join(interval_text(estimate_in(metrics["mean_over_sites"][name])) for name in names)
    rows.append(f"| **mean over sites** | | | {means} |")
    return rows


def _in_the_end(sites: Mapping[str, SiteReport]) -> list[str]:
    """What each site has, and what it gained over training alone."""
    rows = []
    for site, report in sites.items():
        if (model := delivered_model(report)) is not None:
            rows.append(f"| {site} | {DELIVERED_WORDS[delivered(report)]} | {difference_text(model.gain)} |")
    if not rows:
        return []
    return [
        "What each site has in the end, formed at the site; `model.safetensors` is the shared model:",
        "",
        "| site | its model | mean AUROC against training alone |",
        "| --- | --- | --- |",
        *rows,
    ]


def _shortcuts(sites: Mapping[str, SiteReport]) -> list[str]:
    """Empty where no site reports shortcuts."""
    reported = {site: report for site, report in sites.items() if shortcuts_beside_model(report)}
    if not reported:
        return []
    rows = []
    for site, report in reported.items():
        shortcuts = report.shortcuts
        for finding, figures in report.models[delivered(report)].findings.items():
            alone = [shortcuts[name][finding].auroc if name in shortcuts else None for name in NAMES]
            if any(alone):
                cells = " | ".join("–" if auroc is None else interval_text(auroc) for auroc in alone)
                rows.append(f"| {site} | {finding} | {interval_text(figures.auroc)} | {cells} |")
    return [
        "## What needs no medicine: AUROC of a film's brightness, size, border or view alone",
        "",
        f"| site | finding | the site's model | {' | '.join(f'{name} alone' for name in NAMES.values())} |",
        "| --- " * (3 + len(NAMES)) + "|",
        *rows,
        "",
        *(f"- {site}: {' '.join(shortcut_sentences(report))}" for site, report in reported.items()),
        "",
        '"–": the films are alike in it, a class is missing, or a view has too few patients to be shown. A model that '
        "is not above these may have learnt nothing else.",
        "",
    ]


def _by_group(sites: Mapping[str, SiteReport]) -> list[str]:
    rows = [
        f"| {site} | {attribute} {name} | {finding} | {interval_text(figures.auroc)} |"
        for site, report in sites.items()
        if "federated" in report.models
        for attribute, groups in report.models["federated"].subgroups.items()
        for name, group in groups.items()
        for finding, figures in group.findings.items()
        if figures.auroc is not None
    ]
    heading = "## Results by sex, age and view: AUROC of this model"
    if not rows:
        return [heading, "", "None: the sites withhold these figures, or no group has patients enough."]
    return [
        heading,
        "",
        "| site | group | finding | AUROC (95 % interval) |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        "Groups that are not listed had too few patients with, or without, the finding: nothing is known of them.",
    ]


def _privacy(config: FederationConfig, metrics: dict[str, Any]) -> list[str]:
    head, _, rest = privacy_statement(config).partition(":")
    lines = [f"- **{head}**:{rest}"]
    if sites := _spent(metrics["privacy"]):
        lines.append(
            f"- ε that the run has cost, by the ledger of each site as of its last answer: {', '.join(sites)}"
        )
    return lines


def _spent(privacy: Mapping[str, Any]) -> list[str]:
    if "ledgers" not in privacy:  # of an earlier version, which did not say as of which round
        return [f"{site} {epsilon:.3g}" for site, epsilon in sorted(privacy["spent"].items())]
    return [
        f"{site} {'not known' if ledger['epsilon'] is None else format(ledger['epsilon'], '.3g')} "
        f"({as_of(ledger, 'round ')})"
        for site, ledger in privacy["ledgers"].items()
    ]


def _count(count: int | None) -> str:
    return "withheld" if count is None else str(count)
