"""A site's part in a joint sum: what has left once leaves the same ever after, and no list is opened beside another."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crashes import dies_at_change
from joint_sites import Sites
from summing import FINDINGS, ROWS, Hospitals, same, total_of

from acm_core.arrays import fingerprint
from acm_core.federated.update import UpdateRefused
from acm_core.secure_aggregation.fixed_point import OutOfRangeError
from acm_core.secure_aggregation.promise import Promise
from acm_core.secure_aggregation.site_sum import MOST_LISTS
from acm_core.secure_aggregation.sum_list import ListFault, ListRefused, SumList
from acm_core.trust.roster import Roster


@pytest.fixture
def four(tmp_path: Path) -> Sites:
    return Sites(tmp_path, 4)


def refused(fault: ListFault, text: str, act: Callable[[], object]) -> None:
    with pytest.raises(ListRefused, match=text) as said:
        act()
    assert said.value.fault == fault


def test_a_round_opens_the_sum_and_nobody_trains_twice(four: Sites) -> None:
    sums = four.list()
    assert four.list() == sums, "asked again: the same promises, bit for bit"
    assert four.trained == four.names
    joint = four.summed(sums)
    assert same(total_of(joint), four.hospitals.plain_sum(sums))
    assert same(total_of(four.summed(sums)), total_of(joint)), "a server that lost the sum asks again"
    after = four.list(round=2)
    assert same(total_of(four.summed(after)), four.hospitals.plain_sum(after))


def test_a_site_gone_before_its_vector_costs_another_list_alone(four: Sites) -> None:
    every = four.list()
    for name in four.names[:-1]:
        four.masked(name, every)
    fewer = SumList(every.promises[:-1])
    assert same(total_of(four.summed(fewer)), four.hospitals.plain_sum(fewer))
    assert len(four.trained) == 4


@pytest.mark.parametrize("step", ["promise", "masked", "opening"])
def test_killed_at_any_change_it_says_the_same_again(tmp_path: Path, step: str) -> None:
    """Training is never the same twice here, as private training."""
    sites = Sites(tmp_path, 3)
    others = [sites.promise(name) for name in sites.names[1:]]
    said = tmp_path / "said"

    def promise() -> bytes:
        return sites.promise("S00", lambda: sites.another("S00")).model_dump_json().encode()

    def sums() -> SumList:
        return SumList.of([Promise.model_validate_json(promise()), *others])

    def masked() -> bytes:
        vector = sites.masked("S00", sums())
        return vector.low.tobytes() + vector.high.tobytes()

    def opening() -> bytes:
        sites.masked("S00", sums())
        return sites.opening("S00", sums())

    act = {"promise": promise, "masked": masked, "opening": opening}[step]
    former: set[bytes] = set()
    for changes in range(40):
        (tmp_path / "S00" / "runs" / "demo" / "joint_sum.json").unlink(missing_ok=True)  # a run of its own
        died = dies_at_change(changes, lambda: said.write_bytes(act()))
        left = said.read_bytes() if said.exists() else None
        said.unlink(missing_ok=True)
        assert (left is None) == died
        again = act()
        assert left in (None, again)
        assert again == act(), "whatever was said before, it is said for ever now"
        assert again not in former, "each of these runs has secrets of its own"
        former.add(again)
        if not died:
            break
    assert 0 < changes < 39


def test_what_left_before_the_kill_is_what_leaves_after_it(tmp_path: Path) -> None:
    """A vector that is masked, then the process dies at each change of opening: the same vector, one key."""
    sites = Sites(tmp_path, 2)
    sums = sites.list()
    before = sites.masked("S00", sums)
    for changes in range(10):
        died = dies_at_change(changes, lambda: sites.opening("S00", sums))
        assert same(sites.masked("S00", sums), before)
        fewer_or_other = SumList.of(
            [sums.promises[0], sites.hospitals.promise("S01", roster=sites.roster.fingerprint)]
        )
        if not died:
            refused(ListFault.OPENED, "list of this round", lambda: sites.masked("S00", fewer_or_other))  # noqa: B023
            break
    assert 0 < changes < 9
    assert sites.opening("S00", sums) == sites.opening("S00", sums)


def test_other_data_never_go_under_the_same_masks(four: Sites) -> None:
    """Killed after the next update was written and before its promise was; then the old list is asked for again."""
    sums = four.list()
    before = four.masked("S00", sums)
    file = four.run_folder("S00", "demo") / "joint_update.safetensors"
    own, other = file.read_bytes(), (four.run_folder("S01", "demo") / file.name).read_bytes()
    file.write_bytes(other)
    refused(ListFault.LOST, "the update that was promised", lambda: four.masked("S00", sums))
    file.write_bytes(own[:-1])
    refused(ListFault.LOST, "the update that was promised", lambda: four.masked("S00", sums))
    file.unlink()
    refused(ListFault.LOST, "the update that was promised", lambda: four.masked("S00", sums))
    file.write_bytes(own)
    newer = {name: np.asarray(array + array.dtype.type(1)) for name, array in four.model.items()}
    refused(ListFault.LOST, "the model of the promise", lambda: four.masked("S00", sums, newer))
    assert same(four.masked("S00", sums), before)


def test_another_arithmetic_under_the_same_masks_is_refused(four: Sites) -> None:
    """Whatever the reason, such as another quorum or another release: the hash of what lay under them says no."""
    four.hospitals.change("S01", labelled=(1, 1, 0))
    four.hospitals.change("S02", labelled=(1, 0, 0))
    four.hospitals.change("S03", labelled=(1, 0, 0))
    sums = four.list()
    four.masked("S00", sums)
    four.hospitals.quorum = 3
    refused(ListFault.LOST, "data that went under these masks before", lambda: four.masked("S00", sums))


def test_a_state_of_yesterday_opens_nothing_new(four: Sites) -> None:
    """A backup of the state file is put back: the update is another, or the round's sum is in the register."""
    first = four.list()
    file = four.run_folder("S00", "demo") / "joint_sum.json"
    promised = file.read_bytes()
    four.summed(first)
    file.write_bytes(promised)
    fewer = SumList(first.promises[:3])
    refused(ListFault.OPENED, "this very update", lambda: four.masked("S00", fewer))
    refused(ListFault.OPENED, "this very update", lambda: four.opening("S00", fewer))
    four.hospitals.updates["S00"] = four.another("S00")
    four.promise("S00", round=2)
    file.write_bytes(promised)
    refused(ListFault.LOST, "the update that was promised", lambda: four.masked("S00", first))


