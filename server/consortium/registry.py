"""Which sites take part: `sites.json`, changed by the operator's commands while a server runs.

A key is one site's only, and once removed it never comes back; a site's name may come back with another key.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError, model_validator

from acm_core.config.sections import SiteName
from acm_core.files import turn, write_text_atomically
from acm_core.hash_chain import Strict
from acm_core.trust import TrustError, keys
from acm_core.trust.enrolment import Time, now


class RegistryError(TrustError):
    """The registry does not permit it, or cannot be read."""


class RegisteredSite(Strict):
    """A site's key, from its approval on; `removed` is when it ended."""

    name: SiteName
    public_key: str
    fingerprint: str
    approved: Time
    removed: Time | None = None


class _Content(Strict):
    format: Literal["acm-fed.sites/1"] = "acm-fed.sites/1"
    sites: tuple[RegisteredSite, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for site in self.sites:
            if keys.fingerprint(keys.parse_public_key(site.public_key)) != site.fingerprint:
                raise ValueError(f"expected the fingerprint of {site.name}'s key, got another one's")
        if len({site.public_key for site in self.sites}) < len(self.sites):
            raise ValueError("expected each key once")
        active = [site.name for site in self.sites if site.removed is None]
        if len(set(active)) < len(active):
            raise ValueError("expected one key a site that is not removed")
        return self


class Registry:
    """The registry as it stands in its file, all of it; `approve` and `remove` take turns with other processes."""

    def __init__(self, path: Path, sites: Sequence[RegisteredSite], stamp: tuple[int, ...]) -> None:
        self._path, self._stamp = path, stamp
        self.sites = tuple(sites)

    @classmethod
    def load(cls, path: Path) -> Registry:
        """What the file holds now.

        Raises:
            RegistryError: it cannot be read.
        """
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                content = file.read()
            return cls(path, _Content.model_validate_json(content).sites, stamp)
        except OSError as error:
            raise RegistryError(
                f"expected the registry of sites in {path}, got {error.strerror}: put its newest backup back"
            ) from None
        except ValidationError as error:
            raise RegistryError(
                f"expected the registry of sites in {path} as it was written, got something else: put its newest "
                f"backup back; {error.errors(include_input=False)[0]['msg']}"
            ) from None

    @staticmethod
    def create(path: Path) -> None:
        """Write a registry without sites."""
        _write(path, ())

    def newest(self) -> Registry:
        """This one where the file is still the same, which costs a `stat`; otherwise what it holds now.

        Raises:
            RegistryError: it cannot be read.
        """
        try:
            same = _stamp(self._path.stat()) == self._stamp
        except OSError:
            same = False
        return self if same else Registry.load(self._path)

    def active(self) -> list[RegisteredSite]:
        """The sites that take part, in the order of their approval."""
        return [site for site in self.sites if site.removed is None]

    def expect_approvable(self, name: str, public_key: str) -> RegisteredSite | None:
        """Refuse what `approve` would refuse; the site, where it already has this key.

        Raises:
            RegistryError: the key was removed or is another site's, or the site has another.
        """
        for site in self.sites:
            if site.public_key != public_key:
                if site.name == name and site.removed is None:
                    raise RegistryError(
                        f"expected the key with which {name} is enrolled, {site.fingerprint}, got another: if the site "
                        f"has made a new one on purpose, run `python -m server.remove {name}` first"
                    )
            elif site.removed is not None:
                raise RegistryError(
                    f"expected a key that was never removed, got that of {site.name}, removed on "
                    f"{site.removed:%Y-%m-%d}, which stays out for ever: at the site, move federation/site.key out of "
                    "its state folder and run client.enrol again, which makes a new key"
                )
            elif site.name == name:
                return site
            else:
                raise RegistryError(
                    f"expected {name}'s own key, got that of site {site.name}: each site makes its own"
                )
        return None

    def approve(self, name: str, public_key: str) -> Registry:
        """The registry in which site `name` has this key; on disk when this returns.

        Raises:
            RegistryError: as `expect_approvable`.
        """
        with turn(self._path.with_suffix(".lock")):
            newest = self.newest()
            if newest.expect_approvable(name, public_key) is not None:
                return newest
            site = RegisteredSite(
                name=name,
                public_key=public_key,
                fingerprint=keys.fingerprint(keys.parse_public_key(public_key)),
                approved=now(),
            )
            return newest._written((*newest.sites, site))

    def expect_active(self, name: str) -> RegisteredSite:
        """The site of this name.

        Raises:
            RegistryError: there is none that takes part.
        """
        for site in self.active():
            if site.name == name:
                return site
        raise RegistryError(
            f"expected a site that takes part ({', '.join(site.name for site in self.active()) or 'there is none'}), "
            f"got {name}"
        )

    def remove(self, name: str) -> Registry:
        """The registry in which site `name` takes no part any more; on disk when this returns.

        Raises:
            RegistryError: as `expect_active`.
        """
        with turn(self._path.with_suffix(".lock")):
            newest = self.newest()
            site = newest.expect_active(name)
            removed = site.model_copy(update={"removed": now()})
            return newest._written([removed if one is site else one for one in newest.sites])

    def _written(self, sites: Sequence[RegisteredSite]) -> Registry:
        _write(self._path, sites)
        return Registry.load(self._path)


def _write(path: Path, sites: Sequence[RegisteredSite]) -> None:
    write_text_atomically(path, _Content(sites=tuple(sites)).model_dump_json(indent=2) + "\n")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns
