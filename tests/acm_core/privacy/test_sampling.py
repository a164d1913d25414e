"""Each unit by its own coin; a patient's films together; no unit split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from acm_core.privacy.sampling import PoissonSampler, physical_batches

DRAWS = 20_000


def sampler(
    patients: list[int], rate: float, unit: str = "patient", films_per_patient: int = 4
) -> PoissonSampler:
    numbers = np.array(patients, np.int64)
    return PoissonSampler(
        numbers,
        unit,  # type: ignore[arg-type]  # one of two strings
        sampling_rate=rate,
        films_per_patient=films_per_patient,
    )


def presence(source: PoissonSampler, films: int, draws: int = DRAWS) -> NDArray[np.bool_]:
    """Which films were in which draw: draws×films."""
    seen = np.zeros((draws, films), bool)
    for row in seen:
        for unit in source.draw():
            row[unit] = True
    return seen


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("units", [1, 7])
def test_each_unit_is_drawn_as_often_as_q_says_however_many_there_are(rate: float, units: int) -> None:
    seen = presence(sampler(list(range(units)), rate), units)
    error = math.sqrt(rate * (1 - rate) / DRAWS)
    assert abs(seen.mean() - rate) < 4 * error / math.sqrt(units)
    assert np.abs(seen.mean(0) - rate).max() < 5 * error
    size = seen.sum(1)
    assert size.var() == pytest.approx(units * rate * (1 - rate), rel=0.3)


def test_units_are_drawn_independently_of_each_other_and_of_the_draw_before() -> None:
    rate, units = 0.3, 6
    seen = presence(sampler(list(range(units)), rate), units).astype(float)
    limit = 5 / math.sqrt(DRAWS)
    correlations = np.corrcoef(seen.T)
    assert np.abs(correlations[~np.eye(units, dtype=bool)]).max() < limit
    for unit in seen.T:
        assert abs(np.corrcoef(unit[1:], unit[:-1])[0, 1]) < limit


def test_no_seed_repeats_a_draw() -> None:
    source = sampler(list(range(200)), 0.5)

    def draw() -> list[int]:
        np.random.seed(1)
        torch.manual_seed(1)
        return [int(unit[0]) for unit in source.draw()]

    assert draw() != draw()


def test_a_patients_films_come_together_and_are_all_of_that_patient() -> None:
    patients = [3, 1, 3, 0, 1, 3, 8]
    source = sampler(patients, 0.5)
    assert source.units == 4
    for _ in range(200):
        drawn = source.draw()
        assert len({patients[unit[0]] for unit in drawn}) == len(drawn)
        for unit in drawn:
            assert unit.tolist() == [
                row for row, patient in enumerate(patients) if patient == patients[unit[0]]
            ]


def test_the_chance_of_a_patient_is_q_whatever_the_number_of_films() -> None:
    patients = [0] * 10 + [1] + [2] * 3
    seen = presence(sampler(patients, 0.25, films_per_patient=10), len(patients))
    error = math.sqrt(0.25 * 0.75 / DRAWS)
    assert np.abs(seen.mean(0) - 0.25).max() < 5 * error


def test_at_most_the_cap_of_films_each_as_often_as_the_others_and_never_twice() -> None:
    films, cap = 5, 2
    source = sampler([0] * films + [1], 1.0, films_per_patient=cap)
    counts = np.zeros(films)
    pairs = np.zeros((films, films))
    for _ in range(DRAWS):
        capped, single = source.draw()
        assert len(set(capped.tolist())) == len(capped) == cap
        assert single.tolist() == [films]
        counts[capped] += 1
        pairs[capped[0], capped[1]] += 1
    expected = cap / films
    assert np.abs(counts / DRAWS - expected).max() < 5 * math.sqrt(expected * (1 - expected) / DRAWS)
    each = 1 / math.comb(films, cap)
    drawn = pairs[np.triu_indices(films, 1)] / DRAWS
    assert np.abs(drawn - each).max() < 5 * math.sqrt(each * (1 - each) / DRAWS)


def test_with_unit_film_each_film_is_tossed_for_itself() -> None:
    source = sampler([0] * 6, 0.4, unit="film", films_per_patient=1)
    assert source.units == 6
    seen = presence(source, 6)
    assert np.abs(seen.mean(0) - 0.4).max() < 5 * math.sqrt(0.24 / DRAWS)
    correlations = np.corrcoef(seen.astype(float).T)
    assert np.abs(correlations[~np.eye(6, dtype=bool)]).max() < 5 / math.sqrt(DRAWS)


def test_at_q_one_everybody_is_drawn_every_time() -> None:
    source = sampler([0, 1, 1, 5], 1.0)
    for _ in range(50):
        assert [unit.tolist() for unit in source.draw()] == [[0], [1, 2], [3]]


@pytest.mark.parametrize("unit", ["patient", "film"])
def test_without_patients_nobody_is_drawn(unit: str) -> None:
    source = sampler([], 0.5, unit=unit)
    assert source.units == 0
    assert source.draw() == []


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected a sampling rate in"):
        sampler([0, 1], rate)


def test_a_cap_below_one_film_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one film a patient"):
        sampler([0, 1], 0.5, films_per_patient=0)


@given(sizes=st.lists(st.integers(1, 6), max_size=20), at_once=st.integers(1, 10))
def test_physical_batches_hold_every_film_once_and_split_no_unit(sizes: list[int], at_once: int) -> None:
    rows = np.arange(sum(sizes))
    units = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
    batches = list(physical_batches(units, at_once))
    assert [unit.tolist() for batch in batches for unit in batch] == [unit.tolist() for unit in units]
    for batch in batches:
        assert batch
        assert len(batch) == 1 or sum(map(len, batch)) <= at_once
    films = [sum(map(len, batch)) for batch in batches]
    for count, following in zip(films, batches[1:], strict=False):
        assert count + len(following[0]) > at_once, "two batches where one was enough"


@given(patients=st.lists(st.integers(0, 5), max_size=20), cap=st.integers(1, 4))
def test_at_q_one_every_patient_is_a_unit_of_at_most_the_cap(patients: list[int], cap: int) -> None:
    drawn = sampler(patients, 1.0, films_per_patient=cap).draw()
    films = {patient: patients.count(patient) for patient in set(patients)}
    got = {patients[unit[0]]: len(unit) for unit in drawn}
    assert got == {patient: min(count, cap) for patient, count in films.items()}
    assert all({patients[row] for row in unit} == {patients[unit[0]]} for unit in drawn)
