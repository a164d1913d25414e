"""An exported model as a site gets it."""

from __future__ import annotations

from pathlib import Path

from hospitals import FINDINGS
from torch import nn

from acm_core.config.sections import ModelConfig
from acm_core.deployment import Deployment, Description, OperatingPoint, write_deployment
from acm_core.federated.cohort import Cohort
from acm_core.training.weights import get_arrays


def deployed(
    folder: Path,
    config: ModelConfig,
    network: nn.Module,
    points: dict[str, tuple[OperatingPoint, ...]],
    cohorts: tuple[Cohort, ...] = (),
) -> Deployment:
    """What `server.export` would write of `network` into a new folder."""
    folder.mkdir()
    description = Description(
        run="test",
        version="0.1.0",
        findings=tuple(FINDINGS),
        model=config,
        operating_points=points,
        cohorts=cohorts,
    )
    return write_deployment(folder, description, [get_arrays(network)])
