"""Which process of a site's is served: a copy of its state folder, on another machine or restored, has the same key.

Two that answered in one name would mix their films, and each would keep a privacy ledger of its own steps alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SECONDS = 20.0
"""Within which a process that runs asks again, on a slow machine too."""


@dataclass
class _Lease:
    """A site's: whose it is, how many of its calls are under way, and when the last one ended."""

    instance: str
    calls: int = 0
    ended: float = 0.0


class Leases:
    """One process a site: the first that comes, until it hangs up or is silent for a while."""

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}

    def take(self, site: str, instance: str) -> bool:
        """Whether this process may speak for the site."""
        lease = self._leases.get(site)
        if lease is None or (not lease.calls and time.monotonic() - lease.ended > _SECONDS):
            self._leases[site] = _Lease(instance, ended=time.monotonic())
            return True
        return lease.instance == instance

    @contextmanager
    def call(self, site: str) -> Iterator[None]:
        """A call of the process that has the lease."""
        lease = self._leases[site]
        lease.calls += 1
        try:
            yield
        finally:
            lease.calls -= 1
            lease.ended = time.monotonic()

    def release(self, site: str) -> None:
        """The process that has the lease hung up."""
        self._leases.pop(site, None)
