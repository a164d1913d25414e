"""Norm clipping (Sun et al. 2019, arXiv:1911.07963): FedAvg in which no site's step is longer than a bound."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from acm_core.arrays import Arrays
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.rule import Piece
from acm_core.federated.update import SiteUpdate


class NormClipping(FedAvg):
    """FedAvg of updates whose difference to the global model is scaled down to an L2 norm of at most `bound`.

    - The norm is over the float arrays and, of the findings' rows, over those that the site labels films for. One
      factor scales the whole difference, up to the rounding of the arrays' dtypes; an update within the bound is
      averaged as it is. One whose norm exceeds float64 counts as no change.
    - A site moves the shared values by at most bound times its share of the films, all sites together by at most
      bound; a finding's rows likewise, by its share of the films labelled.
    - Integers are averaged as they are.

    The bound is fixed. One taken from the round's own updates, such as the median of their norms, would have to
    hold every update until the last has come; this is as flat in memory as FedAvg.
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str], *, bound: float
    ) -> None:
        super().__init__(reference, findings, finding_rows)
        self.norms: dict[str, float] = {}
        """L2 norm of each site's difference before it was scaled."""
        self._bound = bound

    def _take(self, update: SiteUpdate) -> None:
        with np.errstate(over="ignore"):
            squares = (np.square(difference).sum() for _, difference in self._differences(update))
            norm = float(np.sqrt(sum(squares)))
        self.norms[update.site] = norm
        if norm > self._bound:
            update = replace(update, arrays=self._scaled(update, self._bound / norm))
        super()._take(update)

    def _differences(self, update: SiteUpdate) -> Iterator[tuple[Piece, npt.NDArray[np.float64]]]:
        for piece, values in self._said(update):
            if values.dtype.kind == "f":
                yield piece, np.subtract(values, piece.of(self._reference), dtype=np.float64)

    def _scaled(self, update: SiteUpdate, factor: float) -> Arrays:
        arrays = {
            name: array.copy() if array.dtype.kind == "f" else update.arrays[name]
            for name, array in self._reference.items()
        }
        for piece, difference in self._differences(update):
            piece.of(arrays)[:] = piece.of(self._reference) + factor * difference
        return arrays
