"""How often a peer or a site may do something."""

from __future__ import annotations

import time
from collections import OrderedDict

_BUCKETS = 10_000


class Allowance:
    """A token bucket for each key: `burst` at once, then `a_second`; those not heard of for long are forgotten."""

    def __init__(self, a_second: float, burst: float) -> None:
        self._rate, self._burst = a_second, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, count: float = 1) -> bool:
        """Whether `key` still had so many left, which are now used."""
        now = time.monotonic()
        left, at = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[key] = (left - count if left >= count else left, now)
        while len(self._left) > _BUCKETS:
            self._left.popitem(last=False)
        return left >= count
