"""The sections of a federation file and of a site file, validated when built; descriptions give units."""

from __future__ import annotations

import re
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
        "torchvision's names",
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

    def shared(self) -> FederationConfig:
        """As sites and other readers see it, without the operator's path of the start."""
        return self.model_copy(update={"model": self.model.shared()})

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


class LabelMap(Section):
    """How the site's label file says what the vocabulary says: its column names and its values."""

    patient: str = Field("patient_id", description="column of the hospital's patient id")
    patient_pattern: str | None = Field(
        None,
        description="regular expression for the patient within that column's text, such as patient\\d+ in CheXpert's "
        "Path; its first group if it has one; default: the whole text",
    )
    image: str = Field(
        "image", description="column of the film: path in the films folder, or file name alone"
    )
    image_suffix: str = Field(
        "",
        description="ending that the names in that column lack, such as .png; a name with its ending stays as it is",
    )
    view: str | None = Field(
        None,
        description="column of the view, for films whose header is silent; null: the one that is called so, such as "
        "ViewPosition; empty: none",
    )
    sex: str | None = Field(None, description="column of the patient's sex, as view")
    age: str | None = Field(None, description="column of the age in years, as view")
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="finding → its column, where the name is no alias of the finding; null: a column of that name is "
        "something else",
    )
    positive: tuple[str, ...] = Field(("1", "1.0"), description="values for present")
    negative: tuple[str, ...] = Field(("0", "0.0"), description="values for absent")
    uncertain: tuple[str, ...] = Field(("-1", "-1.0"), description="values for uncertain")
    not_labelled: tuple[str, ...] = Field(("",), description="values for nobody looked, which is not absent")
    uncertain_policy: Literal["ignore", "positive", "negative"] = Field(
        "ignore", description="what an uncertain label counts as; ignore: not labelled"
    )
    list_column: str | None = Field(
        None, description="one column that lists the findings present, instead of a column a finding"
    )
    list_separator: str = Field("|", min_length=1, description="between the names of the list")
    list_findings: tuple[str, ...] = Field(
        (), description="findings that the list would name if present: absent where it does not"
    )
    list_names: dict[str, str] = Field(
        default_factory=dict, description="name in the list → finding, where the vocabulary does not know it"
    )

    @field_validator("patient_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"expected a regular expression, got {pattern}: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> LabelMap:
        values = [
            value
            for kind in (self.positive, self.negative, self.uncertain, self.not_labelled)
            for value in {value.strip().casefold() for value in kind}
        ]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"expected each value in one list, got in two: {', '.join(map(repr, twice))}")
        if bool(self.list_column) != bool(self.list_findings):
            raise ValueError("expected list_column and list_findings together, or neither")
        if self.list_names and not self.list_column:
            raise ValueError("expected list_column beside list_names")
        if self.patient == self.image and self.patient_pattern is None:
            raise ValueError(
                f"expected patient_pattern where patient and image are one column ({self.image}): the part of it that "
                "names the patient, or .+ if each film is another patient's"
            )
        return self


Release = Literal["withheld", "coarsened", "exact"]


class SitePrivacy(Section):
    """What a site permits to be learnt about its patients, and what it has decided to be public about itself."""

    required: bool = Field(
        True,
        description="refuse runs without differential privacy, in which counts and metrics below say nothing",
    )
    unit: PrivacyUnit = Field("patient", description="patient: refuse runs that protect single films only")
    epsilon: float = Field(
        gt=0,
        description="ε that all runs together may ever cost a patient, by training on their films or by noised figures "
        "of them as a test patient; the ledger counts both",
    )
    delta: Delta = Field(1e-5, description="δ at which the ledger's ε is computed")
    population: int = Field(
        ge=1,
        description="training units (about 70 % of the patients), a round number that may be known outside: the "
        "sampling rate is expected_batch / population, and the site's weight in the average is population",
    )
    labelled: tuple[str, ...] | None = Field(
        None,
        description="findings that the site's films are labelled for, as may be known outside; null: all",
    )
    counts: Release = Field(
        "withheld", description="numbers of films and patients in reports; coarsened: in steps of 50"
    )
    metrics: Literal["withheld", "coarsened", "noised", "exact"] = Field(
        "withheld",
        description="AUROC on the site's test patients in reports; coarsened: two digits, not private; noised: from "
        "histograms with noise, at metrics_epsilon a run",
    )
    metrics_epsilon: float = Field(
        1.0, gt=0, description="ε that noised metrics of one run cost a test patient"
    )
    witness: Path | None = Field(
        None,
        description="file on another disk that also says where the ledger ends, so that a restored backup is noticed; "
        "beside a ledger that is older, client.privacy --begin-witness writes it",
    )


