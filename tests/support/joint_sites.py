"""Sites of a joint sum with their disks, each call in what might be a new process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from summing import FINDINGS, ROWS, Hospitals, trained

from acm_core.arrays import Arrays
from acm_core.federated.update import SiteUpdate
from acm_core.secure_aggregation.joint_sum import JointSum
from acm_core.secure_aggregation.masks import Vector
from acm_core.secure_aggregation.promise import Promise, Subject
from acm_core.secure_aggregation.sum_list import SumList
from acm_core.trust import keys
from acm_core.trust.roster import Roster
from client.round.joint_round import JointRound


class Sites:
    """Each call of a site is one of a process that has just begun: all that it knows is on its disk."""

    def __init__(self, folder: Path, sites: int) -> None:
        self.folder, self.hospitals = folder, Hospitals(sites)
        self.names, self.model = self.hospitals.names, self.hospitals.model
        public = {name: keys.public_text(key) for name, key in self.hospitals.public.items()}
        self.roster = Roster.of("chest", public)
        self.subject = self.hospitals.subject.model_copy(update={"roster": self.roster.fingerprint})
        self.trained: list[str] = []
        for name in self.names:
            self.run_folder(name, "demo").mkdir(parents=True)

    def run_folder(self, name: str, run: str) -> Path:
        return self.folder / name / "runs" / run

    def site(self, name: str, run: str = "demo", *, least: int = 2) -> JointRound:
        key, opened = self.hospitals.keys[name], self.folder / name / "opened"
        return JointRound(
            key, self.roster, self.run_folder(name, run), opened, least=least, quorum=self.hospitals.quorum
        )

    def promise(self, name: str, train: Callable[[], SiteUpdate] | None = None, **about: object) -> Promise:
        subject: Subject = self.subject.model_copy(update=about)

        def first() -> SiteUpdate:
            self.trained.append(name)
            return self.hospitals.updates[name]

        return self.site(name, subject.run).promise(subject, self.model, FINDINGS, train or first)

    def list(self, **about: object) -> SumList:
        return SumList.of([self.promise(name, **about) for name in self.names])

    def masked(self, name: str, sums: SumList, model: Arrays | None = None) -> Vector:
        site = self.site(name, sums.promises[0].run)
        return site.masked(sums, model or self.model, FINDINGS, ROWS)

    def opening(self, name: str, sums: SumList) -> bytes:
        return self.site(name, sums.promises[0].run).opening(sums)

    def summed(self, sums: SumList) -> JointSum:
        joint = JointSum(sums, self.hospitals.layout(sums))
        for name in sums.sites:
            joint.take(name, self.masked(name, sums))
        for name in sums.sites:
            joint.open(name, self.opening(name, sums))
        return joint

    def another(self, name: str) -> SiteUpdate:
        """What training gives that is not the same twice."""
        update = self.hospitals.updates[name]
        return replace(update, arrays=trained(self.model, np.random.default_rng()))
