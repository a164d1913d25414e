"""An experiment's page: tables as Markdown, and beside it the drawing of its differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from acm_core.files import write_text_atomically
from simulations.tables.cells import CellFile, SiteFigures
from simulations.tables.experiment import Experiment
from simulations.tables.forest import difference_text, drawing
from simulations.tables.markdown import markdown_table
from simulations.tables.results import Difference, Results, Row, Unlabelled

_SIDE_BY_SIDE = 3  # differences in one table, so that it is not too wide


def write_page(experiment: Experiment, results: Path) -> Path:
    """Write `RESULTS/NAME.md` and, where there is a difference to draw, `RESULTS/NAME.svg`; the page's path.

    Raises:
        ConfigError, DamagedCellError, UnknownModelError, UnlikeFilmsError: see `Results`.
    """
    of_cells = Results(experiment, results)
    page, picture = results / f"{experiment.name}.md", results / f"{experiment.name}.svg"
    differences = of_cells.differences()
    if differences:
        write_text_atomically(picture, drawing(experiment.settings.title, differences))
    else:
        picture.unlink(missing_ok=True)
    write_text_atomically(page, page_text(of_cells, differences, picture.name))
    return page


def page_text(results: Results, differences: Sequence[Difference], picture: str) -> str:
    """The page as Markdown."""
    experiment = results.experiment
    settings = experiment.settings
    parts = [
        f"# {settings.title}",
        f"Written by `python -m simulations.tables {experiment.name}`. [README.md](README.md) says how figures and "
        "intervals are made.",
        settings.text.strip(),
    ]
    rows = results.rows()
    if rows:
        sites = [site for site in results.sites() if any(site in row.sites for row in rows)]
        parts += [
            "## Mean AUROC",
            _levels(rows, sites),
            "By finding, mean over sites:",
            _by_finding(results, rows),
        ]
    if differences:
        parts += ["## Differences", "Mean AUROC of one less the other, paired, with 95 % interval."]
        parts += [
            _differences(differences[first : first + _SIDE_BY_SIDE], results.sites())
            for first in range(0, len(differences), _SIDE_BY_SIDE)
        ]
        parts += [f"![The differences with their intervals, by site and in the mean]({picture})"]
    if unlabelled := results.unlabelled():
        parts += [
            "## Findings that a hospital never labelled",
            "AUROC by the films' truth, which the hospital never told: mean over seeds (smallest–largest).",
            _unlabelled(unlabelled),
        ]
    parts += ["## What it is made of", _films(results), _made(results)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _levels(rows: Sequence[Row], sites: Sequence[str]) -> str:
    lines = [["model", *sites, "mean over sites", "seeds"]]
    for row in rows:
        cells = [f"{row.sites[site]:.3f}" if site in row.sites else "–" for site in sites]
        lines.append([row.title, *cells, _mean_text(row), str(row.seeds)])
    return markdown_table(lines)


def _by_finding(results: Results, rows: Sequence[Row]) -> str:
    findings = list(
        dict.fromkeys(finding for cell in results.experiment.cells for finding in cell.config.findings)
    )
    shown = [finding for finding in findings if any(finding in row.findings for row in rows)]
    lines = [["model", *shown]]
    for row in rows:
        cells = [f"{row.findings[finding]:.3f}" if finding in row.findings else "–" for finding in shown]
        lines.append([row.title, *cells])
    return markdown_table(lines)


def _differences(differences: Sequence[Difference], sites: Sequence[str]) -> str:
    lines = [["site", *(one.title for one in differences)]]
    for site in sites:
        found = [one.combined.sites.get(site) for one in differences]
        if any(found):
            lines.append([site, *(difference_text(interval) if interval else "–" for interval in found)])
    means = [one.combined.mean for one in differences]
    lines.append(["**mean over sites**", *(f"**{difference_text(mean)}**" for mean in means)])
    lines.append(["seeds", *(str(mean.seeds) for mean in means)])
    return markdown_table(lines)


def _unlabelled(found: Sequence[Unlabelled]) -> str:
    models = list(dict.fromkeys(model for one in found for model in one.models))
    lines = [["site", "finding", *models]]
    for one in found:
        cells = [_spread(one.models[model]) if model in one.models else "–" for model in models]
        lines.append([one.site, one.finding, *cells])
    return markdown_table(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.2f}–{max(values):.2f})"


def _films(results: Results) -> str:
    """Films behind the figures, means over seeds and variants."""
    found: dict[str, list[SiteFigures]] = {}
    for cell in _files(results):
        for site, figures in cell.sites.items():
            found.setdefault(site, []).append(figures)
    if not found:
        return ""
    lines = [["site", "training films", "test films", "test patients", "findings that count"]]
    counts: list[Callable[[SiteFigures], float]] = [
        lambda one: one.training_films,
        lambda one: one.films,
        lambda one: one.patients,
        lambda one: sum(one.counted),
    ]
    for site in results.sites():
        if site in found:
            lines.append([site, *(f"{np.mean([count(one) for one in found[site]]):.0f}" for count in counts)])
    least = results.experiment.settings.least_patients
    return (
        f"Means over seeds. A finding counts at a site where at least {least} of its test patients have it, and as "
        f"many have not.\n\n{markdown_table(lines)}"
    )


def _made(results: Results) -> str:
    files = _files(results)
    lines = [f"- {len(files)} of {len(results.experiment.cells)} cells are finished."]
    missing = [
        f"{cell.variant} {cell.seed}"
        for cell in results.experiment.cells
        if cell.seed not in results.cells[cell.variant]
    ]
    if missing:
        lines.append(f"- Missing (variant and seed): {', '.join(missing)}.")
    if files:
        commits = sorted({(file.code.commit or "unknown")[:10] + _changed(file) for file in files})
        software = sorted({f"{name} {file.software[name]}" for file in files for name in ("torch", "python")})
        hours = sum(file.seconds for file in files) / 3600
        cores = sorted({file.cores for file in files})
        lines += [
            f"- Code: {', '.join(commits)}.",
            f"- Software: {', '.join(software)}.",
            f"- Time: {hours:.1f} hours in all, on {' or '.join(map(str, cores))} core{'s' * (cores != [1])} a cell.",
        ]
    return "\n".join(lines)


def _changed(file: CellFile) -> str:
    return "" if file.code.clean else " with changes that were not committed"


def _files(results: Results) -> list[CellFile]:
    return [file for of_seeds in results.cells.values() for file in of_seeds.values()]


def _mean_text(row: Row) -> str:
    if row.mean is None:
        return "not defined"
    return f"{row.mean:.3f}" + (f" ({row.ends[0]:.2f}–{row.ends[1]:.2f})" if row.ends else "")
