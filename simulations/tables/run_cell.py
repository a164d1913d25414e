"""`python -m simulations.tables.run_cell FILE VARIANT SEED`: runs one cell, as `simulations.tables` has it run."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.run_folder import RunFolder
    from simulations.settings import SimulationConfig


def main(arguments: list[str] | None = None) -> int:
    """Run the cell or go on with it, and write its file; returns the exit code (130 interrupted)."""
    parser = argparse.ArgumentParser(prog="python -m simulations.tables.run_cell")
    parser.add_argument("file", type=Path)
    parser.add_argument("variant")
    parser.add_argument("seed", type=int)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(arguments)

    from simulations.engine import start_imports

    start_imports()
    from acm_core.config.loading import ConfigError
    from acm_core.processes import interruptible
    from server.run_folder import RunFolder
    from server.starts import pinned
    from simulations.run import run
    from simulations.tables.cells import write_cell
    from simulations.tables.experiment import load_experiment

    experiment = load_experiment(options.file)
    cell = experiment.cell(options.variant, options.seed)
    try:
        cell = replace(cell, config=pinned(cell.config, experiment.path))
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # into the cell's log
        return 2
    folder = RunFolder((options.runs / cell.config.name).resolve())
    with interruptible():
        try:
            resume = _goes_on(folder, cell.config)
            folder.open(cell.config, resume=resume)
            if (failed := run(cell.config, folder, resume=resume)) != 0:
                return failed
            from simulations.tables.finished import finished_cell

            write_cell(options.results, finished_cell(experiment, cell, folder))
        except KeyboardInterrupt:
            return 130
    _forget(folder, cell.config)
    return 0


def _goes_on(folder: RunFolder, config: SimulationConfig) -> bool:
    """Whether the run folder holds a run of these settings; one of others, which nobody will ask for, is removed."""
    from acm_core.config.loading import ConfigError, load_config
    from simulations.settings import SimulationConfig

    if not folder.config.exists():
        return False
    try:
        before = load_config(folder.config, SimulationConfig)
    except ConfigError:
        before = None
    if before is not None and _like(before, folder) == _like(config, folder):
        return True
    shutil.rmtree(folder.folder)
    _forget(folder, config)
    return False


def _like(config: SimulationConfig, folder: RunFolder) -> object:
    from simulations.tables.cells import settings_of

    return settings_of(config, folder.folder), config.model.weights_sha256


def _forget(folder: RunFolder, config: SimulationConfig) -> None:
    """Remove what only going on would need: hundreds of megabytes of models, and films that are drawn again."""
    for place in (
        folder.state,
        *(config.simulation.data / kind / config.name for kind in ("state", "sites", "hospitals")),
    ):
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
