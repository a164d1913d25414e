"""Who is who in a federation: sites' keys, the consortium's certificates, and the files with which a site joins.

- `keys`, `certificates`, `address`: what one side shows and the other knows; `signatures`: what a site signs.
- `document`: what every file that travels is; `enrolment`: a site's request and the operator's answer; `roster`: all
  sites and their keys. `comparison`: what people compare between them.
"""

from __future__ import annotations

__all__ = ["TrustError"]


class TrustError(ValueError):
    """A key, certificate or file that cannot be relied on; the text says what to do."""
