"""Simulation settings for tests: two synthetic hospitals of a few films, or folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hospitals import FINDINGS

from simulations.settings import SimulationConfig


def spec(name: str, patients: int = 2) -> dict[str, Any]:
    """Settings of a hospital with one small film a patient."""
    return {
        "name": name,
        "patients": patients,
        "prevalence": {"Lung Opacity": 0.5},
        "scanner": "dx_mono2_14bit_window",
        "image_size": 64,
    }


def simulation_settings(
    data: Path, *, seed: int = 3, sites: tuple[str, ...] = ("A", "B"), **section: Any
) -> dict[str, Any]:
    """A simulation of `sites`, synthetic ones unless `section` says otherwise, as its file has it."""
    return {
        "name": "test",
        "seed": seed,
        "findings": FINDINGS,
        "privacy": "off",
        "federation": {"sites": sites, "rounds": 2, "quorum": min(2, len(sites))},
        "simulation": {"hospitals": [spec(name) for name in sites], "data": data, **section},
    }


def simulation(data: Path, **settings: Any) -> SimulationConfig:
    """`simulation_settings`, validated."""
    return SimulationConfig.model_validate(simulation_settings(data, **settings))
