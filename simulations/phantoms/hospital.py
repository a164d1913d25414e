"""A synthetic hospital: its patients, what they have, what the hospital labels and which machine it owns."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, field_validator

from acm_core.config.section import Section
from acm_core.config.sections import SiteName
from simulations.phantoms.findings import FINDINGS, NO_FINDING, Finding
from simulations.phantoms.scanner import NamedScanner

GENERATOR = 1
"""Version of what the generator draws; raise it when the same settings give other films."""

Label = Literal["No Finding"] | Finding
LABELS: tuple[Label, ...] = (NO_FINDING, *FINDINGS)
Share = Annotated[float, Field(ge=0, le=1)]


class HospitalSpec(Section):
    """All that decides a synthetic hospital's films, beside the seed."""

    name: SiteName = Field(description="one of federation.sites")
    patients: int = Field(ge=1, le=1_000_000, description="in training, validation and test together")
    films_per_patient: tuple[int, int] = Field((1, 1), description="fewest and most films a patient")
    prevalence: dict[Finding, Share] = Field(
        default_factory=lambda: dict.fromkeys(FINDINGS, 0.2),
        description="share of the patients that have the finding, held exactly up to rounding; absent = 0",
    )
    labels: tuple[Label, ...] = Field(
        LABELS, min_length=1, description="what it labels; the rest stays blank"
    )
    scanner: NamedScanner
    image_size: int = Field(256, ge=64, le=4096, description="pixels along the film's longer side")
    difficulty: Share = Field(0.25, description="of every finding: 0 plain, 1 nearly invisible")
    ap_share: Share = Field(0.0, description="share of films taken from front to back (bedside)")
    female_share: Share = Field(0.5, description="share of the patients who are women")
    age: tuple[int, int] = Field((18, 90), description="youngest and oldest patient in years")

    @field_validator("films_per_patient", "age")
    @classmethod
    def _ordered(cls, span: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= span[0] <= span[1] <= 120:
            raise ValueError(f"expected 1 ≤ first ≤ second ≤ 120, got {span[0]} and {span[1]}")
        return span

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[Label, ...]) -> tuple[Label, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError(f"expected each label once, got {', '.join(labels)}")
        return labels

    def fingerprint(self, seed: int) -> str:
        """Names the films that these settings, this seed and this version of the generator give (SHA-256)."""
        return hashlib.sha256(repr((GENERATOR, seed, self.model_dump_json())).encode()).hexdigest()
