"""Films that are there twice, and patients that are there under several ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

SAME = 0.99
"""Rank correlation of two signatures from which two films look alike.

Among 629,000 pairs of different films of four hospitals the highest was 0.968; of 1,122 films against themselves as
small JPEG files the lowest was 0.993, in another tone curve 99 in 100 lay above 0.997. A frame that all films have
(black at both sides, a collimated field) raises the pairs' far above.
"""
NEAR = 0.94
"""Rank correlation of what is inside the frames from which films that look alike with them are worth a proof.

Of the 629,000 pairs 30 lay above, letterboxed 38, with a field collimated at one place 580, at moving places 45.
"""
_PAIRS = 4096
_BLOCK = 128
_MOST_IDS = 8
"""An identity that would join more patients than this is a placeholder ("ANONYMOUS"), not a person."""


def look_alikes(whole: NDArray[np.uint8], inside: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of films that are worth a proof, in order: their insides look the same, or they look the
    same as a whole and their insides are near.

    Args:
        whole: N×S×S grey levels of the films.
        inside: N×S×S, of what is inside the films' frames.
    """
    found = set(_correlated(whole, _pairs(whole, SAME), SAME))
    found = set(_correlated(inside, sorted(found), NEAR))
    return sorted(found | set(_correlated(inside, _pairs(inside, SAME), SAME)))


def _pairs(signatures: NDArray[np.uint8], least: float) -> Iterator[tuple[int, int]]:
    """Pairs whose signatures' ranks correlate at `least` or above at a quarter of their size.

    Ranks pass over what another window or tone curve changes. Time grows with the square of the number of films, memory
    with the number.
    """
    count, side = signatures.shape[:2]
    coarse = np.empty((count, (side // 2) ** 2), np.float32)
    for start in range(0, count, _BLOCK):
        block = signatures[start : start + _BLOCK]
        small = block.reshape(len(block), side // 2, 2, side // 2, 2).mean((2, 4), dtype=np.float32)
        coarse[start : start + _BLOCK] = _ranks(small.reshape(len(block), -1))
    for start in range(0, count, _BLOCK):
        alike = coarse[start : start + _BLOCK] @ coarse[start:].T >= least
        for first, second in zip(*np.nonzero(alike), strict=True):
            if second > first:
                yield start + int(first), start + int(second)


def _correlated(
    signatures: NDArray[np.uint8], pairs: Iterable[tuple[int, int]], least: float
) -> Iterator[tuple[int, int]]:
    """Those of the pairs whose signatures' ranks correlate at `least` or above."""
    pairs = iter(pairs)
    while some := list(islice(pairs, _PAIRS)):
        films, places = np.unique(np.array(some), return_inverse=True)
        ranks = _ranks(signatures[films].reshape(len(films), -1))
        one, other = places.reshape(-1, 2).T
        correlation = np.einsum("pk,pk->p", ranks[one], ranks[other])
        yield from (pair for pair, value in zip(some, correlation, strict=True) if value >= least)


def _ranks(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """N×K values → their ranks in each row, centred and of unit length, so that products are rank correlations."""
    ranks: NDArray[np.float32] = rankdata(values, axis=1).astype(np.float32)
    ranks -= ranks.mean(axis=1, keepdims=True)
    ranks /= np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return ranks


class Groups:
    """Disjoint sets of names; each is known by its smallest member."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        """Put two names, and all that were joined to them, in one set."""
        low, high = sorted((self.representative(one), self.representative(other)))
        self._parent[high] = low

    def representative(self, name: str) -> str:
        """The smallest name of the set that `name` is in; itself where nothing was joined to it."""
        path = []
        while self._parent.get(name, name) != name:
            path.append(name)
            name = self._parent[name]
        for passed in path:
            self._parent[passed] = name
        return name


def join_by_identity(groups: Groups, identities: Iterable[tuple[str | None, str]]) -> int:
    """Join the patients that share an identity of the header.

    Args:
        identities: (identity or None, patient) of every film.

    Returns:
        Number of identities passed over because they stand for too many patients to be one person.
    """
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for identity, patient in identities:
        if identity is not None:
            patients[identity].add(patient)
    placeholders = 0
    for shared in patients.values():
        if len(shared) > _MOST_IDS:
            placeholders += 1
            continue
        first, *others = sorted(shared)
        for other in others:
            groups.join(first, other)
    return placeholders


def first_of_each(keys: Sequence[str]) -> list[int]:
    """For each key the index at which it stands first."""
    seen: dict[str, int] = {}
    return [seen.setdefault(key, index) for index, key in enumerate(keys)]
