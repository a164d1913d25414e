"""What a site reports about models on its own test films: a closed structure, checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

from acm_core.config.sections import Delivered
from acm_core.config.site import About, Release
from acm_core.federated.messages import MessageError
from acm_core.figures import (
    DECLARED,
    Calibration,
    Count,
    Estimate,
    Group,
    ModelName,
    OperatingPoint,
    ShortcutFigures,
)
from acm_core.groups import Attribute, GroupName
from acm_core.histograms import BINS
from acm_core.shortcuts import ReportedShortcut

MAX_BYTES = 4 * 2**20
COUNT_STEP = 50
"""Films or patients that a coarsened count is rounded down to."""

ReasonCode = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _ascending(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if any(first[0] >= second[0] for first, second in pairwise(pairs)):
        raise ValueError("expected each bin once, ascending")
    return pairs


Pairs = Annotated[
    tuple[tuple[Annotated[int, Field(ge=0, lt=BINS)], Annotated[int, Field(ge=1, le=10_000_000)]], ...],
    AfterValidator(_ascending),
]


class _Declared(BaseModel):
    model_config = DECLARED


class HistogramReport(_Declared):
    """(bin, films) of `ScoreHistogram`, bins ascending."""

    positives: Pairs
    negatives: Pairs


class FindingReport(_Declared):
    """One finding: no AUROC ("not defined") unless both classes are among the test films.

    Counts, calibration and histogram are None where they are withheld.
    """

    defined: bool
    auroc: Estimate | None
    auprc: Estimate | None
    positives: Count | None
    negatives: Count | None
    operating_points: tuple[OperatingPoint, ...] = ()
    calibration: Calibration | None = None
    histogram: HistogramReport | None = None


class ModelReport(_Declared):
    """One model: `gain` is its mean AUROC less that of the local-only model on the same resamples.

    `subgroups`: attribute → group → figures, of the federated model.
    """

    findings: dict[str, FindingReport]
    mean_auroc: Estimate | None
    gain: Estimate | None
    subgroups: dict[Attribute, dict[GroupName, Group]] = Field(default_factory=dict)


class SiteReport(_Declared):
    """One site.

    Attributes:
        films, patients, training_films: of the test split, and of the training split; None: withheld.
        set_aside: reason code → files that cannot be used; those that are withheld are missing.
        metrics, counts: how the site lets its figures, and its numbers of films and patients, leave under differential
            privacy.
        delivered: the model that the site has in the end; None: withheld.
        fingerprint: of the site's dataset; None: withheld.
        smallest_group: patients below which the site withholds a group's figures.
        shortcuts: shortcut → finding → figures; empty where they are withheld.
        invented: its films are phantoms, drawn by a computer.
        about: which films, whose labels, what years, in the site's words; None: it does not say.
    """

    films: Count | None
    patients: Count | None
    training_films: Count | None
    set_aside: dict[ReasonCode, Count]
    models: dict[ModelName, ModelReport]
    metrics: Literal["withheld", "coarsened", "noised", "exact"] = "exact"
    counts: Release = "exact"
    delivered: Delivered | None = None
    fingerprint: Sha256 | None = None
    smallest_group: Count | None = None
    shortcuts: dict[ReportedShortcut, dict[str, ShortcutFigures]] = Field(default_factory=dict)
    invented: bool = False
    about: About | None = None


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
    groups = (
        group
        for model in report.models.values()
        for by_name in model.subgroups.values()
        for group in by_name.values()
    )
    figures: list[Collection[str]] = [
        *(model.findings for model in report.models.values()),
        *(group.findings for group in groups),
        *report.shortcuts.values(),
    ]
    if any(set(some) != set(findings) for some in figures):
        raise MessageError(f"expected figures for {', '.join(findings)} of each model")
    if not _comparable(report):
        raise MessageError("expected margins over a shortcut of models that the report has AUROCs of")
    return report


def _comparable(report: SiteReport) -> bool:
    """Whether each margin lies between two AUROCs of the report."""
    return all(
        figures.auroc is not None
        and (of_model := report.models.get(model)) is not None
        and of_model.findings[finding].auroc is not None
        for by_finding in report.shortcuts.values()
        for finding, figures in by_finding.items()
        for model in figures.margins
    )
