"""Small experiments, and finished cells made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hospitals import FINDINGS
from simulated import simulation_settings

from simulations.tables.cells import CellFile, Code, SiteFigures, digest, settings_of, write_cell
from simulations.tables.experiment import Experiment, load_experiment
from simulations.tables.replicates import RESAMPLES, pack


def write_base(folder: Path, **changes: Any) -> Path:
    """A simulation's file with the hospitals A and B."""
    path = folder / "base.yaml"
    path.write_text(json.dumps({**simulation_settings(Path("data")), **changes}, default=str), "utf-8")
    return path


def experiment(folder: Path, name: str = "study", **settings: Any) -> Experiment:
    """An experiment over `write_base`, written and read."""
    if not (folder / "base.yaml").exists():
        write_base(folder)
    whole = {
        "title": "A study",
        "base": "base.yaml",
        "seeds": [1, 2],
        "variants": {"one": {}, "other": {"settings": {"model": {"context": "none"}}}},
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(whole), "utf-8")  # JSON is YAML
    return load_experiment(path)


def figures(models: Mapping[str, float], spread: float = 0.02, **changes: Any) -> SiteFigures:
    """A site where each model has that AUROC for every finding; the resamples of all move together."""
    moves = spread * np.random.default_rng(0).standard_normal(RESAMPLES)
    return SiteFigures.model_validate(
        {
            "fingerprint": "f" * 64,
            "training_films": 100,
            "films": 50,
            "patients": 40,
            "positives": [20] * len(FINDINGS),
            "negatives": [30] * len(FINDINGS),
            "counted": [True] * len(FINDINGS),
            "models": {
                name: {
                    "aurocs": [value] * len(FINDINGS),
                    "mean": value,
                    "resampled": pack(np.clip(value + moves, 0, 1)),
                }
                for name, value in models.items()
            },
            "shortcuts": {},
            **changes,
        }
    )


def finish(
    results: Path, of: Experiment, variant: str, seed: int, sites: dict[str, SiteFigures], **changes: Any
) -> CellFile:
    """Write a cell as if it had been run."""
    config, folder = of.cell(variant, seed).config, of.path.absolute().parent
    file = CellFile.model_validate(
        {
            "experiment": of.name,
            "kind": of.settings.kind,
            "variant": variant,
            "seed": seed,
            "least_patients": of.settings.least_patients,
            "digest": digest(config, folder),
            "settings": settings_of(config, folder),
            "files": {},
            "code": Code(commit="c" * 40, clean=True),
            "software": {"torch": "2.14.1", "python": "3.11.7"},
            "cores": 1,
            "seconds": 120.0,
            "findings": config.findings,
            "sites": sites,
            **changes,
        }
    )
    write_cell(results, file)
    return file
