"""The joint sum's arithmetic: processor seconds at a site and at the server, bytes and memory, beside plain FedAvg."""

from __future__ import annotations

import time
import tracemalloc
from statistics import median
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from acm_core.arrays import Arrays, fingerprint
from acm_core.config.sections import ModelConfig
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.encoding import decode, encode
from acm_core.federated.update import MAX_GROWTH, SiteUpdate
from acm_core.nn import build_classifier, finding_rows
from acm_core.randomness import stream
from acm_core.secure_aggregation.fixed_point import Layout
from acm_core.secure_aggregation.joint_sum import JointSum
from acm_core.secure_aggregation.masks import Vector, add_masks
from acm_core.secure_aggregation.promise import LOSSES, Promise, Subject
from acm_core.secure_aggregation.round_secrets import RoundSecrets
from acm_core.secure_aggregation.sum_list import SumList
from acm_core.training.weights import get_arrays
from simulations.benchmark.measurement import machine

_FINDINGS = ("Lung Opacity", "Pneumothorax", "Pleural Effusion")
_SITES = (3, 10, 32)
_FILMS = 1000
_MEGABYTE = 10**6
_STEPS = ("check list", "encode", "mask", "take", "open", "decode")


def run(rounds: int) -> dict[str, Any]:
    """Measure; returns a JSON-ready document, see `table`."""
    model = build_classifier(ModelConfig(architecture="resnet18", context="acm"), len(_FINDINGS))
    reference, rows = get_arrays(model), finding_rows(model)
    return {
        "benchmark": "joint_sum",
        "machine": machine(torch.device("cpu")),
        "model_bytes": sum(array.nbytes for array in reference.values()),
        "plain": measure_plain(reference, rows, rounds),
        "rows": [measure(reference, rows, sites, rounds) for sites in _SITES],
    }


def measure(reference: Arrays, rows: frozenset[str], sites: int, rounds: int) -> dict[str, Any]:
    """One site's part and the server's for so many sites; the server's vectors are one site's, again and again."""
    names = [f"S{number:02}" for number in range(sites)]
    keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
    public = {name: key.public_key() for name, key in keys.items()}
    secrets = {name: RoundSecrets.draw() for name in names}
    update = _update(reference)
    subject = Subject(
        federation="benchmark",
        run="benchmark",
        round=1,
        model=fingerprint(reference),
        config="0" * 64,
        roster="0" * 64,
    )
    promises = [
        Promise.signed(
            keys[name],
            subject,
            SiteUpdate(name, {}, update.films, update.labelled, update.metrics),
            secrets[name].public,
        )
        for name in names
    ]
    seconds: dict[str, list[float]] = {step: [] for step in _STEPS}
    for _ in range(rounds):
        clock = _Clock(seconds)
        sums = SumList.parse(SumList.of(promises).text)
        sums.expect_permitted(promises[0], public, quorum=2, least=2)
        masks = secrets[names[0]].masks(names[0], sums)
        clock.lap("check list")
        layout = Layout(reference, _FINDINGS, rows, sums.terms(2))
        vector = layout.encode(update)
        clock.lap("encode")
        plain = Vector(vector.low.copy(), vector.high.copy())
        clock.lap()
        add_masks(vector, masks)
        clock.lap("mask")
        joint = JointSum(sums, layout)
        clock.lap()
        for name in names:
            joint.take(name, plain)
        clock.lap("take", sites)
        for name in names:
            joint.open(name, secrets[name].own_key(sums))
        clock.lap("open", sites)
        layout.decode(_times(plain, sites))
        clock.lap("decode")
    return {
        "sites": sites,
        "seconds": seconds,
        "vector_bytes": vector.nbytes,
        "list_bytes": len(sums.text),
        "peak_bytes": _peak(sums, layout, vector),
    }


def measure_plain(reference: Arrays, rows: frozenset[str], rounds: int) -> dict[str, Any]:
    """The same update as a float32 difference, and a site's part of FedAvg at the server."""
    update = _update(reference)
    seconds: dict[str, list[float]] = {"encode": [], "take": []}
    for _ in range(rounds):
        clock = _Clock(seconds)
        payload = encode(update.arrays, reference, "float32").payload
        clock.lap("encode")
        fedavg = FedAvg(reference, _FINDINGS, rows)
        clock.lap()
        arrays = decode(payload, reference)
        fedavg.add(SiteUpdate("S00", arrays, update.films, update.labelled), max_growth=MAX_GROWTH)
        clock.lap("take")
    return {"seconds": seconds, "bytes": payload["encoded"].nbytes}


def table(document: dict[str, Any]) -> str:
    """The document as text. `take` and `open` are of one site, at the server."""
    plain, megabytes = document["plain"], document["model_bytes"] / _MEGABYTE
    lines = [
        f"{document['machine']['device']}, ACM-ResNet-18 of {megabytes:.1f} MB; seconds of one core",
        f"plain FedAvg: encode {median(plain['seconds']['encode']):.3f}, a site at the server "
        f"{median(plain['seconds']['take']):.3f}, {plain['bytes'] / _MEGABYTE:.1f} MB up",
        f"{'sites':>5}"
        + "".join(f"{step:>12}" for step in _STEPS)
        + f"{'MB up':>8}{'list kB':>9}{'peak MB':>9}",
    ]
    lines += [
        f"{row['sites']:5}"
        + "".join(f"{median(row['seconds'][step]):12.3f}" for step in _STEPS)
        + f"{row['vector_bytes'] / _MEGABYTE:8.1f}{row['list_bytes'] / 1000:9.1f}{row['peak_bytes'] / _MEGABYTE:9.0f}"
        for row in document["rows"]
    ]
    return "\n".join(lines) + "\n"


class _Clock:
    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self._seconds, self._since = seconds, time.process_time()

    def lap(self, step: str | None = None, shares: int = 1) -> None:
        """Write down the processor's time since the last call for a step, or leave it out."""
        if step is not None:
            self._seconds[step].append((time.process_time() - self._since) / shares)
        self._since = time.process_time()


def _update(reference: Arrays) -> SiteUpdate:
    random = stream(0, "benchmark", "joint sum")
    arrays = {
        name: np.asarray(array + 1e-3 * random.standard_normal(array.shape, np.float32), array.dtype)
        if array.dtype.kind == "f"
        else np.asarray(array + 1)
        for name, array in reference.items()
    }
    arrays |= {name: np.abs(array) for name, array in arrays.items() if name.endswith("running_var")}
    return SiteUpdate("S00", arrays, _FILMS, (_FILMS,) * len(_FINDINGS), dict.fromkeys(LOSSES, 0.5))


def _times(vector: Vector, sites: int) -> Vector:
    return Vector(vector.low * np.uint32(sites), vector.high * np.uint64(sites))


def _peak(sums: SumList, layout: Layout, vector: Vector) -> int:
    """Bytes at most at the server, with the vector that arrives."""
    tracemalloc.start()
    try:
        joint = JointSum(sums, layout)
        for name in sums.sites:
            joint.take(name, vector)
            joint.open(name, bytes(32))
        return tracemalloc.get_traced_memory()[1] + vector.nbytes
    finally:
        tracemalloc.stop()
