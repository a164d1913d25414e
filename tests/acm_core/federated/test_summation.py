"""The streaming mean against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.federated.summation import MAX_TOTAL_WEIGHT, WeightedMean

ANY_FLOAT = {
    "float16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(width=64, allow_nan=False, allow_infinity=False),
}
# Neighbours a few bits apart and magnitudes far apart: rounding could leave the range or show the order.
HARD = [0.0, 1.0, 1.0 + 2.0**-23, -1.0, 3.4e38, -(2.0**32)]
HARD += [2.0**exponent for exponent in (32, 33, -31, -33, -64, -149)]
WEIGHTS = st.one_of(st.integers(0, 300), st.integers(0, 2**26))


def mean_of(values: list[Any], weights: list[int], dtype: str, fallback: float = 0.0) -> npt.NDArray[Any]:
    mean = WeightedMean((), np.dtype(dtype))
    for value, weight in zip(values, weights, strict=True):
        mean.add(np.array(value, dtype), weight)
    return mean.mean(np.array(fallback, dtype))


@st.composite
def weighted_values(draw: st.DrawFn) -> tuple[str, list[float], list[int]]:
    dtype = draw(st.sampled_from(sorted(ANY_FLOAT)))
    hard = [value for value in HARD if dtype != "float16" or abs(value) < 6e4]
    near = draw(ANY_FLOAT[dtype])
    neighbours = [float(np.nextafter(np.array(near, dtype), np.array(side, dtype))) for side in (0, 1)]
    value = st.one_of(ANY_FLOAT[dtype], st.sampled_from([*hard, near, *neighbours]))
    pairs = draw(st.lists(st.tuples(value, WEIGHTS), min_size=1, max_size=8))
    return dtype, [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@given(case=weighted_values(), data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_bit_is_independent_of_the_order(
    case: tuple[str, list[float], list[int]], data: st.DataObject
) -> None:
    dtype, values, weights = case
    order = data.draw(st.permutations(range(len(values))))
    shuffled = mean_of([values[i] for i in order], [weights[i] for i in order], dtype)
    assert mean_of(values, weights, dtype).tobytes() == shuffled.tobytes()


@given(case=weighted_values())
@settings(max_examples=300, deadline=None)
def test_mean_stays_within_its_inputs_and_near_the_exact_mean(
    case: tuple[str, list[float], list[int]],
) -> None:
    dtype, values, weights = case
    counted = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    if not counted:
        return
    got = mean_of(values, weights, dtype)
    assert got.dtype == dtype
    assert min(value for value, _ in counted) <= got <= max(value for value, _ in counted)
    exact = sum(Fraction(value) * weight for value, weight in counted) / sum(weight for _, weight in counted)
    largest = max(abs(Fraction(value)) for value, _ in counted)
    info = np.finfo(dtype)
    own_rounding = abs(Fraction(float(got))) * Fraction(float(info.eps)) + Fraction(
        float(info.smallest_subnormal)
    )
    assert abs(Fraction(float(got)) - exact) <= own_rounding + largest / 2 ** (
        50 if dtype == "float64" else 32
    )


@given(dtype=st.sampled_from(sorted(ANY_FLOAT)), weight=st.integers(1, MAX_TOTAL_WEIGHT), data=st.data())
@settings(max_examples=150, deadline=None)
def test_one_array_comes_back_as_it_is(dtype: str, weight: int, data: st.DataObject) -> None:
    value = data.draw(ANY_FLOAT[dtype])
    assert mean_of([value], [weight], dtype) == np.array(value, dtype)


@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6),
    weights=st.lists(st.integers(1, 2**20), min_size=6, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_integers_are_exact_and_rounded_half_to_even(values: list[int], weights: list[int]) -> None:
    weights = weights[: len(values)]
    exact = Fraction(sum(v * w for v, w in zip(values, weights, strict=True)), sum(weights))
    got = mean_of(values, weights, "int64")
    assert got.dtype == np.int64
    assert int(got) == round(exact)  # round() of a Fraction is exact and half to even


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_narrow_integers_keep_their_dtype(dtype: str) -> None:
    got = mean_of([100, 101], [1, 1], dtype)
    assert got.dtype == dtype
    assert int(got) == 100


@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 40),
    arrays=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_arrays_are_the_mean_of_each_position(rows: int, columns: int, arrays: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-30, 30, (arrays, rows, columns))
    values = (rng.standard_normal((arrays, rows, columns)) * scale).astype(np.float32)
    weights = [int(weight) for weight in rng.integers(0, 50, arrays)]
    mean = WeightedMean((rows, columns), np.dtype(np.float32))
    for value, weight in zip(values, weights, strict=True):
        mean.add(value, weight)
    fallback = rng.standard_normal((rows, columns)).astype(np.float32)
    got = mean.mean(fallback)
    for row in range(rows):
        for column in range(columns):
            alone = mean_of(
                list(values[:, row, column]),
                weights,
                "float32",
                fallback[row, column],
            )
            assert got[row, column] == alone


def test_large_values_that_cancel_leave_the_small_one() -> None:
    assert mean_of([2.0**32, 1.0, -(2.0**32)], [1, 1, 1], "float32") == np.float32(1 / 3)


def test_a_value_without_weight_has_no_influence() -> None:
    assert mean_of([1e-30, 3e38], [3, 0], "float32") == np.float32(1e-30)


def test_without_weight_the_fallback_comes_back_bit_for_bit() -> None:
    assert mean_of([5.0], [0], "float32", fallback=-0.0).tobytes() == np.float32(-0.0).tobytes()


def test_too_much_weight_is_refused_and_adds_nothing() -> None:
    mean = WeightedMean((2,), np.dtype(np.float32))
    mean.add(np.array([1, 2], np.float32), MAX_TOTAL_WEIGHT)
    with pytest.raises(ValueError, match="at most 1073741824, got 1073741825"):
        mean.add(np.array([5, 5], np.float32), 1)
    assert mean.mean(np.zeros(2, np.float32)).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["bool", "uint64", "complex64", "U4", "object"])
def test_a_dtype_without_a_mean_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="expected float16, float32, float64 or an integer"):
        WeightedMean((1,), np.dtype(dtype))
