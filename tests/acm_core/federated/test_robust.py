"""What every rule keeps, and what those against hostile sites promise: bounds, sites, rows, memory, Flower's."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, MultiKrum
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acm_core.arrays import Arrays
from acm_core.config.aggregation import AggregationConfig
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.norm_clipping import NormClipping
from acm_core.federated.robust import make_aggregation
from acm_core.federated.summation import MAX_TOTAL_WEIGHT
from acm_core.federated.update import MAX_FILMS, RefusalReason, SiteUpdate, UpdateRefused

FINDINGS = ("Pneumonia", "Effusion", "Nodule")
ROWS = ("head.weight", "head.bias")

MEDIAN = AggregationConfig(rule="median", attackers=1)
MEDIAN_2 = AggregationConfig(rule="median", attackers=2)
TRIMMED = AggregationConfig(rule="trimmed_mean", attackers=1)
TRIMMED_2 = AggregationConfig(rule="trimmed_mean", attackers=2)
KRUM = AggregationConfig(rule="krum", attackers=1, keep=1)
KRUM_2 = AggregationConfig(rule="krum", attackers=2, keep=3)
CLIPPED = AggregationConfig(rule="norm_clipping", bound=0.5)
FEDAVG = AggregationConfig()
RULES = (MEDIAN, MEDIAN_2, TRIMMED, TRIMMED_2, KRUM, KRUM_2, CLIPPED, FEDAVG)
WITH_ATTACKERS = tuple(rule for rule in RULES if rule.attackers)


def named(rules: Iterable[AggregationConfig]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "rule", rules, ids=lambda rule: f"{rule.rule}-{rule.attackers or rule.bound}"
    )


def arrays(rng: np.random.Generator, spread: float = 1.0) -> Arrays:
    """A model of every kind of array, one of them longer than a rule looks at in one go."""
    return {
        "conv.weight": (rng.standard_normal((4, 1, 3, 3)) * spread).astype(np.float32),
        "long": (rng.standard_normal(2**15 + 7) * spread).astype(np.float32),
        "half": (rng.standard_normal(5) * spread).astype(np.float16),
        "double": rng.standard_normal((2, 2)) * spread,
        "scale": np.array(rng.standard_normal() * spread, np.float32),
        "norm.running_var": (rng.random(4) * spread).astype(np.float32),
        "norm.num_batches_tracked": np.array(rng.integers(0, 1000)),
        "head.weight": (rng.standard_normal((3, 4, 1, 1)) * spread).astype(np.float32),
        "head.bias": (rng.standard_normal(3) * spread).astype(np.float32),
    }


def updates(rng: np.random.Generator, sites: int) -> list[SiteUpdate]:
    """Every site labels each finding with a probability of 3/4."""
    films = [int(rng.integers(1, 3000)) for _ in range(sites)]
    return [
        SiteUpdate(f"S{i}", arrays(rng), count, tuple(count * int(rng.random() < 0.75) for _ in FINDINGS))
        for i, count in enumerate(films)
    ]


def extreme(rng: np.random.Generator) -> Arrays:
    """What a site may send at worst: finite, and the largest that there is."""

    def worst(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        limits = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
        lowest = 0 if name.endswith("running_var") else limits.min
        choices = np.array([lowest, limits.max, 0], array.dtype)
        return np.array(choices[rng.integers(0, 3, array.shape)])

    return {name: worst(name, array) for name, array in arrays(rng).items()}


def aggregate(rule: AggregationConfig, reference: Arrays, contributions: Iterable[SiteUpdate]) -> Arrays:
    aggregation = make_aggregation(rule, reference, FINDINGS, ROWS)
    for contribution in contributions:
        aggregation.add(contribution)
    return aggregation.result()


def assert_same_bits(left: Arrays, right: Arrays) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def say_in(contributions: Iterable[SiteUpdate], name: str) -> list[tuple[Any, list[SiteUpdate]]]:
    """Index into the array → the updates that count there."""
    if name not in ROWS:
        return [((), list(contributions))]
    return [(row, [c for c in contributions if c.labelled[row]]) for row in range(len(FINDINGS))]


SEEDS = given(seed=st.integers(0, 2**32 - 1), more=st.integers(0, 4))
FEW = settings(max_examples=15, deadline=None)


@named(RULES)
@SEEDS
@FEW
def test_the_order_of_arrival_changes_no_bit(rule: AggregationConfig, seed: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, rule.minimum_sites + more)
    if more == 1:
        contributions[0] = replace(contributions[0], arrays=extreme(rng))
    if more > 1:  # equal distances, and zeros of both signs
        contributions[0] = replace(contributions[0], arrays=contributions[1].arrays)
        for contribution, zero in zip(contributions, (0.0, -0.0), strict=False):
            contribution.arrays["half"][:] = zero
    shuffled = [contributions[i] for i in rng.permutation(len(contributions))]
    assert_same_bits(aggregate(rule, reference, contributions), aggregate(rule, reference, shuffled))


@named((*WITH_ATTACKERS, AggregationConfig(rule="norm_clipping", bound=1e9)))
@SEEDS
@FEW
def test_sites_that_agree_get_their_model_and_so_does_fedavg(
    rule: AggregationConfig, seed: int, more: int
) -> None:
    rng = np.random.default_rng(seed)
    model = arrays(rng)
    agreed = [SiteUpdate(f"S{i}", model, 10 + i, (1, 2, 3)) for i in range(rule.minimum_sites + more)]
    got = aggregate(rule, arrays(rng), agreed)
    assert_same_bits(got, model)
    assert_same_bits(got, aggregate(AggregationConfig(), arrays(rng), agreed))


@named((MEDIAN, MEDIAN_2, TRIMMED, TRIMMED_2))
@SEEDS
@FEW
def test_attackers_cannot_leave_the_range_of_the_honest_at_any_position(
    rule: AggregationConfig, seed: int, more: int
) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, rule.minimum_sites + more)
    attackers = rule.attackers or 0
    honest = contributions[attackers:]
    lies = [
        replace(update, arrays=extreme(rng), films=MAX_FILMS, labelled=(MAX_FILMS,) * 3)
        for update in contributions[:attackers]
    ]
    got = aggregate(rule, reference, [*lies, *honest])
    for name, array in got.items():
        for index, voters in say_in(honest, name):
            if len(voters) + attackers < rule.minimum_sites:
                assert array[index].tobytes() == reference[name][index].tobytes(), name
                continue
            values = np.stack([voter.arrays[name][index] for voter in voters])
            assert (values.min(axis=0) <= array[index]).all(), name
            assert (array[index] <= values.max(axis=0)).all(), name


@pytest.mark.parametrize("rows", [(), ROWS])
@named((KRUM, KRUM_2))
@SEEDS
@FEW
def test_krum_keeps_nobody_who_is_far_from_every_honest_site(
    rule: AggregationConfig, rows: tuple[str, ...], seed: int, more: int
) -> None:
    rng = np.random.default_rng(seed)
    sites, attackers = rule.minimum_sites + more, rule.attackers or 0
    bases = [rng.standard_normal(6) for _ in range(2)]
    honest = [
        {"w": bases[0] + rng.standard_normal(6), "head.bias": bases[1] + rng.standard_normal(6)}
        for _ in range(sites - attackers)
    ]
    away = 10.0 ** rng.uniform(-1, 300)  # from within the honest cloud to where squares exceed float64
    lie = {name: array + away * rng.standard_normal(6) for name, array in honest[0].items()}
    lies = [
        {name: array * (1 + 1e-3 * rng.standard_normal()) for name, array in lie.items()}
        for _ in range(attackers)
    ]
    reference: Arrays = {"w": np.zeros(6), "head.bias": np.zeros(6)}
    aggregation = make_aggregation(
        replace_keep(rule, 1), reference, ("one",) * 6, [name for name in rows if name in reference]
    )
    for i in rng.permutation(sites):
        aggregation.add(SiteUpdate(f"S{i}", (lies + honest)[i], 5, (5,) * 6))
    got = aggregation.result()
    factor = np.sqrt((sites - attackers - 2) / (sites - 2 * attackers - 1))
    blocks: list[Callable[[Arrays], Any]] = [lambda model: np.concatenate([model["w"], model["head.bias"]])]
    if rows:
        blocks = [lambda model: model["w"]]
        blocks += [lambda model, row=row: model["head.bias"][row : row + 1] for row in range(6)]  # type: ignore[misc]
    for block in blocks:
        diameter = max(np.linalg.norm(block(one) - block(other)) for one in honest for other in honest)
        nearest = min(np.linalg.norm(block(got) - block(model)) for model in honest)
        assert nearest <= factor * diameter


def replace_keep(rule: AggregationConfig, keep: int) -> AggregationConfig:
    return rule.model_copy(update={"keep": keep})


@named((KRUM, KRUM_2))
def test_krum_averages_honest_models_alone_when_attackers_are_far(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(5)
    honest = [arrays(rng, 0.01) for _ in range(rule.minimum_sites)]
    contributions = [SiteUpdate(f"H{i}", model, 9, (9, 9, 9)) for i, model in enumerate(honest)]
    contributions += [SiteUpdate(f"A{i}", extreme(rng), 9, (9, 9, 9)) for i in range(rule.attackers or 0)]
    got = aggregate(rule, arrays(rng), contributions)
    for name in ("conv.weight", "head.weight"):
        assert np.abs(got[name]).max() < 0.1
    if rule.keep == 1:
        whole = [name for name in got if name not in ROWS]
        assert any(all(got[name].tobytes() == model[name].tobytes() for name in whole) for model in honest)


@SEEDS
@settings(max_examples=40, deadline=None)
def test_a_clipped_site_moves_the_model_by_its_share_of_the_bound(seed: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, 1 + more)
    liar = contributions[0]
    contributions[0] = replace(liar, arrays=extreme(rng) if more % 2 else arrays(rng, 1000.0))
    silent = [replace(liar, arrays=reference), *contributions[1:]]
    bound = 0.5
    got, without = (aggregate(CLIPPED, reference, updates) for updates in (contributions, silent))
    films = sum(update.films for update in contributions)
    moved = [
        got[name].astype(float) - without[name]
        for name in got
        if name not in ROWS and got[name].dtype.kind == "f"
    ]
    norm = np.sqrt(sum(np.square(difference).sum() for difference in moved))
    rounding = 1e-3  # of float16 values of about 1
    assert norm <= bound * liar.films / films + rounding
    for row in range(len(FINDINGS)):
        labelled = sum(update.labelled[row] for update in contributions)
        by_row = [got[name][row].astype(float) - without[name][row] for name in ROWS]
        norm = np.sqrt(sum(np.square(difference).sum() for difference in by_row))
        assert norm <= bound * liar.labelled[row] / max(labelled, 1) + rounding


def test_clipping_by_hand() -> None:
    reference: Arrays = {
        "w": np.array([1, 1], np.float32),
        "n": np.array(0),
        "head": np.zeros((2, 1), np.float32),
    }
    clipping = NormClipping(reference, ("a", "b"), ("head",), bound=2.0)
    # Differences (2, 0) and 4: a norm of √(4 + 16), and what it does not label counts for nothing.
    far = {"w": np.array([3, 1], np.float32), "n": np.array(40), "head": np.array([[4], [1e30]], np.float32)}
    near = {"w": np.array([1, 2], np.float32), "n": np.array(0), "head": np.ones((2, 1), np.float32)}
    clipping.add(SiteUpdate("FAR", far, 1, (1, 0)))
    clipping.add(SiteUpdate("NEAR", near, 1, (0, 1)))
    got = clipping.result()
    assert clipping.norms == pytest.approx({"FAR": np.sqrt(20), "NEAR": np.sqrt(2)})
    factor = 2 / np.sqrt(20)
    np.testing.assert_allclose(got["w"], [1 + 2 * factor / 2, 1.5], rtol=1e-6)
    np.testing.assert_allclose(got["head"], [[4 * factor], [1]], rtol=1e-6)
    assert got["n"] == 20


def test_one_site_within_the_bound_gets_its_own_model_back() -> None:
    rng = np.random.default_rng(0)
    site = SiteUpdate("A", arrays(rng), 123, (123, 7, 1))
    loose = AggregationConfig(rule="norm_clipping", bound=1e4)
    assert_same_bits(aggregate(loose, arrays(rng), [site]), site.arrays)


@named(WITH_ATTACKERS)
def test_a_small_example_by_hand(rule: AggregationConfig) -> None:
    reference: Arrays = {"w": np.zeros(1, np.float32), "n": np.array(0)}
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    contributions = [
        SiteUpdate(f"S{i}", {"w": np.array([v], np.float32), "n": np.array(int(v) + 2**60)}, 1 + i, ())
        for i, v in enumerate(values)
    ]
    aggregation = make_aggregation(rule, reference, ())
    for contribution in contributions:
        aggregation.add(contribution)
    got = aggregation.result()
    expected = {
        ("median", 1): 12.0,
        ("median", 2): 12.0,
        ("trimmed_mean", 1): 126 / 6,
        ("trimmed_mean", 2): 15.0,
        ("krum", 1): 8.0,  # squares of the 5 nearest of 8: 16 + 36 + 49 + 64 + 576; of 16: 885, of 4: 957
        ("krum", 2): 14 / 3,  # squares of the 4 nearest of 8: 165, of 4: 173, of 2: 237, of 1: 284
    }[rule.rule, rule.attackers or 0]
    assert float(got["w"][0]) == np.float32(expected)
    assert int(got["n"]) - 2**60 == round(expected)


@named(RULES)
def test_a_finding_that_no_site_labels_keeps_the_global_row_exactly(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(1)
    reference = arrays(rng)
    reference["head.bias"][1] = -0.0
    contributions = [SiteUpdate(f"S{i}", arrays(rng), 9, (9, 0, 3)) for i in range(rule.minimum_sites)]
    got = aggregate(rule, reference, contributions)
    for name in ROWS:
        assert got[name][1].tobytes() == reference[name][1].tobytes()
        assert got[name][0].tobytes() != reference[name][0].tobytes()


@named(WITH_ATTACKERS)
def test_a_row_needs_as_many_sites_as_can_outvote_the_attackers(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(2)
    attackers = rule.attackers or 0
    needed = 2 * attackers + (3 if rule.rule == "krum" else 1)
    reference = arrays(rng)
    sites = [SiteUpdate(f"S{i}", arrays(rng), 9, (9, 9, 0)) for i in range(rule.minimum_sites + 3)]
    for labelling in (needed - 1, needed):
        aggregation = make_aggregation(rule, reference, FINDINGS, ROWS)
        for i, site in enumerate(sites):
            aggregation.add(replace(site, labelled=(9, 9 * (i < labelling), 0)))
        assert aggregation.learnt == (True, labelling == needed, False)
        for name in ROWS:
            kept = aggregation.result()[name][1].tobytes() == reference[name][1].tobytes()
            assert kept is (labelling < needed)


@named(WITH_ATTACKERS)
@SEEDS
@FEW
def test_an_attack_on_one_head_touches_no_other_value(rule: AggregationConfig, seed: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, rule.minimum_sites + more)
    attacked = [replace(update, arrays=dict(update.arrays)) for update in contributions]
    for liar in attacked[: 1 + more]:  # even more attackers than the rule is made for
        for name in ROWS:
            liar.arrays[name] = liar.arrays[name].copy()
            liar.arrays[name][1] = 3e38
    before, after = (aggregate(rule, reference, updates) for updates in (contributions, attacked))
    for name in ROWS:
        before[name][1] = after[name][1] = 0
    assert_same_bits(before, after)


def test_a_site_that_labels_one_finding_is_no_outlier_to_krum() -> None:
    rng = np.random.default_rng(3)
    reference = arrays(rng)
    for name in ROWS:
        reference[name][:] = 0
    centre = arrays(rng)
    contributions = []
    for i, place in enumerate((0.0, 0.5, 2.0, 3.5, 4.0, 11.0)):  # S2 lies nearest to the others
        model = {
            name: np.asarray(array + place if array.dtype.kind == "f" else array, array.dtype)
            for name, array in centre.items()
        }
        labelled = (9, 0, 0) if i == 2 else (9, 9, 9)
        for name in ROWS:  # it leaves the rows of the others where they were, far from where the others go
            model[name] = np.where(
                np.array(labelled).reshape(3, *(1,) * (model[name].ndim - 1)) > 0,
                model[name] + 50,
                reference[name],
            ).astype(np.float32)
        contributions.append(SiteUpdate(f"S{i}", model, 9, labelled))
    got = aggregate(KRUM, reference, contributions)
    for name in set(got) - set(ROWS):
        assert got[name].tobytes() == contributions[2].arrays[name].tobytes(), name
    for name in ROWS:
        assert (got[name] > 40).all()


def test_ties_go_to_the_first_name() -> None:
    reference: Arrays = {"w": np.zeros(2)}
    corners = {"D": (0, 0), "B": (1, 0), "C": (1, 1), "A": (0, 1), "E": (0.5, 0.5), "F": (0.5, 0.5)}
    krum = make_aggregation(replace_keep(KRUM, 3), reference, ())
    for site, corner in corners.items():
        krum.add(SiteUpdate(site, {"w": np.array(corner, float)}, 1, ()))
    assert krum.result()["w"].tolist() == [1 / 3, 2 / 3]  # E, F and, of four corners alike, A


@pytest.mark.parametrize("scale", [1.0, 1e25])  # float32 has no squares of the second
def test_krum_measures_in_float64_and_without_counters(scale: float) -> None:
    krum = make_aggregation(KRUM, {"w": np.zeros(1, np.float32), "n": np.array(0)}, ())
    for site, place in enumerate((4.0, 1.0, 0.0, -1.0, -5.0)):
        model = {"w": np.array([place * scale], np.float32), "n": np.array(10**site)}
        krum.add(SiteUpdate(f"S{site}", model, 1, ()))
    assert krum.result()["w"][0] == 0


@named(WITH_ATTACKERS)
def test_too_few_sites_are_an_error_and_not_the_old_model(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(4)
    aggregation = make_aggregation(rule, arrays(rng), FINDINGS, ROWS)
    for update in updates(rng, rule.minimum_sites - 1):
        aggregation.add(update)
    with pytest.raises(ValueError, match=f"at least {rule.minimum_sites} sites' updates"):
        aggregation.result()


@named(RULES)
def test_a_refused_update_changes_nothing(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(6)
    reference, good = arrays(rng), updates(rng, rule.minimum_sites)
    aggregation = make_aggregation(rule, reference, FINDINGS, ROWS)
    for update in good:
        aggregation.add(update)
    bad = {**arrays(rng), "head.bias": np.array([1, np.nan, 1], np.float32)}
    with pytest.raises(UpdateRefused) as poisoned:
        aggregation.add(SiteUpdate("B", bad, 5, (5, 5, 5)))
    assert poisoned.value.reason is RefusalReason.NOT_FINITE
    with pytest.raises(UpdateRefused) as twice:
        aggregation.add(good[0])
    assert twice.value.reason is RefusalReason.DUPLICATE
    with pytest.raises(UpdateRefused) as broadcast:
        aggregation.add(SiteUpdate("B", {**arrays(rng), "scale": np.zeros(1, np.float32)}, 5, (5, 5, 5)))
    assert broadcast.value.reason is RefusalReason.SHAPE
    assert aggregation.sites == tuple(sorted(update.site for update in good))
    assert aggregation.films == sum(update.films for update in good)
    assert_same_bits(aggregation.result(), aggregate(rule, reference, good))


@named(RULES)
def test_the_films_of_all_sites_together_are_bounded(rule: AggregationConfig) -> None:
    aggregation = make_aggregation(rule, {"w": np.zeros(1)}, ())
    for i in range(MAX_TOTAL_WEIGHT // MAX_FILMS):
        aggregation.add(SiteUpdate(f"S{i}", {"w": np.ones(1)}, MAX_FILMS, ()))
    with pytest.raises(UpdateRefused, match="films over all sites"):
        aggregation.add(SiteUpdate("one-more", {"w": np.ones(1)}, MAX_FILMS, ()))


@named(RULES)
def test_the_reference_and_the_updates_are_neither_changed_nor_held(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(7)
    reference, contributions = arrays(rng), updates(rng, rule.minimum_sites + 1)
    states = [reference, *(c.arrays for c in contributions)]
    before = [{name: array.copy() for name, array in state.items()} for state in states]
    aggregation = make_aggregation(rule, reference, FINDINGS, ROWS)
    for contribution, saved in zip(contributions, before[1:], strict=True):
        aggregation.add(contribution)
        assert_same_bits(contribution.arrays, saved)
        for array in contribution.arrays.values():
            array[...] = 77  # the caller reuses its buffers
    got = aggregation.result()
    assert_same_bits(reference, before[0])
    for array in got.values():
        array[...] = 88
    fresh = [replace(c, arrays=saved) for c, saved in zip(contributions, before[1:], strict=True)]
    assert_same_bits(aggregation.result(), aggregate(rule, reference, fresh))
    assert_same_bits(reference, before[0])


@named(RULES)
def test_arrays_in_another_memory_order_count_the_same(rule: AggregationConfig) -> None:
    rng = np.random.default_rng(8)
    reference, contributions = arrays(rng), updates(rng, rule.minimum_sites)
    turned = [
        replace(c, arrays={name: np.asarray(array, order="F") for name, array in c.arrays.items()})
        for c in contributions
    ]
    fortran = {name: np.asarray(array, order="F") for name, array in reference.items()}
    assert_same_bits(aggregate(rule, reference, contributions), aggregate(rule, fortran, turned))


def test_finding_rows_and_dtypes_are_checked_before_the_round() -> None:
    model = arrays(np.random.default_rng(0))
    with pytest.raises(ValueError, match="name arrays of the model, got absent"):
        make_aggregation(MEDIAN, model, FINDINGS, ("absent",))
    with pytest.raises(ValueError, match="have 3 rows"):
        make_aggregation(KRUM, model, FINDINGS, ("conv.weight",))
    with pytest.raises(TypeError, match="integer dtype within int64"):
        make_aggregation(MEDIAN, {"flags": np.zeros(2, bool)}, ())


def test_without_settings_it_is_fedavg() -> None:
    assert type(make_aggregation(FEDAVG, {"w": np.zeros(1)}, ())) is FedAvg


@pytest.mark.parametrize("attackers", [1, 2, 5])
@pytest.mark.parametrize("keep", [None, 1, 4, 9])
def test_the_sites_that_a_rule_needs(attackers: int, keep: int | None) -> None:
    rules = (
        [AggregationConfig(rule="krum", attackers=attackers, keep=keep)]
        if keep
        else [
            AggregationConfig(rule="median", attackers=attackers),
            AggregationConfig(rule="trimmed_mean", attackers=attackers),
        ]
    )
    for rule in rules:
        aggregation = make_aggregation(rule, {"w": np.zeros(1)}, ())
        needed = 0
        while True:
            try:
                aggregation.result()
                break
            except ValueError:
                aggregation.add(SiteUpdate(f"S{needed}", {"w": np.full(1, needed, float)}, 1, ()))
                needed += 1
        assert needed == rule.minimum_sites
        rule.expect_quorum(needed)
        with pytest.raises(ValueError, match=f"expected quorum ≥ {needed} for {rule.rule}"):
            rule.expect_quorum(needed - 1)
    AggregationConfig(rule="norm_clipping", bound=1).expect_quorum(1)


def test_how_many_sites_stand_behind_a_value() -> None:
    assert AggregationConfig().averaged_sites(7) == 7
    assert CLIPPED.averaged_sites(7) == 7
    assert (MEDIAN.averaged_sites(7), MEDIAN.averaged_sites(8)) == (1, 2)
    assert TRIMMED_2.averaged_sites(7) == 3
    assert KRUM_2.averaged_sites(9) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"rule": "krum", "attackers": 1},
            "expected for krum the keys rule, attackers, keep, got rule, attackers",
        ),
        ({"rule": "median"}, "expected for median the keys rule, attackers, got rule"),
        ({"rule": "median", "attackers": 1, "bound": 2}, "got rule, bound, attackers"),
        ({"bound": 2}, "expected for fedavg the keys rule, got rule, bound"),
        ({"rule": "norm_clipping", "bound": 0}, "greater than 0"),
        ({"rule": "norm_clipping", "bound": float("inf")}, "finite number"),
        ({"rule": "trimmed_mean", "attackers": 0}, "greater than or equal to 1"),
        ({"rule": "mode"}, "fedavg"),
    ],
)
def test_settings_that_do_not_belong_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AggregationConfig.model_validate(given)


def flower(model: Arrays, films: int) -> Message:
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in model.items()}),
            "metrics": MetricRecord({"num-examples": films}),
        }
    )
    metadata = Metadata(1, "", 1, 1, "", "", 0.0, 1.0, "train")
    return Message(content, metadata=metadata)


@SEEDS
@settings(max_examples=10, deadline=None)
def test_where_flower_needs_no_more_its_numbers_are_the_same(seed: int, more: int) -> None:
    """Float arrays of about one size, films alike, everything labelled, nobody hostile."""
    rng = np.random.default_rng(seed)
    sites = 7 + more
    models: list[Arrays] = [
        {"w": rng.standard_normal((5, 4)).astype(np.float32), "b": rng.standard_normal(9)}
        for _ in range(sites)
    ]
    for rule, strategy in (
        (MEDIAN_2, FedMedian()),
        (TRIMMED_2, FedTrimmedAvg(beta=2.01 / sites)),
        (AggregationConfig(rule="krum", attackers=2, keep=1), MultiKrum(num_malicious_nodes=2)),
        (
            AggregationConfig(rule="krum", attackers=2, keep=3),
            MultiKrum(num_malicious_nodes=2, num_nodes_to_select=3),
        ),
    ):
        aggregation = make_aggregation(rule, {name: np.zeros_like(a) for name, a in models[0].items()}, ())
        for i, model in enumerate(models):
            aggregation.add(SiteUpdate(f"S{i:02}", model, 10, ()))
        theirs, _ = strategy.aggregate_train(1, [flower(model, 10) for model in models])
        assert theirs is not None
        for name, array in aggregation.result().items():
            np.testing.assert_allclose(array, theirs[name].numpy(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "held_a_site", "flat"),
    [
        (MEDIAN, 4, 0),
        (KRUM, 4, 0),
        (TRIMMED, 0, 8 + 17),
        (TRIMMED_2, 0, 16 + 17),
        (CLIPPED, 0, 17),
        (FEDAVG, 0, 17),
    ],
    ids=lambda value: f"{value.rule}-{value.attackers}" if isinstance(value, AggregationConfig) else "",
)
def test_bytes_held_a_parameter(rule: AggregationConfig, held_a_site: int, flat: int) -> None:
    size, sites = 500_000, 12
    reference: Arrays = {"w": np.zeros(size, np.float32)}
    update = {"w": np.random.default_rng(0).standard_normal(size, dtype=np.float32)}
    held = []
    tracemalloc.start()
    try:
        aggregation = make_aggregation(rule, reference, ())
        for i in range(sites):
            aggregation.add(SiteUpdate(f"S{i:02}", update, 10, ()))
            held.append(tracemalloc.get_traced_memory()[0] / size)
        tracemalloc.reset_peak()
        result = aggregation.result()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held[-1] - held[-5] == pytest.approx(4 * held_a_site, abs=0.2)
    assert held[-1] == pytest.approx(flat + sites * held_a_site, abs=0.5)
    assert peak - size * held[-1] - result["w"].nbytes < 3 * 2**20
