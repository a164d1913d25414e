"""Do two films show the same? Proved piece by piece, at a size at which ribs and vessels tell persons apart.

All chests are alike in the large, and all films of a device in their frame. So the constant frame is taken off, what
is left is reduced to its local contrast, and each piece of one film is looked for around its place in the other: a film
that was encoded, windowed or cropped anew has its pieces nearly where they were, another person's film nowhere.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

PROVED = 0.8
"""Similarity from which two films are one, see `similarity`.

Of the 40 pairs of different patients whose thumbnails were nearest, among 1,122 films in each of four frames, the
highest reached 0.65; of films as smaller JPEG, cropped by 4 % or in another tone curve, 99 in 100 lay above 0.83.
"""
FULL_SIDE = 512
"""Pixels a side at which films are read for the proof."""
EVEN, NEARLY_EVEN = 0.005, 0.02
"""Standard deviations, of [0, 1], up to which a row or column at a side is frame: JPEG leaves ripples in it."""
_LEAST_SIDE = 16
_SIDE, _PIECE, _AROUND = 192, 32, 8
_PLAIN = 8.0
"""Norm of a piece's contrast below which it shows nothing."""
_LEAST_PIECES = 6
_FIRST_PIECES, _FAR = 9, 0.6
"""Films whose first pieces are this unlike are another's, and the rest is not looked at."""


def without_frame(film: NDArray[np.float32], even: float) -> NDArray[np.float32]:
    """The film without the rows and columns at its sides that are all one grey: letterboxes, padding, collimation.

    Args:
        even: `EVEN` or `NEARLY_EVEN`.
    """
    rows = np.flatnonzero(film.std(axis=1) > even)
    columns = np.flatnonzero(film.std(axis=0) > even)
    if len(rows) < _LEAST_SIDE or len(columns) < _LEAST_SIDE:
        return film
    return film[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def local_contrast(film: NDArray[np.floating]) -> NDArray[np.float32]:
    """H×W in [0, 1] → 192×192: what stands out from its surroundings, as much in dark places as in bright ones."""
    inside = Image.fromarray(np.ascontiguousarray(without_frame(film.astype(np.float32), EVEN)))
    small = np.asarray(inside.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32)
    small = gaussian_filter(small, 1.0)
    detail = small - gaussian_filter(small, 6.0)
    strength = np.sqrt(gaussian_filter(detail * detail, 8.0))
    contrast: NDArray[np.float32] = detail / (strength + np.float32(0.004))
    return contrast


def similarity(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Median over pieces of `one` of the best correlation with `other` within 8 pixels of their place; 1 for one film.

    Args:
        one, other: of `local_contrast`. Where fewer than six pieces of `one` show anything the similarity is 0.
    """
    found = []
    for top in range(_AROUND, _SIDE - _PIECE - _AROUND + 1, _PIECE):
        for left in range(_AROUND, _SIDE - _PIECE - _AROUND + 1, _PIECE):
            piece = one[top : top + _PIECE, left : left + _PIECE].ravel()
            piece = piece - piece.mean()
            norm = float(np.linalg.norm(piece))
            if norm < _PLAIN:
                continue
            around = other[top - _AROUND : top + _PIECE + _AROUND, left - _AROUND : left + _PIECE + _AROUND]
            places = sliding_window_view(around, (_PIECE, _PIECE)).reshape(-1, _PIECE * _PIECE)
            # The piece has no mean, so that of the place does not count in the product.
            spread = np.sqrt(np.maximum((places**2).sum(1) - places.sum(1) ** 2 / places.shape[1], 1e-6))
            found.append(float((places @ piece / (spread * norm)).max()))
            if len(found) == _FIRST_PIECES and float(np.median(found)) < _FAR:
                return float(np.median(found))
    return float(np.median(found)) if len(found) >= _LEAST_PIECES else 0.0
