"""Figures of how well a model does: what training measures, a site reports and others read.

They are checked where they are read from outside; whoever measures makes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
_Difference = Annotated[float, Field(ge=-1, le=1)]
ModelName = Literal["federated", "fine_tuned", "mixture", "local_only", "pooled"]

DECLARED = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
"""Of everything that a site reports."""


class _Declared:
    __pydantic_config__: ClassVar[ConfigDict] = DECLARED


@dataclass(frozen=True)
class Estimate(_Declared):
    """A value, or a difference of two, with its 95 % interval and standard error.

    Attributes:
        low, high, standard_error: None where fewer than two resamples are left.
        dropped: resamples without one of the classes, which the interval leaves out.
    """

    value: _Difference
    low: _Difference | None
    high: _Difference | None
    standard_error: Share | None
    dropped: Count


@dataclass(frozen=True)
class OperatingPoint(_Declared):
    """A threshold, films at or above which are called positive.

    Attributes:
        specificity: at least this share of the negative films lies below.
        threshold: the lowest score of a film of which that is so; None where even the highest is a negative's.
        sensitivity: share of the positive films at or above.
    """

    specificity: Share
    threshold: Share | None
    sensitivity: Estimate


@dataclass(frozen=True)
class ReliabilityBin(_Declared):
    """Films whose score lies in one tenth of [0, 1].

    Attributes:
        films: how many.
        score: mean score.
        positive: share of positive films.
    """

    films: Count
    score: Share
    positive: Share


@dataclass(frozen=True)
class Calibration(_Declared):
    """Reliability by tenths of the score; None where a tenth holds no film.

    Attributes:
        error: expected calibration error (Naeini et al., AAAI 2015): the mean over films of |score − share of positive
            films| of their bins' means; None without films.
    """

    bins: Annotated[tuple[ReliabilityBin | None, ...], Field(min_length=10, max_length=10)]
    error: Share | None


@dataclass(frozen=True)
class GroupFinding(_Declared):
    """One finding in one group.

    Attributes:
        auroc: None where too few patients have, or have not, the finding.
        positives, negatives: films; None where they are withheld.
    """

    auroc: Estimate | None
    positives: Count | None
    negatives: Count | None


@dataclass(frozen=True)
class Group(_Declared):
    """One group of films by an attribute; its patients and films are None where they are withheld."""

    patients: Count | None
    films: Count | None
    findings: dict[str, GroupFinding]


@dataclass(frozen=True)
class ShortcutFigures(_Declared):
    """One shortcut and one finding.

    Attributes:
        auroc: None where a class is missing among the films scored or among the training films, where the shortcut
            gives all films the same score, or where it is withheld.
        margins: model → its AUROC less the shortcut's, over the same resamples; empty where `auroc` is None.
    """

    auroc: Estimate | None
    margins: dict[ModelName, Estimate]
