"""Steps of the server: order of arrival, plain numbers, papers' formulas, what is never moved, purity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acm_core.arrays import Arrays
from acm_core.config.aggregation import AggregationConfig, ServerStepConfig
from acm_core.federated.robust import make_aggregation
from acm_core.federated.server_step import ServerStep, make_server_step, moving_average
from acm_core.federated.update import SiteUpdate

FINDINGS = ("Pneumonia", "Effusion", "Nodule")
ROWS = ("head.weight", "head.bias")
STATISTICS = ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
ALL = (True, True, True)

PLAIN = ServerStepConfig()
FEDAVGM = ServerStepConfig(rule="fedavgm", learning_rate=0.7, momentum=0.9)
FEDADAM = ServerStepConfig(rule="fedadam", learning_rate=0.05, beta1=0.9, beta2=0.99, tau=1e-3)
STEPS = (PLAIN, FEDAVGM, FEDADAM)
OPTIMISERS = (FEDAVGM, FEDADAM)
RULES = (
    AggregationConfig(),
    AggregationConfig(rule="norm_clipping", bound=0.5),
    AggregationConfig(rule="median", attackers=1),
    AggregationConfig(rule="trimmed_mean", attackers=1),
    AggregationConfig(rule="krum", attackers=1, keep=1),
)


def named(configurations: Sequence[Any], name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, configurations, ids=lambda configuration: configuration.rule)


def arrays(rng: np.random.Generator) -> Arrays:
    """A model of every kind of array."""
    return {
        "conv.weight": rng.standard_normal((4, 1, 3, 3)).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "double": rng.standard_normal((2, 2)),
        "scale": np.array(rng.standard_normal(), np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "norm.running_mean": rng.standard_normal(4).astype(np.float32),
        "norm.running_var": (rng.random(4) * 1e-3).astype(np.float32),
        "norm.num_batches_tracked": np.array(rng.integers(0, 1000)),
        "head.weight": rng.standard_normal((3, 4, 1, 1)).astype(np.float32),
        "head.bias": rng.standard_normal(3).astype(np.float32),
    }


def updates(rng: np.random.Generator, sites: int) -> list[SiteUpdate]:
    """Every site labels each finding with a probability of 3/4."""
    films = [int(rng.integers(1, 3000)) for _ in range(sites)]
    return [
        SiteUpdate(f"S{i}", arrays(rng), count, tuple(count * int(rng.random() < 0.75) for _ in FINDINGS))
        for i, count in enumerate(films)
    ]


def copied(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def assert_same_bits(left: Arrays, right: Arrays) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def with_rows_of(aggregate: Arrays, model: Arrays, learnt: Sequence[bool]) -> Arrays:
    """The aggregate as a rule gives it: the rows that it has not learnt are the model's."""
    return {
        name: np.where(np.array(learnt).reshape(3, *(1,) * (array.ndim - 1)), array, model[name])
        if name in ROWS
        else array
        for name, array in aggregate.items()
    }


def trained(
    step: ServerStep, rng: np.random.Generator, rounds: Sequence[Sequence[bool]]
) -> list[tuple[Arrays, Arrays, Arrays]]:
    """Model before, aggregate and next model of every round, one a tuple of what is learnt."""
    model = arrays(rng)
    state, passed = step.init(model), []
    for learnt in rounds:
        aggregate = with_rows_of(arrays(rng), model, learnt)
        following, state = step.apply(model, aggregate, learnt, state)
        passed.append((model, aggregate, following))
        model = following
    return passed


SEEDS = given(seed=st.integers(0, 2**32 - 1), more=st.integers(0, 3))
FEW = settings(max_examples=10, deadline=None)
LEARNT = st.lists(st.tuples(*(st.booleans() for _ in FINDINGS)), min_size=1, max_size=4)


@named(RULES, "rule")
@named(STEPS, "step")
@SEEDS
@FEW
def test_the_order_of_arrival_changes_no_bit_over_rounds(
    rule: AggregationConfig, step: ServerStepConfig, seed: int, more: int
) -> None:
    def train(*, shuffled: bool) -> list[Arrays]:
        rng, order = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        server_step, model = make_server_step(step, ROWS), arrays(rng)
        state, passed = server_step.init(model), []
        for _ in range(3):
            contributions = updates(rng, rule.minimum_sites + more)
            aggregation = make_aggregation(rule, model, FINDINGS, ROWS)
            for i in order.permutation(len(contributions)) if shuffled else range(len(contributions)):
                aggregation.add(contributions[i])
            model, state = server_step.apply(model, aggregation.result(), aggregation.learnt, state)
            passed += [model, state]
        return passed

    for left, right in zip(train(shuffled=False), train(shuffled=True), strict=True):
        assert_same_bits(left, right)


