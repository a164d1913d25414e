"""The roster: which hospitals a federation has and by which keys, as all of them have compared it.

It comes from the operator, and nobody has to believe him: every hospital's software finds its own key in it, and all
hospitals read its one fingerprint aloud in one call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from acm_core.audit_events import RunName
from acm_core.config.sections import SiteName
from acm_core.hash_chain import Strict
from acm_core.trust import TrustError, keys
from acm_core.trust.document import Document


class RosterError(TrustError):
    """A file that is no roster, not the one that was written, or one in which this site has not its own key."""


class RosterRow(Strict):
    """A site, its registered public key as OpenSSH writes it, and that key's fingerprint."""

    site: SiteName
    public_key: Annotated[str, StringConstraints(max_length=300)]
    fingerprint: Annotated[str, StringConstraints(max_length=100)]

    @model_validator(mode="after")
    def _is_its_keys(self) -> Self:
        if keys.fingerprint(keys.parse_public_key(self.public_key)) != self.fingerprint:
            raise ValueError(f"the fingerprint is not that of the key of {self.site}")
        return self


class Roster(Document):
    """Sites and their keys, by name."""

    called: ClassVar[str] = "a roster"
    error: ClassVar[type[TrustError]] = RosterError

    format: Literal["acm-fed.roster/1"] = "acm-fed.roster/1"
    federation: RunName
    sites: tuple[RosterRow, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        names = [row.site for row in self.sites]
        if names != sorted(set(names)):
            raise ValueError("the sites are not each there once, in the order of their names")
        if len({row.public_key for row in self.sites}) < len(names):
            raise ValueError("two sites have one key")
        return self

    @classmethod
    def of(cls, federation: str, public_keys: Mapping[str, str]) -> Self:
        """The roster of these sites, from their names to their public keys; at least two."""
        rows = [
            RosterRow(site=site, public_key=text, fingerprint=keys.fingerprint(keys.parse_public_key(text)))
            for site, text in sorted(public_keys.items())
        ]
        return cls(federation=federation, sites=tuple(rows))

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the federation's name, and all sites' names and keys."""
        lines = (self.format, self.federation, *(f"{row.site} {row.public_key}" for row in self.sites))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def public_keys(self) -> dict[str, keys.PublicKey]:
        """Each site's key, by which its promises are known."""
        return {row.site: keys.parse_public_key(row.public_key) for row in self.sites}

    def expect_own(self, federation: str, site: str, key: keys.PublicKey) -> None:
        """Refuse a roster in which a site has not its own name and key.

        Raises:
            RosterError: it is another federation's; the site is not in it, or has another key there.
        """
        own = keys.fingerprint(key)
        if self.federation != federation:
            raise RosterError(f"expected a roster of {federation}, got one of {self.federation}")
        for row in self.sites:
            if row.site == site and row.fingerprint != own:
                raise RosterError(
                    f"expected this site's key {own} under {site} in the roster, got {row.fingerprint}: somebody else "
                    "stands there in its place; tell the other hospitals, and pin nothing"
                )
            if row.site != site and row.fingerprint == own:
                raise RosterError(
                    f"expected this site's key under {site} in the roster, got it under {row.site}"
                )
        if all(row.site != site for row in self.sites):
            raise RosterError(
                f"expected {site} in the roster ({', '.join(row.site for row in self.sites)}), got none of that name: "
                "has the operator approved this site?"
            )
