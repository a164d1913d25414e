"""Groups of patients whom a model may serve unequally: by sex, age band and view."""

from __future__ import annotations

from typing import Literal

Attribute = Literal["sex", "age", "view"]
GroupName = Literal["F", "M", "0–17", "18–39", "40–59", "60–79", "80 and over", "PA", "AP", "unknown"]

GROUPS: dict[Attribute, tuple[GroupName, ...]] = {
    "sex": ("F", "M", "unknown"),
    "age": ("0–17", "18–39", "40–59", "60–79", "80 and over", "unknown"),
    "view": ("PA", "AP", "unknown"),
}
"""Attribute → its groups, in the order in which they are shown."""

_BELOW = (18, 40, 60, 80)


def age_band(age: float | None) -> GroupName:
    """The band that an age in years lies in."""
    bands = GROUPS["age"]
    if age is None:
        return bands[-1]
    return bands[sum(age >= limit for limit in _BELOW)]
