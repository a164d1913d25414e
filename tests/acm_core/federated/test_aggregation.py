"""FedAvg's mean: weights per film and per finding. What it shares with every rule stands in test_robust.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.arrays import Arrays
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.update import SiteUpdate

FINDINGS = ("Pneumonia", "Effusion", "Nodule")
ROWS = ("head.weight", "head.bias")


def arrays(rng: np.random.Generator) -> Arrays:
    scale = 10.0 ** rng.integers(-8, 3)
    return {
        "conv.weight": (rng.standard_normal((4, 1, 3, 3)) * scale).astype(np.float32),
        "half": rng.standard_normal(5).astype(np.float16),
        "double": rng.standard_normal((2, 2)),
        "scale": np.array(rng.standard_normal(), np.float32),
        "norm.running_var": (rng.random(4) * 1e-30).astype(np.float32),
        "norm.num_batches_tracked": np.array(rng.integers(0, 1000)),
        "head.weight": rng.standard_normal((3, 4, 1, 1)).astype(np.float32),
        "head.bias": rng.standard_normal(3).astype(np.float32),
    }


def updates(rng: np.random.Generator, sites: int) -> list[SiteUpdate]:
    films = [int(rng.integers(1, 3000)) for _ in range(sites)]
    return [
        SiteUpdate(f"S{i}", arrays(rng), count, tuple(int(n) for n in rng.integers(0, count + 1, 3)))
        for i, count in enumerate(films)
    ]


def average(reference: Arrays, contributions: list[SiteUpdate]) -> Arrays:
    fedavg = FedAvg(reference, FINDINGS, ROWS)
    for contribution in contributions:
        fedavg.add(contribution)
    return fedavg.result()


def assert_same_bits(left: Arrays, right: Arrays) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


CASES = given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 7))


@CASES
@settings(max_examples=40, deadline=None)
def test_the_order_of_arrival_changes_no_bit(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, sites)
    shuffled = [contributions[i] for i in rng.permutation(sites)]
    assert_same_bits(average(reference, contributions), average(reference, shuffled))


@CASES
@settings(max_examples=40, deadline=None)
def test_equals_the_plain_weighted_mean_in_float64(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, sites)
    got = average(reference, contributions)
    films = np.array([c.films for c in contributions])
    for name, array in got.items():
        stacked = np.stack([c.arrays[name].astype(np.float64) for c in contributions])
        if name in ROWS:
            counts = np.array([c.labelled for c in contributions])
            weights = counts.reshape(sites, 3, *(1,) * (array.ndim - 1)) * np.ones_like(stacked)
            if not weights.sum(axis=0).all():
                continue
        else:
            weights = films.reshape(sites, *(1,) * array.ndim) * np.ones_like(stacked)
        plain = np.average(stacked, axis=0, weights=weights)
        assert array.dtype == reference[name].dtype
        if array.dtype.kind == "i":
            assert abs(float(array) - float(plain)) <= 0.5
        else:
            last_place = np.spacing(np.abs(array)).astype(np.float64)
            assert (np.abs(array - plain) <= last_place + 1e-9 * np.abs(stacked).max(axis=0)).all(), name


@CASES
@settings(max_examples=40, deadline=None)
def test_every_value_lies_between_those_of_the_sites(seed: int, sites: int) -> None:
    rng = np.random.default_rng(seed)
    reference, contributions = arrays(rng), updates(rng, sites)
    got = average(reference, contributions)
    for name in set(got) - set(ROWS):
        stacked = np.stack([c.arrays[name] for c in contributions])
        assert (stacked.min(axis=0) <= got[name]).all(), name
        assert (got[name] <= stacked.max(axis=0)).all(), name
    assert (got["norm.running_var"] >= 0).all()


def test_one_site_gets_its_own_model_back() -> None:
    rng = np.random.default_rng(0)
    site = SiteUpdate("A", arrays(rng), 123, (123, 7, 1))
    assert_same_bits(average(arrays(rng), [site]), site.arrays)


def test_a_site_leaves_the_heads_it_does_not_label_alone() -> None:
    rng = np.random.default_rng(2)
    one = SiteUpdate("ONE", arrays(rng), 1000, (1000, 0, 0))
    two = SiteUpdate("TWO", arrays(rng), 10, (10, 10, 10))
    got = average(arrays(rng), [one, two])
    for name in ROWS:
        np.testing.assert_array_equal(got[name][1:], two.arrays[name][1:])
    expected = (float(one.arrays["head.bias"][0]) * 1000 + float(two.arrays["head.bias"][0]) * 10) / 1010
    assert got["head.bias"][0] == np.float32(expected)


def test_the_weights_of_a_small_example_by_hand() -> None:
    reference = {"w": np.zeros(2, np.float32), "n": np.array(0)}
    fedavg = FedAvg(reference, ("x",))
    fedavg.add(SiteUpdate("A", {"w": np.array([1, 2], np.float32), "n": np.array(10)}, 3, (0,)))
    fedavg.add(SiteUpdate("B", {"w": np.array([5, -2], np.float32), "n": np.array(20)}, 1, (1,)))
    got = fedavg.result()
    assert got["w"].tolist() == [2.0, 1.0]
    assert int(got["n"]) == 12  # 12.5, half to even
    assert fedavg.sites == ("A", "B")
    assert fedavg.films == 4


def test_no_update_is_an_error_and_not_the_old_model() -> None:
    with pytest.raises(ValueError, match="at least 1 sites' updates"):
        FedAvg(arrays(np.random.default_rng(0)), FINDINGS, ROWS).result()
