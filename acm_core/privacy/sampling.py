"""Who takes part in a step: each unit by a coin of its own, tossed with the operating system's entropy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray


class PoissonSampler:
    """Draws units independently with probability q, and a unit's films up to a cap, anew each step.

    No seed: whoever knew it would know who took part, and the amplification by sampling that ε counts on were gone.

    Args:
        patients: N, films of one patient share a number (unit "patient").
        unit: "patient", or "film" where every film is a unit of its own.
        sampling_rate: q in (0, 1], public: never computed from the number of units.
        films_per_patient: cap on a unit's films.
    """

    def __init__(
        self,
        patients: NDArray[np.int64],
        unit: Literal["patient", "film"],
        *,
        sampling_rate: float,
        films_per_patient: int,
    ) -> None:
        if not 0 < sampling_rate <= 1:
            raise ValueError(f"expected a sampling rate in (0, 1], got {sampling_rate}")
        if films_per_patient < 1:
            raise ValueError(f"expected at least one film a patient, got {films_per_patient}")
        of_unit = patients if unit == "patient" else np.arange(len(patients))
        order = np.argsort(of_unit, kind="stable")
        starts = np.flatnonzero(np.diff(of_unit[order], prepend=-1))
        self._films = [rows for rows in np.split(order, starts) if len(rows)]
        self._rate = sampling_rate
        self._cap = films_per_patient

    @property
    def units(self) -> int:
        """Units there are; private."""
        return len(self._films)

    def draw(self) -> list[NDArray[np.int64]]:
        """The films (rows) of each unit of one step; perhaps none."""
        taken = np.flatnonzero(_uniform(len(self._films)) < self._rate)
        return [self._some(self._films[unit]) for unit in taken]

    def _some(self, films: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(films) <= self._cap:
            return films
        return films[np.sort(np.argsort(_uniform(len(films)))[: self._cap])]


def physical_batches(units: list[NDArray[np.int64]], films_at_once: int) -> Iterator[list[NDArray[np.int64]]]:
    """Split a step's units into batches of at most `films_at_once` films; a unit is never split.

    A unit of more films than that is a batch of its own.
    """
    batch: list[NDArray[np.int64]] = []
    films = 0
    for unit in units:
        if batch and films + len(unit) > films_at_once:
            yield batch
            batch, films = [], 0
        batch.append(unit)
        films += len(unit)
    if batch:
        yield batch


def _uniform(count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of 53 random bits."""
    bits = np.frombuffer(os.urandom(8 * count), np.uint64) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53
