"""The pointing game: a map that points at the finding always hits, one that knows nothing hits by place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulations.pointing.game import every_pair, hits, inside, peaks

SIZE = 96
Box = tuple[int, int, int, int]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    top, left = draw(st.integers(0, SIZE - 2)), draw(st.integers(0, SIZE - 2))
    return top, left, draw(st.integers(top + 1, SIZE)), draw(st.integers(left + 1, SIZE))


@given(hnp.arrays(np.float32, (3, 4, 6), elements=st.integers(0, 50).map(float)))
def test_a_point_lies_in_the_highest_cell(maps: np.ndarray) -> None:
    for map_, (y, x) in zip(maps, peaks(maps, SIZE), strict=True):
        if map_.max() == map_.min():
            assert np.isnan([y, x]).all()
        else:
            assert map_[int(y * 4 / SIZE), int(x * 6 / SIZE)] == map_.max()


@given(boxes(), st.floats(0, SIZE), st.floats(0, SIZE))
def test_inside_is_what_a_loop_over_the_pixels_says(box: Box, y: float, x: float) -> None:
    top, left, bottom, right = box
    assert inside(np.array([y, x]), np.array(box, float), 0) == (top <= y <= bottom and left <= x <= right)
    assert inside(np.array([y, x]), np.array(box, float), SIZE)
    nowhere = np.array([np.nan, np.nan])
    assert not inside(nowhere, np.array(box, float), SIZE)


def test_a_map_that_points_at_the_finding_hits_it_and_not_other_patients() -> None:
    lying = np.array([[10 * i, 0, 10 * i + 8, 8] for i in range(8)], float)
    points = np.array([[10 * i + 4, 4] for i in range(8)], float)
    found = hits(every_pair(points, lying, 0), np.arange(8), seed=1)
    assert (found.rate, found.low, found.high, found.by_place) == (1, 1, 1, 0)


def test_a_map_that_always_points_to_one_place_gains_nothing_over_place() -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 60, (400, 2))
    lying = np.concatenate([corners, corners + 30], axis=1)
    points = np.full((400, 2), 48.0)
    found = hits(every_pair(points, lying, 0), np.arange(400), seed=1)
    assert 0.1 < found.rate < 0.5
    assert found.by_place == pytest.approx(found.rate, abs=0.005)
    assert found.low < found.rate < found.high
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * (found.rate * (1 - found.rate) / 400) ** 0.5, rel=0.15
    )


def test_a_patients_other_films_are_not_other_patients() -> None:
    pairs = np.ones((4, 4), bool)
    assert np.isnan(hits(pairs, np.zeros(4, int), seed=1).by_place)
    pairs[:2, 2:] = pairs[2:, :2] = False
    assert hits(pairs, np.array([0, 0, 1, 1]), seed=1).by_place == 0
    with pytest.raises(ValueError, match="at least one film with the finding"):
        hits(np.ones((0, 0), bool), np.zeros(0, int), seed=1)
