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

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TOTAL_WEIGHT = 2**30
"""Bound on the sum of weights: digits (< 2³²) times weights then sum to less than 2⁶² and fit an int64."""

_DIGIT_BITS = 32
_EMPTY = -100  # a place below that of the smallest subnormal float64, floor(-1074 / 32) = -34

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
        self._sums: list[Int64s] = [np.zeros(shape, np.int64) for _ in range(digits)]  # highest place first
        self._places = np.full(shape, _EMPTY, np.int8) if is_float else None
        self._total: Int64s = np.zeros((), np.int64)

    def add(self, values: npt.NDArray[Any], weight: Int64s) -> None:
        """Add `values` with integer weights ≥ 0: shape () for all values, or (rows,) along the first axis.

        Raises:
            ValueError: the weights' sum would exceed `MAX_TOTAL_WEIGHT`; nothing was added.
        """
        if weight.ndim:
            weight = weight.reshape(-1, *(1,) * (values.ndim - 1))
        total = self._total + weight
        if (total > MAX_TOTAL_WEIGHT).any():
            raise ValueError(f"expected weights that sum to at most {MAX_TOTAL_WEIGHT}, got {total.max()}")
        self._total = total
        # A value without weight must not push the digits of the others out.
        counted = np.where(weight > 0, values, np.zeros((), self._dtype))
        if self._places is None:
            whole = counted.astype(np.int64)
            self._sums[0] += (whole >> _DIGIT_BITS) * weight
            self._sums[1] += (whole & (2**_DIGIT_BITS - 1)) * weight
        else:
            self._add_floats(counted.astype(np.float64), weight, self._places)

    def mean(self, fallback: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The mean in the inputs' dtype; where the weights sum to 0, the value of `fallback`, bit for bit."""
        total = np.maximum(self._total, 1)
        quotients: list[Int64s] = []
        remainder: Int64s = np.zeros((), np.int64)
        for sums in self._sums:  # long division, exact: |remainder · 2³² + sum| < 2⁶² + 2⁶²
            quotient, remainder = np.divmod((remainder << _DIGIT_BITS) + sums, total)
            quotients.append(quotient)
        result: npt.NDArray[Any]
        if self._places is None:
            result = (quotients[0] << _DIGIT_BITS) + quotients[1]
            result = result + ((2 * remainder > total) | ((2 * remainder == total) & (result % 2 == 1)))
        else:
            result = remainder / total
            for rank, quotient in enumerate(reversed(quotients)):
                result = np.ldexp(quotient.astype(np.float64), _DIGIT_BITS * rank) + result
            lowest = self._places.astype(np.int32) - (len(quotients) - 1)
            result = np.ldexp(result, _DIGIT_BITS * lowest)
        return np.where(self._total > 0, result.astype(self._dtype), fallback)

    def _add_floats(
        self, values: npt.NDArray[np.float64], weight: Int64s, places: npt.NDArray[np.int8]
    ) -> None:
        exponents = np.frexp(values)[1]  # |value| in [2**(exponent - 1), 2**exponent)
        needed = np.where(values == 0, _EMPTY, (exponents - 1) // _DIGIT_BITS)
        self._raise_places(np.maximum(needed - places, 0), places)
        rest = np.ldexp(values, -_DIGIT_BITS * places.astype(np.int32))
        for rank in range(len(self._sums)):
            digit = np.trunc(rest)
            self._sums[rank] += digit.astype(np.int64) * weight
            rest = (rest - digit) * 2.0**_DIGIT_BITS  # exact: it only drops leading bits

    def _raise_places(self, by: npt.NDArray[Any], places: npt.NDArray[np.int8]) -> None:
        """Where a larger value arrives, move every digit `by` ranks down, the lowest ones out."""
        moved = by > 0
        if not moved.any():
            return
        if not any(sums.any() for sums in self._sums):  # nothing to move yet: the first array, usually
            places += by.astype(np.int8)
            return
        places[moved] += by[moved].astype(np.int8)
        stack = np.stack([sums[moved] for sums in self._sums])  # rank × moved positions
        source = np.arange(len(self._sums))[:, None] - by[moved][None, :]
        shifted = np.where(source >= 0, np.take_along_axis(stack, np.maximum(source, 0), axis=0), 0)
        for sums, column in zip(self._sums, shifted, strict=True):
            sums[moved] = column
