"""A trained model as a folder that can be handed on: `config.json` and `model.safetensors`.

A mixture of two models has the second one's weights in `own.safetensors`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from acm_core.arrays import Arrays
from acm_core.config.sections import Delivered, ModelConfig, RunName, SiteName
from acm_core.federated.cohort import Cohort, invented_warning, run_in_short
from acm_core.files import file_sha256, write_text_atomically
from acm_core.nn import Classifier, Origin, unfilled_classifier
from acm_core.training.weights import load_arrays, save_arrays, set_arrays

CONFIG, WEIGHTS, OWN_WEIGHTS = "config.json", "model.safetensors", "own.safetensors"
PROGRAM, ONNX, BUNDLE, CARD = "model.pt2", "model.onnx", "monai_bundle", "model_card.md"
_INPUT = (
    "frontal chest X-ray as grey levels from 0 to 1, dense tissue bright; the whole film, its longer side shrunk to "
    "that of the square by averaging areas, the shorter one padded evenly with black (0)"
)

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_IN_WORDS: dict[Delivered, str] = {
    "federated": "the shared model with the site's own normalisation",
    "fine_tuned": "the shared model, fine-tuned on the site's films",
    "mixture": "the mean of the scores of the shared model and of the model that the site trained alone",
    "local_only": "the model that the site trained alone",
}


class DeploymentError(Exception):
    """The folder holds no model that can be used; the message says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OperatingPoint(_Strict):
    """A threshold, chosen on all sites' test films together or on one site's validation films.

    Sensitivity and specificity are those it had there.
    """

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
        site: whose own model this is, with its normalisation; None: the shared one, with the average of the sites'.
        delivered: how the site's model was formed. A `mixture` averages the scores of two models: the shared one and
            the site's own.
        cohorts: of the sites whose films trained it, as far as is known: a site's own model names that site alone.
    """

    format: Literal["acm-fed.model/1"] = "acm-fed.model/1"
    notice: str = "For research only. Not a medical device; no claim of diagnostic performance."
    run: RunName
    version: str
    findings: Annotated[tuple[str, ...], Field(min_length=1)]
    model: ModelConfig
    input: str = _INPUT
    operating_points: dict[str, tuple[OperatingPoint, ...]]
    site: SiteName | None = None
    delivered: Delivered = "federated"
    cohorts: tuple[Cohort, ...] = ()

    @property
    def name(self) -> str:
        """The run, and whether it was of invented films."""
        return run_in_short(self.run, self.cohorts)

    @property
    def warning(self) -> str:
        """What must be said above everything that the model says; empty where nothing must."""
        return invented_warning(self.cohorts)

    @property
    def learnt_from(self) -> list[str]:
        """Whose films trained it, a sentence a site."""
        said = [f"site {cohort.site}: {cohort.films}" for cohort in self.cohorts]
        if not said:
            return ["this model does not say which films it learnt from"]
        if self.site in [cohort.site for cohort in self.cohorts] and self.delivered != "local_only":
            said.append("films of the run's other sites, of which this site knows nothing")
        return said


class Deployment(Description):
    """A description with the hashes of the files of weights that it is of."""

    sha256: Sha256
    own_sha256: Sha256 | None = None

    @property
    def files(self) -> dict[str, str]:
        """Name of each file of weights → its hash: one, or two in a mixture."""
        own = {} if self.own_sha256 is None else {OWN_WEIGHTS: self.own_sha256}
        return {WEIGHTS: self.sha256, **own}

    @property
    def about(self) -> dict[str, str]:
        """What files of other formats say of themselves, name → text."""
        return {
            "model": self.summary,
            "learnt_from": "; ".join(self.learnt_from),
            "notice": " ".join(filter(None, (self.warning, self.notice))),
        }

    @property
    def summary(self) -> str:
        """Which model this is, in a line."""
        if self.site is None:
            return f"{self.name}: the shared model, with the average of the sites' normalisation"
        return f"{self.name}, site {self.site}: {_IN_WORDS[self.delivered]}"


def write_deployment(folder: Path, description: Description, members: Sequence[Arrays]) -> Deployment:
    """Write the files into a folder that is there; of two members the scores are averaged.

    Other forms of the model that was there before go.
    """
    for former in (PROGRAM, ONNX):
        (folder / former).unlink(missing_ok=True)
    shutil.rmtree(folder / BUNDLE, ignore_errors=True)
    origin = Origin(findings=description.findings, model=description.model, made_from=description.name)
    hashes = []
    for name, arrays in zip((WEIGHTS, OWN_WEIGHTS), members, strict=False):
        save_arrays(folder / name, arrays, origin.metadata())
        hashes.append(file_sha256(folder / name))
    if len(members) == 1:
        (folder / OWN_WEIGHTS).unlink(missing_ok=True)  # an earlier mixture's
    deployment = Deployment(**dict(description), sha256=hashes[0], own_sha256=(*hashes, None)[1])
    write_text_atomically(folder / CONFIG, deployment.model_dump_json(indent=1) + "\n")
    return deployment


def read_description(folder: Path) -> Deployment:
    """What a folder says of the model in it; its weights are not looked at.

    Raises:
        DeploymentError: the description is missing, another version's, or damaged.
    """
    try:
        return Deployment.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise _no_deployment(folder, error) from error


def _no_deployment(folder: Path, error: Exception) -> DeploymentError:
    return DeploymentError(
        f"{folder}: expected a folder that server.export wrote, with {CONFIG} and {WEIGHTS}: {_what(error)}"
    )


def read_deployment(folder: Path) -> tuple[Deployment, tuple[Arrays, ...]]:
    """What `write_deployment` wrote: the description and each member's weights.

    Raises:
        DeploymentError: a file is missing, another version's, or damaged.
    """
    deployment = read_description(folder)
    try:
        found = {name: file_sha256(folder / name) for name in deployment.files}
    except OSError as error:
        raise _no_deployment(folder, error) from error
    for name, digest in deployment.files.items():
        if found[name] != digest:
            raise DeploymentError(
                f"{folder / name}: expected the weights that {CONFIG} names, got others: export or copy the folder "
                "again"
            )
    return deployment, tuple(load_arrays(folder / name) for name in deployment.files)


def load_model(folder: Path) -> tuple[Deployment, tuple[Classifier, ...]]:
    """What `read_deployment` gives, as models on the CPU in evaluation mode, whose probabilities are averaged.

    Raises:
        DeploymentError: as `read_deployment`.
        ModelMismatchError: the weights are not those of the model described.
    """
    deployment, members = read_deployment(folder)
    models = []
    for arrays in members:
        model = unfilled_classifier(deployment.model, len(deployment.findings))
        set_arrays(model, arrays)
        models.append(model.eval())
    return deployment, tuple(models)


def _what(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
    return str(error).partition("\n")[0]
