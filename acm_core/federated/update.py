"""What a site sends after a round, and the gate it has to pass before it may touch the global model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.arrays import Arrays

MAX_FILMS = 10_000_000
"""Films that one site may claim: about ten times all public chest X-ray collections together."""

MAX_GROWTH = 1000.0
"""How many times an array's largest value, or 1 where that is smaller, its values may reach in a round."""

_SHOWN_NAME = 100


class RefusalReason(StrEnum):
    """Why an update was refused. The values are stable: they stand in `rounds.jsonl` and in logs."""

    MISSING_ARRAY = "missing_array"
    UNEXPECTED_ARRAY = "unexpected_array"
    SHAPE = "shape"
    DTYPE = "dtype"
    NOT_FINITE = "not_finite"
    NORM = "norm"
    NEGATIVE_VARIANCE = "negative_variance"
    FILMS = "films"
    LABELLED = "labelled"
    DUPLICATE = "duplicate"
    LAYOUT = "layout"  # names, shapes or dtypes: an encoded model has their hash alone
    WRONG_BASE = "wrong_base"  # a difference to another model than the one that was sent


class UpdateRefused(Exception):  # noqa: N818 - a refusal is an outcome of the round, not a defect
    """The update of `site` is not used in this round: `reason` for machines, `detail` for people."""

    def __init__(self, site: str, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"update of site {site} refused ({reason}): {detail}")
        self.site = site
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class SiteUpdate:
    """One site's contribution to one round.

    Attributes:
        site: the name that the server registered for the sender, not one that the sender claims.
        arrays: the site's model after its local epochs: names, shapes and dtypes of the global model.
        films: films trained on.
        labelled: of these, the films with a label (1 or 0) for each finding, in the order of the run's
            findings.
        metrics: for the report only; they do not enter the aggregation.
    """

    site: str
    arrays: Arrays = field(repr=False)
    films: int
    labelled: tuple[int, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)


def validate_update(
    update: SiteUpdate, reference: Arrays, findings: Sequence[str], max_growth: float = math.inf
) -> None:
    """Refuse an update that does not fit the global model `reference`: no broadcast, no cast, no repair.

    Raises:
        UpdateRefused: with the first fault found, of the counts and then of the arrays, see `first_fault`; the detail
            names the array or finding.
    """
    _validate_counts(update, findings)
    if fault := first_fault(update.arrays, reference, max_growth):
        raise UpdateRefused(update.site, *fault)


def first_fault(
    arrays: Mapping[str, Any], reference: Arrays, max_growth: float = math.inf
) -> tuple[RefusalReason, str] | None:
    """Why `arrays`, which came over the network, cannot take the place of `reference`; None where they can.

    Checked in this order: names, then type, dtype, shape and values of each array of the reference. Floats are finite
    and at most `max_growth` times the array's maximum norm in the reference, or `max_growth`. A `running_var` is not
    negative: its square root would turn films into NaN.

    Args:
        max_growth: `MAX_GROWTH` for what comes over the network: training moves weights by far less. Who stays below
            can still do harm (docs/AGGREGATION.md); it keeps out what would ruin every model and statistic at once,
            and what a broken disk makes of numbers.

    Returns:
        The reason for machines, and for people the array's name, what was expected and what came.
    """
    for name in reference:
        if name not in arrays:
            return RefusalReason.MISSING_ARRAY, f"expected the array {name}, got none of that name"
    for name in arrays:
        if name not in reference:
            return (
                RefusalReason.UNEXPECTED_ARRAY,
                f"expected only the arrays of the global model, got {repr(name)[:_SHOWN_NAME]} as well",
            )
    for name, expected in reference.items():
        is_variance = name.rsplit(".", 1)[-1] == "running_var"
        if fault := _fault_of_array(arrays[name], expected, max_growth, is_variance=is_variance):
            reason, detail = fault
            return reason, f"{name}: {detail}"
    return None


def _fault_of_array(
    array: object, expected: npt.NDArray[Any], max_growth: float, *, is_variance: bool
) -> tuple[RefusalReason, str] | None:
    if not isinstance(array, np.ndarray):
        return RefusalReason.DTYPE, f"expected an array of {expected.dtype}, got {type(array).__name__}"
    if array.dtype != expected.dtype:
        return RefusalReason.DTYPE, f"expected {expected.dtype.str}, got {array.dtype.str[:20]}"
    if array.shape != expected.shape:
        return RefusalReason.SHAPE, f"expected shape {expected.shape}, got {array.shape}"
    if expected.dtype.kind == "f":
        odd = array.size - int(np.isfinite(array).sum())
        if odd:
            return (
                RefusalReason.NOT_FINITE,
                f"expected finite values, got {odd} NaN or infinite of {array.size}",
            )
        limit, found = max_growth * max(1.0, _largest(expected)), _largest(array)
        if found > limit:
            return (
                RefusalReason.NORM,
                f"expected values of at most {limit:.3g} in size, got up to {found:.3g}",
            )
    if is_variance and (negative := int((array < 0).sum())):
        return (
            RefusalReason.NEGATIVE_VARIANCE,
            f"expected variances ≥ 0, got {negative} negative of {array.size}",
        )
    return None


def _largest(array: npt.NDArray[Any]) -> float:
    return max(float(array.max()), -float(array.min())) if array.size else 0.0


def _validate_counts(update: SiteUpdate, findings: Sequence[str]) -> None:
    if not _is_count(update.films) or not 1 <= update.films <= MAX_FILMS:
        raise UpdateRefused(
            update.site,
            RefusalReason.FILMS,
            f"expected an integer number of films from 1 to {MAX_FILMS}, got {_shown(update.films)}",
        )
    if not isinstance(update.labelled, tuple) or len(update.labelled) != len(findings):
        raise UpdateRefused(
            update.site,
            RefusalReason.LABELLED,
            f"expected {len(findings)} counts of labelled films, got {_shown(update.labelled)}",
        )
    for finding, count in zip(findings, update.labelled, strict=True):
        if not _is_count(count) or not 0 <= count <= update.films:
            raise UpdateRefused(
                update.site,
                RefusalReason.LABELLED,
                f"expected 0 to {update.films} films labelled for {finding}, got {_shown(count)}",
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """What came in place of a count, bounded: it came over the network."""
    if isinstance(value, int | float) and abs(value) < 1e18:
        return repr(value)
    return (
        f"{type(value).__name__} of length {len(value)}" if isinstance(value, tuple) else type(value).__name__
    )
