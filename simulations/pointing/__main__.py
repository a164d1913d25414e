"""`python -m simulations.pointing runs/NAME-acm-1 runs/NAME-none-1 …`: do models look where findings lie?

On phantom films, of which that is known, or with `--boxes` on real films on which radiologists drew boxes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from acm_core.command import run_command
from simulations.tables.markdown import markdown_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from acm_core.data.site_films import FilmSet
    from acm_core.figures import Estimate
    from simulations.pointing.boxes import BoxedFilms
    from simulations.pointing.maps import Pointed
    from simulations.pointing.measure import Row
    from simulations.settings import SimulationConfig

STAGES = ("layer3", "layer4")


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the table; returns the exit code (0 written, 1 a run is not usable, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.pointing",
        description="How often a model's score maps, Grad-CAM, K and Q hit a finding and the same place on the other "
        "side: on phantom films of the runs' own machines, of patients that no run has, or on real films with boxes. "
        "Runs that differ by their seed alone are averaged.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of simulations")
    parser.add_argument(
        "--patients", type=int, default=300, help="phantoms of each synthetic hospital (default: 300)"
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        help="real films instead: a CSV with the columns site, image, finding, x, y, width, height; site is a folder "
        "beside it with labels.csv and films, the rest fractions of the film's sides",
    )
    parser.add_argument("--output", type=Path, help="Markdown file for the table; default: the terminal")
    options = parser.parse_args(arguments)
    if options.patients < 20:
        parser.error(f"--patients: expected 20 or more, got {options.patients}")

    from acm_core.files import write_text_atomically
    from acm_core.processes import interruptible
    from simulations.pointing.boxes import BoxesError
    from simulations.sites import MissingFilmsError

    with interruptible():
        try:
            configs = _load(options.runs, phantoms=options.boxes is None)
            if options.boxes is None:
                text = table(_measure(configs, options.patients))
            else:
                text = _measure_boxes(configs, options.boxes)
        except (UnusableRunError, BoxesError, MissingFilmsError) as error:
            print(error, file=sys.stderr)  # noqa: T201  # the command's own output
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            return 130
    if options.output is None:
        print(text, end="")  # noqa: T201
    else:
        write_text_atomically(options.output, text)
    return 0


class UnusableRunError(RuntimeError):
    """A folder that holds no finished simulation that can be measured, or one unlike the others."""


class Result(NamedTuple):
    """What was measured of one run."""

    context: str
    seed: int
    auroc: Estimate | None
    rows: list[Row]


def _load(folders: Sequence[Path], *, phantoms: bool) -> dict[Path, SimulationConfig]:
    from acm_core.config.loading import ConfigError, load_config
    from server.round.run_folder import RunFolder
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
        if phantoms and not config.simulation.hospitals:
            raise UnusableRunError(
                f"{folder}: expected synthetic hospitals, of whose films the truth is known, got none: give real films "
                "with --boxes"
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
    simulation = config.simulation
    return config.findings, config.model.image_size, simulation.hospitals, sorted(simulation.folders)


def _measure(configs: dict[Path, SimulationConfig], patients: int) -> list[Result]:
    from acm_core.training.metrics import mean_auroc
    from simulations.pointing.films import planted_films
    from simulations.pointing.measure import measure

    config = next(iter(configs.values()))
    findings, size = config.findings, config.model.image_size
    folder = config.simulation.data / "pointing"
    planted = planted_films(config.simulation.hospitals, findings, size, patients, folder, _said)
    results = []
    for place, settings in configs.items():
        pointed = _pointed(place, settings, planted.films)
        auroc = mean_auroc(
            pointed.probabilities, planted.films.labels, planted.films.patients, findings, seed=0
        )
        results.append(
            Result(settings.model.context, settings.seed, auroc, measure(pointed, planted, findings, size))
        )
        _say(f"{place}: measured")
    return results


def _measure_boxes(configs: dict[Path, SimulationConfig], boxes: Path) -> str:
    """Two tables: of the boxes on films of patients that a run has not trained on, and of all boxes."""
    import numpy as np

    from simulations.pointing.boxes import boxed_films
    from simulations.pointing.measure import measure_few

    config = next(iter(configs.values()))
    findings, size = config.findings, config.model.image_size
    boxed = boxed_films(boxes, findings, size)
    everybody = np.ones(len(boxed.patients), bool)
    strangers: list[Result] = []
    everything: list[Result] = []
    notes = []
    for place, settings in configs.items():
        pointed = _pointed(place, settings, boxed.planted.films)
        unseen = _unseen(settings, boxed)
        for results, counted in ((strangers, unseen), (everything, everybody)):
            rows = measure_few(pointed, boxed.planted, findings, size, counted)
            results.append(Result(settings.model.context, settings.seed, None, rows))
        start = (
            "; it began from a file of weights, whose films are not known here"
            if settings.model.weights
            else ""
        )
        notes.append(
            f"- {settings.model.context}, seed {settings.seed}: {(~unseen).sum()} of the {len(unseen)} films are "
            f"of patients on whom it was trained or validated{start}"
        )
        _say(f"{place}: measured")
    return "\n".join(
        [
            "Boxes on films of patients on whom the run was neither trained nor validated:\n",
            _rows_table(strangers, "boxes"),
            "All boxes:\n",
            _rows_table(everything, "boxes"),
            *notes,
            "",
        ]
    )


def _unseen(config: SimulationConfig, boxed: BoxedFilms) -> NDArray[np.bool_]:
    import numpy as np

    from simulations.pointing.boxes import trained_on
    from simulations.sites import prepare_sites

    # As the run had them: a simulated site's split follows from the run's seed.
    sites = prepare_sites(config, 1, _said, resume=True)
    seen = trained_on(list(sites.values()), _said)
    return np.array([patient not in seen for patient in boxed.patients])


def _pointed(folder: Path, config: SimulationConfig, films: FilmSet) -> Pointed:
    """Where the maps of a run's model point."""
    import torch

    from acm_core.nn import unfilled_classifier
    from acm_core.training.weights import load_arrays, set_arrays
    from client.round.device import best_device
    from server.round.run_folder import RunFolder
    from simulations.pointing.maps import point

    model = unfilled_classifier(config.model, len(config.findings))
    set_arrays(model, load_arrays(RunFolder(folder).model))
    return point(model.to(best_device()).to(memory_format=torch.channels_last), films, STAGES)


def table(results: Sequence[Result]) -> str:
    """Markdown: hits on phantom films, and how well the models tell these films apart."""
    aurocs = [
        f"- {result.context}, seed {result.seed}: mean AUROC on these films "
        + (f"{result.auroc.value:.3f}" if result.auroc else "not defined")
        for result in results
    ]
    return f"{_rows_table(results, 'films')}\n" + "\n".join(aurocs) + "\n"


def _rows_table(results: Sequence[Result], what: str) -> str:
    """Markdown: a row a context module, map and place to hit; a column a finding.

    A cell is the mean over runs of the share of films with a hit, the smallest and largest (of one run: its 95 %
    interval), and after "by place" the mean share with other patients' boxes.

    Args:
        what: is counted, in the plural.
    """
    findings = list(dict.fromkeys(row.finding for result in results for row in result.rows))
    heads = [f"{finding} ({_counts(results, finding)} {what})" for finding in findings]
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
    return markdown_table(lines)


def _counts(results: Sequence[Result], finding: str) -> str:
    """`12`, or `12–14` where it differs from run to run."""
    counts = {row.films for result in results for row in result.rows if row.finding == finding}
    return "–".join(str(count) for count in sorted({min(counts), max(counts)}))


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
    run_command(main, private=False)
