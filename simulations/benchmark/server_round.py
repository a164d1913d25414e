"""A round at the server: seconds and memory as sites grow, whose replies all lie in the depot."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from acm_core.config.sections import FederationConfig
from acm_core.federated.encoding import encode
from acm_core.federated.messages import Reply, Task
from acm_core.federated.payload import Payload, read_reply, write_payload
from acm_core.randomness import stream
from server.link.depot import Depot
from server.round.event_log import EventLog
from server.round.loop import RoundLoop
from server.round.sites import Sites
from server.round.state import RoundState, StateStore
from server.round.transport import Answer, Connection, Ticket
from simulations.benchmark.measurement import peak_resident_bytes

_MEGABYTE = 10**6
PARTS: dict[str, tuple[int, tuple[int, ...]]] = {  # weights, sites
    "server": (250_000, (2, 32, 256)),
    "memory": (25_000_000, (2, 8, 64)),
}


def run(part: str, rounds: int) -> list[dict[str, Any]]:
    """Rows, see `table`: each case in a process of its own."""
    weights, counts = PARTS[part]
    rows = []
    for sites in counts:
        print(f"{part}: {sites} sites", file=sys.stderr, flush=True)  # noqa: T201  # progress
        rows.append({"part": part, **measure(sites, weights, rounds)})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines. Peak: of the whole process; over idle: above what it held before the rounds."""
    lines = [f"{'part':8}{'sites':>6}{'model MB':>10}{'s a round':>11}{'peak MB':>9}{'over idle':>11}"]
    lines += [
        f"{row['part']:8}{row['sites']:6}{row['model_bytes'] / _MEGABYTE:10.1f}"
        f"{np.median(row['seconds']):11.2f}{row['peak_bytes'] / _MEGABYTE:9.0f}"
        f"{(row['peak_bytes'] - row['idle_bytes']) / _MEGABYTE:11.0f}"
        for row in rows
    ]
    return lines


def measure(sites: int, weights: int, rounds: int) -> dict[str, Any]:
    """Rounds of the server's own loop and saving, in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Made here: what a site needs to encode is no part of the server's memory.
        arrays = encode(_model(weights, 1), {}, "float32").payload
        reply = write_payload(Reply("S000", films=100, labelled=(100,), arrays=arrays), folder)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_serve, folder, reply, sites, weights, rounds).result()


class _Answered:
    """A transport to sites that answer every task with the same whole model, read afresh from disk for each reply."""

    def __init__(self, folder: Path, reply: Payload, sites: Sequence[str]) -> None:
        self._depot, self._reply = Depot(folder / "depot"), reply
        self._connected = {site: Connection(number) for number, site in enumerate(sites)}
        self._round = 0

    def connected(self) -> dict[str, Connection]:
        return self._connected

    def send(self, task: Task, sites: dict[str, Connection], lifetime: float) -> list[Ticket]:  # noqa: ARG002
        payload, self._round = self._depot.put_task(task), task.round
        self._depot.remove_tasks(but={payload.sha256})
        return [Ticket(site, site, sites[site], payload.size) for site in sites]

    def receive(self, tickets: Sequence[Ticket]) -> Iterator[Answer]:
        for ticket in tickets:
            reply = replace(read_reply(self._reply.path, ""), site=ticket.site, round=self._round)
            yield Answer(ticket, reply, self._reply.size)
            del reply


def _serve(folder: Path, reply: Payload, sites: int, weights: int, rounds: int) -> dict[str, Any]:
    names = tuple(f"S{number:03}" for number in range(sites))
    config = FederationConfig.model_validate(
        {
            "name": "benchmark",
            "findings": ["Lung Opacity"],
            "privacy": "off",
            "federation": {"sites": names, "rounds": rounds, "quorum": sites},
        }
    )
    state = RoundState(0, _model(weights, 0), ())
    model_bytes = sum(array.nbytes for array in state.arrays.values())
    events = EventLog(folder / "events.jsonl")
    sites_of_run = Sites(_Answered(folder, reply, names), names, events)
    loop = RoundLoop(sites_of_run, config, frozenset(), events)
    idle = peak_resident_bytes()
    state = loop.run(state, StateStore(folder, config).save)
    return {
        "sites": sites,
        "model_bytes": model_bytes,
        "seconds": [record["seconds"] for record in state.records],
        "peak_bytes": peak_resident_bytes(),
        "idle_bytes": idle,
    }


def _model(weights: int, seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Ten arrays of random weights."""
    random = stream(0, "benchmark", "federation", seed)
    return {f"layer {i}": random.standard_normal((weights // 1000, 100), np.float32) for i in range(10)}
