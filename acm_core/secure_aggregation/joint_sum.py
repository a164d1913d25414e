"""The server's part: vectors go in one at a time, own masks come off, and what is left is the sum of the updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.secure_aggregation.fixed_point import JointMean, Layout, SumError
from acm_core.secure_aggregation.masks import KEY_BYTES, Mask, Vector, add_masks
from acm_core.secure_aggregation.sum_list import SumList


class JointSum:
    """One list's sum; its memory does not grow with the sites.

    Vectors and keys come in any order. Before the last of them the sum is uniformly random numbers to whoever looks.
    """

    def __init__(self, sums: SumList, layout: Layout) -> None:
        self.list, self._layout = sums, layout
        self._total = Vector.zeros(layout.low_size, layout.high_size)
        self._unmasked, self._unopened = set(sums.sites), set(sums.sites)

    @property
    def missing(self) -> list[str]:
        """Sites whose vectors are not in, sorted."""
        return sorted(self._unmasked)

    @property
    def closed(self) -> list[str]:
        """Sites whose own masks are still on it, sorted."""
        return sorted(self._unopened)

    def take(self, site: str, vector: Vector) -> bool:
        """Add a site's masked vector for this list; False where it is in already or the site is not in the list.

        Raises:
            SumError: it is of another size or dtype.
        """
        low, high = self._total
        if not (_is_like(vector.low, low) and _is_like(vector.high, high)):
            raise SumError(
                f"expected {low.size} numbers of 32 bits and {high.size} of 64 from {site}, got another vector"
            )
        if site not in self._unmasked:
            return False
        self._total.add(vector)
        self._unmasked.remove(site)
        return True

    def open(self, site: str, key: bytes) -> bool:
        """Take off a site's own mask; False where it is off already or the site is not in the list.

        Args:
            key: `RoundSecrets.own_key` of this list.

        Raises:
            SumError: it is no key.
        """
        if len(key) != KEY_BYTES:
            raise SumError(f"expected a key of {KEY_BYTES} bytes from {site}, got {len(key)}")
        if site not in self._unopened:
            return False
        add_masks(self._total, [Mask(key, subtracted=True)])
        self._unopened.remove(site)
        return True

    def mean(self) -> JointMean:
        """What the sum says, once every site's vector is in and every own mask is off.

        Raises:
            SumError: it is not so yet, or no honest sites have such a sum. Nobody can be named then.
        """
        if self._unmasked or self._unopened:
            raise SumError(
                f"expected all of {', '.join(self.list.sites)} in the sum, got none of "
                f"{', '.join(sorted(self._unmasked | self._unopened))} yet"
            )
        return self._layout.decode(self._total)


def _is_like(array: object, expected: npt.NDArray[Any]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == expected.dtype and array.shape == expected.shape
