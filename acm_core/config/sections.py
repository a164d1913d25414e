"""The sections of a federation file, validated when built; descriptions give units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    field_validator,
    model_validator,
)

from acm_core.config.aggregation import AggregationConfig, ServerStepConfig
from acm_core.config.section import Section

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
_LONGEST_FINDING = 64


def _printable(name: str) -> str:
    if not (name.isprintable() and 1 <= len(name) <= _LONGEST_FINDING):
        raise ValueError(
            f"expected 1 to {_LONGEST_FINDING} printable characters, got {name[:_LONGEST_FINDING]!r}"
        )
    return name


FindingName = Annotated[str, AfterValidator(_printable)]
"""Nothing that a terminal obeys or that nobody sees: it stands in logs and on screens of the server and the sites."""

Architecture = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


class ModelConfig(Section):
    """The classifier: a ResNet with a context module in every block."""

    architecture: Architecture = Field("resnet18", description="the trunk")
    context: Literal["acm", "acm_mirrored", "se", "cbam", "self_attention", "none"] = Field(
        "acm",
        description="module in every block: attend-and-compare, the same with its query taken from the other side of "
        "the film, squeeze-and-excitation, CBAM, self-attention",
    )
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="normalisation layers; group with differential privacy, unless the head alone trains",
    )
    standardise_weights: bool = Field(
        False,
        description="weight standardisation of the trunk's convolutions; helps with group norm and privacy",
    )
    head: Literal["max", "average", "projected"] = Field(
        "max",
        description="max, average: global pooling of the findings' score maps; projected: linear on the pooled "
        "features, centred, cut to few axes as the start says, at unit length: for private training of the head alone",
    )
    dimensions: int = Field(
        64, ge=1, le=4096, description="axes that a projected head keeps; the start's have to be as many"
    )
    groups: int = Field(32, ge=1, le=2048, description="groups G of the attend-and-compare module")
    initialisation: Literal["kaiming", "identity"] = Field(
        "kaiming", description="of the context modules; identity keeps the residual branch as it is at step 0"
    )
    image_size: int = Field(224, ge=32, le=4096, description="side of the square film in pixels")
    weights: Path | None = Field(
        None,
        description="local file to start from (.safetensors or .pt): of simulations.pretrain, of a run, or with "
        "the names of torchvision or of the attend-and-compare authors' code",
    )
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="SHA-256 that the file of `weights` must have; null: any, and the run writes down which it was",
    )
    trainable: Literal["all", "head", "norm", "last_stage"] = Field(
        "all",
        description="what training changes, and what travels after the first round; head: the findings' head alone; "
        "norm: normalisation layers and head; last_stage: layer4 and head; the rest stays as weights has it",
    )

    def shared(self) -> ModelConfig:
        """As others may see it: the start by its content's hash, not by where it lies."""
        return self.model_copy(update={"weights": None})


Loss = Literal["logistic", "least_squares"]


class TrainingConfig(Section):
    """What a site does in one round."""

    epochs: int = Field(1, ge=1, le=10_000, description="local epochs a round")
    batch_size: int = Field(32, ge=1, le=2**16, description="films a step")
    optimizer: Literal["sgd", "adamw"] = Field(
        "adamw", description="its state stays at the site from round to round"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1000, description="at the start of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD only")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="of matrices and kernels; norms and biases have none"
    )
    schedule: Literal["constant", "cosine"] = Field("cosine", description="over the rounds of the whole run")
    loss: Loss = Field(
        "logistic",
        description="where a film is labelled; least_squares: of a logit's distance from 1 (present) or −1 (absent)",
    )
    orthogonality: float = Field(
        0.1, ge=0, le=100, description="weight of |mean orthogonality term| in the loss"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast where the processor has it in hardware"
    )
    augment: bool = Field(True, description="small rotations, shifts, scales and intensity changes")


PrivacyUnit = Literal["patient", "film"]
Delta = Annotated[float, Field(ge=1e-30, lt=1)]


