"""What of a film can tell its finding and is no medicine: the names of the shortcuts, and what they see of films."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

Shortcut = Literal["grey", "size", "border", "view"]

SHORTCUTS: tuple[Shortcut, ...] = get_args(Shortcut)


@dataclass(frozen=True)
class Features:
    """What the shortcuts see of N films.

    Attributes:
        grey: N, mean grey.
        size: N×K.
        border: N×K.
        view: N names of views, "unknown" among them.
    """

    grey: Floats = field(repr=False)
    size: Floats = field(repr=False)
    border: Floats = field(repr=False)
    view: npt.NDArray[np.str_] = field(repr=False)
