"""Films that are there twice, and patients that are there under several ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from acm_core.data.intake.near_pairs import near_pairs

ALIKE = 0.93
"""Correlation of two signatures from which the films are worth a proof.

Of 629,000 pairs of different patients the highest was 0.89 as the films are. Letterboxed, four pairs lay above 0.93. Of
crops by 2 % one in two hundred lay below, of other copies none or one.
"""
_MOST_IDS = 8
"""An identity that would join more patients than this is a placeholder ("ANONYMOUS"), not a person."""


def look_alikes(signatures: NDArray[np.int8], chosen: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of places in `chosen` whose films are worth a proof, in order.

    Args:
        signatures: N×2×S×S, see `acm_core.data.intake.signature`. One of the two has to be alike.
        chosen: the films to compare, as rows of `signatures`.
    """
    count, kinds, side, _ = signatures.shape
    places = np.array(chosen, np.int64)
    found = {
        (one, other)
        for vectors in np.moveaxis(signatures.reshape(count, kinds, side * side), 1, 0)
        for one, other in near_pairs(vectors, places, ALIKE).tolist()
    }
    return sorted(found)


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


def first_of_each(keys: Sequence[Hashable]) -> list[int]:
    """For each key the index at which it stands first."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, index) for index, key in enumerate(keys)]
