"""Updates as integers: sums are exact, never wrap, and say FedAvg's mean within the grid."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summing import FINDINGS, ROWS, Hospitals, same, small_model

from acm_core.arrays import Arrays
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.update import SiteUpdate, UpdateRefused
from acm_core.secure_aggregation.fixed_point import Layout, OutOfRangeError, SumError, expect_in_range
from acm_core.secure_aggregation.masks import Vector
from acm_core.secure_aggregation.sum_list import Terms

LOSSES = {"train_loss": 0.5, "validation_loss": 0.25}


def terms(sites: int, films: int, rows: tuple[bool, ...] = (True,) * len(FINDINGS)) -> Terms:
    """Of sites that label films for every finding, and have `films` together at most."""
    return Terms(sites, films, (sites,) * len(rows), rows, (True, True))


def update(
    arrays: Arrays, films: int, labelled: tuple[int, ...] | None = None, **losses: float
) -> SiteUpdate:
    return SiteUpdate("S00", arrays, films, labelled or (films,) * len(FINDINGS), LOSSES | losses)


def summed(layout: Layout, *updates: SiteUpdate) -> Vector:
    total = Vector.zeros(layout.low_size, layout.high_size)
    for one in updates:
        total.add(layout.encode(one))
    return total


@given(seed=st.integers(0, 2**32 - 1), sites=st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_the_mean_is_fedavgs_within_the_grid_a_row_a_finding(seed: int, sites: int) -> None:
    hospitals = Hospitals(sites, seed=seed)
    sums = hospitals.list()
    layout, fedavg = hospitals.layout(sums), FedAvg(hospitals.model, FINDINGS, ROWS)
    for one in hospitals.updates.values():
        fedavg.add(one)
    got, expected = layout.decode(hospitals.plain_sum(sums)), fedavg.result()
    updates = hospitals.updates.values()
    assert got.films == sum(one.films for one in updates)
    assert got.labelled == tuple(map(sum, zip(*(one.labelled for one in updates), strict=True)))
    assert got.learnt == (True,) * len(FINDINGS)
    for name, array in got.arrays.items():
        weights = np.array(got.labelled if name in ROWS else [got.films], np.float64)
        weights = weights.reshape(-1, *(1,) * max(array.ndim - 1, 0)) if array.ndim else weights[0]
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        if array.dtype.kind != "f":
            assert array == expected[name]
            continue
        room = sites / 2 * layout.grid(name) / weights + np.abs(expected[name]) * 2.0**-23
        assert (np.abs(array.astype(np.float64) - expected[name]) <= room).all(), name
        assert (layout.grid(name) * sites / weights < 1e-5).all(), name
    for loss, mean in got.losses.items():
        exact = sum(one.films * one.metrics[loss] for one in updates) / got.films
        assert mean == pytest.approx(exact, abs=1e-9)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_no_order_changes_a_bit(data: st.DataObject, seed: int) -> None:
    hospitals = Hospitals(5, seed=seed)
    sums = hospitals.list()
    order = data.draw(st.permutations(sums.sites))
    one, other = hospitals.plain_sum(sums), hospitals.plain_sum(sums, order)
    assert same(one, other)
    layout = hospitals.layout(sums)
    first, second = layout.decode(one), layout.decode(other)
    assert all(first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in hospitals.model)


@pytest.mark.parametrize(("sites", "films"), [(64, 2**16), (3, 1), (200, 2**24), (2, 2**24), (4096, 2**24)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_that_pass_do_not_wrap(sites: int, films: int, sign: int) -> None:
    model = small_model(np.random.default_rng(1))
    if films > 10_000_000:
        films = 10_000_000  # the most that a site may claim
    most = 1 << (films - 1).bit_length()
    layout = Layout(model, FINDINGS, ROWS, terms(sites, sites * most))
    extreme: Arrays = {}
    for name, array in model.items():
        if array.dtype.kind == "f":
            moved = array + sign * array.dtype.type(layout.bound(name))
            room = np.abs(moved.astype(np.float64) - array) <= layout.bound(name)
            moved = np.where(room, moved, np.nextafter(moved, array))
        else:
            moved = np.asarray(array + sign * int(layout.bound(name)))
        extreme[name] = np.abs(moved) if name.endswith("running_var") else moved
    vector, loss = layout.encode(update(extreme, films, train_loss=1e12)), {"train_loss": 1024.0}
    total = Vector.zeros(layout.low_size, layout.high_size)
    for _ in range(sites):
        total.add(vector)
    assert np.array_equal(total.low.view(np.int32), vector.low.view(np.int32).astype(np.int64) * sites)
    exact = [int(value) * sites for value in vector.high.view(np.int64)]
    assert [int(value) for value in total.high.view(np.int64)] == exact
    got = layout.decode(total)
    assert got.films == sites * films
    assert got.losses == LOSSES | loss
    for name in model:
        if model[name].dtype.kind != "f":
            assert got.arrays[name] == extreme[name]
        else:
            room = 0.5 * layout.grid(name) / films
            np.testing.assert_allclose(got.arrays[name], extreme[name], rtol=2.0**-22, atol=room)


@pytest.mark.parametrize("name", list(small_model(np.random.default_rng(0))))
def test_one_step_beyond_is_refused_at_the_site(name: str) -> None:
    model = small_model(np.random.default_rng(2))
    layout = Layout(model, FINDINGS, ROWS, terms(3, 300))
    beyond = model[name].copy()
    step = layout.bound(name) * 1.01
    beyond.reshape(-1)[-1] += step if beyond.dtype.kind == "f" else int(step)
    wrong = update(model | {name: beyond}, 100)
    for refusing in (lambda: layout.encode(wrong), lambda: expect_in_range(wrong, model, FINDINGS)):
        with pytest.raises(OutOfRangeError, match=f"{name}: expected values that move by at most"):
            refusing()
    expect_in_range(update(model, 100), model, FINDINGS)
    for value in (np.nan, np.inf, -np.inf):
        if beyond.dtype.kind == "f":
            beyond.reshape(-1)[-1] = value
            with pytest.raises(UpdateRefused, match="finite"):
                layout.encode(update(model | {name: beyond}, 100))


def test_integers_that_wrap_64_bits_are_refused() -> None:
    low, high = np.array(-(2**63)), np.array(2**63 - 1)
    layout = Layout({"n": low}, (), (), terms(2, 4, ()))
    with pytest.raises(OutOfRangeError):
        layout.encode(SiteUpdate("S00", {"n": high}, 1, (), LOSSES))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"films": 301}, OutOfRangeError, "at most 300 films, got 301"),
        ({"films": 0, "labelled": (0, 0, 0)}, UpdateRefused, "films"),
        ({"labelled": (101, 0, 0)}, UpdateRefused, "labelled"),
        ({"labelled": (1, 2)}, UpdateRefused, "labelled"),
        (
            {"train_loss": float("nan")},
            OutOfRangeError,
            "the train_loss that was promised, at least 0, got nan",
        ),
        ({"train_loss": -0.5}, OutOfRangeError, "train_loss"),
        ({"validation_loss": float("inf")}, OutOfRangeError, "validation_loss"),
    ],
)
def test_counts_and_losses_that_no_site_has_are_refused(
    changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    model = small_model(np.random.default_rng(3))
    layout = Layout(model, FINDINGS, ROWS, terms(3, 300))
    with pytest.raises(error, match=text):
        layout.encode(update(model, **{"films": 100} | changes))
    with pytest.raises(OutOfRangeError, match="promised"):
        layout.encode(SiteUpdate("S00", model, 100, (1, 1, 1), {"train_loss": 0.5}))


@given(
    moves=st.lists(st.integers(-(2**28), 2**28), min_size=2, max_size=6),
    weights=st.lists(st.integers(1, 2**14), min_size=6, max_size=6),
    start=st.integers(-(2**40), 2**40),
)
@settings(max_examples=150, deadline=None)
def test_integers_are_exact_and_rounded_half_to_even(
    moves: list[int], weights: list[int], start: int
) -> None:
    weights = weights[: len(moves)]
    layout = Layout({"n": np.array(start)}, (), (), terms(len(moves), 2**14 * len(moves), ()))
    total = summed(
        layout,
        *(
            SiteUpdate("S00", {"n": np.array(start + move)}, weight, (), LOSSES)
            for move, weight in zip(moves, weights, strict=True)
        ),
    )
    exact = Fraction(sum(map(int.__mul__, moves, weights)), sum(weights))
    assert int(layout.decode(total).arrays["n"]) == start + round(exact)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float64"])
def test_narrow_and_wide_arrays_keep_their_dtype(dtype: str) -> None:
    model = {"x": np.array([100, 0], dtype)}
    layout = Layout(model, (), (), terms(2, 4, ()))
    moved = [SiteUpdate("S00", {"x": np.array([move, 0], dtype)}, 1, (), LOSSES) for move in (103, 110)]
    got = layout.decode(summed(layout, *moved)).arrays["x"]
    assert got.dtype == dtype
    assert got.tolist() == [106.5 if np.dtype(dtype).kind == "f" else 106, 0]


def test_means_that_an_integer_does_not_hold_are_no_means() -> None:
    for dtype, base, sign in (
        ("uint8", 200, 1),
        ("int8", -100, -1),
        ("int64", 2**63 - 9, 1),
        ("int64", -(2**63), -1),
    ):
        layout = Layout({"n": np.array([base], dtype)}, (), (), terms(2, 4, ()))
        total = Vector.zeros(layout.low_size, layout.high_size)
        total.high.view(np.int64)[:2] = (sign * 100 * 2, 2)
        with pytest.raises(SumError, match=f"means that {dtype} holds"):
            layout.decode(total)


def test_a_mean_beyond_what_floats_hold_is_no_mean() -> None:
    layout = Layout({"x": np.array([3e38], np.float32)}, (), (), terms(2, 4, ()))
    total = Vector.zeros(layout.low_size, layout.high_size)
    total.high[:2] = (int(1e38 / layout.grid("x")) * 2, 2)
    with pytest.raises(SumError, match="x: expected finite means"):
        layout.decode(total)


def test_a_row_that_too_few_sites_label_is_in_no_vector_and_stays_bit_for_bit() -> None:
    hospitals = Hospitals(4, quorum=3, least=3)
    labelled = {"S00": (5, 9, 0), "S01": (4, 1, 0), "S02": (3, 0, 2), "S03": (2, 0, 0)}
    hospitals.model["head.weight"][1] = -0.0
    for name, counts in labelled.items():
        hospitals.change(name, films=10, labelled=counts)
    sums = hospitals.list()
    layout = hospitals.layout(sums)
    other = Hospitals(4, seed=9).updates["S00"].arrays
    for name in ("head.weight", "head.bias"):
        arrays = dict(hospitals.updates["S00"].arrays)
        before = layout.encode(hospitals.updates["S00"])
        arrays[name] = np.concatenate([arrays[name][:1], other[name][1:]])
        hospitals.change("S00", arrays=arrays)
        assert same(before, layout.encode(hospitals.updates["S00"])), "its rows are in no vector"
    hospitals.change("S00", labelled=(5, 3, 0))
    assert same(before, layout.encode(hospitals.updates["S00"])), "nor its counts"
    got = layout.decode(hospitals.plain_sum(sums))
    assert got.labelled == (14, 0, 0)
    assert got.learnt == (True, False, False)
    for name in ROWS:
        assert got.arrays[name][1:].tobytes() == hospitals.model[name][1:].tobytes()
        assert got.arrays[name][:1].tobytes() != hospitals.model[name][:1].tobytes()


def test_a_loss_that_one_site_lacks_is_in_no_vector() -> None:
    hospitals = Hospitals(3)
    hospitals.change("S01", metrics={"train_loss": 0.5})
    sums = hospitals.list()
    before = hospitals.plain("S00", sums)
    hospitals.change("S00", metrics=hospitals.updates["S00"].metrics | {"validation_loss": 7.0})
    assert same(before, hospitals.plain("S00", sums))
    assert set(hospitals.layout(sums).decode(hospitals.plain_sum(sums)).losses) == {"train_loss"}


def test_what_nobody_moves_stays_bit_for_bit_and_variances_are_never_negative() -> None:
    model = small_model(np.random.default_rng(4))
    model["conv.weight"][0] = -0.0
    model["norm.running_var"][:] = 1e-30
    layout = Layout(model, FINDINGS, ROWS, terms(2, 4))
    still = layout.decode(summed(layout, update(model, 2), update(model, 2)))
    assert all(still.arrays[name].tobytes() == model[name].tobytes() for name in model)
    total = summed(layout, update(model, 2), update(model, 2))
    (at,) = [slot.at for slot in layout._high if slot.name == "norm.running_var"]
    total.high.view(np.int64)[at] -= 1  # a step down of the grid, as rounding may be
    got = layout.decode(total).arrays["norm.running_var"]
    assert got[0] == 0.0
    assert (got >= 0).all()


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((1, 0, 0, 0), "counts of films"),
        ((301, 1, 1, 0), "counts of films"),
        ((100, 101, 1, 0), "counts of films"),
        ((100, -1, 1, 0), "counts of films"),
        ((100, 2, 2, 1), "counts of films"),  # of a row that is not summed
        ((-100, 2, 2, 0), "counts of films"),
    ],
)
def test_sums_that_no_honest_sites_make_are_refused(counts: tuple[int, ...], text: str) -> None:
    model = small_model(np.random.default_rng(5))
    layout = Layout(model, FINDINGS, ROWS, terms(2, 300, (True, True, False)))
    good = summed(layout, update(model, 100), update(model, 100))
    layout.decode(good)
    good.high[-6:-2] = np.array(counts, np.int64).view(np.uint64)
    with pytest.raises(SumError, match=text):
        layout.decode(good)


def test_every_site_has_a_film() -> None:
    model = small_model(np.random.default_rng(5))
    layout = Layout(model, FINDINGS, ROWS, Terms(2, 300, (0, 0, 0), (False,) * 3, (False, False)))
    total = summed(layout, SiteUpdate("S00", model, 1, (0, 0, 0)))
    with pytest.raises(SumError, match="counts of films"):
        layout.decode(total)
    total.add(layout.encode(SiteUpdate("S01", model, 1, (0, 0, 0))))
    assert layout.decode(total).films == 2


def test_values_that_no_honest_sites_sum_to_are_refused() -> None:
    model = small_model(np.random.default_rng(6))
    layout = Layout(model, FINDINGS, ROWS, terms(2, 300, (True, True, False)))
    for slots, half in ((layout._low, "low"), (layout._high, "high")):
        for slot in slots:
            total = summed(layout, update(model, 100), update(model, 100))
            getattr(total, half)[slot.at] = 2 ** (31 if half == "low" else 63)
            with pytest.raises(SumError, match=f"{slot.name}: expected"):
                layout.decode(total)
    for at in (-1, -2):
        total = summed(layout, update(model, 100), update(model, 100))
        total.high[at] = 2**63
        with pytest.raises(SumError, match="loss that sites can have"):
            layout.decode(total)


def test_a_layout_of_something_else_is_refused() -> None:
    model = small_model(np.random.default_rng(7))
    with pytest.raises(ValueError, match="promises about 3 findings, got 2"):
        Layout(model, FINDINGS, ROWS, terms(2, 4, (True, True)))
    with pytest.raises(ValueError, match=r"norm\.weight to have 3 rows"):
        Layout(model, FINDINGS, {"norm.weight"}, terms(2, 4))
    with pytest.raises(ValueError, match="finite values in the global model"):
        Layout(model | {"x": np.array([np.nan])}, FINDINGS, ROWS, terms(2, 4))
    for dtype in ("uint64", "bool", "complex64"):
        with pytest.raises(TypeError, match="expected floats or integers"):
            Layout(model | {"x": np.zeros(2, dtype)}, FINDINGS, ROWS, terms(2, 4))


@given(
    order=st.sampled_from("CF"),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_arrays_of_any_shape_and_order_in_memory(order: str, shape: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    base, moved = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    moved = np.asarray(base + moved / 100, np.float32)
    layout = Layout({"x": base}, (), (), terms(2, 4, ()))
    one = SiteUpdate("S00", {"x": np.asarray(moved, order=order)}, 1, (), LOSSES)  # type: ignore[call-overload]
    got = layout.decode(summed(layout, one, one)).arrays["x"]
    assert got.shape == base.shape
    np.testing.assert_allclose(got, moved, rtol=0, atol=layout.grid("x") + 1e-6)
