"""Means over sites and seeds, with intervals that know of other patients and other seeds.

Legend: S sites, K seeds, R resamples of a site's test patients with one seed, B draws of the whole.

A value is measured at each site with each seed (a seed draws another split of the patients, another start and other
orders of the films). A site's estimate is the mean over its seeds; the table's is the mean over sites, each once. The
interval is a 95 % percentile interval of a bootstrap in two steps (Davison and Hinkley 1997, section 3.8): each of the
B draws takes K seeds with replacement, the same for all sites, and of each site and seed drawn one of its R resamples
of patients. Differences are formed within a resample first, so that they are paired by patient, seed and site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from acm_core.randomness import stream

Floats = npt.NDArray[np.float64]

DRAWS = 4000
_ENDS = (0.025, 0.975)
_LEAST_RESAMPLES = 2


class Measured(NamedTuple):
    """A value of one site with one seed, and its R resampled values; NaN where a resample has none."""

    value: float
    resampled: Floats

    def less(self, other: Measured) -> Measured:
        """The difference, paired by resample."""
        return Measured(self.value - other.value, self.resampled - other.resampled)


class Interval(NamedTuple):
    """A mean and its 95 % interval; `seeds` and `sites` stand behind it."""

    value: float
    low: float
    high: float
    seeds: int
    sites: int


class Combined(NamedTuple):
    """The mean over sites and seeds, and each site's over seeds."""

    mean: Interval
    sites: dict[str, Interval]


def combine(measured: Mapping[str, Mapping[int, Measured]], draws: int = DRAWS) -> Combined | None:
    """Put together what was measured: site → seed → value.

    What has fewer than two resampled values is left out, as nothing is known of its uncertainty; a site with nothing
    else is left out whole. None where nothing is left.
    """
    usable = {
        site: known
        for site, of_seeds in measured.items()
        if (known := {seed: one for seed, one in of_seeds.items() if _resamples(one) >= _LEAST_RESAMPLES})
    }
    if not usable:
        return None
    seeds = sorted({seed for of_seeds in usable.values() for seed in of_seeds})
    random = stream(0, "tables", "seeds and patients")
    drawn = random.integers(len(seeds), size=(draws, len(seeds)))
    of_sites = {site: _drawn_means(usable[site], seeds, drawn, random) for site in sorted(usable)}
    estimates = {
        site: _interval(
            float(np.mean([one.value for one in usable[site].values()])), of_sites[site], len(usable[site]), 1
        )
        for site in usable
    }
    together = np.stack([of_sites[site] for site in usable])
    value = float(np.mean([estimate.value for estimate in estimates.values()]))
    # Only a draw that took none of a site's seeds lacks the site; one that took none of any site's is no draw.
    some = ~np.isnan(together).all(axis=0)
    mean = _interval(value, np.nanmean(together[:, some], axis=0), len(seeds), len(usable))
    return Combined(mean, estimates)


def _drawn_means(
    of_seeds: Mapping[int, Measured],
    seeds: list[int],
    drawn: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> Floats:
    """B means over the seeds drawn, NaN where none of the site's was drawn."""
    values = np.full(drawn.shape, np.nan)
    for place, seed in enumerate(seeds):
        if seed in of_seeds:
            there = drawn == place
            resampled = of_seeds[seed].resampled
            values[there] = random.choice(resampled[~np.isnan(resampled)], size=int(there.sum()))
    counts = (~np.isnan(values)).sum(axis=1)
    means: Floats = np.divide(
        np.nansum(values, axis=1), counts, out=np.full(len(values), np.nan), where=counts > 0
    )
    return means


def _interval(value: float, means: Floats, seeds: int, sites: int) -> Interval:
    low, high = np.nanquantile(means, _ENDS)
    return Interval(value, float(low), float(high), seeds, sites)


def _resamples(one: Measured) -> int:
    return int((~np.isnan(one.resampled)).sum())
