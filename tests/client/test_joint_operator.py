"""An operator who asks whatever he likes, in any order: what three sites let out never gives him a second sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from joint_sites import Sites

from acm_core.secure_aggregation.promise import Promise
from acm_core.secure_aggregation.sum_list import ListRefused, SumList

STEPS = 120
RUNS = ("demo", "again")


class Operator:
    """He has every promise that ever left, and makes lists of any of them.

    Attributes:
        opened: of a site, run and round, the transcripts of the lists whose keys left.
        opened_with: of a site and an update, the sites of the lists whose keys left.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.sites = Sites(folder, 3)
        for name in self.sites.names:
            self.sites.run_folder(name, "again").mkdir()
        self.now = 1  # the round that he is at, or is about to be
        self.promises: list[Promise] = []
        self.left: dict[tuple[str, bytes, str], bytes] = {}
        self.opened: dict[tuple[str, str, int], set[bytes]] = defaultdict(set)
        self.opened_with: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)

    def asks_to_train(self) -> None:
        """Some sites for a round of a run, from the one model or another; some train as deterministically as before."""
        round_ = self.now + int(self.random.integers(2))
        about = {"round": round_, "run": str(self.random.choice(RUNS))}
        if self.random.random() < 0.2:
            about["model"] = "0" * 64
        for name in self._some():
            train = (lambda name=name: self.sites.another(name)) if self.random.random() < 0.3 else None
            with suppress(ListRefused):
                self.promises.append(self.sites.promise(name, train, **about))

    def asks_to_mask_and_open(self) -> None:
        for sums in self._lists():
            for name in self._some():
                with suppress(ListRefused):
                    vector = self.sites.masked(name, sums)
                    self._leaves(name, sums, "vector", vector.low.tobytes() + vector.high.tobytes())
            for name in self._some():
                about = sums.promises[0]
                state = self.sites.site(name, about.run)._state()
                with suppress(ListRefused):
                    self._leaves(name, sums, "key", self.sites.opening(name, sums))
                    assert state is not None
                    self.opened[name, about.run, about.round].add(sums.transcript)
                    self.opened_with[name, state.update].add(tuple(sums.sites))

    def a_disk_loses_an_update(self) -> None:
        folder = self.sites.run_folder(
            str(self.random.choice(self.sites.names)), str(self.random.choice(RUNS))
        )
        (folder / "joint_update.safetensors").unlink(missing_ok=True)

    def _leaves(self, name: str, sums: SumList, what: str, content: bytes) -> None:
        assert self.left.setdefault((name, sums.transcript, what), content) == content

    def _some(self) -> Sequence[str]:
        return [name for name in self.sites.names if self.random.random() < 0.8]

    def _lists(self) -> Iterator[SumList]:
        """Two lists of some sites' promises for one subject; of a site that made several, a new or an older one."""
        if not self.promises:
            return
        subject = self.promises[-1 - self.random.integers(min(len(self.promises), 6))].subject
        for _ in range(2):
            made = [
                [one for one in self.promises if (one.site, one.subject) == (name, subject)]
                for name in self._some()
            ]
            chosen = [
                promises[-1 - self.random.integers(min(len(promises), 2))] for promises in made if promises
            ]
            with suppress(ListRefused):
                yield SumList.of(chosen)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_he_asks_one_list_of_a_round_is_opened_and_one_with_an_update(
    tmp_path: Path, seed: int
) -> None:
    operator = Operator(tmp_path, seed)
    acts = [operator.asks_to_train, operator.asks_to_mask_and_open, operator.a_disk_loses_an_update]
    for step in range(STEPS):
        operator.now = 1 + step // 20
        acts[operator.random.choice(len(acts), p=(0.45, 0.5, 0.05))]()
        assert all(len(lists) == 1 for lists in operator.opened.values())
        assert all(len(lists) == 1 for lists in operator.opened_with.values())
    assert len(operator.opened) >= 12, "he was given something"
    assert len(operator.opened_with) >= 9
