"""One thing that has to be right before a site can take part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that has to be right, as it was found.

    Attributes:
        found: what is there.
        fix: what to do where it is wrong; "" where it is right.
    """

    name: str
    found: str
    fix: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is right."""
        return not self.fix
