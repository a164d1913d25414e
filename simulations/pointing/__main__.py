"""`python -m simulations.pointing runs/NAME-acm-1 runs/NAME-none-1 …`: do models look where findings lie?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from simulations.markdown import markdown_table

if TYPE_CHECKING:
    from acm_core.training.metrics import Estimate
    from simulations.pointing.measure import Row
    from simulations.settings import SimulationConfig

STAGES = ("layer3", "layer4")


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the table; returns the exit code (0 written, 1 a run is not usable, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.pointing",
        description="How often a model's score maps, Grad-CAM, K and Q hit a planted finding and the same place on "
        "the other side: on phantom films of the runs' own machines, of patients that no run has. Runs that differ by "
        "their seed alone are averaged.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders of simulations with synthetic hospitals"
    )
    parser.add_argument("--patients", type=int, default=300, help="of each hospital (default: 300)")
    parser.add_argument("--output", type=Path, help="Markdown file for the table; default: the terminal")
    options = parser.parse_args(arguments)
    if options.patients < 20:
        parser.error(f"--patients: expected 20 or more, got {options.patients}")

    from acm_core.files import write_text_atomically
    from acm_core.processes import interruptible

    with interruptible():
        try:
            configs = _load(options.runs)
            results = _measure(configs, options.patients)
        except UnusableRunError as error:
            print(error, file=sys.stderr)  # noqa: T201  # the command's own output
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            return 130
    text = table(results)
    if options.output is None:
        print(text, end="")  # noqa: T201
    else:
        write_text_atomically(options.output, text)
    return 0


class UnusableRunError(RuntimeError):
    """A folder that holds no finished simulation of synthetic hospitals, or one unlike the others."""


class Result(NamedTuple):
    """What was measured of one run."""

    context: str
    seed: int
    auroc: Estimate | None
    rows: list[Row]


def _load(folders: Sequence[Path]) -> dict[Path, SimulationConfig]:
    from acm_core.config.loading import ConfigError, load_config
    from server.run_folder import RunFolder
    from simulations.settings import SimulationConfig

    configs: dict[Path, SimulationConfig] = {}
    for folder in folders:
        run = RunFolder(folder)
        if not run.model.is_file():
            raise UnusableRunError(
                f"{folder}: expected the folder of a finished run, got none with {run.model.name}"
            )
        try:
            config = load_config(run.config, SimulationConfig)
        except ConfigError as error:
            raise UnusableRunError(f"expected a simulation's settings: {error}") from None
        if not config.simulation.hospitals:
            raise UnusableRunError(
                f"{folder}: expected synthetic hospitals, of whose films the truth is known, got none"
            )
        configs[folder] = config
    first = next(iter(configs.values()))
    for folder, config in configs.items():
        if _shown(config) != _shown(first):
            raise UnusableRunError(
                f"{folder}: expected the findings, image size and hospitals of {folders[0]}, got others: give runs of "
                "one configuration"
            )
    return configs


def _shown(config: SimulationConfig) -> tuple[object, ...]:
    return config.findings, config.model.image_size, config.simulation.hospitals


def _measure(configs: dict[Path, SimulationConfig], patients: int) -> list[Result]:
    import torch

    from acm_core.nn import unfilled_classifier
    from acm_core.training.metrics import mean_auroc
    from acm_core.training.weights import load_arrays, set_arrays
    from client.device import best_device
    from server.run_folder import RunFolder
    from simulations.pointing.films import planted_films
    from simulations.pointing.maps import point
    from simulations.pointing.measure import measure

    config = next(iter(configs.values()))
    findings, size = config.findings, config.model.image_size
    folder = config.simulation.data / "pointing"
    planted = planted_films(config.simulation.hospitals, findings, size, patients, folder, _said)
    device = best_device()
    results = []
    for place, settings in configs.items():
        model = unfilled_classifier(settings.model, len(findings))
        set_arrays(model, load_arrays(RunFolder(place).model))
        model = model.to(device).to(memory_format=torch.channels_last)
        pointed = point(model, planted.films, STAGES)
        auroc = mean_auroc(
            pointed.probabilities, planted.films.labels, planted.films.patients, findings, seed=0
        )
        results.append(
            Result(settings.model.context, settings.seed, auroc, measure(pointed, planted, findings, size))
        )
        _say(f"{place}: measured")
    return results


def table(results: Sequence[Result]) -> str:
    """Markdown: a row a context module, map and place to hit; a column a finding.

    A cell is the mean over runs of the share of films with a hit, the smallest and largest (of one run: its 95 %
    interval), and after "by place" the mean share with other patients' boxes.
    """
    findings = list(dict.fromkeys(row.finding for result in results for row in result.rows))
    films = {row.finding: row.films for result in results for row in result.rows}
    heads = [f"{finding} ({films[finding]} films)" for finding in findings]
    lines = [["context", "map", "hits", *heads]]
    for context in dict.fromkeys(result.context for result in results):
        of_context = [result for result in results if result.context == context]
        kinds = dict.fromkeys((row.map, row.where) for result in of_context for row in result.rows)
        for kind in kinds:
            cells = [
                _cell(
                    [
                        row
                        for result in of_context
                        for row in result.rows
                        if (row.map, row.where, row.finding) == (*kind, finding)
                    ]
                )
                for finding in findings
            ]
            lines.append([context, *kind, *cells])
    aurocs = [
        f"- {result.context}, seed {result.seed}: mean AUROC on these films "
        + (f"{result.auroc.value:.3f}" if result.auroc else "not defined")
        for result in results
    ]
    return f"{markdown_table(lines)}\n" + "\n".join(aurocs) + "\n"


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "—"
    rates = [row.hits.rate for row in rows]
    spread = (
        f" ({min(rates):.2f}–{max(rates):.2f})"
        if len(rates) > 1
        else f" ({rows[0].hits.low:.2f}–{rows[0].hits.high:.2f})"
    )
    by_place = sum(row.hits.by_place for row in rows) / len(rows)
    return f"{sum(rates) / len(rates):.2f}{spread}, by place {by_place:.2f}"


def _said(hospital: str, done: int, films: int) -> None:
    if done == films or done % 100 == 0:
        _say(f"hospital {hospital}: {done} of {films} films")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # progress


if __name__ == "__main__":
    sys.exit(main())