_FROM_TO = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


class SitePolicy(Section):
    """Which runs a site takes part in; a run that a line does not permit is refused by that line's name."""

    findings: tuple[str, ...] | None = Field(None, description="findings that may be trained for; null: all")
    architectures: tuple[Architecture, ...] | None = Field(
        None, description="models that may be trained; null: all"
    )
    image_size: int | None = Field(
        None, ge=32, description="largest side of the square film in pixels; null: any"
    )
    rounds: int | None = Field(None, ge=1, description="rounds that a run may have; null: any number")
    epochs: int | None = Field(None, ge=1, description="local epochs that a round may have; null: any number")
    batch_size: int | None = Field(
        None, ge=1, description="films that a step may have, or with privacy hold at once; null: any number"
    )
    learning_rate: float | None = Field(None, gt=0, description="largest learning rate; null: any")
    augmentations: int | None = Field(
        None, ge=1, description="views of a film that a private step may average over; null: any number"
    )
    minimum_sites: int = Field(
        1,
        ge=1,
        description="sites whose updates have to be in every average of what all findings share: federation.quorum is "
        "not below; a finding's own row is averaged over the sites that label it, which may be one",
    )
    hours: Annotated[str, StringConstraints(pattern=_FROM_TO)] | None = Field(
        None,
        description="from when to when the site works for the federation, such as 19:00-07:00; null: always",
    )
    smallest_group: int = Field(
        10,
        ge=1,
        description="patients with a finding, and without it, below which a figure of a group (sex, age band, view) is "
        "withheld",
    )


class SplitShares(Section):
    """How a site's patients are parted; another choice parts them anew, so that films trained on may be tested on."""

    validation: float = Field(0.1, ge=0, lt=1, description="share of the patients to validate on")
    test: float = Field(0.2, ge=0, lt=1, description="share of the patients to test on")

    @model_validator(mode="after")
    def _leave_some(self) -> SplitShares:
        if not self.validation + self.test < 1:
            raise ValueError(
                f"expected shares together below 1, got validation {self.validation} and test {self.test}: patients to "
                "train on have to be left"
            )
        return self


class Accept(Section):
    """Words of a site's own that preflight would refuse films for; capitals and accents do not matter."""

    body_part: tuple[str, ...] = Field((), description="what the header calls the chest")
    modality: tuple[str, ...] = Field((), description="what the header calls a radiograph")
    view: dict[str, Literal["AP", "PA", "frontal"]] = Field(
        default_factory=dict,
        description="what header or label file call a view → AP, PA, or frontal where neither is known",
    )


class SiteConfig(Section):
    """A site's own file: paths and what the site does with its films. The file never leaves the site."""

    site: SiteName = Field(description="the site's name, which the file is named after")
    films: Path = Field(description="folder of the films, at any depth")
    labels: Path = Field(description="CSV with a row a film; label_map says how it is read")
    state: Path = Field(
        description="folder for the salt, manifest, prepared films and models that stay at the site"
    )
    label_map: LabelMap = LabelMap()
    accept: Accept = Accept()
    unknown_view: Literal["keep", "set_aside"] = Field(
        "keep", description="films of which neither header nor label file says whether they are AP or PA"
    )
    splits: SplitShares = SplitShares()
    policy: SitePolicy = SitePolicy()
    privacy: SitePrivacy | None = Field(
        None,
        description="what the site permits and publishes; null: it takes part in runs without privacy only",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: int | None = Field(None, ge=1, description="CPU threads for training; default: all cores")
    workers: int = Field(
        0, ge=0, description="processes that make batches ahead of training; 0: made in between"
    )
