"""Rounds of a real server over TLS on this machine, whose sites answer as soon as they are asked.

Each site is what `client.run` holds: a gateway, Flower's SuperNode and a ClientApp for each message; the worker alone
trains nothing.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from acm_core.config import dump_config
from acm_core.config.sections import Architecture, FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated.encoding import encode
from acm_core.nn import build_classifier
from acm_core.processes import free_port
from acm_core.randomness import stream
from acm_core.training.weights import get_arrays
from acm_core.trust.enrolment import Answer, Request
from acm_core.trust.keys import create_key
from client.link.site_link import SiteLink
from client.site.membership import Membership, install, key_file, membership_folder
from server.consortium.authority import ServerState
from server.consortium.registry import Registry
from server.round.run_folder import RunFolder
from simulations.benchmark.instant_worker import REPLY
from simulations.benchmark.measurement import peak_resident_bytes_of

CASES: tuple[tuple[Architecture, int], ...] = (
    ("resnet18", 2),
    ("resnet18", 8),
    ("resnet18", 32),
    ("resnet50", 2),
    ("resnet50", 16),
)
PROCESSES = {"SuperLink": "server.link.program", "ServerApp": "flwr-serverapp"}
_POLL_SECONDS = 0.1
_MEGABYTE = 10**6


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
    reply = folder / REPLY
    np.save(reply, encode(trained, {}, "float32").payload["encoded"])
    command = [sys.executable, "-m", "server.run", "--config", str(folder / "federation.yaml")]
    command += ["--runs", str(folder / "runs"), "--state", str(state.folder)]
    with contextlib.ExitStack() as ending:
        links = []
        for name in names:
            links.append(_member(folder, state, name, f"127.0.0.1:{port}", reply))
            ending.callback(links[-1].stop)
        with (folder / "output").open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603  # our own
        ending.callback(server.wait)
        ending.callback(server.terminate)
        peaks = _watch(server, links, RunFolder(folder / "runs" / config.name).rounds, rounds)
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


def _member(folder: Path, state: ServerState, name: str, server: str, reply: Path) -> SiteLink:
    """A site that is a member of the server's federation, with a file of its own."""
    settings = {
        "site": name,
        "films": folder,
        "labels": folder / "none.csv",
        "state": folder / "sites" / name,
    }
    site = SiteConfig.model_validate(settings)
    path = folder / f"{name}.yaml"
    path.write_text(dump_config(site), encoding="utf-8")
    own = membership_folder(site)
    request = Request.signed(name, create_key(key_file(own)))
    Registry.load(state.registry).approve(name, request.public_key)
    authority = state.authority.read_bytes()
    install(own, Answer.to(request, federation="benchmark", server=server, authority=authority))
    (site.state / REPLY).symlink_to(reply)
    return SiteLink(site, Membership.load(site), path, worker="simulations.benchmark.instant_worker")


def _watch(
    server: subprocess.Popen[bytes], links: Sequence[SiteLink], records: Path, rounds: int
) -> dict[str, int]:
    """Tend the sites until the last round is over; the most bytes that each of `PROCESSES` has held."""
    peaks = dict.fromkeys(PROCESSES, 0)
    while not records.exists() or len(records.read_text(encoding="utf-8").splitlines()) < rounds:
        if server.poll() is not None:
            raise RuntimeError(f"expected {rounds} rounds, got an end of server.run with {server.returncode}")
        for link in links:
            for line in link.tend():
                print(line, file=sys.stderr)  # noqa: T201  # a measurement with that in it is none
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
