"""Which films of a batch belong to one unit: a patient, or a single film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """U units whose films lie side by side in a batch of B films.

    Attributes:
        sizes: films of each unit, each at least 1; their sum is B.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.sizes):
            raise ValueError(f"expected units of at least one film, got sizes {self.sizes}")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def films(self) -> int:
        """B."""
        return sum(self.sizes)

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """First film of each unit and the one after its last."""
        ends = torch.tensor((0, *self.sizes)).cumsum(0).tolist()
        return tuple(pairwise(ends))

    @cached_property
    def by_size(self) -> dict[int, list[int]]:
        """Films of a unit → the units that have as many."""
        found: dict[int, list[int]] = {}
        for unit, size in enumerate(self.sizes):
            found.setdefault(size, []).append(unit)
        return found

    def per_film(self, values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
        """One value a unit → one a film (B), in the dtype and on the device of `like`."""
        values = torch.as_tensor(values, dtype=like.dtype, device=like.device)
        return values.repeat_interleave(torch.tensor(self.sizes, device=like.device))

    def film_weights(self, like: Tensor) -> Tensor:
        """What makes a sum over films the sum over units of each one's mean: 1/size, B."""
        return self.per_film([1 / size for size in self.sizes], like)

    def sum(self, values: Tensor) -> Tensor:
        """B×… → U×…, each unit's films added."""
        if len(self) == self.films:
            return values
        return torch.stack([values[start:end].sum(0) for start, end in self.bounds])

    def films_of(self, chosen: Sequence[int]) -> Tensor:
        """Rows of the films of the chosen units, unit after unit."""
        return torch.cat([torch.arange(*self.bounds[unit]) for unit in chosen])
