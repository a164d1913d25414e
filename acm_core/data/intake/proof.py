"""Pairs of films that look alike, read again and compared at full size; what was found is kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from acm_core.data.intake.journal import Journal
from acm_core.data.intake.readers import read_files
from acm_core.data.intake.same_film import FULL_SIDE, PROVED, local_contrast, similarity
from acm_core.data.source.film_source import FilmSource
from acm_core.data.terms import Accepted

_PAIRS_AT_ONCE = 64
"""Films of so many pairs are held in memory, 144 KiB each."""


class Prover:
    """Tells of pairs of films whether they show the same.

    Args:
        source: of the films.
        journal: has the films' contents, and keeps what is found: a pair of contents is compared once.
        workers: processes that read.
    """

    def __init__(
        self, source: FilmSource, journal: Journal, salt: bytes, accepted: Accepted, workers: int
    ) -> None:
        self._source, self._journal = source, journal
        self._salt, self._accepted, self._workers = salt, accepted, workers

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """For each pair of names whether the films are one."""
        if not pairs:
            return []
        contents = self._journal.contents_of({name for pair in pairs for name in pair})
        by_content = [tuple(sorted((contents[one], contents[other]))) for one, other in pairs]
        new = [
            pair
            for pair, content in zip(pairs, by_content, strict=True)
            if self._journal.likeness(content) is None
        ]
        for start in range(0, len(new), _PAIRS_AT_ONCE):
            some = new[start : start + _PAIRS_AT_ONCE]
            seen = self._seen(sorted({name for pair in some for name in pair}))
            for one, other in some:
                if one in seen and other in seen:  # else they are looked at again the next time
                    alike = similarity(seen[one], seen[other])
                    self._journal.keep_likeness(tuple(sorted((contents[one], contents[other]))), alike)
        return [(self._journal.likeness(content) or 0.0) >= PROVED for content in by_content]

    def _seen(self, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        answers = read_files(
            self._source, names, self._salt, FULL_SIDE, workers=self._workers, accepted=self._accepted
        )
        return {
            names[answer.index]: local_contrast(answer.film) for answer in answers if answer.film is not None
        }
