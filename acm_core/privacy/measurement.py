"""What the privacy tests measure by: a check with its verdict, and how unlikely what was seen is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

FALSE_ALARM = 1e-3
"""Chance that any measurement of a sound mechanism lies outside its interval, all measurements together."""
ROUNDING = 1e-5
"""Of C, that a unit may add more: what float32 costs."""
USED_AGAIN = (
    "as if it had been drawn once and used again: the difference of what was released shows patients with less noise, "
    "or none"
)


@dataclass(frozen=True)
class Check:
    """One measurement beside its claim.

    Attributes:
        meaning: where it failed, what is wrong and what follows; "" where it passed.
    """

    name: str
    claimed: str
    measured: str
    meaning: str = ""

    @property
    def passed(self) -> bool:
        """Whether the claim stands."""
        return not self.meaning


@contextmanager
def one_thread() -> Iterator[None]:
    """The tensors are small: on a busy machine several threads take ten times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def two_sided(distribution: Any, value: Any, freedom: float) -> Any:
    """The chance of a value as far out on its side, doubled."""
    return 2 * np.minimum(distribution.cdf(value, freedom), distribution.sf(value, freedom))


def closest(rows: NDArray[np.float32]) -> tuple[float, float]:
    """The largest correlation, without centring, of any two of these rows of length 1, and a bound on the chance that
    independent Gaussian vectors have one as large.
    """
    largest = float(np.abs(np.triu(rows @ rows.T, 1)).max())
    pairs, freedom = len(rows) * (len(rows) - 1) / 2, rows.shape[1]
    one = 2 * float(stats.beta.sf((1 + min(largest, 1.0)) / 2, (freedom - 1) / 2, (freedom - 1) / 2))
    return largest, one * pairs


def effect(deviation: float, claimed: float) -> str:
    """What a standard deviation of the noise that is not the claimed one means."""
    return (
        "patients are protected less than ε says"
        if deviation < claimed
        else "it is not what ε is computed for"
    )
