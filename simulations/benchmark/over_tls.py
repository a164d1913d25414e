"""Rounds of a real server over TLS on this machine, whose sites answer as soon as they are asked."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import flwr.app.message.array as flower_array
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supernode.fleet_http_connection import http_request_response

from acm_core.config import dump_config
from acm_core.config.sections import Architecture, FederationConfig
from acm_core.federated.encoding import encode
from acm_core.federated.messages import Reply
from acm_core.nn import build_classifier
from acm_core.processes import PIECES, free_port
from acm_core.randomness import stream
from acm_core.training.weights import get_arrays
from acm_core.trust.keys import create_key, public_text
from server.authority import ServerState
from server.registry import Registry
from server.run_folder import RunFolder
from simulations.benchmark.measurement import peak_resident_bytes_of

CASES: tuple[tuple[Architecture, int], ...] = (
    ("resnet18", 2),
    ("resnet18", 8),
    ("resnet18", 32),
    ("resnet50", 2),
    ("resnet50", 16),
)
PROCESSES = {"SuperLink": "server.superlink_program", "ServerApp": "flwr-serverapp"}
_POLL_SECONDS = 0.2
_ASK_SECONDS = 3.0  # between two questions of a site for something to do, as Flower's SuperNode
_MEGABYTE = 10**6

# What a site's processes have in their environment; here it must not reach the processes of other benchmarks.
flower_array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE = int(*PIECES.values())  # type: ignore[attr-defined]


def run(rounds: int, cases: Sequence[tuple[Architecture, int]] = CASES) -> list[dict[str, Any]]:
    """Rows, see `table`."""
    rows = []
    for architecture, sites in cases:
        print(f"tls: {architecture}, {sites} sites", file=sys.stderr, flush=True)  # noqa: T201  # progress
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"part": "tls", **measure(Path(folder), architecture, sites, rounds)})
            print(table(rows[-1:])[1], file=sys.stderr, flush=True)  # noqa: T201  # in case a later one fails
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines. Peaks are the most memory that each of the server's two large processes has held."""
    lines = [
        f"{'over TLS':12}{'sites':>6}{'model MB':>10}{'s a round':>11}{'MB a round':>12}{'MB a site':>11}"
        + "".join(f"{f'{name} MB':>14}" for name in PROCESSES)
    ]
    lines += [
        f"{row['architecture']:12}{row['sites']:6}{row['model_bytes'] / _MEGABYTE:10.1f}{median(row['seconds']):11.1f}"
        f"{median(row['bytes']) / _MEGABYTE:12.1f}{median(row['bytes']) / row['sites'] / _MEGABYTE:11.1f}"
        + "".join(f"{row['peak_bytes'][name] / _MEGABYTE:14.0f}" for name in PROCESSES)
        for row in rows
    ]
    return lines


def measure(folder: Path, architecture: Architecture, sites: int, rounds: int) -> dict[str, Any]:
    """`rounds` rounds of `server.run` with that many sites, each a connection of its own with its own key."""
    names = tuple(f"S{number:03}" for number in range(sites))
    port = free_port()
    config = FederationConfig.model_validate(
        {
            "name": "benchmark",
            "findings": ["Lung Opacity"],
            "privacy": "off",
            "model": {"architecture": architecture},
            "federation": {"sites": names, "rounds": rounds, "quorum": sites, "round_deadline": 3600},
            "server": {"port": port},
        }
    )
    (folder / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
    state = ServerState(folder / "state")
    state.create(config.name, ["127.0.0.1"])
    model = get_arrays(build_classifier(config.model, len(config.findings)))
    random = stream(0, "benchmark", "over TLS")
    trained = {
        name: array + random.normal(0, 1e-3, array.shape).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in model.items()
    }
    payload = encode(trained, {}, "float32").payload
    command = [sys.executable, "-m", "server.run", "--config", str(folder / "federation.yaml")]
    command += ["--runs", str(folder / "runs"), "--state", str(state.folder)]
    ended = threading.Event()
    threads = []
    for name in names:
        key = create_key(folder / f"{name}.key")
        Registry.load(state.registry).approve(name, public_text(key.public_key()))
        site = _Site(name, key, f"127.0.0.1:{port}", state.authority.read_bytes(), payload, ended)
        threads.append(threading.Thread(target=site.serve, daemon=True))
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603  # our own
    try:
        # A key that the server has not read yet is refused, and Flower's client then interrupts its whole process.
        while b"waiting for" not in (folder / "output").read_bytes() and server.poll() is None:
            time.sleep(_POLL_SECONDS)
        for thread in threads:
            thread.start()
        peaks = _watch(server, threads, RunFolder(folder / "runs" / config.name).rounds, rounds)
    finally:
        ended.set()
        server.terminate()
        server.wait()
    lines = RunFolder(folder / "runs" / config.name).rounds.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {
        "architecture": architecture,
        "sites": sites,
        "model_bytes": sum(array.nbytes for array in model.values()),
        "seconds": [record["seconds"] for record in records],
        "bytes": [record["bytes_sent"] + record["bytes_received"] for record in records],
        "peak_bytes": peaks,
    }


class _Site:
    """Answers every task of its server with the same model, without training."""

    def __init__(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        server: str,
        authority: bytes,
        payload: dict[str, np.ndarray[Any, Any]],
        ended: threading.Event,
    ) -> None:
        self._name, self._key, self._server, self._authority = name, key, server, authority
        self._payload, self._ended = payload, ended

    def serve(self) -> None:
        keys = (self._key, self._key.public_key())
        with http_request_response(self._server, False, self._authority, keys) as connection:
            _, receive, send, _, _, pull, push, confirm = connection
            while not self._ended.is_set():
                if (received := receive()) is None:
                    self._ended.wait(_ASK_SECONDS)
                    continue
                message, tree = received
                about = message.metadata
                parts = [part.object_id for part in iterate_object_tree(tree)]
                pull_objects(parts, functools.partial(pull, about.run_id))
                confirm(about.run_id, about.message_id)
                reply = self._reply(message)
                wanted, session = send(reply, get_object_tree(reply), 0.0)
                for identifier, content in get_all_nested_objects(reply).items():
                    if identifier in wanted:
                        push(about.run_id, session, identifier, content.deflate())

    def _reply(self, message: Message) -> Message:
        said = Reply(self._name, int(message.metadata.group_id), films=100, labelled=(100,))
        content = RecordDict(
            {
                "reply": ConfigRecord({**said.to_wire()}),
                "arrays": ArrayRecord({name: Array(array) for name, array in self._payload.items()}),
            }
        )
        reply = Message(content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return reply


def _watch(
    server: subprocess.Popen[bytes], sites: Sequence[threading.Thread], records: Path, rounds: int
) -> dict[str, int]:
    """Wait for the last round; the most bytes that each of `PROCESSES` has held."""
    peaks = dict.fromkeys(PROCESSES, 0)
    while not records.exists() or len(records.read_text(encoding="utf-8").splitlines()) < rounds:
        if server.poll() is not None:
            raise RuntimeError(f"expected {rounds} rounds, got an end of server.run with {server.returncode}")
        if not all(site.is_alive() for site in sites):
            raise RuntimeError("expected every site's connection to last, got one that ended: see above")
        for pid in _descendants(server.pid):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            for name, mark in PROCESSES.items():
                if mark in line:
                    peaks[name] = max(peaks[name], peak_resident_bytes_of(pid))
        time.sleep(_POLL_SECONDS)
    return peaks


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children + [child for parent in children for child in _descendants(parent)]
