"""Krum and Multi-Krum (Blanchard et al., NeurIPS 2017): the mean of the models that lie closest to most others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from acm_core.arrays import Arrays
from acm_core.federated.rule import AggregationRule, Piece, Values
from acm_core.federated.summation import WeightedMean
from acm_core.federated.update import SiteUpdate


class Krum(AggregationRule):
    """The mean of the `keep` models with the least sum of squared distances to their nearest n − attackers − 2 others.

    The choice is made apart for what every site trains and for each finding's rows, there among the sites that
    label films for it: rows that a site does not train make it neither an outlier nor a neighbour, and an honest
    model of the shared layers buys no say in a finding's rows. Each choice needs n ≥ 2·attackers + 3 sites; a
    finding's rows with fewer keep the global value bit for bit. At most n − attackers − 2 models are kept.

    While at most `attackers` sites are hostile, a kept model is no farther from the nearest honest one than
    √((n − attackers − 2) / (n − 2·attackers − 1)) times the largest distance between honest ones.

    Distances are in float64 over the float arrays, and exactly 0 between equal models. Equal sums are told apart
    by the sites' names. Kept models count alike, since films are what a site claims; integers are rounded half to
    even. No bit of the result depends on the order of arrival.

    Memory: every site's values in their own dtypes, 4 bytes a parameter and site for float32 (45 MB a site for
    an ACM-ResNet-18).
    """

    def __init__(
        self,
        reference: Arrays,
        findings: Sequence[str],
        finding_rows: Collection[str],
        *,
        attackers: int,
        keep: int,
    ) -> None:
        super().__init__(
            reference,
            findings,
            finding_rows,
            minimum_sites=max(2 * attackers + 3, keep + attackers + 2),
            minimum_labelling=2 * attackers + 3,
        )
        self._attackers = attackers
        self._keep = keep
        self._held: dict[str, dict[Piece, Values]] = {}
        # finding or None → site → other site → squared distance over the pieces that both have a say in
        self._distances: dict[int | None, dict[str, dict[str, float]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(float))
        )

    def _take(self, update: SiteUpdate) -> None:
        own = {piece: values.copy() for piece, values in self._said(update)}
        for finding in {piece.finding for piece in own}:
            self._distances[finding][update.site] = defaultdict(float)
        for piece, values in own.items():
            between = self._distances[piece.finding]
            for site, held in self._held.items():
                if piece in held:
                    distance = _squared_distance(values, held[piece])
                    between[update.site][site] += distance
                    between[site][update.site] += distance
        self._held[update.site] = own

    def _aggregate(self) -> Arrays:
        learnt = self.learnt
        kept = {
            finding: self._nearest(between)
            for finding, between in self._distances.items()
            if finding is None or learnt[finding]
        }

        def combined(piece: Piece, reference: Values) -> Values:
            mean = WeightedMean(reference.shape, reference.dtype)
            for site in kept[piece.finding]:
                mean.add(self._held[site][piece], 1)
            return mean.mean(reference)

        return self._assembled(combined)

    def _nearest(self, between: dict[str, dict[str, float]]) -> list[str]:
        """The sites to keep of those that have a say."""
        neighbours = len(between) - self._attackers - 2
        scores = {site: sum(sorted(distances.values())[:neighbours]) for site, distances in between.items()}
        return sorted(scores, key=lambda site: (scores[site], site))[: min(self._keep, neighbours)]


def _squared_distance(left: Values, right: Values) -> float:
    """‖left − right‖² in float64, inf where it exceeds that; 0 for integers."""
    if left.dtype.kind != "f":
        return 0.0
    with np.errstate(over="ignore"):
        difference = np.subtract(left, right, dtype=np.float64)
        # Not a dot product: its last bits follow the number of threads.
        return float(np.square(difference, out=difference).sum())