@given(seed=st.integers(0, 2**32 - 1), rounds=LEARNT)
@FEW
def test_the_plain_step_is_the_aggregate_bit_for_bit_and_so_is_momentum_0_at_rate_1(
    seed: int, rounds: list[tuple[bool, ...]]
) -> None:
    for _, aggregate, following in trained(
        make_server_step(PLAIN, ROWS), np.random.default_rng(seed), rounds
    ):
        assert_same_bits(following, aggregate)
    at_rest = ServerStepConfig(rule="fedavgm", learning_rate=1, momentum=0)
    for _, aggregate, following in trained(
        make_server_step(at_rest, ROWS), np.random.default_rng(seed), rounds
    ):
        assert_same_bits(following, aggregate)
    assert make_server_step(PLAIN, ROWS).init(aggregate) == {}


def fedavgm_by_hand(values: list[Any], start: Any) -> list[Any]:
    """Hsu et al. 2019 on one array in float64, `values` being the aggregates' offsets to the model of the round."""
    model, velocity, passed = start, np.zeros_like(start), []
    for change in values:
        velocity = 0.9 * velocity + change
        model = model + 0.7 * velocity
        passed.append(model)
    return passed


def fedadam_by_hand(values: list[Any], start: Any) -> list[Any]:
    """Reddi et al. 2021, Algorithm 2, written out value by value."""
    passed = []
    shape, model = start.shape, [float(value) for value in start.ravel()]
    first, second = [0.0] * len(model), [1e-6] * len(model)
    for change in values:
        for i, delta in enumerate(float(value) for value in change.ravel()):
            first[i] = 0.9 * first[i] + 0.1 * delta
            second[i] = 0.99 * second[i] + 0.01 * delta * delta
            model[i] += 0.05 * first[i] / (second[i] ** 0.5 + 1e-3)
        passed.append(np.array(model).reshape(shape))
    return passed


@pytest.mark.parametrize(("step", "by_hand"), [(FEDAVGM, fedavgm_by_hand), (FEDADAM, fedadam_by_hand)])
@given(
    seed=st.integers(0, 2**32 - 1), rounds=st.integers(1, 6), scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3])
)
@FEW
def test_a_step_is_that_of_its_paper(
    step: ServerStepConfig, by_hand: Any, seed: int, rounds: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((3, 4))
    changes = [scale * rng.standard_normal((3, 4)) for _ in range(rounds)]
    server_step = make_server_step(step, ("w",))
    model: Arrays = {"w": start}
    state = server_step.init(model)
    for change, expected in zip(changes, by_hand(changes, start), strict=True):
        model, state = server_step.apply(model, {"w": model["w"] + change}, ALL, state)
        np.testing.assert_allclose(model["w"], expected, rtol=1e-9, atol=1e-9 * max(1, scale))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e30])
def test_single_precision_is_rounded_once_a_round_and_keeps_no_rounded_state(scale: float) -> None:
    rng = np.random.default_rng(0)
    for step in OPTIMISERS:
        server_step = make_server_step(step, ())
        wide: Arrays = {"w": scale * rng.standard_normal(50)}
        model: Arrays = {"w": wide["w"].astype(np.float32)}
        state = server_step.init(model)
        for _ in range(4):
            aggregate = {"w": (model["w"] + scale * rng.standard_normal(50)).astype(np.float32)}
            as_wide, _ = server_step.apply(
                {"w": model["w"].astype(np.float64)}, {"w": aggregate["w"].astype(np.float64)}, (), state
            )
            model, state = server_step.apply(model, aggregate, (), state)
            assert model["w"].tobytes() == as_wide["w"].astype(np.float32).tobytes()
            assert all(array.dtype == np.float64 and np.isfinite(array).all() for array in state.values())


@named(OPTIMISERS, "step")
@given(seed=st.integers(0, 2**32 - 1), rounds=LEARNT)
@FEW
def test_statistics_and_integers_are_the_aggregates_and_dtypes_are_kept(
    step: ServerStepConfig, seed: int, rounds: list[tuple[bool, ...]]
) -> None:
    passed = trained(make_server_step(step, ROWS), np.random.default_rng(seed), rounds)
    for model, aggregate, following in passed:
        for name in STATISTICS:
            assert following[name].tobytes() == aggregate[name].tobytes(), name
        assert list(following) == list(aggregate)
        for name, array in following.items():
            assert (array.dtype, array.shape) == (model[name].dtype, model[name].shape), name
            assert np.isfinite(array).all(), name
    assert not any("running" in key or "tracked" in key for key in make_server_step(step, ROWS).init(model))