class PrivacyConfig(Section):
    """Differential privacy that every site of the run keeps: DP-SGD (Abadi et al., CCS 2016) for one unit at a site."""

    unit: PrivacyUnit = Field(
        "patient", description="whose presence is hidden; a patient's films count as one"
    )
    epsilon: float = Field(
        gt=0,
        le=1e6,
        description="ε that the whole run may cost a site's units; above 100 it is no promise about membership, and "
        "was found to stop reconstruction of films (Ziller et al. 2024)",
    )
    delta: Delta = Field(1e-5, description="δ of the whole run; below 1/units")
    clipping_norm: float = Field(
        1.0,
        ge=1e-4,
        le=1e4,
        description="C, bound on the L2 norm of a unit's gradient; with a smaller one gradients whose squares are 0 in "
        "float32 would pass unclipped, and the noise, σ·C, be too little for them",
    )
    expected_batch: int = Field(ge=1, le=2**24, description="units a step on average; the divisor, public")
    films_per_patient: int = Field(
        4, ge=1, le=1000, description="a patient's films in one step at most, drawn anew each step"
    )
    augmentations: int = Field(
        1, ge=1, le=64, description="augmented views of a film, averaged before clipping; costs no ε"
    )
    accountant: Literal["prv", "rdp"] = Field(
        "prv", description="prv: numerical composition, tight; rdp: Rényi, looser and faster"
    )

    @property
    def caveat(self) -> str | None:
        """What has to be said of an ε that promises nobody that their presence stays hidden; None where it does."""
        return no_promise_about_membership(self.epsilon)


def no_promise_about_membership(epsilon: float) -> str | None:
    """What to say of an ε above 100, or None.

    At ε = 100 and δ = 1e-5 a full-batch mechanism already tells presence from absence at ten standard deviations. That
    far larger ones stop reconstruction attacks was found by Ziller et al., Nature Machine Intelligence 2024.
    """
    if epsilon <= _LARGEST_PROMISE:
        return None
    return (
        f"ε = {epsilon:g}: this is no promise about membership; it was found to stop reconstruction of films "
        "(Ziller et al. 2024)"
    )


_LARGEST_PROMISE = 100.0


def _privacy_off(value: object) -> object:
    """`off` is false in YAML."""
    return None if value is False or value == "off" else value


OptionalPrivacy = Annotated[
    PrivacyConfig | None,
    BeforeValidator(_privacy_off),
    PlainSerializer(lambda privacy: "off" if privacy is None else privacy, when_used="json"),
]


class FederationSection(Section):
    """Who takes part and how a round ends."""

    sites: tuple[SiteName, ...] = Field(min_length=1, description="names of the sites of this run")
    rounds: int = Field(ge=1, le=100_000, description="rounds of the whole run")
    quorum: int = Field(1, ge=1, description="sites whose updates a round needs")
    round_deadline: float = Field(3600.0, gt=0, description="seconds a round may take")
    join_deadline: float = Field(
        600.0,
        gt=0,
        description="seconds to wait, at the start, for all sites to connect; then a quorum is enough, and with less "
        "the run stops",
    )
    round_attempts: int = Field(
        3, ge=1, description="times a round below quorum is tried before the run fails"
    )
    aggregation: AggregationConfig = AggregationConfig()
    server_step: ServerStepConfig = ServerStepConfig()
    proximal_mu: float = Field(
        0.0, ge=0, le=1000, description="FedProx: weight of μ/2·‖w − w_global‖²; 0 is FedAvg"
    )
    normalisation: Literal["site", "shared"] = Field(
        "site",
        description="site: each site measures the statistics of batch normalisation on its own films (SiloBN), and so "
        "does a new hospital, without labels; shared: all use the average of the sites' statistics",
    )
    encoding: Literal["float32", "float16", "int8"] = Field(
        "float32",
        description="how weights travel, as differences to those that both sides have: float32 exactly, float16 in "
        "0.6 of its bytes, int8 in a third, what is rounded away being added to the next",
    )
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="the final model is a moving average of the rounds' models, of which each round keeps this share; "
        "smooths private training's noise and costs no ε; 0: the last round's model",
    )

    @model_validator(mode="after")
    def _consistent(self) -> FederationSection:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError(f"expected each site once, got {', '.join(self.sites)}")
        if self.quorum > len(self.sites):
            raise ValueError(f"expected quorum ≤ {len(self.sites)} (the number of sites), got {self.quorum}")
        self.aggregation.expect_quorum(self.quorum)
        return self


