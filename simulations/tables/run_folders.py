"""The run folders of cells: gone on with, begun anew where the settings are others, and left small."""

from __future__ import annotations

import shutil
from pathlib import Path

from acm_core.config.loading import ConfigError, load_config
from server.round.run_folder import RunFolder
from simulations.settings import SimulationConfig
from simulations.tables.cells import settings_of


def opened(runs: Path, config: SimulationConfig) -> tuple[RunFolder, bool]:
    """The run's folder, made ready, and whether it holds a run of these settings to go on with.

    One of other settings, which nobody will ask for, is removed with what its sites kept.
    """
    folder = RunFolder((runs / config.name).resolve())
    resume = folder.config.exists() and _holds(folder, config)
    if not resume:
        shutil.rmtree(folder.folder, ignore_errors=True)
        forget(folder, config)
    folder.open(config, resume=resume)
    return folder, resume


def forget(folder: RunFolder, config: SimulationConfig) -> None:
    """Remove what only going on would need: hundreds of megabytes of models, and films that are drawn again."""
    shutil.rmtree(folder.state, ignore_errors=True)
    forget_sites(config)


def forget_sites(config: SimulationConfig) -> None:
    """Remove what the simulated sites keep."""
    for kind in ("state", "sites", "hospitals"):
        shutil.rmtree(config.simulation.data / kind / config.name, ignore_errors=True)


def _holds(folder: RunFolder, config: SimulationConfig) -> bool:
    try:
        before = load_config(folder.config, SimulationConfig)
    except ConfigError:  # of a version with other keys
        return False
    return _like(before, folder) == _like(config, folder)


def _like(config: SimulationConfig, folder: RunFolder) -> object:
    return settings_of(config, folder.folder), config.model.weights_sha256
