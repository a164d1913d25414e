"""A trained model as a folder that can be handed on: `config.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from acm_core.config.sections import ModelConfig, RunName
from acm_core.federated.update import Arrays
from acm_core.files import file_sha256, write_text_atomically
from acm_core.nn import Classifier, Origin, unfilled_classifier
from acm_core.training.weights import load_arrays, save_arrays, set_arrays

CONFIG, WEIGHTS = "config.json", "model.safetensors"

Share = Annotated[float, Field(ge=0, le=1)]


class DeploymentError(Exception):
    """The folder holds no model that can be used; the message says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OperatingPoint(_Strict):
    """A threshold on all sites' test films together; sensitivity and specificity are those it had there."""

    specificity: Share
    threshold: Share
    sensitivity: Share

    def calls_positive(self, score: float) -> bool:
        """Whether a film with this score has the finding, as far as this threshold says."""
        return score >= self.threshold


class Description(_Strict):
    """What has to be known to use the weights.

    Attributes:
        run, version: where the model comes from: the run's name and the release that trained it.
        input: what the model takes, in words.
        operating_points: finding → points; none where the sites withheld their figures.
    """

    format: Literal["acm-fed.model/1"] = "acm-fed.model/1"
    notice: str = "For research only. Not a medical device; no claim of diagnostic performance."
    run: RunName
    version: str
    findings: Annotated[tuple[str, ...], Field(min_length=1)]
    model: ModelConfig
    input: str
    operating_points: dict[str, tuple[OperatingPoint, ...]]


class Deployment(Description):
    """A description with the hash of the file of weights that it is of."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def write_deployment(folder: Path, description: Description, arrays: Arrays) -> Deployment:
    """Write both files into a folder that is there."""
    origin = Origin(
        findings=description.findings, model=description.model, made_from=f"run {description.run}"
    )
    save_arrays(folder / WEIGHTS, arrays, origin.metadata())
    deployment = Deployment(**dict(description), sha256=file_sha256(folder / WEIGHTS))
    write_text_atomically(folder / CONFIG, deployment.model_dump_json(indent=1) + "\n")
    return deployment


def read_deployment(folder: Path) -> tuple[Deployment, Arrays]:
    """What `write_deployment` wrote.

    Raises:
        DeploymentError: a file is missing, another version's, or damaged.
    """
    try:
        deployment = Deployment.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
        digest = file_sha256(folder / WEIGHTS)
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DeploymentError(
            f"{folder}: expected a folder that server.export wrote, with {CONFIG} and {WEIGHTS}: {_what(error)}"
        ) from error
    if digest != deployment.sha256:
        raise DeploymentError(
            f"{folder / WEIGHTS}: expected the weights that {CONFIG} names, got others: export or copy the folder again"
        )
    return deployment, load_arrays(folder / WEIGHTS)


def load_model(folder: Path) -> tuple[Deployment, Classifier]:
    """What `read_deployment` gives, as a model on the CPU in evaluation mode.

    Raises:
        DeploymentError: as `read_deployment`.
        ModelMismatchError: the weights are not those of the model described.
    """
    deployment, arrays = read_deployment(folder)
    model = unfilled_classifier(deployment.model, len(deployment.findings))
    set_arrays(model, arrays)
    return deployment, model.eval()


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
    return str(error).partition("\n")[0]
