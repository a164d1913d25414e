"""Small synthetic hospitals and configurations for tests that train for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from simulations.phantoms import HospitalSpec, write_hospital

FINDINGS = ["Lung Opacity", "Pleural Effusion"]


def federation(**changes: Any) -> FederationConfig:
    """Two sites, two rounds of a small ResNet-18 on 32 × 32 films."""
    settings: dict[str, Any] = {
        "name": "test",
        "seed": 3,
        "findings": FINDINGS,
        "privacy": "off",
        "model": {"architecture": "resnet18", "context": "acm", "image_size": 32},
        "training": {"batch_size": 8, "precision": "float32"},
        "federation": {
            "sites": ["A", "B"],
            "rounds": 2,
            "quorum": 2,
            "join_deadline": 60,
            "round_deadline": 240,
        },
        "evaluation": {"bootstrap": 100},
    }
    for section, values in changes.items():
        settings[section] = (
            {**settings[section], **values} if isinstance(settings.get(section), dict) else values
        )
    return FederationConfig.model_validate(settings)


def hospital(folder: Path, name: str, patients: int = 30, **changes: Any) -> Path:
    """Write a hospital's films and labels and return its folder."""
    settings: dict[str, Any] = {
        "name": name,
        "patients": patients,
        "prevalence": {"Lung Opacity": 0.4, "Pleural Effusion": 0.4},
        "labels": FINDINGS,
        "scanner": "dx_mono2_14bit_window",
        "image_size": 64,
        "difficulty": 0.1,
        **changes,
    }
    write_hospital(HospitalSpec.model_validate(settings), folder / name, 7)
    return folder / name


def site(folder: Path, name: str, **changes: Any) -> SiteConfig:
    """The site file of a hospital written by `hospital`; its salt is fixed so that splits are the same every time."""
    state = Path(changes.pop("state", folder / "state" / name))
    state.mkdir(parents=True, exist_ok=True)
    salt = state / "salt"
    if not salt.exists():
        salt.write_bytes(name.encode() * 32)
        salt.chmod(0o600)
    settings = {
        "site": name,
        "films": folder / name,
        "labels": folder / name / "labels.csv",
        "state": state,
        "threads": 1,
        **changes,
    }
    return SiteConfig.model_validate(settings)
