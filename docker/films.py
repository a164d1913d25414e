"""Writes the synthetic hospitals of `configs/demo.yaml` into `/films`, a folder each; finished ones stay."""

from __future__ import annotations

from pathlib import Path

from acm_core.config.loading import load_config
from simulations.phantoms import write_hospital
from simulations.settings import SimulationConfig


def main() -> None:
    """Write them."""
    config = load_config(Path(__file__).with_name("demo.yaml"), SimulationConfig)
    for hospital in config.simulation.hospitals:
        folder = write_hospital(hospital, Path("/films") / hospital.name, config.seed)
        print(f"hospital {hospital.name}: {folder}", flush=True)  # noqa: T201  # the command's own output


if __name__ == "__main__":
    main()
