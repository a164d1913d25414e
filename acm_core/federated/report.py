"""What a site reports about models on its own test films: a closed structure, checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from acm_core.federated.messages import MessageError

MAX_BYTES = 2**20

Count = Annotated[int, Field(ge=0, le=10_000_000)]
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
ModelName = Literal["federated", "local_only", "pooled"]


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class EstimateReport(_Declared):
    """A value with its 95 % interval; the interval is absent where too few resamples have both classes."""

    value: Annotated[float, Field(ge=-1, le=1)]
    low: Annotated[float, Field(ge=-1, le=1)] | None
    high: Annotated[float, Field(ge=-1, le=1)] | None
    standard_error: Annotated[float, Field(ge=0, le=1)] | None
    dropped: Count


class FindingReport(_Declared):
    """One finding: no AUROC ("not defined") unless both classes are among the test films. No counts: withheld."""

    defined: bool
    auroc: EstimateReport | None
    auprc: EstimateReport | None
    positives: Count | None
    negatives: Count | None


class ModelReport(_Declared):
    """One model: `gain` is its mean AUROC less that of the local-only model on the same resamples."""

    findings: dict[str, FindingReport]
    mean_auroc: EstimateReport | None
    gain: EstimateReport | None


class SiteReport(_Declared):
    """One site.

    Attributes:
        films, patients, training_films: of the test split, and of the training split; None: withheld.
        set_aside: reason code → files that cannot be used; those that are withheld are missing.
        metrics: how the site lets its figures leave under differential privacy.
    """

    films: Count | None
    patients: Count | None
    training_films: Count | None
    set_aside: dict[ReasonCode, Count]
    models: dict[ModelName, ModelReport]
    metrics: Literal["withheld", "coarsened", "noised", "exact"] = "exact"


def read_report(text: str, findings: Sequence[str]) -> SiteReport:
    """Parse a site's report.

    Raises:
        MessageError: it is not JSON of this structure for these findings. The text does not repeat what came.
    """
    if len(text) > MAX_BYTES:
        raise MessageError(f"expected a report of at most {MAX_BYTES} bytes")
    try:
        report = SiteReport.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        raise MessageError(
            f"expected a site's report: {first['type']} at depth {len(first['loc'])}"
        ) from None
    if any(set(model.findings) != set(findings) for model in report.models.values()):
        raise MessageError(f"expected figures for {', '.join(findings)} of each model")
    return report
