"""Pairs of vectors that point the same way, found without comparing every two of them.

Random hyperplanes cut the vectors into buckets, and only those of one bucket are compared. Two vectors at a small angle
are seldom parted; the cut is repeated until a pair at the very bound is missed once in a thousand times, and a nearer
one hardly ever (locality-sensitive hashing: Charikar, STOC 2002). Each plane halves the vectors at their median.

Within a bucket vectors are first compared along the axes in which they differ most. What is left of two unit vectors
adds no more to their product than the product of its lengths, so that nothing is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from acm_core.randomness import stream

_MISSED = 1e-3
"""Share of the pairs at the bound that may be missed."""
_MOST_CUTS = 96
_AXES = 64
_SAMPLE = 2048
"""Vectors by which axes, medians and spread are estimated."""
_BLOCK = 1024
_ROWS = 1024
_ROUNDING = 1e-3
_SEED = 3


def near_pairs(
    vectors: NDArray[np.int8], chosen: NDArray[np.int64], least: float, bucket: int = 256
) -> NDArray[np.int64]:
    """Pairs (i, j), i < j, of places in `chosen` whose vectors' Pearson correlation is `least` or above; M×2, in order.

    Exact for up to `bucket` vectors. Above, a pair at the bound is found with probability 0.999, and time grows with
    about N to the power of 1.4 where most vectors are at wide angles.

    Args:
        vectors: of K numbers each, one a row.
        chosen: N rows to be searched.
        bucket: vectors in a bucket, about.
    """
    count = len(chosen)
    if count <= bucket:
        return _as_pairs(_alike(_unit(vectors[chosen]), np.arange(count), count, least), count)
    found = np.zeros(0, np.int64)
    with threadpool_limits(1, user_api="blas"):  # products this small take longer on several threads
        sketches = _sketches(vectors, chosen)
        bits, cuts = _plan(sketches, least, bucket)
        for cut in range(cuts):
            some = [
                _alike(sketches[members].astype(np.float32), members, count, least - _ROUNDING)
                for members in _buckets(sketches, bits, cut)
            ]
            found = np.unique(np.concatenate([found, *some]))
        return _correlated(vectors, chosen, _as_pairs(found, count), least)


def _sketches(vectors: NDArray[np.int8], chosen: NDArray[np.int64]) -> NDArray[np.float16]:
    """N×(A + 1): each unit vector along the axes that hold most of it, and the length of what they do not.

    In half precision, in steps of a thousandth at most: the search keeps them all at once.
    """
    some = _unit(vectors[chosen[:: _step(len(chosen))]])
    _, axes = np.linalg.eigh(some.T @ some)
    axes = axes[:, -_AXES:]
    sketches = np.empty((len(chosen), axes.shape[1] + 1), np.float16)
    for start in range(0, len(chosen), _BLOCK):
        along = _unit(vectors[chosen[start : start + _BLOCK]]) @ axes
        sketches[start : start + _BLOCK, :-1] = along
        sketches[start : start + _BLOCK, -1] = np.sqrt(np.maximum(1 - np.sum(along**2, axis=1), 0))
    return sketches


def _plan(sketches: NDArray[np.float16], least: float, bucket: int) -> tuple[int, int]:
    """Hyperplanes a cut, and cuts.

    Vectors that are all alike to begin with are hard to part: planes at medians cut them around their mean, from which
    near ones are seen at a wider angle. So there are no more planes than a bounded number of cuts makes good.
    """
    some = _sampled(sketches)
    spread = math.sqrt(max(float(np.sum(some.var(axis=0))), 1e-6))
    angle = 2 * math.asin(min(math.sqrt((1 - least) / 2) / spread, 1))
    kept = 1 - angle / math.pi  # probability that a plane does not part a pair at the bound
    for bits in range(math.ceil(math.log2(len(sketches) / bucket)), 0, -1):
        cuts = math.ceil(math.log(_MISSED) / math.log1p(-(kept**bits))) if kept > 0 else _MOST_CUTS + 1
        if cuts <= _MOST_CUTS:
            return bits, cuts
    return 0, 1


def _buckets(sketches: NDArray[np.float16], bits: int, cut: int) -> Iterator[NDArray[np.int64]]:
    """Indices, ascending, of the vectors of each bucket of two or more."""
    planes = stream(_SEED, "cut", cut).standard_normal((sketches.shape[1] - 1, bits)).astype(np.float32)
    middle = np.median(_sampled(sketches) @ planes, axis=0)
    powers = 1 << np.arange(bits, dtype=np.int32)
    keys = np.empty(len(sketches), np.int32)
    for start in range(0, len(sketches), _BLOCK):
        sides = sketches[start : start + _BLOCK, :-1].astype(np.float32) @ planes > middle
        keys[start : start + _BLOCK] = sides @ powers
    order = np.argsort(keys, kind="stable")
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    yield from (members for members in np.split(order, bounds) if len(members) > 1)


def _alike(
    units: NDArray[np.float32], members: NDArray[np.int64], count: int, least: float
) -> NDArray[np.int64]:
    """Pairs of members whose vectors' product is `least` or above, as i·count + j; `members` ascend."""
    found = []
    for start in range(0, len(members), _ROWS):
        one, other = np.nonzero(units[start : start + _ROWS] @ units[start:].T >= least)
        later = other > one
        found.append(members[start + one[later]] * count + members[start + other[later]])
    return np.concatenate([np.zeros(0, np.int64), *found])


def _correlated(
    vectors: NDArray[np.int8], chosen: NDArray[np.int64], pairs: NDArray[np.int64], least: float
) -> NDArray[np.int64]:
    """Those of the pairs whose vectors correlate at `least` or above."""
    kept = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), _BLOCK):
        some = pairs[start : start + _BLOCK]
        one, other = (_unit(vectors[chosen[places]]) for places in some.T)
        kept.append(some[np.einsum("pk,pk->p", one, other) >= least])
    return np.concatenate(kept)


def _as_pairs(found: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.stack(np.divmod(found, max(count, 1)), axis=1)


def _sampled(sketches: NDArray[np.float16]) -> NDArray[np.float32]:
    return sketches[:: _step(len(sketches)), :-1].astype(np.float32)


def _step(count: int) -> int:
    return max(1, count // _SAMPLE)


def _unit(vectors: NDArray[np.int8]) -> NDArray[np.float32]:
    """Centred and of unit length, so that products are correlations; 0 where all numbers are the same."""
    units = vectors.astype(np.float32)
    units -= units.mean(axis=1, keepdims=True)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return units
