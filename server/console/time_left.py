"""How much longer the rounds of a run will take."""

from __future__ import annotations

from collections.abc import Sequence

_MINUTE, _HOUR = 60, 3600


def seconds_left(rounds: int, done: int, seconds: Sequence[float]) -> float | None:
    """Of all rounds, by the mean of those so far; None before the first and after the last.

    Args:
        seconds: that rounds have taken.
    """
    return (rounds - done) * sum(seconds) / len(seconds) if seconds and done < rounds else None


def in_words(seconds: float) -> str:
    """`90 s`, `25 min` or `2.5 h`."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"
