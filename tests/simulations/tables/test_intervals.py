"""Means over sites and seeds against what is counted out in full, without drawing anything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.tables.intervals import DRAWS, Measured, combine

RESAMPLES = 3
_OFF = 4 * np.sqrt(0.025 * 0.975 / DRAWS)  # four standard errors of the share of draws below an end

numbers = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 4))
measured = st.builds(
    lambda value, resampled: Measured(value, np.array(resampled)),
    numbers,
    st.lists(numbers, min_size=RESAMPLES, max_size=RESAMPLES),
)
tables = st.dictionaries(
    st.sampled_from(["A", "B"]),
    st.dictionaries(st.sampled_from([1, 2]), measured, min_size=1),
    min_size=1,
)


def every_draw(table: dict[str, dict[int, Measured]]) -> tuple[list[float], dict[str, list[float]]]:
    """Every mean that can be drawn, all equally likely: of the whole, and of each site."""
    seeds = sorted({seed for of_seeds in table.values() for seed in of_seeds})
    wholes, sites = [], {site: [] for site in table}
    for drawn in product(seeds, repeat=len(seeds)):
        places = [(site, turn) for site in table for turn in range(len(seeds))]
        for picks in product(range(RESAMPLES), repeat=len(places)):
            pick = dict(zip(places, picks, strict=True))
            means = {}
            for site, of_seeds in table.items():
                values = [
                    of_seeds[seed].resampled[pick[site, turn]]
                    for turn, seed in enumerate(drawn)
                    if seed in of_seeds
                ]
                if values:
                    means[site] = float(np.mean(values))
                    sites[site].append(means[site])
            if means:
                wholes.append(float(np.mean([*means.values()])))
    return wholes, sites


def expect_end(end: float, draws: list[float], share: float) -> None:
    """`end` is a quantile of the draws at about `share`."""
    values = np.sort(draws)
    low = np.quantile(values, max(share - _OFF, 0), method="lower")
    high = np.quantile(values, min(share + _OFF, 1), method="higher")
    assert low - 1e-9 <= end <= high + 1e-9


@given(tables)
@settings(max_examples=25, deadline=None)
def test_ends_are_those_of_every_draw_there_is(table: dict[str, dict[int, Measured]]) -> None:
    combined = combine(table)
    assert combined is not None
    wholes, sites = every_draw(table)
    expect_end(combined.mean.low, wholes, 0.025)
    expect_end(combined.mean.high, wholes, 0.975)
    for site, of_seeds in table.items():
        interval = combined.sites[site]
        expect_end(interval.low, sites[site], 0.025)
        expect_end(interval.high, sites[site], 0.975)
        assert interval.value == pytest.approx(np.mean([one.value for one in of_seeds.values()]))
        assert (interval.seeds, interval.sites) == (len(of_seeds), 1)
    assert combined.mean.value == pytest.approx(
        np.mean([interval.value for interval in combined.sites.values()])
    )
    assert combined.mean.sites == len(table)


def one(value: float, spread: float = 0.02, resamples: int = 400, seed: int = 0) -> Measured:
    random = np.random.default_rng(seed)
    return Measured(value, value + spread * random.standard_normal(resamples))


def test_seeds_that_differ_widen_the_interval_beyond_that_of_patients() -> None:
    alike = combine({"A": {seed: one(0.1, seed=seed) for seed in range(5)}})
    unlike = combine({"A": {seed: one(0.1 * seed, seed=seed) for seed in range(5)}})
    assert alike is not None
    assert unlike is not None
    assert 0.02 < alike.mean.high - alike.mean.low < 2 * 1.96 * 0.02 / np.sqrt(5) * 1.6
    assert unlike.mean.high - unlike.mean.low > 0.15


def test_with_one_seed_the_interval_is_that_of_the_patients() -> None:
    table = {"A": {3: one(0.1)}}
    combined = combine(table)
    assert combined is not None
    low, high = np.quantile(table["A"][3].resampled, [0.025, 0.975])
    assert combined.mean.low == pytest.approx(low, abs=0.004)
    assert combined.mean.high == pytest.approx(high, abs=0.004)


def test_a_seed_is_drawn_for_all_sites_at_once() -> None:
    """Sites that are good and bad by turns: together they are always the same."""
    table = {
        "A": {1: one(0.2, 0.0), 2: one(-0.2, 0.0)},
        "B": {1: one(-0.2, 0.0), 2: one(0.2, 0.0)},
    }
    combined = combine(table)
    assert combined is not None
    assert combined.mean.low == pytest.approx(0.0)
    assert combined.mean.high == pytest.approx(0.0)
    assert combined.sites["A"].low == pytest.approx(-0.2)


def test_a_difference_is_formed_within_a_resample() -> None:
    first, second = one(0.7), one(0.6)
    shifted = Measured(first.value - 0.05, first.resampled - 0.05)
    paired, unpaired = combine({"A": {1: first.less(shifted)}}), combine({"A": {1: first.less(second)}})
    assert paired is not None
    assert unpaired is not None
    assert (paired.mean.low, paired.mean.high) == (pytest.approx(0.05), pytest.approx(0.05))
    assert unpaired.mean.high - unpaired.mean.low >= 0


def test_resamples_without_a_class_are_left_out_and_so_is_what_has_no_others() -> None:
    half = one(0.5)
    half.resampled[::2] = np.nan
    none = Measured(0.9, np.full(400, np.nan))
    combined = combine({"A": {1: half, 2: none}, "B": {1: none}})
    assert combined is not None
    assert list(combined.sites) == ["A"]
    assert combined.sites["A"].value == 0.5
    assert combined.mean.seeds == 1
    assert combine({"B": {1: none}}) is None
    assert combine({}) is None


def test_the_same_table_gives_the_same_interval() -> None:
    table = {"A": {1: one(0.5), 2: one(0.6, seed=1)}, "B": {2: one(0.4, seed=2)}}
    assert combine(table) == combine(dict(reversed(table.items())))
