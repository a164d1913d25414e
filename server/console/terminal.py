"""What the operator sees while a run goes on: rounds, sites, what is waited for, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from acm_core.figures import Estimate
from server.console.time_left import in_words, seconds_left
from server.round import events
from server.round.results import (
    DELIVERED,
    delivered,
    delivered_model,
    estimate_in,
    nothing_known,
    rounded_counts,
)
from server.round.run_folder import site_reports
from server.round.shortcuts import shortcuts_in_short


class Terminal:
    """Shows events as they come: a progress bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]rounds"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._rounds = 0
        self._seconds: list[float] = []
        self._task = self._progress.add_task("waiting for sites", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def take(self, event: events.Event) -> None:
        """Show an event."""
        if text := self._text(event):
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _text(self, event: events.Event) -> str | None:
        match event:
            case events.RunStarted():
                self._rounds = event.rounds
                self._progress.update(self._task, total=event.rounds, completed=0)
                return f"run started: {event.rounds} rounds over {', '.join(event.sites)}"
            case events.RunResumed():
                self._rounds = event.rounds
                self._progress.update(self._task, total=event.rounds, completed=event.round)
                return f"run resumed after round {event.round} of {event.rounds}"
            case events.StateDamaged():
                return f"the saved state of round {event.round} is damaged: going back to the one before"
            case events.Waiting():
                sites = ", ".join(event.sites) or "a site that was asked again"
                self._progress.update(self._task, description=f"waiting for {sites}")
                return f"waiting for {sites} ({_TASKS[event.task]}; {event.seconds:.0f} s left)"
            case events.RoundStarted():
                self._progress.update(self._task, total=event.rounds, description=f"round {event.round}")
            case events.SiteAnswered():
                self._progress.update(self._task, description=f"{event.site} answered")
                return _answered(event)
            case events.SiteRefused():
                detail = f" – {event.detail}" if event.detail else ""
                return f"  {event.site:<12} {_TASKS[event.task]}: refused, {event.reason}{detail}"
            case events.RoundFinished():
                self._progress.update(self._task, completed=event.round)
                self._seconds.append(event.seconds)
                left = seconds_left(self._rounds, event.round, self._seconds)
                more = "" if left is None else f"; about {in_words(left)} of rounds left"
                return _finished(event) + more
            case events.RoundBelowQuorum():
                return (
                    f"round {event.round}, attempt {event.attempt} of {event.attempts}: "
                    f"{len(event.answered)} of {event.quorum} sites needed"
                )
            case events.LocalOnlyStarted():
                self._progress.update(self._task, description="local-only models")
                return "each site trains alone, for comparison"
            case events.EvaluationStarted():
                self._progress.update(self._task, description="evaluation")
                return "evaluation on the sites' test films"
            case events.Note():
                return event.text
            case events.WeightsLoaded():
                return f"starting weights: {event.report}"
            case events.RunFailed():
                return f"run failed: {event.message}"
        return None


_TASKS = {"join": "to join", "train": "training", "local_only": "local-only model", "evaluate": "evaluation"}


def _answered(event: events.SiteAnswered) -> str:
    metrics = sorted(event.metrics.items())
    figures = "".join(f"  {name.replace('_', ' ')} {value:.3f}" for name, value in metrics)
    films = f"  {event.films} films" if event.films else ""
    return f"  {event.site:<12} {_TASKS[event.task]}: {event.seconds:.1f} s{films}{figures}"


def _finished(event: events.RoundFinished) -> str:
    megabytes = (event.bytes_sent + event.bytes_received) / 1e6
    sites = len(event.answered)
    away = f", without {', '.join(event.missing)}" if event.missing else ""
    return (
        f"round {event.round} done in {event.seconds:.1f} s: {sites} site{'' if sites == 1 else 's'}{away}, "
        f"{megabytes:.1f} MB"
    )


_COLUMNS = {"local_only": "alone", DELIVERED: "together", "pooled": "pooled"}


def results_table(metrics: dict[str, Any]) -> Table:
    """AUROC with its 95 % interval by site and finding, a column a model; the mean over sites last.

    Three models, findings of 16 letters and sites of 8 fit on 80 columns; longer names are folded, figures never cut.
    """
    names = [name for name in _COLUMNS if name in metrics["mean_over_sites"]]
    table = _table(f"{metrics['run']}: AUROC on the sites' test films (95 % interval)", names, ["pos/neg"])
    for site, report in site_reports(metrics).items():
        models = {
            **{str(name): model for name, model in report.models.items()},
            DELIVERED: delivered_model(report),
        }
        for finding in metrics["findings"]:
            rows = {name: model.findings[finding] for name in names if (model := models.get(name))}
            if all(map(nothing_known, rows.values())):
                continue
            first = next(iter(rows.values()))
            cells = [_cell(rows[name].auroc) if name in rows else "–" for name in names]
            counts = "/".join("?" if n is None else str(n) for n in (first.positives, first.negatives))
            table.add_row(Text(site), Text(finding), counts, *cells)
        table.add_section()
    means = [_cell(estimate_in(metrics["mean_over_sites"][name])) for name in names]
    table.add_row("mean", "of sites", "", *means, style="bold")
    return table


def unlabelled_table(metrics: dict[str, Any]) -> Table | None:
    """As `results_table`, for the findings that a hospital did not label; None where there are none.

    Only a simulation knows the truth of such films.
    """
    sites = metrics.get("unlabelled", {})
    if not any(sites.values()):
        return None
    names = [name for name in _COLUMNS if name in metrics["mean_over_sites"]]
    table = _table("Findings that a hospital never labelled, on its own test films", names, [])
    reports = site_reports(metrics)
    for site, findings in sites.items():
        in_the_end = delivered(reports[site]) if site in reports else ""
        for finding, models in findings.items():
            figures = {**models, DELIVERED: models.get(in_the_end)}
            cells = [_cell(estimate_in(figures.get(name))) for name in names]
            table.add_row(Text(site), Text(finding), *cells)
    return table


def _table(title: str, models: Iterable[str], beside: Iterable[str]) -> Table:
    """Without rows: site, finding, what stands beside, and the models."""
    table = Table(
        title=Text(title), title_justify="left", box=SIMPLE, show_edge=False, padding=0, pad_edge=False
    )
    table.add_column("site", overflow="fold")
    table.add_column("finding", overflow="fold")
    for heading in beside:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in models:
        table.add_column(_COLUMNS[name], no_wrap=True)
    return table


def _cell(estimate: Estimate | None) -> str:
    """`0.81 (.74–.87)`, 14 characters at most: three models fit side by side on 80 columns."""
    if estimate is None:
        return "not defined"
    value = f"{estimate.value:.2f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({_bound(estimate.low)}–{_bound(estimate.high)})"


def _bound(value: float) -> str:
    """`.87` or `1.0`."""
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0") else text[:3]


def print_results(console: Console, metrics: dict[str, Any], folder: Path) -> None:
    """The table, the answer in a sentence and where the files are."""
    sites = site_reports(metrics)
    console.print(results_table(metrics))
    if (unlabelled := unlabelled_table(metrics)) is not None:
        console.print(unlabelled)
    if rounded := rounded_counts(sites):
        console.print(rounded, highlight=False, markup=False)
    console.print(metrics["privacy"]["short"], highlight=False, markup=False)
    if metrics["answer"]:
        console.print(metrics["answer"], highlight=False, markup=False)
    if short := shortcuts_in_short(sites):
        console.print(short, highlight=False, markup=False)
    for name in (
        "report.html",
        "metrics.json",
        "model.safetensors",
        "model_card.md",
        "rounds.jsonl",
        "tensorboard",
    ):
        console.print(f"  {folder / name}", highlight=False, markup=False, soft_wrap=True)
