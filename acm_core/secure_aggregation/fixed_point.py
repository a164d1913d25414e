"""Weighted updates as integers whose sums are exact, whatever the order, and never wrap.

A value is films · (site's − global value) in units of a power of two, rounded half to even. Every unit follows from
public numbers alone: the global model, and for each site of the list a power of two that its films do not exceed.
float32 arrays of two axes and more are summed modulo 2³², everything else modulo 2⁶⁴.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acm_core.arrays import Arrays
from acm_core.federated.update import SiteUpdate, validate_update
from acm_core.secure_aggregation.masks import Vector
from acm_core.secure_aggregation.promise import LOSSES
from acm_core.secure_aggregation.sum_list import Terms

LARGEST_LOSS = 1024.0
"""A loss counts as this where it is larger."""

_GROWTH, _GROWTH_HIGH = (
    4.0,
    1000.0,
)  # times an array's largest value, or 1, that its values may move in a round
_BITS, _HIGH_BITS = 30, 61  # of a sum without its rounding, which adds half a unit a site; and the sign
_MOST_STEPS = 2.0**28  # that an integer may move
_PIECE = 2**15  # values: what is computed on the way stays in the processor's cache, and small

_Values = npt.NDArray[Any]


class OutOfRangeError(ValueError):
    """An update moves a value farther than training does in a round, and than the sum has room for."""


class SumError(ValueError):
    """A sum that no honest sites make: masks that did not cancel, or a site that sent something else."""


class _Slot(NamedTuple):
    """A short run of one array's values under one weight, and where it begins in its half of the vector."""

    name: str
    finding: int | None
    start: int
    stop: int
    at: int


class _Unit(NamedTuple):
    """What an array's values may move, and how many steps of its grid are 1; both powers of two."""

    bound: float
    scale: float


@dataclass(frozen=True)
class JointMean:
    """What a sum says.

    Attributes:
        arrays: the mean of the sites' models: names, shapes and dtypes of the global one.
        films: of all sites.
        labelled: of these, labelled for each finding; 0 where its rows were not summed.
        losses: mean over the films, of those losses that every site has measured.
        learnt: of each finding, whether its rows were summed; the others keep the global values, bit for bit.
    """

    arrays: Arrays = field(repr=False)
    films: int
    labelled: tuple[int, ...]
    losses: dict[str, float]
    learnt: tuple[bool, ...]