def test_one_list_of_a_round_is_opened(four: Sites) -> None:
    every = four.list()
    four.summed(every)
    fewer = SumList(every.promises[1:])
    for name in fewer.sites:
        refused(ListFault.OPENED, "list of this round", lambda name=name: four.masked(name, fewer))
        refused(ListFault.OPENED, "list of this round", lambda name=name: four.opening(name, fewer))
        for about in ({"model": "0" * 64}, {"config": "0" * 64}):
            again = lambda name=name, about=about: four.promise(name, **about)  # noqa: E731
            refused(ListFault.OPENED, "a round after 1, whose sum was opened", again)
    assert len(four.trained) == 4
    four.promise("S00", round=2)
    refused(ListFault.OPENED, "a round after 1", lambda: four.promise("S00"))


def test_a_list_that_was_masked_and_not_opened_stays_closed(four: Sites) -> None:
    every = four.list()
    for name in four.names:
        four.masked(name, every)
    fewer = SumList(every.promises[1:])
    four.summed(fewer)
    for name in fewer.sites:
        refused(ListFault.OPENED, "list of this round", lambda name=name: four.opening(name, every))


def test_a_list_that_was_never_masked_is_not_opened(four: Sites) -> None:
    sums = four.list()
    refused(ListFault.LIST, "a list that this site has masked", lambda: four.opening("S00", sums))


def test_an_update_is_in_no_second_sum_of_other_sites_whatever_the_run_is_called(four: Sites) -> None:
    """Training is deterministic: the same run once more without a hospital would give its update exactly."""
    four.summed(four.list())
    for name in four.names:
        four.run_folder(name, "again").mkdir()
    again = four.list(run="again")
    fewer = SumList(again.promises[1:])
    for name in fewer.sites:
        refused(ListFault.OPENED, "this very update", lambda name=name: four.masked(name, fewer))
    assert same(total_of(four.summed(again)), four.hospitals.plain_sum(again)), (
        "of the same sites: nothing new"
    )


def test_killed_while_it_opens_the_update_is_remembered_all_the_same(tmp_path: Path) -> None:
    for changes in range(10):
        sites = Sites(tmp_path / str(changes), 3)
        sums = sites.list()
        sites.masked("S00", sums)
        died = dies_at_change(changes, lambda: sites.opening("S00", sums))  # noqa: B023
        sites.opening("S00", sums)
        sites.run_folder("S00", "again").mkdir()
        other = sites.hospitals.promise("S01", run="again", roster=sites.roster.fingerprint)
        fewer = SumList.of([sites.promise("S00", run="again"), other])
        refused(ListFault.OPENED, "this very update", lambda: sites.masked("S00", fewer))  # noqa: B023
        if not died:
            break
    assert 0 < changes < 9


def test_what_no_list_could_sum_is_not_promised(four: Sites) -> None:
    good = four.hospitals.updates["S00"]
    far = four.model["conv.weight"] + np.float32(100)
    for arrays, error in (
        ({"conv.weight": far}, OutOfRangeError),
        ({"conv.weight": far * np.float32("nan")}, UpdateRefused),
        ({"norm.running_var": -good.arrays["norm.running_var"] - 1}, UpdateRefused),
        ({"norm.num_batches_tracked": np.array(2**40)}, OutOfRangeError),
    ):
        update = replace(good, arrays=good.arrays | arrays)
        with pytest.raises(error):
            four.promise("S00", lambda update=update: update)
        assert list(four.run_folder("S00", "demo").iterdir()) == []
    assert four.promise("S00").site == "S00"


