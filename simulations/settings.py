"""A simulation's file: a federation's settings, and the hospitals to simulate it with."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from acm_core.config.section import Section
from acm_core.config.sections import FederationConfig, SiteName
from acm_core.config.site import SplitShares
from simulations.phantoms.hospital import HospitalSpec


class SimulationSection(Section):
    """Where the simulated sites' films come from, and what is computed beside the federation."""

    hospitals: tuple[HospitalSpec, ...] = Field((), description="synthetic hospitals, written under `data`")
    folders: dict[SiteName, Path] = Field(
        default_factory=dict, description="site → folder with labels.csv and the films it names"
    )
    data: Path = Field(Path("../data"), description="folder for synthetic films and for what the sites keep")
    populations: dict[SiteName, int] = Field(
        default_factory=dict,
        description="site → training units that it makes public (`privacy.population` of its file); with privacy only",
    )
    splits: SplitShares = Field(SplitShares(), description="`splits` of every simulated site's file")
    training_patients: int | None = Field(
        None,
        ge=1,
        description="patients at most that a site trains on, drawn by the seed; validation and test films stay; "
        "null: all",
    )
    processes: int | None = Field(
        None, ge=1, description="sites trained at the same time; default: one a core"
    )
    pooled: bool = Field(True, description="also train one model on all films in one place, for comparison")

    @property
    def sites(self) -> tuple[str, ...]:
        """The simulated sites' names."""
        return (*(hospital.name for hospital in self.hospitals), *self.folders)


class SimulationConfig(FederationConfig):
    """A federation's settings with a `simulation` section."""

    simulation: SimulationSection

    @model_validator(mode="after")
    def _same_sites(self) -> SimulationConfig:
        if sorted(self.simulation.sites) != sorted(self.federation.sites):
            raise ValueError(
                f"expected federation.sites ({', '.join(self.federation.sites)}) to be the simulated hospitals and "
                f"folders ({', '.join(self.simulation.sites)})"
            )
        if self.privacy is not None and (
            missing := set(self.simulation.sites) - set(self.simulation.populations)
        ):
            raise ValueError(
                "expected simulation.populations for each site with differential privacy, got none for "
                f"{', '.join(sorted(missing))}: about 70 % of the site's patients, in round numbers"
            )
        return self

    def federation_config(self) -> FederationConfig:
        """The part that a server and the sites know."""
        return FederationConfig.model_validate(self.model_dump(exclude={"simulation"}))
