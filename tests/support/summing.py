"""Hospitals that sum their updates in one process: registered keys, promises, masked vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated.update import SiteUpdate
from acm_core.secure_aggregation.fixed_point import Layout
from acm_core.secure_aggregation.joint_sum import JointSum
from acm_core.secure_aggregation.masks import Vector, add_masks
from acm_core.secure_aggregation.promise import Promise, Subject
from acm_core.secure_aggregation.round_secrets import RoundSecrets
from acm_core.secure_aggregation.sum_list import SumList

FINDINGS = ("Nodule", "Effusion", "Oedema")
ROWS = frozenset({"head.weight", "head.bias"})


def small_model(random: np.random.Generator) -> Arrays:
    """A model with one of each kind of array."""
    return {
        "conv.weight": random.standard_normal((8, 1, 3, 3)).astype(np.float32) * np.float32(0.1),
        "norm.weight": np.ones(8, np.float32),
        "norm.running_mean": random.standard_normal(8).astype(np.float32),
        "norm.running_var": (random.random(8) * 10.0 ** random.integers(-6, 3)).astype(np.float32),
        "norm.num_batches_tracked": np.array(17),
        "head.weight": random.standard_normal((len(FINDINGS), 8, 1, 1)).astype(np.float32),
        "head.bias": np.zeros(len(FINDINGS), np.float32),
    }


def trained(model: Arrays, random: np.random.Generator) -> Arrays:
    """What a round makes of it."""
    arrays: Arrays = {}
    for name, array in model.items():
        noise = random.standard_normal(array.shape)
        if array.dtype.kind != "f":
            arrays[name] = np.asarray(array + random.integers(1, 40))
        elif name.endswith("running_var"):
            arrays[name] = np.abs(array * (1 + 0.3 * noise)).astype(array.dtype)
        else:
            arrays[name] = (array + 0.01 * noise).astype(array.dtype)
    return arrays


class Hospitals:
    """Sites S00, S01, … with an update each of one round.

    Attributes:
        quorum: of the run; `least` sites in every sum each site's file asks for.
    """

    def __init__(
        self, sites: int, *, seed: int = 0, quorum: int = 2, least: int = 2, model: Arrays | None = None
    ) -> None:
        random = np.random.default_rng(seed)
        self.names = [f"S{number:02}" for number in range(sites)]
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in self.names}
        self.public = {name: key.public_key() for name, key in self.keys.items()}
        self.model = small_model(random) if model is None else model
        self.quorum, self.least = quorum, least
        self.updates = {name: self._update(name, random) for name in self.names}
        self.secrets = {name: RoundSecrets.draw() for name in self.names}
        self.subject = Subject(
            federation="chest",
            run="demo",
            round=1,
            model=fingerprint(self.model),
            config="c" * 64,
            roster="d" * 64,
        )

    def promise(self, name: str, **about: object) -> Promise:
        """This site's promise; `about` changes what it is about."""
        subject = self.subject.model_copy(update=about)
        return Promise.signed(self.keys[name], subject, self.updates[name], self.secrets[name].public)

    def list(self, names: Sequence[str] = (), **about: object) -> SumList:
        return SumList.of([self.promise(name, **about) for name in names or self.names])

    def layout(self, sums: SumList) -> Layout:
        return Layout(self.model, FINDINGS, ROWS, sums.terms(self.quorum))

    def plain(self, name: str, sums: SumList) -> Vector:
        """The site's vector without masks."""
        return self.layout(sums).encode(self.updates[name])

    def masked(self, name: str, sums: SumList) -> Vector:
        """What the site sends for this list, checked as a site checks it."""
        own = {promise.site: promise for promise in sums.promises}.get(name) or self.promise(name)
        sums.expect_permitted(own, self.public, quorum=self.quorum, least=self.least)
        vector = self.plain(name, sums)
        add_masks(vector, self.secrets[name].masks(name, sums))
        return vector

    def summed(self, sums: SumList, order: Sequence[str] = ()) -> JointSum:
        """The whole round at the server; vectors in `order`, keys the other way round."""
        joint = JointSum(sums, self.layout(sums))
        for name in order or sums.sites:
            assert joint.take(name, self.masked(name, sums))
        for name in reversed(order or sums.sites):
            assert joint.open(name, self.secrets[name].own_key(sums))
        return joint

    def plain_sum(self, sums: SumList, names: Sequence[str] = ()) -> Vector:
        """The integer sum of these sites' vectors."""
        layout = self.layout(sums)
        total = Vector.zeros(layout.low_size, layout.high_size)
        for name in names or sums.sites:
            total.add(self.plain(name, sums))
        return total

    def change(self, name: str, **changes: object) -> None:
        """Another update of this site."""
        self.updates[name] = replace(self.updates[name], **changes)  # type: ignore[arg-type]

    def _update(self, name: str, random: np.random.Generator) -> SiteUpdate:
        films = int(random.integers(1, 3000))
        labelled = tuple(int(random.integers(1, films + 1)) for _ in FINDINGS)
        metrics = {"train_loss": float(random.random()), "validation_loss": float(random.random())}
        return SiteUpdate(name, trained(self.model, random), films, labelled, metrics)


def same(one: Vector, other: Vector) -> bool:
    """Bit for bit."""
    return one.low.tobytes() == other.low.tobytes() and one.high.tobytes() == other.high.tobytes()


def total_of(joint: JointSum) -> Vector:
    """What the server has, whole or not."""
    return joint._total
