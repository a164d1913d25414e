"""FedAvg (McMahan et al. 2017, arXiv:1602.05629), one update at a time: memory stays flat in the sites."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from acm_core.federated.summation import MAX_TOTAL_WEIGHT, WeightedMean
from acm_core.federated.update import Arrays, RefusalReason, SiteUpdate, UpdateRefused, validate_update


def moving_average(average: Arrays, arrays: Arrays, decay: float) -> Arrays:
    """decay·average + (1 − decay)·arrays, each array in its own dtype; `arrays` where there is no average yet.

    Integers (`num_batches_tracked`) are taken from `arrays`.
    """
    if not average:
        return arrays
    return {
        name: (decay * average[name].astype(np.float64) + (1 - decay) * array).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in arrays.items()
    }


class FedAvg:
    """The next global model of one round, as a streaming weighted mean of the sites' models.

    - An array is weighted by the sites' films.
    - An array named in `finding_rows` has one row a finding, in the order of `findings`; each row is weighted
      by the sites' films labelled for that finding; a row that no site labelled keeps the global value bit
      for bit.
    - Integer arrays (`num_batches_tracked`) are averaged and rounded; every array keeps its dtype.
    - The result does not depend on the order in which the updates arrive, in any bit.
    - Every value lies in the range of the sites' values; a single site's model comes back as it is.

    `reference` is the global model that the sites started from; it is read and never changed.
    """

    def __init__(
        self, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str] = ()
    ) -> None:
        """Raises ValueError where `finding_rows` names an array without one row a finding."""
        for name in finding_rows:
            if name not in reference:
                raise ValueError(f"expected finding_rows to name arrays of the model, got {name}")
            if reference[name].shape[:1] != (len(findings),):
                shape = reference[name].shape
                raise ValueError(
                    f"expected {name} to have {len(findings)} rows, one a finding, got shape {shape}"
                )
        self._reference = reference
        self._findings = tuple(findings)
        self._finding_rows = frozenset(finding_rows)
        self._means = {name: WeightedMean(array.shape, array.dtype) for name, array in reference.items()}
        self._sites: set[str] = set()
        self._films = 0

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites whose updates are in, sorted."""
        return tuple(sorted(self._sites))

    @property
    def films(self) -> int:
        """Films behind the updates that are in."""
        return self._films

    def add(self, update: SiteUpdate) -> None:
        """Validate an update and add it; its arrays are not held on to. A refused update changes nothing.

        Raises:
            UpdateRefused: see `validate_update`; also where the site's update is already in, or where the
                films of all sites together exceed `MAX_TOTAL_WEIGHT`.
        """
        validate_update(update, self._reference, self._findings)
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
        by_films = np.array(update.films, np.int64)
        by_labels = np.array(update.labelled, np.int64)
        for name, mean in self._means.items():
            mean.add(update.arrays[name], by_labels if name in self._finding_rows else by_films)
        self._sites.add(update.site)
        self._films += update.films

    def result(self) -> Arrays:
        """The next global model: new arrays with the names, shapes and dtypes of the reference.

        Raises:
            ValueError: no update is in.
        """
        if not self._sites:
            raise ValueError("expected at least one site's update to average, got none: ask the sites again")
        return {name: mean.mean(self._reference[name]) for name, mean in self._means.items()}
