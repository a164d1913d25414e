"""Median and trimmed mean at every position (Yin et al. 2018, arXiv:1803.01498): what lies outside does not pull.

Sites count alike: films are what a site claims, and a weight that it claims would buy it the median. Only the
sites that label films for a finding have a say in its rows. An attacker may claim to label any finding, so a row
needs as many sites as the whole model, 2·attackers + 1; with fewer it keeps the global value bit for bit. Integers
are rounded half to even. No bit of the result depends on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from acm_core.arrays import Arrays
from acm_core.federated.rule import AggregationRule, Piece, Values
from acm_core.federated.summation import WeightedMean
from acm_core.federated.update import SiteUpdate


class TrimmedMean(AggregationRule):
    """The mean at every position of what is left without the `attackers` lowest and as many highest values.

    While at most `attackers` sites are hostile, the result lies between the lowest and the highest honest value.
    The number is a count and not a share of the sites that answered: honest sites may miss a round or not label a
    finding, attackers do not.

    Memory is flat in the sites: the 2·attackers outermost values so far and the running sum of the others, for
    float32 8·attackers + 17 bytes a parameter (280 MB for an ACM-ResNet-18 and one attacker).
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str], *, attackers: int
    ) -> None:
        super().__init__(reference, findings, finding_rows, minimum_sites=2 * attackers + 1)
        self._attackers = attackers
        self._outer: dict[Piece, list[Values]] = {piece: [] for piece in self._pieces}
        self._inner = self._means()

    def _take(self, update: SiteUpdate) -> None:
        for piece, values in self._said(update):
            outer = self._outer[piece]
            _insert(outer, values)
            if len(outer) > 2 * self._attackers:
                # With as many below as above it: whatever else arrives, it is not among the outermost again.
                self._inner[piece].add(outer.pop(self._attackers), 1)

    def _aggregate(self) -> Arrays:
        return self._assembled(lambda piece, reference: self._inner[piece].mean(reference))


class Median(AggregationRule):
    """The median at every position; the mean of the middle two where an even number of sites has a say.

    While fewer than half of the sites that have a say are hostile, the result lies between the lowest and the
    highest honest value.

    Memory: every site's values in their own dtypes, 4 bytes a parameter and site for float32 (45 MB a site for
    an ACM-ResNet-18).
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str], *, attackers: int
    ) -> None:
        super().__init__(reference, findings, finding_rows, minimum_sites=2 * attackers + 1)
        self._ordered: dict[Piece, list[Values]] = {piece: [] for piece in self._pieces}

    def _take(self, update: SiteUpdate) -> None:
        for piece, values in self._said(update):
            _insert(self._ordered[piece], values)

    def _aggregate(self) -> Arrays:
        return self._assembled(self._median)

    def _median(self, piece: Piece, reference: Values) -> Values:
        ordered = self._ordered[piece]
        mean = WeightedMean(reference.shape, reference.dtype)
        for values in ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]:
            mean.add(values, 1)
        return mean.mean(reference)


def _insert(ordered: list[Values], values: Values) -> None:
    """Add a copy of `values` to arrays that ascend in the list at every position; they change so that all ascend."""
    rest = values.copy()
    for held in ordered:
        lower = np.minimum(held, rest)
        np.maximum(held, rest, out=rest)
        held[:] = lower
    ordered.append(rest)
