"""Do two films show the same? Proved piece by piece, at a size at which ribs and vessels tell persons apart.

Each piece of one film is looked for around its place in the other: a film that was encoded, windowed or cropped anew
has its pieces nearly where they were, another person's film nowhere.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from acm_core.data.intake.local_contrast import Box, Scale, inside_frame, local_contrast

PROVED = 0.86
"""Similarity from which two films are one, see `similarity`.

Copies of 113 real films in five frames, as smaller JPEG, cropped by 2 % or in another window or tone curve, have 0.873
at least. Real films of different patients are far below. Of 1,500 phantom patients, whom a program drew, two pairs have
0.871 and all others 0.852 at most.
"""
FULL_SIDE = 512
"""Pixels a side at which films are read for the proof."""
_SIDE, _PIECE, _AROUND = 192, 32, 8
_SCALE = Scale(side=_SIDE, fine=1.0, coarse=4.0, around=6.0, least=0.004)
_TOPS = range(_AROUND, _SIDE - _PIECE - _AROUND + 1, _PIECE)
_PLACES = tuple((top, left) for top in _TOPS for left in _TOPS)
_PLAIN = 8.0
"""Norm of a piece's contrast below which it shows nothing."""
_LEAST_PIECES = 6
_FIRST_PIECES, _FAR = 9, 0.6
"""Films whose first pieces are this unlike are another's, and the rest is not looked at."""


def similarity(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """How alike two films are piece by piece, each at the place that all pieces agree on; 1 for one film.

    Each piece of `one` is looked for around its place in `other`. A crop shifts and stretches all of them alike; the
    pieces of another person's film lie best now here, now there. So one shift and stretch for rows and one for columns
    is fitted, and the mean of median and lower quartile over pieces of the correlation there is told: films that a
    program drew are alike in most places.

    What is inside the frame of one film is held against what is inside the other's; and both within one frame, since a
    new encoding moves the end of the frame of films that grow dark towards their sides. The more alike counts.

    Args:
        one, other: H×W in [0, 1], of one shape. Where fewer than six pieces show anything the similarity is 0.
    """
    inside = inside_frame(one), inside_frame(other)
    both = _around(*inside)
    return max(
        _of_pieces(
            *(local_contrast(film, box, box, _SCALE) for film, box in zip((one, other), inside, strict=True))
        ),
        _of_pieces(
            *(local_contrast(film, box, both, _SCALE) for film, box in zip((one, other), inside, strict=True))
        ),
    )


def _around(one: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns


def _of_pieces(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """S×S twice → mean of median and lower quartile of the correlations of the pieces where they lie together."""
    places, found = [], []
    for top, left in _PLACES:
        correlation = _looked_for(one, other, top, left)
        if correlation is None:
            continue
        places.append((top, left))
        found.append(correlation)
        if len(found) == _FIRST_PIECES and (best := float(np.median([c.max() for c in found]))) < _FAR:
            return best
    if len(found) < _LEAST_PIECES:
        return 0.0
    best_at = np.array([np.unravel_index(c.argmax(), c.shape) for c in found], float)
    at = np.array(places, float)
    rows, columns = (np.rint(_line(at[:, axis], best_at[:, axis])).astype(int) for axis in range(2))
    together = [_near(*piece) for piece in zip(found, rows, columns, strict=True)]
    return float(np.mean(np.quantile(together, (0.25, 0.5))))


def _looked_for(
    one: NDArray[np.float32], other: NDArray[np.float32], top: int, left: int
) -> NDArray[np.float32] | None:
    """17×17: correlation of the piece with `other` at each shift by up to 8 pixels; None where it shows nothing."""
    piece = one[top : top + _PIECE, left : left + _PIECE].ravel()
    piece = piece - piece.mean()
    norm = float(np.linalg.norm(piece))
    if norm < _PLAIN:
        return None
    around = other[top - _AROUND : top + _PIECE + _AROUND, left - _AROUND : left + _PIECE + _AROUND]
    places = sliding_window_view(around, (_PIECE, _PIECE)).reshape(-1, _PIECE * _PIECE)
    # The piece has no mean, so that of the place does not count in the product.
    spread = np.sqrt(np.maximum((places**2).sum(1) - places.sum(1) ** 2 / places.shape[1], 1e-6))
    correlation: NDArray[np.float32] = places @ piece / (spread * norm)
    return correlation.reshape(2 * _AROUND + 1, -1)


def _line(at: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """The line through most of the points (Theil and Sen: median slope, median offset), at each of them."""
    one, other = np.triu_indices(len(at), 1)
    apart = at[one] != at[other]
    slope = (
        np.median((shift[one] - shift[other])[apart] / (at[one] - at[other])[apart]) if apart.any() else 0.0
    )
    fitted: NDArray[np.float64] = slope * at + np.median(shift - slope * at)
    return fitted


def _near(correlation: NDArray[np.float32], row: int, column: int) -> float:
    """The best within a pixel of the place; -1 for a place outside."""
    near = correlation[max(row - 1, 0) : max(row + 2, 0), max(column - 1, 0) : max(column + 2, 0)]
    return float(near.max()) if near.size else -1.0
