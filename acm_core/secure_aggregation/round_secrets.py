"""A site's secrets of one round, and the keys of its masks that follow from them and from the list."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from acm_core.secure_aggregation.masks import KEY_BYTES, Mask, derive
from acm_core.secure_aggregation.sum_list import ListFault, ListRefused, SumList


@dataclass(frozen=True)
class RoundSecrets:
    """What a site keeps to itself until its next promise: 32 bytes each, from the operating system.

    Attributes:
        private: X25519 private key (RFC 7748).
        root: what the keys of its own masks are derived from.
    """

    private: bytes = field(repr=False)
    root: bytes = field(repr=False)

    @classmethod
    def draw(cls) -> RoundSecrets:
        """New ones."""
        return cls(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))

    @property
    def public(self) -> str:
        """The X25519 public key, in hex."""
        return X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw().hex()

    def own_key(self, sums: SumList) -> bytes:
        """The key of the site's own mask for this list alone: what opening gives away, 32 bytes."""
        return derive(self.root, sums.transcript, "own")

    def masks(self, site: str, sums: SumList) -> list[Mask]:
        """All masks of `site` for this list: its own one, and one with each other site, which cancels in the sum.

        Raises:
            ListRefused: a site's key agrees with every key on the same secret (a point of low order, RFC 7748 6.1).
        """
        private = X25519PrivateKey.from_private_bytes(self.private)
        masks = [Mask(self.own_key(sums))]
        for promise in sums.promises:
            if promise.site == site:
                continue
            try:
                shared = private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(promise.key)))
            except ValueError:
                raise ListRefused(
                    ListFault.LIST,
                    f"expected a key of {promise.site} that agrees on a secret, got one that does not",
                ) from None
            first, second = sorted((site, promise.site))
            masks.append(
                Mask(derive(shared, sums.transcript, "pair", first, second), subtracted=site != first)
            )
        return masks