Delivered = Literal["federated", "fine_tuned", "mixture", "local_only"]
"""Which of the models that a site can have after a run."""


class DeliverConfig(Section):
    """The model that each site has in the end, formed at the site from its own films."""

    rule: Literal["shared", "fine_tuned", "mixture"] = Field(
        "shared",
        description="shared: the shared model with the site's own normalisation; fine_tuned: that, trained on at the "
        "site; mixture: the mean of its scores and those of the model that the site trained alone. A site departs from "
        "the rule where its validation films show another to be clearly better",
    )
    epochs: int = Field(2, ge=1, le=10_000, description="of fine-tuning")
    learning_rate: float = Field(1e-4, gt=0, le=1000, description="at the start of fine-tuning")


class EvaluationConfig(Section):
    """What is reported about the model."""

    local_only: bool = Field(
        True, description="each site also trains alone, for as many epochs, so that the benefit is known"
    )
    fine_tuned: bool = Field(
        False, description="each site also fine-tunes the shared model and reports it, whatever is delivered"
    )
    bootstrap: int = Field(
        1000, ge=100, le=100_000, description="patient-bootstrap resamples behind each interval"
    )
    specificities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.8, 0.9, 0.95), description="at which sensitivity is reported", max_length=10
    )


class ServerSection(Section):
    """Where the server listens."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0: every one")
    port: int = Field(9092, ge=1, le=65535, description="the one port that sites have to reach")
    names: tuple[str, ...] = Field(
        (), description="host names and addresses by which the sites reach it; default: host"
    )
    message_limit: int = Field(1024, ge=1, description="MiB that one answer of a site may have")


class FederationConfig(Section):
    """One run of a federation: the same for every site; no path of a site and no secret stands in it."""

    name: RunName = Field(description="of the run, and of its folder in runs/")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything that is drawn")
    findings: tuple[FindingName, ...] = Field(
        min_length=1, description="one output of the model each, in this order"
    )
    privacy: OptionalPrivacy = Field(
        description="differential privacy, or off: said in every file, so that nobody trains without it unawares"
    )
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationSection
    deliver: DeliverConfig = DeliverConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    server: ServerSection = ServerSection()

    def for_sites(self) -> str:
        """What a task carries, as JSON: not where the start lies, where the server listens, how long it waits."""
        return self.model_dump_json(
            exclude={
                "server": True,
                "model": {"weights"},
                "federation": {"round_deadline", "join_deadline", "round_attempts"},
            }
        )

    @field_validator("findings")
    @classmethod
    def _distinct(cls, findings: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(findings)) != len(findings):
            raise ValueError(f"expected each finding once, got {', '.join(findings)}")
        return findings

    @property
    def fine_tunes(self) -> bool:
        """Whether each site forms a fine-tuned model."""
        return self.evaluation.fine_tuned or self.deliver.rule == "fine_tuned"

    @model_validator(mode="after")
    def _deliverable(self) -> FederationConfig:
        if self.deliver.rule == "mixture" and not self.evaluation.local_only:
            raise ValueError(
                "expected evaluation.local_only: true with deliver.rule: mixture, got false: it mixes the shared model "
                "with the one that the site trains alone"
            )
        return self

    @model_validator(mode="after")
    def _projected_from_a_start(self) -> FederationConfig:
        if (
            self.model.head == "projected"
            and self.model.weights is None
            and self.model.weights_sha256 is None
        ):
            raise ValueError(
                "expected model.weights with model.head: projected, got none: the axes come with the start "
                "(python -m simulations.pretrain)"
            )
        return self

    @model_validator(mode="after")
    def _trainable_privately(self) -> FederationConfig:
        if self.privacy is None:
            return self
        if self.model.norm != "group" and self.model.trainable != "head":
            raise ValueError(
                f"expected model.norm: group with differential privacy, got {self.model.norm}: batch normalisation "
                "that trains mixes the films of a batch, so that no film's part can be bounded; with model.trainable: "
                "head it is frozen and may be"
            )
        if self.training.precision == "bfloat16":
            raise ValueError("expected training.precision: float32 or auto with differential privacy")
        return self
