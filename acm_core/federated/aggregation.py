"""FedAvg (McMahan et al. 2017, arXiv:1602.05629), one update at a time: memory stays flat in the sites."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from acm_core.arrays import Arrays
from acm_core.federated.rule import AggregationRule
from acm_core.federated.update import SiteUpdate


class FedAvg(AggregationRule):
    """The streaming weighted mean of the sites' models.

    - An array is weighted by the sites' films.
    - An array named in `finding_rows` has one row a finding, in the order of `findings`; each row is weighted
      by the sites' films labelled for that finding; a row that no site labelled keeps the global value bit
      for bit.
    - Integer arrays (`num_batches_tracked`) are averaged and rounded; every array keeps its dtype.
    - The result does not depend on the order in which the updates arrive, in any bit.
    - Every value lies in the range of the sites' values; a single site's model comes back as it is.
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str] = ()
    ) -> None:
        super().__init__(reference, findings, finding_rows)
        self._sums = self._means()

    def _take(self, update: SiteUpdate) -> None:
        for piece, values in self._said(update):
            films = update.films if piece.finding is None else update.labelled[piece.finding]
            self._sums[piece].add(values, films)

    def _aggregate(self) -> Arrays:
        return self._assembled(lambda piece, reference: self._sums[piece].mean(reference))