class Layout:
    """Where each value lies in the vector, and its unit: the same at every site of a list and at the server.

    Arrays by name, then films, labelled films of each finding, and losses.
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str], terms: Terms
    ) -> None:
        """
        Args:
            reference: the global model that the sites started from; read, never changed. Finite values.
            finding_rows: arrays that have one row a finding.
            terms: of the list.

        Raises:
            ValueError: the model has other rows than the list has findings, or values that are not finite.
            TypeError: an array is of a dtype that has no sum here.
        """
        if len(terms.rows) != len(findings):
            raise ValueError(f"expected promises about {len(findings)} findings, got {len(terms.rows)}")
        for name in finding_rows:
            if reference[name].shape[:1] != (len(findings),):
                shape = reference[name].shape
                raise ValueError(
                    f"expected {name} to have {len(findings)} rows, one a finding, got shape {shape}"
                )
        self._reference, self._findings, self._terms = reference, tuple(findings), terms
        self._flat = _flat(reference)
        self._units = {name: _unit(name, array, terms.films) for name, array in reference.items()}
        low = [name for name in sorted(reference) if _is_low(reference[name])]
        high = [name for name in sorted(reference) if not _is_low(reference[name])]
        self._low = list(_cut(low, reference, len(findings), finding_rows))
        self._high = list(_cut(high, reference, len(findings), finding_rows))
        self.low_size = sum(reference[name].size for name in low)
        self._counts_at = sum(reference[name].size for name in high)
        self.high_size = self._counts_at + 1 + len(findings) + len(LOSSES)

    def grid(self, name: str) -> float:
        """The step of an array's weighted values, a power of two."""
        return 1 / self._units[name].scale

    def bound(self, name: str) -> float:
        """What an array's values may move in a round, a power of two."""
        return self._units[name].bound

    def encode(self, update: SiteUpdate) -> Vector:
        """The update as integers; where a row stays as it is, and for its labelled films, zeros.

        Raises:
            UpdateRefused: the update does not fit the global model, see `validate_update`.
            OutOfRangeError: a value moved too far, or the films exceed what the list promises.
        """
        validate_update(update, self._reference, self._findings)
        if update.films > self._terms.films:
            raise OutOfRangeError(f"expected at most {self._terms.films} films, got {update.films}")
        labelled = self._open(update.labelled)
        low, high = np.empty(self.low_size, np.int32), np.empty(self.high_size, np.int64)
        flat = _flat(update.arrays)
        for slots, vector in ((self._low, low), (self._high, high)):
            for slot in slots:
                weight = update.films if slot.finding is None else labelled[slot.finding]
                vector[slot.at : slot.at + slot.stop - slot.start] = self._steps(slot, flat, weight)
        high[self._counts_at :] = (update.films, *labelled, *self._loss_steps(update))
        return Vector(low.view(np.uint32), high.view(np.uint64))

    def decode(self, total: Vector) -> JointMean:
        """The mean that the sum of all sites' vectors stands for; the same bits on every machine.

        Raises:
            SumError: no honest sites have such a sum.
        """
        low, high = total.low.view(np.int32), total.high.view(np.int64)
        counts = [int(count) for count in high[self._counts_at :]]
        films, labelled = counts[0], tuple(counts[1 : 1 + len(self._findings)])
        self._expect_counts(films, labelled)
        losses = self._losses(counts[1 + len(self._findings) :], films)
        arrays = {name: array.copy() for name, array in self._reference.items()}
        for slots, vector in ((self._low, low), (self._high, high)):
            for slot in slots:
                weight = films if slot.finding is None else labelled[slot.finding]
                steps = vector[slot.at : slot.at + slot.stop - slot.start]
                arrays[slot.name].reshape(-1)[slot.start : slot.stop] = self._moved(slot, steps, weight)
        return JointMean(arrays, films, labelled, losses, self._terms.rows)

    def _steps(self, slot: _Slot, arrays: Arrays, weight: int) -> _Values:
        """The slot's values as integers, still as floats where they were floats."""
        array, base = arrays[slot.name][slot.start : slot.stop], self._flat[slot.name][slot.start : slot.stop]
        bound, scale = self._units[slot.name]
        moved = _moves(slot.name, array, base, bound)
        if base.dtype.kind != "f":
            return (array.astype(np.int64) - base.astype(np.int64)) * np.int64(weight)
        moved *= weight * scale
        return np.rint(moved, out=moved)

    def _moved(self, slot: _Slot, steps: _Values, weight: int) -> _Values:
        """The slot's mean values."""
        base = self._flat[slot.name][slot.start : slot.stop]
        bound, scale = self._units[slot.name]
        if weight == 0:
            if steps.any():
                raise SumError(f"{slot.name}: expected zeros in a row that is not summed, got others")
            return base
        mean: _Values = _half_even(steps, weight) if base.dtype.kind != "f" else steps / (weight * scale)
        if not np.absolute(mean).max(initial=0.0) <= bound:
            raise SumError(f"{slot.name}: expected a mean change of at most {bound:g}, got more")
        if base.dtype.kind != "f":
            return _stepped(slot.name, base, mean)
        with np.errstate(over="ignore"):
            values: _Values = (base + mean).astype(base.dtype)
        if not np.isfinite(values).all():
            raise SumError(f"{slot.name}: expected finite means, got others")
        if slot.name.rsplit(".", 1)[-1] == "running_var":
            np.maximum(values, 0, out=values)
        return np.where(steps == 0, base, values)  # −0.0 and all

    def _open(self, labelled: Sequence[int]) -> tuple[int, ...]:
        """Labelled films of the findings whose rows are summed, 0 of the others."""
        return tuple(films if row else 0 for films, row in zip(labelled, self._terms.rows, strict=True))

    def _expect_counts(self, films: int, labelled: tuple[int, ...]) -> None:
        fit = self._terms.sites <= films <= self._terms.films and all(
            sites <= count <= films if row else count == 0
            for sites, count, row in zip(self._terms.labelling, labelled, self._terms.rows, strict=True)
        )
        if not fit:
            raise SumError(
                "expected counts of films that the list's sites can have, got others: masks did not cancel"
            )

    def _loss_steps(self, update: SiteUpdate) -> Iterator[int]:
        scale = _scale(_HIGH_BITS, LARGEST_LOSS, self._terms.films)
        for loss, summed in zip(LOSSES, self._terms.losses, strict=True):
            value = update.metrics.get(loss, math.nan) if summed else 0.0
            if not 0 <= value < math.inf:
                raise OutOfRangeError(f"expected the {loss} that was promised, at least 0, got {value}")
            yield round(update.films * min(value, LARGEST_LOSS) * scale)

    def _losses(self, sums: Sequence[int], films: int) -> dict[str, float]:
        scale = _scale(_HIGH_BITS, LARGEST_LOSS, self._terms.films)
        most = films * LARGEST_LOSS * scale + self._terms.sites
        means: dict[str, float] = {}
        for loss, total, summed in zip(LOSSES, sums, self._terms.losses, strict=True):
            if not 0 <= total <= (most if summed else 0):
                raise SumError(f"expected a sum of {loss} that sites can have, got another")
            if summed:
                means[loss.value] = total / (films * scale)
        return means


