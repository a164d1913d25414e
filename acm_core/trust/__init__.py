"""Who is who in a federation: sites' keys, the consortium's certificates, and the files with which a site joins."""

from __future__ import annotations


class TrustError(ValueError):
    """A key, certificate or file that cannot be relied on; the text says what to do."""
