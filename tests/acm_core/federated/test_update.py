"""What the gate lets through and how it names what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from acm_core.arrays import Arrays
from acm_core.federated.update import (
    MAX_FILMS,
    MAX_GROWTH,
    RefusalReason,
    SiteUpdate,
    UpdateRefused,
    first_fault,
    validate_update,
)

FINDINGS = ("Pneumonia", "Effusion")


def model() -> Arrays:
    return {
        "conv.weight": np.ones((2, 3), np.float32),
        "norm.running_var": np.ones(3, np.float32),
        "norm.num_batches_tracked": np.array(4, np.int64),
    }


def update(**changes: Any) -> SiteUpdate:
    return replace(SiteUpdate("A", model(), films=10, labelled=(10, 0)), **changes)


def refusal(changed: SiteUpdate) -> UpdateRefused:
    with pytest.raises(UpdateRefused) as caught:
        validate_update(changed, model(), FINDINGS)
    assert caught.value.site == "A"
    assert "A refused" in str(caught.value)
    return caught.value


def with_array(name: str, array: Any) -> SiteUpdate:
    return update(arrays={**model(), name: array})


def poisoned(value: float) -> Callable[[], Any]:
    def make() -> Any:
        array = np.ones((2, 3), np.float32)
        array[1, 2] = value
        return array

    return make


def test_a_fitting_update_passes() -> None:
    validate_update(update(), model(), FINDINGS)
    validate_update(update(films=MAX_FILMS, labelled=(0, MAX_FILMS)), model(), FINDINGS)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (poisoned(np.nan), RefusalReason.NOT_FINITE),
        (poisoned(np.inf), RefusalReason.NOT_FINITE),
        (poisoned(-np.inf), RefusalReason.NOT_FINITE),
        (lambda: np.ones((3, 2), np.float32), RefusalReason.SHAPE),
        (lambda: np.ones(1, np.float32), RefusalReason.SHAPE),
        (lambda: np.ones((1, 2, 3), np.float32), RefusalReason.SHAPE),
        (lambda: np.ones((2, 3), np.float64), RefusalReason.DTYPE),
        (lambda: np.ones((2, 3), np.float16), RefusalReason.DTYPE),
        (lambda: np.ones((2, 3), ">f4"), RefusalReason.DTYPE),
        (lambda: np.ones((2, 3), object), RefusalReason.DTYPE),
        (lambda: [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], RefusalReason.DTYPE),
    ],
)
def test_an_unfit_array_is_refused_by_name(make: Callable[[], Any], reason: RefusalReason) -> None:
    refused = refusal(with_array("conv.weight", make()))
    assert refused.reason is reason
    assert "conv.weight" in refused.detail


def test_integer_buffers_keep_their_dtype() -> None:
    refused = refusal(with_array("norm.num_batches_tracked", np.array(4.0)))
    assert refused.reason is RefusalReason.DTYPE
    assert "norm.num_batches_tracked: expected <i8, got <f8" in refused.detail


def test_a_negative_variance_is_refused() -> None:
    refused = refusal(with_array("norm.running_var", np.array([1, -1e-9, 1], np.float32)))
    assert refused.reason is RefusalReason.NEGATIVE_VARIANCE
    assert "norm.running_var" in refused.detail


def test_a_missing_array_is_named() -> None:
    arrays = model()
    del arrays["norm.running_var"]
    refused = refusal(update(arrays=arrays))
    assert refused.reason is RefusalReason.MISSING_ARRAY
    assert "norm.running_var" in refused.detail


def test_an_unexpected_array_is_named_but_not_at_any_length() -> None:
    refused = refusal(with_array("extra\n" + "x" * 10_000, np.zeros(1)))
    assert refused.reason is RefusalReason.UNEXPECTED_ARRAY
    assert "'extra\\nxxx" in refused.detail
    assert len(refused.detail) < 300


@pytest.mark.parametrize(
    "films", [0, -1, MAX_FILMS + 1, 10**400, True, 10.0, float("nan"), "10", None, np.int64(10)]
)
def test_a_bad_number_of_films_is_refused(films: object) -> None:
    refused = refusal(update(films=films))
    assert refused.reason is RefusalReason.FILMS
    assert len(refused.detail) < 200


@pytest.mark.parametrize("labelled", [(10,), (1, 2, 3), (11, 0), (-1, 0), (1.0, 0), (True, 0), [1, 2], None])
def test_bad_labelled_counts_are_refused(labelled: object) -> None:
    assert refusal(update(labelled=labelled)).reason is RefusalReason.LABELLED


def test_a_bad_labelled_count_names_the_finding() -> None:
    assert "expected 0 to 10 films labelled for Effusion, got 11" in refusal(update(labelled=(0, 11))).detail


@pytest.mark.parametrize(("size", "limit"), [(0.01, 1000.0), (1.0, 1000.0), (20.0, 20_000.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_that_training_does_not_reach_are_named(size: float, limit: float, sign: int) -> None:
    reference = {**model(), "conv.weight": np.full((2, 3), -size, np.float32)}
    arrays = {**reference, "conv.weight": poisoned(sign * limit)()}
    assert first_fault(arrays, reference, MAX_GROWTH) is None
    arrays["conv.weight"][0, 0] = sign * 1.001 * limit
    assert first_fault(arrays, reference) is None  # the rules bound what any values can do
    fault = first_fault(arrays, reference, MAX_GROWTH)
    assert fault is not None
    assert fault[0] is RefusalReason.NORM
    assert fault[1].startswith(f"conv.weight: expected values of at most {limit:.3g} in size, got up to")


def test_counters_may_be_large_and_arrays_empty() -> None:
    large = {**model(), "norm.num_batches_tracked": np.array(2**60, np.int64), "none": np.ones(0, np.float32)}
    assert first_fault(large, {**model(), "none": np.ones(0, np.float32)}, MAX_GROWTH) is None


def test_reason_codes_are_stable() -> None:
    assert [reason.value for reason in RefusalReason] == [
        "missing_array",
        "unexpected_array",
        "shape",
        "dtype",
        "not_finite",
        "norm",
        "negative_variance",
        "films",
        "labelled",
        "duplicate",
        "layout",
        "wrong_base",
    ]


def test_repr_does_not_print_the_model() -> None:
    assert "array(" not in repr(update())