def test_rounds_only_go_up(four: Sites) -> None:
    four.promise("S00", round=5)
    refused(ListFault.LIST, "round 5 or a later one, got 4", lambda: four.promise("S00", round=4))
    assert four.promise("S00", round=5, model="0" * 64).model == "0" * 64, "the same from another model"


def test_a_promise_of_another_round_is_replaced_and_its_list_with_it(four: Sites) -> None:
    old = four.list()
    four.masked("S00", old)
    four.promise("S00", round=2)
    refused(ListFault.LIST, "own promise as it made it", lambda: four.masked("S00", old))
    refused(ListFault.LIST, "own promise as it made it", lambda: four.opening("S00", old))


def test_an_update_is_masked_for_sixteen_lists(tmp_path: Path) -> None:
    sites = Sites(tmp_path, 2)
    own = sites.promise("S00")

    def another_list() -> SumList:
        hospitals = Hospitals(2)
        subject = sites.subject
        promise = Promise.signed(
            sites.hospitals.keys["S01"], subject, hospitals.updates["S01"], hospitals.secrets["S01"].public
        )
        return SumList.of([own, promise])

    first = another_list()
    vector = sites.masked("S00", first)
    for _ in range(MOST_LISTS - 1):
        sites.masked("S00", another_list())
    refused(ListFault.LIST, "at most 16 lists", lambda: sites.masked("S00", another_list()))
    assert same(sites.masked("S00", first), vector)
    assert len(sites.opening("S00", first)) == 32


def test_an_update_that_was_lost_is_trained_again_under_a_new_key_until_it_was_opened(four: Sites) -> None:
    first = four.promise("S00")
    file = four.run_folder("S00", "demo") / "joint_update.safetensors"
    file.unlink()
    second = four.promise("S00")
    assert four.trained == ["S00", "S00"]
    assert second.key != first.key
    sums = four.list()
    four.summed(sums)
    file.unlink()
    assert four.promise("S00") == second
    refused(ListFault.LOST, "the update that was promised", lambda: four.masked("S00", sums))
    assert len(four.opening("S00", sums)) == 32, "the others can still have their sum"


def test_what_is_damaged_is_no_fresh_start(four: Sites) -> None:
    sums = four.list()
    four.summed(sums)
    state = four.run_folder("S00", "demo") / "joint_sum.json"
    (register,) = (four.folder / "S00" / "opened").iterdir()
    content, names = state.read_bytes(), register.read_bytes()
    register.write_bytes(names[:-1])
    refused(ListFault.LOST, "with whom an update was summed", lambda: four.masked("S00", sums))
    register.write_bytes(names)
    state.write_bytes(content.replace(b'"opened_round":1', b'"opened_round":0'))
    for act in (
        lambda: four.promise("S00", round=2),
        lambda: four.masked("S00", sums),
        lambda: four.opening("S00", sums),
    ):
        refused(ListFault.LOST, "takes no part in this run any more", act)
    state.unlink()
    refused(ListFault.LOST, "a promise on this disk, found none", lambda: four.masked("S00", sums))


def test_a_site_asks_for_as_many_sites_as_its_file_says_and_for_the_pinned_roster(four: Sites) -> None:
    sums = four.list()
    site = four.site("S00", least=3)
    refused(ListFault.MINIMUM, "expected 3", lambda: site.masked(sums, four.model, FINDINGS, ROWS))
    four.roster = Roster.of("chest", {row.site: row.public_key for row in four.roster.sites[:3]})
    refused(ListFault.ROSTER, "roster that this site has pinned", lambda: four.masked("S00", sums))
    refused(ListFault.ROSTER, "roster that this site has pinned", lambda: four.opening("S00", sums))
    refused(ListFault.ROSTER, "roster that this site has pinned", lambda: four.promise("S00"))


def test_secrets_are_the_owners_alone_and_gone_with_the_next_promise(four: Sites) -> None:
    sums = four.list()
    four.summed(sums)
    state = four.site("S00")._state()
    assert state is not None
    secrets = (state.private, state.root)
    assert not any(secret in repr(state) or secret in str(state) for secret in secrets)

    def holding() -> list[Path]:
        files = [path for path in (four.folder / "S00").rglob("*") if path.is_file()]
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
        needles = [needle for secret in secrets for needle in (secret.encode(), bytes.fromhex(secret))]
        return [path for path in files if any(needle in path.read_bytes() for needle in needles)]

    assert [path.name for path in holding()] == ["joint_sum.json"]
    four.promise("S00", round=2)
    assert holding() == []
    assert fingerprint(four.model) == sums.promises[0].model
