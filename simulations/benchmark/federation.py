"""What a federation costs besides training: whole runs, a task's begin, a round at the server and over TLS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from simulations.benchmark import next_task, over_tls, server_round, simulated_run
from simulations.benchmark.measurement import machine

PARTS = ("simulation", "task", "tls", *server_round.PARTS)


def run(rounds: int, parts: Iterable[str] = PARTS) -> dict[str, Any]:
    """Measure; returns a JSON-ready document, see `table`."""
    rows = []
    for part in parts:
        if part == "simulation":
            rows += simulated_run.run(rounds)
        elif part == "task":
            rows += next_task.run(rounds)
        elif part == "tls":
            rows += over_tls.run(rounds)
        else:
            rows += server_round.run(part, rounds)
    return {"benchmark": "federation", "machine": machine(torch.device("cpu")), "rows": rows}


def table(document: dict[str, Any]) -> str:
    """The document as text."""
    rows = document["rows"]
    lines = [f"{document['machine']['device']}, {document['machine']['threads']} threads"]
    for parts, module in (
        (("simulation",), simulated_run),
        (("task",), next_task),
        (("tls",), over_tls),
        (tuple(server_round.PARTS), server_round),
    ):
        if chosen := [row for row in rows if row["part"] in parts]:
            lines += ["", *module.table(chosen)]
    return "\n".join(lines) + "\n"
