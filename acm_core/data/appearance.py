"""How bright a film is, as a whole and along its border: what can be seen of it without looking at the chest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acm_core.data.shrink import shrink

_CELLS = 10
_RING = np.pad(np.zeros((_CELLS - 2, _CELLS - 2), bool), 1, constant_values=True)

APPEARANCE = 1 + int(_RING.sum())
"""Numbers that `appearance` gives."""


def appearance(film: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of a film H×W in [0, 1]: its mean grey, then that of the 36 outer cells of 10 × 10, around its outer tenth."""
    return np.array([film.mean(dtype=np.float64), *shrink(film, _CELLS, _CELLS)[_RING]])
