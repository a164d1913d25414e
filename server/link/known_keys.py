"""Whose a key is, as the registry's file has it now."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from acm_core.trust import keys
from server.consortium.registry import Registry


def flower_key(key: keys.PublicKey) -> bytes:
    """A site's key as Flower has it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class KnownKeys:
    """The keys of the sites that take part, as the registry's file has them now."""

    def __init__(self, path: Path) -> None:
        self._registry = Registry.load(path)
        self._sites: dict[bytes, str] = {}
        self._keys: dict[str, keys.PublicKey] = {}
        self._read()

    def site(self, key: bytes) -> str | None:
        """Whose key this is, in the form that Flower sends."""
        self._renew()
        return self._sites.get(key)

    def key(self, site: str) -> keys.PublicKey | None:
        """A site's key."""
        self._renew()
        return self._keys.get(site)

    def _renew(self) -> None:
        if (newest := self._registry.newest()) is not self._registry:
            self._registry = newest
            self._read()

    def _read(self) -> None:
        self._keys = {site.name: keys.parse_public_key(site.public_key) for site in self._registry.active()}
        self._sites = {flower_key(key): site for site, key in self._keys.items()}
