"""The search finds what comparing all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.data.intake.near_pairs import near_pairs

LEAST = 0.93


def vectors(seed: int, count: int, common: float) -> np.ndarray:
    """N×256 that share a part and differ in the rest; one in eight is a changed copy of another."""
    draw = np.random.default_rng(seed)
    drawn = common * draw.standard_normal(256) + draw.standard_normal((count, 256))
    places = draw.permutation(count)
    for original, copy in zip(places[: count // 8], places[::-1], strict=False):
        drawn[copy] = drawn[original] + draw.uniform(0, 0.35) * draw.standard_normal(256)
    return np.clip(np.rint(drawn * 24), -127, 127).astype(np.int8)


def by_comparing_all(signatures: np.ndarray) -> set[tuple[int, int]]:
    correlation = np.corrcoef(signatures.astype(float))
    one, other = np.nonzero(np.triu(correlation >= LEAST, 1))
    return {*zip(one.tolist(), other.tolist(), strict=True)}


def found(signatures: np.ndarray, bucket: int = 256) -> list[tuple[int, int]]:
    pairs = near_pairs(signatures, np.arange(len(signatures)), LEAST, bucket)
    return [(int(one), int(other)) for one, other in pairs]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(9, 400), common=st.sampled_from([0.0, 0.6, 1.0]))
def test_the_search_in_buckets_finds_what_comparing_all_finds(seed: int, count: int, common: float) -> None:
    signatures = vectors(seed, count, common)
    expected = by_comparing_all(signatures)
    pairs = found(signatures, bucket=8)
    assert pairs == sorted(pairs)
    assert set(pairs) <= expected
    # A pair at the very bound is missed once in a thousand times.
    assert len(expected - set(pairs)) <= len(expected) / 50
    assert set(found(signatures, bucket=count)) == expected


def test_hardly_a_pair_is_missed_among_many() -> None:
    expected, missed = 0, 0
    for seed in range(6):
        signatures = vectors(seed, 2400, 0.6)
        pairs = by_comparing_all(signatures)
        expected += len(pairs)
        missed += len(pairs - set(found(signatures, bucket=16)))
    assert expected > 1000
    assert missed <= expected / 1000


def test_only_the_chosen_are_searched_and_told_by_their_places() -> None:
    signatures = vectors(4, 900, 0.6)
    chosen = np.random.default_rng(0).permutation(900)[:600]
    pairs = near_pairs(signatures, chosen, LEAST, 8)
    assert [*map(tuple, pairs.tolist())] == found(signatures[chosen], bucket=8)
    assert len(pairs) > 20


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_a_pair(count: int) -> None:
    assert found(np.ones((count, 256), np.int8)) == []


def test_vectors_that_show_nothing_are_like_nothing() -> None:
    assert found(np.zeros((600, 256), np.int8)) == []
    assert found(np.full((9, 256), 7, np.int8)) == []


def test_vectors_that_are_all_alike_are_all_found() -> None:
    """They cannot be parted: planes would part every pair, so all are compared."""
    draw = np.random.default_rng(1)
    nearly = np.clip(90 * draw.standard_normal(256), -120, 120) + draw.standard_normal((300, 256))
    assert len(found(nearly.astype(np.int8), bucket=16)) == 300 * 299 // 2
