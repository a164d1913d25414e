"""`python -m simulations.tables.run_cell FILE VARIANT SEED`: runs one cell, as `simulations.tables` has it run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command

if TYPE_CHECKING:
    from simulations.tables.cells import CellFile
    from simulations.tables.experiment import Cell, Experiment


def main(arguments: list[str] | None = None) -> int:
    """Run the cell or go on with it, and write its file; returns the exit code (2 wrong file, 130 interrupted)."""
    parser = argparse.ArgumentParser(prog="python -m simulations.tables.run_cell")
    parser.add_argument("file", type=Path)
    parser.add_argument("variant")
    parser.add_argument("seed", type=int)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(arguments)

    from simulations.engine import start_imports

    start_imports()  # before this process is at its own
    from acm_core.config.loading import ConfigError
    from acm_core.processes import interruptible
    from server.round.starts import pinned
    from simulations.tables.experiment import load_experiment

    with interruptible():
        try:
            experiment = load_experiment(options.file)
            cell = experiment.cell(options.variant, options.seed)
            cell = replace(cell, config=pinned(cell.config, experiment.path))
            run = _run_newcomers if experiment.settings.kind == "leave_one_out" else _run_federation
            return run(experiment, cell, options)
        except ConfigError as error:
            print(error, file=sys.stderr)  # noqa: T201  # into the cell's log
            return 2
        except KeyboardInterrupt:
            return 130


def _run_federation(experiment: Experiment, cell: Cell, options: argparse.Namespace) -> int:
    """All sites train together; the file has what each of them reports."""
    from simulations.run import run
    from simulations.tables.cells import write_cell
    from simulations.tables.finished import cell_file, measured_sites, seconds_at_work
    from simulations.tables.run_folders import forget, opened

    folder, resume = opened(options.runs, cell.config)
    if (failed := run(cell.config, folder, resume=resume)) != 0:
        return failed
    file: CellFile = cell_file(
        experiment, cell, measured_sites(experiment, cell, folder), seconds_at_work(folder.events)
    )
    write_cell(options.results, file)
    forget(folder, cell.config)
    return 0


def _run_newcomers(experiment: Experiment, cell: Cell, options: argparse.Namespace) -> int:
    """Each site in turn is the one that comes later."""
    from simulations.tables.cells import write_cell
    from simulations.tables.finished import cell_file
    from simulations.tables.newcomers import FailedRunError, measure_newcomers
    from simulations.tables.run_folders import forget_sites

    try:
        sites, seconds = measure_newcomers(experiment, cell, options.runs)
    except FailedRunError as error:
        print(error, file=sys.stderr)  # noqa: T201  # into the cell's log
        return 1
    write_cell(options.results, cell_file(experiment, cell, sites, seconds))
    forget_sites(cell.config)
    return 0


if __name__ == "__main__":
    run_command(main, private=False)