def expect_in_range(update: SiteUpdate, reference: Arrays, findings: Sequence[str]) -> None:
    """Refuse an update that no list could sum, before it is promised.

    Raises:
        UpdateRefused: it does not fit the global model `reference`, see `validate_update`.
        OutOfRangeError: a value moved too far.
    """
    validate_update(update, reference, findings)
    flat, base = _flat(update.arrays), _flat(reference)
    for name, array in reference.items():
        bound = _bound(name, array)
        for start in range(0, array.size, _PIECE):
            _moves(name, flat[name][start : start + _PIECE], base[name][start : start + _PIECE], bound)


def _moves(name: str, array: _Values, base: _Values, bound: float) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):
        moved = array.astype(np.float64)
        moved -= base
    if not np.absolute(moved).max(initial=0.0) <= bound:
        raise OutOfRangeError(f"{name}: expected values that move by at most {bound:g} in a round, got more")
    return moved


def _flat(arrays: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(array).reshape(-1) for name, array in arrays.items()}


def _unit(name: str, array: _Values, films: int) -> _Unit:
    bound = _bound(name, array)
    if array.dtype.kind != "f":
        return _Unit(min(bound, math.ldexp(1.0, _HIGH_BITS - _exponent(films))), 1.0)
    return _Unit(bound, _scale(_BITS if _is_low(array) else _HIGH_BITS, bound, films))


def _bound(name: str, array: _Values) -> float:
    """What the array's values may move, whatever the list."""
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8 or array.dtype == np.uint64:
        raise TypeError(f"{name}: expected floats or integers of up to 8 bytes, got {array.dtype}")
    if array.dtype.kind != "f":
        return _MOST_STEPS
    largest = max(float(array.max()), -float(array.min())) if array.size else 0.0
    if not math.isfinite(largest):
        raise ValueError(f"{name}: expected finite values in the global model, got others")
    growth = _GROWTH if _is_low(array) else _GROWTH_HIGH
    return math.ldexp(1.0, _exponent(growth * max(1.0, largest)))


def _scale(bits: int, bound: float, films: int) -> float:
    """The power of two by which films · bound · scale ≤ 2^bits."""
    return math.ldexp(1.0, bits - _exponent(films) - _exponent(bound))


def _exponent(value: float) -> int:
    """The smallest e with 2^e ≥ value > 0."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


def _is_low(array: _Values) -> bool:
    return array.dtype == np.float32 and array.ndim >= 2


def _cut(
    names: Sequence[str], arrays: Arrays, findings: int, finding_rows: Collection[str]
) -> Iterator[_Slot]:
    at = 0
    for name in names:
        rows: Sequence[int | None] = range(findings) if name in finding_rows else (None,)
        width = arrays[name].size // len(rows)
        for place, finding in enumerate(rows):
            end = (place + 1) * width
            for start in range(place * width, end, _PIECE):
                stop = min(start + _PIECE, end)
                yield _Slot(name, finding, start, stop, at)
                at += stop - start


def _half_even(sums: _Values, weight: int) -> _Values:
    """sums / weight, rounded half to even; int64."""
    quotient: _Values = sums // weight
    rest = sums - quotient * weight
    up: _Values = (rest > weight - rest) | ((rest == weight - rest) & (quotient % 2 == 1))
    return quotient + up


def _stepped(name: str, base: _Values, mean: _Values) -> _Values:
    values = base.astype(np.int64) + mean
    info = np.iinfo(base.dtype)
    wrapped = (values < base) != (mean < 0)  # beyond 64 bits
    if wrapped.any() or (values < info.min).any() or (values > info.max).any():
        raise SumError(f"{name}: expected means that {base.dtype} holds, got others")
    return values.astype(base.dtype)