@named(OPTIMISERS, "step")
def test_a_row_that_nobody_labelled_rests_with_its_momentum(step: ServerStepConfig) -> None:
    rng = np.random.default_rng(1)
    server_step, model = make_server_step(step, ROWS), arrays(rng)
    model["head.bias"][1] = -0.0
    model, state = server_step.apply(model, arrays(rng), ALL, server_step.init(model))  # it has momentum now
    before, remembered = copied(model), copied(state)
    for _ in range(3):
        learnt = (True, False, True)
        model, state = server_step.apply(model, with_rows_of(arrays(rng), model, learnt), learnt, state)
    for name in ROWS:
        assert model[name][1].tobytes() == before[name][1].tobytes()
        assert model[name][0].tobytes() != before[name][0].tobytes()
    for key, array in state.items():
        if key.endswith(ROWS):
            assert array[1].tobytes() == remembered[key][1].tobytes()
            assert array[0].tobytes() != remembered[key][0].tobytes()
    # Labelled again, by sites that leave it where it is, what it remembers moves it.
    resumed, _ = server_step.apply(model, model, ALL, state)
    assert (resumed["head.weight"][1] != model["head.weight"][1]).all()


@named(OPTIMISERS, "step")
def test_what_is_not_learnt_rests_whatever_the_rule_says_of_it(step: ServerStepConfig) -> None:
    rng = np.random.default_rng(2)
    model = arrays(rng)
    for rule in RULES:
        aggregation = make_aggregation(rule, model, FINDINGS, ROWS)
        for i in range(rule.minimum_sites):
            aggregation.add(SiteUpdate(f"S{i}", arrays(rng), 9, (9, 0, 9 * (i == 0))))
        server_step = make_server_step(step, ROWS)
        aggregate, learnt = aggregation.result(), aggregation.learnt
        assert learnt == (True, False, rule.attackers is None)
        following, _ = server_step.apply(model, aggregate, learnt, server_step.init(model))
        for name in ROWS:
            for row, is_learnt in enumerate(learnt):
                assert (following[name][row].tobytes() != model[name][row].tobytes()) is is_learnt


@named(STEPS, "step")
def test_a_step_changes_none_of_its_arguments_and_remembers_nothing_itself(step: ServerStepConfig) -> None:
    rng = np.random.default_rng(3)
    server_step, model = make_server_step(step, ROWS), arrays(rng)
    _, state = server_step.apply(model, arrays(rng), ALL, server_step.init(model))
    aggregate = arrays(rng)
    given = [copied(each) for each in (model, aggregate, state)]
    first = server_step.apply(model, aggregate, ALL, state)
    for before, after in zip(given, (model, aggregate, state), strict=True):
        assert_same_bits(before, after)
    again = make_server_step(step, ROWS).apply(model, aggregate, ALL, state)
    for left, right in zip(first, again, strict=True):
        assert_same_bits(left, right)


def test_a_step_goes_on_where_the_last_one_went() -> None:
    """Momentum is what the steps are for: sites that stop moving are carried on, and slower each round."""
    step = make_server_step(ServerStepConfig(rule="fedavgm", learning_rate=1, momentum=0.5), ())
    model: Arrays = {"w": np.zeros(1, np.float32)}
    state = step.init(model)
    model, state = step.apply(model, {"w": np.ones(1, np.float32)}, (), state)
    walked: list[npt.NDArray[Any]] = [model["w"]]
    for _ in range(3):
        model, state = step.apply(model, model, (), state)
        walked.append(model["w"])
    assert [float(w[0]) for w in walked] == [1.0, 1.5, 1.75, 1.875]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 1}, "expected for plain the keys rule, got rule, learning_rate"),
        (
            {"rule": "fedavgm", "learning_rate": 1},
            "fedavgm the keys rule, learning_rate, momentum, got rule, l",
        ),
        ({"rule": "fedavgm", "learning_rate": 1, "momentum": 0.9, "tau": 1}, "got rule, .*momentum, tau"),
        (
            {"rule": "fedadam", "learning_rate": 1, "momentum": 0.9},
            "rule, learning_rate, beta1, beta2, tau, got",
        ),
        ({"rule": "fedavgm", "learning_rate": 0, "momentum": 0.9}, "greater than 0"),
        ({"rule": "fedavgm", "learning_rate": float("inf"), "momentum": 0.9}, "finite number"),
        ({"rule": "fedavgm", "learning_rate": 1, "momentum": 1}, "less than 1"),
        (
            {"rule": "fedadam", "learning_rate": 1, "beta1": 0.9, "beta2": 0.99, "tau": 0},
            "greater than 0",
        ),
        ({"rule": "fedyogi"}, "fedadam"),
    ],
)
def test_settings_that_do_not_belong_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServerStepConfig.model_validate(given)


def test_a_moving_average_by_hand() -> None:
    def arrays(value: float, count: int) -> Arrays:
        return {"w": np.full(3, value, np.float32), "n": np.array(count, np.int64)}

    average = moving_average({}, arrays(1.0, 1), 0.75)
    for value, count in ((2.0, 2), (4.0, 3)):
        average = moving_average(average, arrays(value, count), 0.75)
    assert average["w"].dtype == np.float32
    assert average["w"].tolist() == [1.9375] * 3  # 0.75·(0.75·1 + 0.25·2) + 0.25·4
    assert average["n"] == 3
    assert moving_average(average, arrays(1.0, 1), 0.0) == {}
