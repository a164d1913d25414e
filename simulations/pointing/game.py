"""The pointing game (Zhang et al., IJCV 2018): is a map's highest point where the finding lies?

Legend: N films, h×w cells of a map, S pixels a side of the film. A point is (y, x) in pixels of the S×S film, NaN where
a map is flat and so points nowhere; a box is (top, left, bottom, right).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acm_core.training.metrics import draw_patients

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

_RESAMPLES = 1000


@dataclass(frozen=True)
class Hits:
    """How often a map points into a box.

    Attributes:
        rate: share of the films in whose own box the map's highest point lies.
        low, high: 95 % interval, patients drawn with replacement.
        by_place: the same share with the boxes of other patients who have the finding: what a map would reach that
            knows where such findings lie and not where this one does. NaN with fewer than two patients.
    """

    rate: float
    low: float
    high: float
    by_place: float


def peaks(maps: Floats, image_size: int) -> NDArray[np.float64]:
    """…×h×w → …×2: the middle of the highest cell, the first one of several alike."""
    height, width = maps.shape[-2:]
    flat = maps.reshape(*maps.shape[:-2], height * width)
    row, column = np.divmod(flat.argmax(-1), width)
    cell = np.array([image_size / height, image_size / width])
    points: NDArray[np.float64] = (np.stack([row, column], -1) + 0.5) * cell
    points[flat.max(-1) == flat.min(-1)] = np.nan
    return points


def inside(points: Floats, boxes: Floats, tolerance: float) -> Bools:
    """…×2 and …×4 → …: whether a point lies in a box, or at most `tolerance` pixels beside it."""
    y, x = points[..., 0], points[..., 1]
    top, left, bottom, right = np.moveaxis(boxes, -1, 0)
    beside = (top - tolerance <= y) & (y <= bottom + tolerance)
    return np.asarray(beside & (left - tolerance <= x) & (x <= right + tolerance))


def every_pair(points: Floats, boxes: Floats, tolerance: float) -> Bools:
    """N×2 and N×4 → N×N: whether the point of film i lies in the box of film j."""
    return inside(points[:, None], boxes[None], tolerance)


def hits(pairs: Bools, patients: Ints, seed: int, kinds: Ints | None = None) -> Hits:
    """From what `every_pair` gave for N films, at least one, and the patient of each.

    Args:
        kinds: N, of the findings where there are several: only boxes of the same one stand in for each other.

    Raises:
        ValueError: there is no film.
    """
    if not len(pairs):
        raise ValueError("expected at least one film with the finding, got none")
    own = np.diagonal(pairs).astype(np.float64)
    others = patients[:, None] != patients[None]
    if kinds is not None:
        others &= kinds[:, None] == kinds[None]
    distinct, patient_of = np.unique(patients, return_inverse=True)
    weights = draw_patients(len(distinct), _RESAMPLES, seed)[:, patient_of]
    low, high = np.quantile((weights * own).sum(1) / weights.sum(1), (0.025, 0.975))
    by_place = float(pairs[others].mean()) if others.any() else float("nan")
    return Hits(float(own.mean()), float(low), float(high), by_place)
