"""A round's rules and the server's steps: seconds and memory of the server, beside Flower's strategies of that name."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import strategy

from acm_core.arrays import Arrays
from acm_core.config.aggregation import AggregationConfig, ServerStepConfig
from acm_core.config.sections import ModelConfig
from acm_core.federated.robust import make_aggregation
from acm_core.federated.server_step import make_server_step
from acm_core.federated.update import SiteUpdate
from acm_core.nn import build_classifier, finding_rows
from acm_core.randomness import stream
from acm_core.training.weights import get_arrays
from simulations.benchmark.measurement import machine

_FINDINGS = tuple(f"finding {i}" for i in range(14))
_SITES = (8, 32)
_RIVALS_SITES = 8  # Flower's Krum takes some 0.4 GB a site
_ATTACKERS = 1
_PLAIN = ServerStepConfig()
_STEPS = (
    ServerStepConfig(rule="fedavgm", learning_rate=1.0, momentum=0.9),
    ServerStepConfig(rule="fedadam", learning_rate=0.01, beta1=0.9, beta2=0.99, tau=1e-3),
)
_MEGABYTE = 10**6

Work = Callable[[], tuple[float, float]]


def run(rounds: int) -> dict[str, Any]:
    """Measure; returns a JSON-ready document, see `table`."""
    model = build_classifier(ModelConfig(architecture="resnet18", context="acm"), len(_FINDINGS))
    reference, rows = get_arrays(model), finding_rows(model)
    measured = []
    for sites in _SITES:
        works: dict[str, Work] = {
            _name(rule): _ours(rule, _PLAIN, reference, rows, sites) for rule in _rules(sites)
        }
        works |= {
            f"fedavg, {step.rule}": _ours(AggregationConfig(), step, reference, rows, sites)
            for step in _STEPS
        }
        if sites == _RIVALS_SITES:
            works |= {
                f"Flower {type(make()).__name__}": _flower(make, reference, sites)
                for make in _strategies(sites)
            }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                seconds[name].append(work())
        measured += [
            {
                "rule": name,
                "sites": sites,
                "last_update_seconds": [last for last, _ in seconds[name]],
                "total_seconds": [total for _, total in seconds[name]],
                "peak_bytes": _peak(work),
            }
            for name, work in works.items()
        ]
    return {
        "benchmark": "aggregation",
        "machine": machine(torch.device("cpu")),
        "model_bytes": sum(array.nbytes for array in reference.values()),
        "rows": measured,
    }


def table(document: dict[str, Any]) -> str:
    """The document as text. Last: seconds from the last site's update to the next global model."""
    lines = [
        f"{document['machine']['device']}, ACM-ResNet-18 of {document['model_bytes'] / _MEGABYTE:.1f} MB, 14 findings, "
        f"attackers: {_ATTACKERS}",
        f"{'rule':24}{'sites':>6}{'seconds':>9}{'last':>7}{'peak MB':>9}",
    ]
    lines += [
        f"{row['rule']:24}{row['sites']:6}{median(row['total_seconds']):9.2f}"
        f"{median(row['last_update_seconds']):7.2f}{row['peak_bytes'] / _MEGABYTE:9.0f}"
        for row in document["rows"]
    ]
    return "\n".join(lines) + "\n"


def _rules(sites: int) -> list[AggregationConfig]:
    return [
        AggregationConfig(),
        AggregationConfig(rule="norm_clipping", bound=1.0),
        AggregationConfig(rule="trimmed_mean", attackers=_ATTACKERS),
        AggregationConfig(rule="median", attackers=_ATTACKERS),
        AggregationConfig(rule="krum", attackers=_ATTACKERS, keep=1),
        AggregationConfig(rule="krum", attackers=_ATTACKERS, keep=sites - _ATTACKERS - 2),
    ]


def _name(rule: AggregationConfig) -> str:
    return rule.rule if rule.keep is None else f"{rule.rule}, keep {rule.keep}"


def _strategies(sites: int) -> list[Callable[[], strategy.FedAvg]]:
    return [
        strategy.FedAvg,
        strategy.FedMedian,
        lambda: strategy.FedTrimmedAvg(beta=(_ATTACKERS + 0.5) / sites),
        lambda: strategy.Krum(num_malicious_nodes=_ATTACKERS),
        lambda: strategy.MultiKrum(
            num_malicious_nodes=_ATTACKERS, num_nodes_to_select=sites - _ATTACKERS - 2
        ),
    ]


def _models(reference: Arrays, sites: int) -> Iterator[Arrays]:
    for site in range(sites):
        random = stream(0, "benchmark", "aggregation", site)
        yield {
            name: array + 1e-3 * random.standard_normal(array.shape, np.float32)
            if array.dtype.kind == "f"
            else np.asarray(array + site)
            for name, array in reference.items()
        }


def _ours(
    rule: AggregationConfig, step: ServerStepConfig, reference: Arrays, rows: frozenset[str], sites: int
) -> Work:
    server_step = make_server_step(step, rows)
    state = server_step.init(reference)

    def work() -> tuple[float, float]:
        aggregation = make_aggregation(rule, reference, _FINDINGS, rows)
        total = last = 0.0
        for site, model in enumerate(_models(reference, sites)):
            started = time.perf_counter()
            aggregation.add(SiteUpdate(f"S{site:02}", model, 100, (100,) * len(_FINDINGS)))
            last = time.perf_counter() - started
            total += last
        started = time.perf_counter()
        server_step.apply(reference, aggregation.result(), aggregation.learnt, state)
        ended = time.perf_counter() - started
        return last + ended, total + ended

    return work


def _flower(make: Callable[[], strategy.FedAvg], reference: Arrays, sites: int) -> Work:
    def work() -> tuple[float, float]:
        replies = [_reply(model) for model in _models(reference, sites)]
        started = time.perf_counter()
        make().aggregate_train(1, replies)
        seconds = time.perf_counter() - started
        return seconds, seconds

    return work


def _reply(model: Arrays) -> Message:
    arrays = ArrayRecord({name: Array(array) for name, array in model.items()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 100})})
    # Flower's own transport makes replies so; its public ways want a run.
    reply: Message = Message(content, metadata=Metadata(1, "", 1, 1, "", "", 0.0, 1.0, "train"))  # type: ignore[call-overload]
    return reply


def _peak(work: Work) -> int:
    """Bytes at most, the update that arrives included."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
