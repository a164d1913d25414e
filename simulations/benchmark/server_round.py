"""A round at the server: seconds and memory as sites grow, their replies ready one by one or all at once."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from acm_core.config.sections import FederationConfig
from acm_core.federated.encoding import encode
from acm_core.federated.messages import Reply
from acm_core.randomness import stream
from server.events import EventLog
from server.flower_transport import FlowerTransport
from server.rounds import RoundLoop
from server.state import RoundState, StateStore
from simulations.benchmark.measurement import peak_resident_bytes

Arrival = Literal["one by one", "all at once"]

_MEGABYTE = 10**6
PARTS: dict[str, tuple[int, tuple[int, ...], tuple[Arrival, ...]]] = {  # weights, sites, arrivals
    "server": (250_000, (2, 32, 256), ("all at once",)),
    "memory": (25_000_000, (2, 8, 64), ("one by one", "all at once")),
}


def run(part: str, rounds: int) -> list[dict[str, Any]]:
    """Rows, see `table`: each case in a process of its own."""
    weights, counts, arrivals = PARTS[part]
    rows = []
    for arrival in arrivals:
        for sites in counts:
            print(f"{part}: {sites} sites, {arrival}", file=sys.stderr, flush=True)  # noqa: T201  # progress
            rows.append({"part": part, **measure(sites, weights, rounds, arrival)})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines. Peak: of the whole process; over idle: above what it held before the rounds."""
    lines = [
        f"{'part':8}{'arrival':13}{'sites':>6}{'model MB':>10}{'s a round':>11}{'peak MB':>9}{'over idle':>11}"
    ]
    lines += [
        f"{row['part']:8}{row['arrival']:13}{row['sites']:6}{row['model_bytes'] / _MEGABYTE:10.1f}"
        f"{np.median(row['seconds']):11.2f}{row['peak_bytes'] / _MEGABYTE:9.0f}"
        f"{(row['peak_bytes'] - row['idle_bytes']) / _MEGABYTE:11.0f}"
        for row in rows
    ]
    return lines


def measure(sites: int, weights: int, rounds: int, arrival: Arrival) -> dict[str, Any]:
    """Rounds of the server's own loop, transport and saving, in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Made here: what a site needs to encode is no part of the server's memory.
        payload = encode(_model(weights, 1), {}, "float32").payload["encoded"]
        np.save(folder / "reply.npy", payload)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_serve, folder, sites, weights, rounds, arrival).result()


class _Node(NamedTuple):
    node_id: int
    name: str
    last_activated_at: str


class _Grid:
    """Sites that answer every task with the same whole model, read afresh from disk for each reply."""

    def __init__(self, reply: Path, sites: tuple[str, ...], arrival: Arrival) -> None:
        self._reply, self._sites, self._arrival = reply, sites, arrival
        self._asked: dict[str, tuple[str, int]] = {}
        self._sent = 0

    def get_nodes(self) -> list[_Node]:
        return [_Node(number, site, "") for number, site in enumerate(self._sites, 1)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            self._sent += 1
            site = self._sites[message.metadata.dst_node_id - 1]
            self._asked[str(self._sent)] = site, int(message.metadata.group_id)
            identifiers.append(str(self._sent))
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Every reply that is ready, in one list, as Flower's own Grid gives them."""
        ready = [identifier for identifier in message_ids if identifier in self._asked]
        return [
            self._answer(identifier) for identifier in ready[: 1 if self._arrival == "one by one" else None]
        ]

    def _answer(self, identifier: str) -> Message:
        site, number = self._asked.pop(identifier)
        reply = Reply(site, number, films=100, labelled=(100,))
        content = RecordDict(
            {
                "reply": ConfigRecord({**reply.to_wire()}),
                "arrays": ArrayRecord({"encoded": Array(np.load(self._reply))}),
            }
        )
        # Flower's own transport makes replies so; its public ways want a run.
        metadata = Metadata(1, "", 1, 1, identifier, "", 0.0, 1.0, "train")
        message: Message = Message(content, metadata=metadata)  # type: ignore[call-overload]
        return message


def _serve(folder: Path, sites: int, weights: int, rounds: int, arrival: Arrival) -> dict[str, Any]:
    # Flower sets these in the processes that it starts; a message cannot be made without.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
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
    transport = FlowerTransport(cast(Grid, _Grid(folder / "reply.npy", names, arrival)), names)
    loop = RoundLoop(transport, config, frozenset(), EventLog(folder / "events.jsonl"))
    idle = peak_resident_bytes()
    state = loop.run(state, StateStore(folder, config).save)
    return {
        "arrival": arrival,
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
