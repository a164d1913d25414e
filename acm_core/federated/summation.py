"""Weighted means whose every bit is independent of the order of arrival, in flat memory.

Plain floating-point sums depend on the order, so the model would depend on which site answers first. Here
each value is cut into digits of 32 bits at absolute binary places (…, 2⁻³², 2⁰, 2³², …) and the digits, times
the integer weight, are added up as integers: exact, so the order cannot matter. Only the digits from the
highest place seen at a position downwards are kept (two for float32, three for float64); a digit below them
is dropped no matter whether it arrived before or after the higher one, so the order cannot matter there
either. This is the binned summation of Demmel and Nguyen, "Parallel Reproducible Summation", IEEE Trans.
Computers 64 (2015), on integer accumulators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TOTAL_WEIGHT = 2**30
"""Bound on the sum of weights: digits (< 2³²) times weights then sum to less than 2⁶² and fit an int64."""

_DIGIT_BITS = 32
_PIECE = 2**14  # values: what is computed on the way stays in the processor's cache
_EMPTY = -100  # a place below those of values; zero and subnormal numbers count as of the lowest, -32
_FARTHEST = 36  # 2 to the power of half of it · 32 is a normal number

Int64s = npt.NDArray[np.int64]


class WeightedMean:
    """Streaming mean of arrays of one shape and dtype; holds 17 bytes for a float32, 25 for a float64.

    The error of a float mean is that of rounding it to its dtype plus at most 2⁻³² of the largest magnitude
    at that position (2⁻⁵⁰ for float64). One array alone comes back unchanged, and the mean never leaves the
    range of its inputs, so that a mean of variances is not negative. Integers are summed exactly and their
    mean is rounded half to even. Values have to be finite, which `validate_update` sees to.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        is_float = dtype.kind == "f" and dtype.itemsize <= 8
        if not is_float and not (dtype.kind in "iu" and np.can_cast(dtype, np.int64)):
            raise TypeError(
                f"expected float16, float32, float64 or an integer dtype within int64, got {dtype}"
            )
        self._dtype = dtype
        digits = 3 if is_float and dtype.itemsize == 8 else 2
        size = math.prod(shape)
        self._shape, self._size = shape, size
        self._sums: list[Int64s] = [np.zeros(size, np.int64) for _ in range(digits)]  # highest place first
        self._places = np.full(size, _EMPTY, np.int8) if is_float else None
        self._total = 0

    def add(self, values: npt.NDArray[Any], weight: int) -> None:
        """Add `values` with a weight ≥ 0.

        Raises:
            ValueError: the weights' sum would exceed `MAX_TOTAL_WEIGHT`; nothing was added.
        """
        total = self._total + weight
        if total > MAX_TOTAL_WEIGHT:
            raise ValueError(f"expected weights that sum to at most {MAX_TOTAL_WEIGHT}, got {total}")
        self._total = total
        if weight == 0:  # a value without weight must not push the digits of the others out
            return
        flat = values.reshape(-1)
        for piece in self._pieces():
            sums = [sums[piece] for sums in self._sums]
            if self._places is None:
                whole = flat[piece].astype(np.int64)
                sums[0] += (whole >> _DIGIT_BITS) * weight
                sums[1] += (whole & (2**_DIGIT_BITS - 1)) * weight
            else:
                _add_floats(flat[piece].astype(np.float64), weight, sums, self._places[piece])

    def mean(self, fallback: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The mean in the inputs' dtype; where the weights sum to 0, the value of `fallback`, bit for bit."""
        mean = np.array(fallback, self._dtype).reshape(-1)
        total = self._total
        for piece in self._pieces() if total else ():
            quotients: list[Int64s] = []
            remainder: Int64s = np.zeros((), np.int64)
            for sums in self._sums:  # long division, exact: |remainder · 2³² + sum| < 2⁶² + 2⁶²
                dividend = (remainder << _DIGIT_BITS) + sums[piece]
                quotients.append(dividend // total)
                remainder = dividend - quotients[-1] * total
            result: npt.NDArray[Any]
            if self._places is None:
                result = (quotients[0] << _DIGIT_BITS) + quotients[1]
                result = result + ((2 * remainder > total) | ((2 * remainder == total) & (result % 2 == 1)))
            else:
                result = remainder / total
                for rank, quotient in enumerate(reversed(quotients)):
                    result = quotient * 2.0 ** (_DIGIT_BITS * rank) + result
                result = _moved(result, self._places[piece].astype(np.int32) - (len(quotients) - 1))
            mean[piece] = result.astype(self._dtype)
        return mean.reshape(self._shape)

    def _pieces(self) -> Iterator[slice]:
        """Runs of the flat array."""
        for start in range(0, self._size, _PIECE):
            yield slice(start, start + _PIECE)


def _add_floats(
    values: npt.NDArray[np.float64], weight: int, sums: list[Int64s], places: npt.NDArray[np.int8]
) -> None:
    exponents = (values.view(np.int64) >> 52 & 0x7FF) - 1023  # |value| in [2**exponent, 2**(exponent + 1))
    _raise_places((exponents >> 5).astype(np.int8), sums, places)
    rest = _moved(values, -places.astype(np.int32))
    for rank in sums:
        digit = np.trunc(rest)
        np.add(rank, digit.astype(np.int64) * weight, out=rank)
        rest = (rest - digit) * 2.0**_DIGIT_BITS  # exact: it only drops leading bits


def _moved(values: npt.NDArray[np.float64], places: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Values times 2 to the power of 32 · places."""
    place = int(places[0])
    if abs(place) <= _FARTHEST and (places == place).all():  # the rule, and ten times faster
        half = 2.0 ** (_DIGIT_BITS // 2 * place)
        return values * half * half
    return np.ldexp(values, _DIGIT_BITS * places)


def _raise_places(needed: npt.NDArray[np.int8], sums: list[Int64s], places: npt.NDArray[np.int8]) -> None:
    """Where a larger value arrives, move every digit down to where it belongs then, the lowest ones out."""
    moved = needed > places
    if not moved.any():
        return
    if any(rank.any() for rank in sums):  # else nothing to move yet: the first array, usually
        stack = np.stack([rank[moved] for rank in sums])  # rank × moved positions
        source = np.arange(len(sums))[:, None] - (needed[moved].astype(np.int64) - places[moved])
        shifted = np.where(source >= 0, np.take_along_axis(stack, np.maximum(source, 0), axis=0), 0)
        for rank, column in zip(sums, shifted, strict=True):
            rank[moved] = column
    np.maximum(places, needed, out=places)
