"""What every rule of aggregation shares: who is in, what is refused, and which values a site has a say in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from acm_core.arrays import Arrays
from acm_core.federated.summation import MAX_TOTAL_WEIGHT, WeightedMean
from acm_core.federated.update import RefusalReason, SiteUpdate, UpdateRefused, validate_update

Values = npt.NDArray[Any]
"""One axis: some of an array's values in C order."""

_LONGEST = 2**15  # values: what is computed on the way stays in the processor's cache, and small


class Piece(NamedTuple):
    """A short run of one array's values, which the same sites have a say in.

    Attributes:
        name: of the array.
        finding: index of the finding whose row it lies in; None where the array has no row a finding.
        start, stop: in the flat array.
    """

    name: str
    finding: int | None
    start: int
    stop: int

    def of(self, arrays: Arrays) -> Values:
        """Its values; a view where the array is contiguous."""
        return arrays[self.name].reshape(-1)[self.start : self.stop]


class AggregationRule(ABC):
    """One model out of a round's updates, which are added in any order; `ServerStep` makes the next global one of it.

    `reference` is the global model that the sites started from; it is read and never changed.
    """

    def __init__(
        self,
        reference: Arrays,
        findings: Sequence[str],
        finding_rows: Collection[str] = (),
        *,
        minimum_sites: int = 1,
        minimum_labelling: int | None = None,
    ) -> None:
        """
        Args:
            minimum_sites: updates that a round needs.
            minimum_labelling: sites that a finding's rows need to be aggregated; default: minimum_sites.

        Raises:
            ValueError: `finding_rows` names an array without one row a finding.
            TypeError: an array is of a dtype that has no mean, see `WeightedMean`.
        """
        for name in finding_rows:
            if name not in reference:
                raise ValueError(f"expected finding_rows to name arrays of the model, got {name}")
            if reference[name].shape[:1] != (len(findings),):
                shape = reference[name].shape
                raise ValueError(
                    f"expected {name} to have {len(findings)} rows, one a finding, got shape {shape}"
                )
        for array in reference.values():
            WeightedMean((), array.dtype)
        self._minimum_sites = minimum_sites
        self._minimum_labelling = minimum_sites if minimum_labelling is None else minimum_labelling
        self._reference = reference
        self._findings = tuple(findings)
        self._pieces = [
            piece
            for name, array in reference.items()
            for piece in _cut(name, array, self._findings, finding_rows)
        ]
        self._sites: set[str] = set()
        self._films = 0
        self._labelling = [0] * len(self._findings)  # sites that label films for the finding

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites whose updates are in, sorted."""
        return tuple(sorted(self._sites))

    @property
    def films(self) -> int:
        """Films behind the updates that are in."""
        return self._films

    @property
    def learnt(self) -> tuple[bool, ...]:
        """Of each finding, whether sites enough label it; the rows of the others keep the reference, bit for bit."""
        return tuple(sites >= self._minimum_labelling for sites in self._labelling)

    def add(self, update: SiteUpdate, *, max_growth: float = math.inf) -> None:
        """Validate an update and take it in; its arrays are not held on to. A refused update changes nothing.

        Args:
            max_growth: see `first_fault`.

        Raises:
            UpdateRefused: see `validate_update`; also where the site's update is already in, or where the
                films of all sites together exceed `MAX_TOTAL_WEIGHT`.
        """
        validate_update(update, self._reference, self._findings, max_growth)
        if update.site in self._sites:
            raise UpdateRefused(
                update.site,
                RefusalReason.DUPLICATE,
                "expected one update of a site in a round, got a second one",
            )
        if self._films + update.films > MAX_TOTAL_WEIGHT:
            raise UpdateRefused(
                update.site,
                RefusalReason.FILMS,
                f"expected at most {MAX_TOTAL_WEIGHT} films over all sites, got {self._films + update.films}",
            )
        self._take(update)
        self._sites.add(update.site)
        self._films += update.films
        self._labelling = [
            sites + (films > 0) for sites, films in zip(self._labelling, update.labelled, strict=True)
        ]

    def result(self) -> Arrays:
        """The aggregate: new arrays with the names, shapes and dtypes of the reference.

        Raises:
            ValueError: fewer updates are in than the rule needs.
        """
        if len(self._sites) < self._minimum_sites:
            raise ValueError(
                f"expected at least {self._minimum_sites} sites' updates to aggregate, got {len(self._sites)}: "
                "ask the sites again"
            )
        return self._aggregate()

    @abstractmethod
    def _take(self, update: SiteUpdate) -> None:
        """Take in an update that has passed the gate; its arrays belong to the caller."""

    @abstractmethod
    def _aggregate(self) -> Arrays: ...

    def _said(self, update: SiteUpdate) -> Iterator[tuple[Piece, Values]]:
        """What the site has a say in: the arrays that are not the findings', and the rows that it labels films for."""
        for piece in self._pieces:
            if piece.finding is None or update.labelled[piece.finding] > 0:
                yield piece, piece.of(update.arrays)

    def _means(self) -> dict[Piece, WeightedMean]:
        """A mean of nothing yet for every piece."""
        return {
            piece: WeightedMean((piece.stop - piece.start,), self._reference[piece.name].dtype)
            for piece in self._pieces
        }

    def _assembled(self, combined: Callable[[Piece, Values], Values]) -> Arrays:
        """The arrays of which `combined(piece, the reference's values)` gives every piece that is learnt."""
        arrays = {name: array.copy() for name, array in self._reference.items()}
        learnt = self.learnt
        for piece in self._pieces:
            if piece.finding is None or learnt[piece.finding]:
                piece.of(arrays)[:] = combined(piece, piece.of(self._reference))
        return arrays


def _cut(
    name: str, array: npt.NDArray[Any], findings: Sequence[str], finding_rows: Collection[str]
) -> Iterator[Piece]:
    rows: Sequence[int | None] = range(len(findings)) if name in finding_rows else (None,)
    width = array.size // max(len(rows), 1)
    for place, finding in enumerate(rows):
        end = (place + 1) * width
        for start in range(place * width, end, _LONGEST):
            yield Piece(name, finding, start, min(start + _LONGEST, end))
