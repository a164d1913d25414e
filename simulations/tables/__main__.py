"""`python -m simulations.tables NAME …`: runs the experiments' missing cells and writes their tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command

if TYPE_CHECKING:
    from simulations.tables.experiment import Experiment
    from simulations.tables.running import Work

_EXPERIMENTS = Path("configs/experiments")


def main(arguments: list[str] | None = None) -> int:
    """Run and write; returns the exit code (0 done, 1 a cell failed, 2 wrong file or choice, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.tables",
        description="Run each variant of an experiment with each of its seeds, and write a page with tables and a "
        "drawing. A finished cell leaves a small file in docs/results/NAME/ and is not run again while its settings "
        "stay; an interrupted one goes on. Give the command again as often as needed.",
    )
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="NAME",
        help="of configs/experiments/NAME.yaml, or the path of a file",
    )
    parser.add_argument(
        "--list", action="store_true", help="only say what is missing and how long it may take"
    )
    parser.add_argument("--write", action="store_true", help="only write the pages, from what is there")
    parser.add_argument(
        "--only",
        type=_names,
        default=[],
        metavar="VARIANT",
        help="these variants, with commas between; default: all",
    )
    parser.add_argument(
        "--seeds", type=_seeds, default=[], help="these seeds, with commas between; default: all"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="cells at the same time, each on cores of its own (default: 1)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/tables"), help="folder of run folders (default: runs/tables)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("docs/results"),
        help="folder of finished cells and pages (default: docs/results)",
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {options.jobs}")

    from acm_core.config.loading import ConfigError
    from acm_core.processes import interruptible
    from simulations.tables.cells import DamagedCellError
    from simulations.tables.experiment import load_experiment
    from simulations.tables.results import UnknownModelError, UnlikeFilmsError
    from simulations.tables.running import run_side_by_side

    try:
        experiments = [load_experiment(_path(name)) for name in options.experiments]
        work = _work(experiments, options)
    except (ConfigError, DamagedCellError, ChoiceError) as error:
        _complain(error)
        return 2
    if options.list:
        _list(work, options.jobs)
        return 0
    failed: list[str] = []
    with interruptible():
        try:
            if not options.write:
                missing = [one for one in work if one.standing.state != "done"]
                failed = run_side_by_side(missing, options.runs, options.results, options.jobs, _say)
            for experiment in experiments:
                _say(f"{_written(experiment, options.results)}: written")
        except KeyboardInterrupt:
            _complain("interrupted; give the command again to go on")
            return 130
        except (ConfigError, DamagedCellError, UnknownModelError, UnlikeFilmsError) as error:
            _complain(error)
            return 1
    for name in failed:
        _complain(f"{name} failed: see {options.runs / name}.log")
    return 1 if failed else 0


class ChoiceError(ValueError):
    """Variants or seeds that no experiment has."""


def _work(experiments: list[Experiment], options: argparse.Namespace) -> list[Work]:
    """The cells chosen, and how each stands.

    Raises:
        ChoiceError: a variant or seed that none of them has.
    """
    from acm_core.config.explanation import nearest
    from simulations.tables.cells import standing
    from simulations.tables.running import Work

    cells = [(experiment, cell) for experiment in experiments for cell in experiment.cells]
    variants = list(dict.fromkeys(cell.variant for _, cell in cells))
    for name in options.only:
        if name not in variants:
            known = ", ".join(variants)
            raise ChoiceError(f"--only: expected some of {known}, got {name!r}{nearest(name, variants)}")
    seeds = sorted({cell.seed for _, cell in cells})
    for seed in options.seeds:
        if seed not in seeds:
            raise ChoiceError(f"--seeds: expected some of {', '.join(map(str, seeds))}, got {seed}")
    return [
        Work(experiment, cell, standing(options.results, experiment, cell))
        for experiment, cell in cells
        if (not options.only or cell.variant in options.only)
        and (not options.seeds or cell.seed in options.seeds)
    ]


def _list(work: list[Work], jobs: int) -> None:
    from simulations.tables.running import estimate

    for one in work:
        state, file, why = one.standing
        took = "" if file is None else f", {file.seconds / 60:.1f} min"
        _say(f"{one.name}: {state}{took}{f' (made with another {why})' if why else ''}")
    left = sum(one.standing.state != "done" for one in work)
    seconds = estimate(work)
    if left == 0:
        _say(f"all {len(work)} cells are done")
    elif seconds is None:
        _say(f"{left} of {len(work)} cells to run; none is finished, by which to say how long they take")
    else:
        _say(f"{left} of {len(work)} cells to run, about {seconds / jobs / 60:.0f} min with --jobs {jobs}")


def _written(experiment: Experiment, results: Path) -> Path:
    from simulations.tables.page import write_page

    return write_page(experiment, results)


def _path(name: str) -> Path:
    return Path(name) if name.endswith(".yaml") else _EXPERIMENTS / f"{name}.yaml"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers with commas between, got {text!r}") from None


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # the command's own output


def _complain(text: object) -> None:
    print(text, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    run_command(main, private=False)
