"""The file of a cell whose run has ended, from what the run left at the simulated sites."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acm_core.federated.report import SiteReport
from client.round.kept_models import KeptModels, SiteRun
from server.round.run_folder import RunFolder, site_reports
from simulations.tables.cells import CellFile, SiteFigures, digest, files_of, made_by, settings_of
from simulations.tables.experiment import Cell, Experiment
from simulations.tables.replicates import measure

_AFTER_A_STOP = ("run_started", "run_resumed")


def cell_file(
    experiment: Experiment, cell: Cell, sites: Mapping[str, SiteFigures], seconds: float
) -> CellFile:
    """The cell's file.

    Args:
        sites: what was measured at each site.
        seconds: that the cell's runs were at work.
    """
    config, here = cell.config, experiment.path.absolute().parent
    return CellFile(
        experiment=experiment.name,
        kind=experiment.settings.kind,
        variant=cell.variant,
        seed=cell.seed,
        least_patients=experiment.settings.least_patients,
        digest=digest(config, here),
        settings=settings_of(config, here),
        files=files_of(config, here),
        seconds=seconds,
        findings=config.findings,
        sites=dict(sites),
        **made_by(),
    )


def measured_sites(experiment: Experiment, cell: Cell, folder: RunFolder) -> dict[str, SiteFigures]:
    """What was measured at each site in a finished run; a site without test films is not among them."""
    metrics: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
    unlabelled = metrics["unlabelled"]
    sites = {
        site: _site(experiment, cell, site, report, unlabelled.get(site, {}))
        for site, report in site_reports(metrics).items()
    }
    return {site: figures for site, figures in sites.items() if figures is not None}


def _site(
    experiment: Experiment, cell: Cell, site: str, report: SiteReport, unlabelled: dict[str, Any]
) -> SiteFigures | None:
    config = cell.config
    state = config.simulation.data / "state" / config.name / site
    scores = KeptModels(state, SiteRun.of(config.federation_config())).load_scores(report.fingerprint or "")
    if scores is None:
        return None
    return SiteFigures(
        fingerprint=report.fingerprint,
        training_films=report.training_films,
        shortcuts=_shortcuts(report, config.findings),
        delivered=report.delivered,
        unlabelled={
            finding: {model: round(estimate["value"], 4) for model, estimate in models.items()}
            for finding, models in unlabelled.items()
        },
        **measure(scores, config.findings, experiment.settings.least_patients, cell.seed, site),
    )


def _shortcuts(report: SiteReport, findings: Sequence[str]) -> dict[str, list[float | None]]:
    """Shortcut → AUROC of each finding, None where it tells nothing, of a site that reports them."""
    return {
        shortcut: [
            None if (auroc := of_findings[finding].auroc) is None else auroc.value for finding in findings
        ]
        for shortcut, of_findings in report.shortcuts.items()
    }


def seconds_at_work(events: Path) -> float:
    """How long a run was at work by its events: without the time between a stop and going on."""
    seconds, last = 0.0, None
    for line in events.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if last is not None and event["event"] not in _AFTER_A_STOP:
            seconds += event["time"] - last
        last = event["time"]
    return round(seconds, 1)
