"""Named random streams: the same (run, site, round, purpose) always draws the same numbers, whoever draws first."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream that `names` names, e.g. `stream_seed(7, "A", 3, "order")`.

    Two different sequences of names give unrelated seeds; the types of the names count (1 is not "1").
    """
    encoded = repr((seed, *names)).encode()
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator of the named stream."""
    return np.random.default_rng(stream_seed(seed, *names))
