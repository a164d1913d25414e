"""The sum opens for all who promised to be in it, or for nobody."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summing import FINDINGS, Hospitals, same, total_of

from acm_core.secure_aggregation.fixed_point import SumError
from acm_core.secure_aggregation.joint_sum import JointSum
from acm_core.secure_aggregation.masks import Mask, Vector, add_masks
from acm_core.secure_aggregation.sum_list import SumList


def joint_sum(hospitals: Hospitals, sums: SumList) -> JointSum:
    return JointSum(sums, hospitals.layout(sums))


@pytest.mark.parametrize("sites", [2, 3, 5, 10, 32, 64])
def test_the_sum_is_the_plain_integer_sum_bit_for_bit(sites: int) -> None:
    hospitals = Hospitals(sites)
    sums = hospitals.list()
    joint = hospitals.summed(sums)
    assert same(total_of(joint), hospitals.plain_sum(sums))
    plain = hospitals.layout(sums).decode(hospitals.plain_sum(sums))
    assert joint.mean().films == plain.films
    assert all(joint.mean().arrays[name].tobytes() == plain.arrays[name].tobytes() for name in plain.arrays)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_vectors_and_keys_come_in_any_order_and_any_number_of_times(data: st.DataObject) -> None:
    hospitals = Hospitals(4)
    sums = hospitals.list()
    steps = data.draw(st.permutations([(name, step) for name in sums.sites for step in ("take", "open")] * 2))
    joint, done = joint_sum(hospitals, sums), set()
    for name, step in steps:
        if step == "take":
            first = joint.take(name, hospitals.masked(name, sums))
        else:
            first = joint.open(name, hospitals.secrets[name].own_key(sums))
        assert first == ((name, step) not in done)
        done.add((name, step))
        assert joint.missing == [site for site in sums.sites if (site, "take") not in done]
        assert joint.closed == [site for site in sums.sites if (site, "open") not in done]
    assert same(total_of(joint), hospitals.plain_sum(sums))


def test_a_site_gone_before_its_vector_costs_another_list_and_nothing_else() -> None:
    hospitals = Hospitals(5)
    first = hospitals.list()
    joint = joint_sum(hospitals, first)
    for name in hospitals.names[:-1]:
        joint.take(name, hospitals.masked(name, first))
    assert joint.missing == ["S04"]
    second = SumList(first.promises[:-1])
    assert same(total_of(hospitals.summed(second)), hospitals.plain_sum(second))


def test_before_the_last_key_the_sum_is_noise_and_is_not_given_out() -> None:
    hospitals = Hospitals(3)
    sums = hospitals.list()
    joint = joint_sum(hospitals, sums)
    for name in sums.sites:
        joint.take(name, hospitals.masked(name, sums))
    for name in sums.sites[:-1]:
        joint.open(name, hospitals.secrets[name].own_key(sums))
    with pytest.raises(SumError, match="in the sum, got none of S02 yet"):
        joint.mean()
    with pytest.raises(SumError, match="counts of films"):
        hospitals.layout(sums).decode(total_of(joint))
    joint.open("S02", hospitals.secrets["S02"].own_key(sums))
    assert joint.mean().films == sum(update.films for update in hospitals.updates.values())


def test_different_lists_for_different_sites_open_nothing() -> None:
    """S00 and S01 are shown {0, 1, 2}, S02 {1, 2, 3}: all open what they masked, and it stays noise."""
    hospitals = Hospitals(4)
    promises = hospitals.list().promises
    left, right = SumList(promises[:3]), SumList(promises[1:])
    joint = joint_sum(hospitals, left)
    for name, shown in (("S00", left), ("S01", left), ("S02", right)):
        joint.take(name, hospitals.masked(name, shown))
        joint.open(name, hospitals.secrets[name].own_key(shown))
    with pytest.raises(SumError, match="counts of films"):
        joint.mean()


def test_keys_that_open_one_list_open_no_other() -> None:
    hospitals = Hospitals(4)
    every = hospitals.list()
    fewer = SumList(every.promises[1:])
    joint = joint_sum(hospitals, every)
    for name in every.sites:
        joint.take(name, hospitals.masked(name, every))
        joint.open(name, hospitals.secrets[name].own_key(every if name == "S00" else fewer))
    with pytest.raises(SumError, match="counts of films"):
        joint.mean()


def test_pair_keys_of_one_list_take_no_mask_off_another() -> None:
    """What a colluding site knows of one list helps nobody with the next."""
    hospitals = Hospitals(3)
    every = hospitals.list()
    fewer = SumList(every.promises[:2])
    for name, peers in (("S00", 2), ("S01", 2)):
        one, other = (
            {mask.key for mask in hospitals.secrets[name].masks(name, sums)} for sums in (every, fewer)
        )
        assert (len(one), len(other)) == (1 + peers, 2)
        assert not one & other


def test_with_all_but_two_sites_secrets_the_operator_has_the_sum_of_the_two() -> None:
    hospitals = Hospitals(6)
    sums, honest = hospitals.list(), ("S02", "S04")
    opened: list[Vector] = []
    for name in honest:
        vector = hospitals.masked(name, sums)
        add_masks(vector, [Mask(hospitals.secrets[name].own_key(sums), subtracted=True)])
        for peer in set(sums.sites) - set(honest):
            keys = {mask.key for mask in hospitals.secrets[peer].masks(peer, sums)}
            shared = [mask for mask in hospitals.secrets[name].masks(name, sums) if mask.key in keys]
            assert len(shared) == 1
            add_masks(vector, [Mask(shared[0].key, not shared[0].subtracted)])
        assert abs(np.unpackbits(vector.low.view(np.uint8)).mean() - 0.5) < 0.05
        assert (vector.low != hospitals.plain(name, sums).low).mean() > 0.99
        opened.append(vector)
    opened[0].add(opened[1])
    assert same(opened[0], hospitals.plain_sum(sums, honest))


def test_a_masked_vector_is_uniform_whatever_is_under_it() -> None:
    """χ² of a million bytes, of which all are zero before, over 255 degrees of freedom."""
    model = {"w": np.zeros((256, 1024), np.float32), "head.weight": np.zeros((len(FINDINGS), 1), np.float32)}
    model |= {"head.bias": np.zeros(len(FINDINGS), np.float32)}
    hospitals = Hospitals(3, model=model)
    for name in hospitals.names:
        hospitals.change(name, arrays=model)
    sums = hospitals.list()
    plain = hospitals.plain("S00", sums)
    assert not plain.low.any()
    before: list[Vector] = []
    for shown in (sums, SumList(sums.promises[:2])):
        vector = hospitals.masked("S00", shown)
        counts = np.bincount(vector.low.view(np.uint8), minlength=256)
        expected = vector.low.nbytes / 256
        assert 150 < ((counts - expected) ** 2 / expected).sum() < 400
        for other in before:
            assert (vector.low == other.low).mean() < 1e-3
        before.append(vector)


@pytest.mark.parametrize("half", ["low", "high"])
def test_garbage_in_a_vector_is_noticed(half: str) -> None:
    hospitals = Hospitals(3)
    sums = hospitals.list()
    joint = joint_sum(hospitals, sums)
    for name in sums.sites:
        vector = hospitals.masked(name, sums)
        if name == "S01":
            array = getattr(vector, half)
            array += np.frombuffer(np.random.default_rng(0).bytes(array.nbytes), array.dtype)
        joint.take(name, vector)
        joint.open(name, hospitals.secrets[name].own_key(sums))
    with pytest.raises(SumError):
        joint.mean()


def test_poison_below_the_bound_passes() -> None:
    """It moves the mean by the bound times its share of the films it claims. Said in the documents, not prevented."""
    hospitals = Hospitals(3)
    conv = hospitals.model["conv.weight"]
    hospitals.change("S01", films=8000, arrays=hospitals.updates["S01"].arrays | {"conv.weight": conv + 3})
    moved = hospitals.summed(hospitals.list()).mean().arrays["conv.weight"] - conv
    assert moved.min() > 1


def test_vectors_and_keys_of_another_form_are_refused_and_change_nothing() -> None:
    hospitals = Hospitals(2)
    sums = hospitals.list()
    joint = joint_sum(hospitals, sums)
    good = hospitals.masked("S00", sums)
    for wrong in (
        Vector(good.low[:-1], good.high),
        Vector(good.low, good.high[:-1]),
        Vector(good.low.view(np.int32), good.high),
        Vector(good.low.astype(np.uint64), good.high),
        Vector(good.low.reshape(1, -1), good.high),
        Vector(good.low, good.high.tolist()),
    ):
        with pytest.raises(SumError, match="from S00, got another vector"):
            joint.take("S00", wrong)  # type: ignore[arg-type]
    for key in (b"", bytes(31), bytes(33)):
        with pytest.raises(SumError, match="a key of 32 bytes from S00"):
            joint.open("S00", key)
    assert not joint.take("S99", good)
    assert not joint.open("S99", bytes(32))
    assert joint.missing == joint.closed == ["S00", "S01"]
    assert not total_of(joint).low.any()


def test_the_servers_memory_does_not_grow_with_the_sites() -> None:
    model = {"w": np.zeros((512, 1024), np.float32), "head.bias": np.zeros(len(FINDINGS), np.float32)}
    model |= {"head.weight": np.zeros((len(FINDINGS), 1), np.float32)}
    peaks = []
    for sites in (2, 12):
        hospitals = Hospitals(sites, model=model)
        sums = hospitals.list()
        layout = hospitals.layout(sums)
        sent = hospitals.masked("S00", sums)
        keys = {name: hospitals.secrets[name].own_key(sums) for name in sums.sites}
        tracemalloc.start()
        joint = JointSum(sums, layout)
        for name in sums.sites:
            joint.take(name, sent)
            joint.open(name, keys[name])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 1.5 * sent.nbytes
