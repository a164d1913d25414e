"""How long a site takes from a message to a process that can answer it: forked, and started as Flower does."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import subprocess
import sys
from statistics import median
from typing import Any

from client.superexec import PRELOADED
from simulations.benchmark.measurement import take_turns

# What flwr-clientapp imports, and then the site's application for its first message.
_PROGRAM = "import flwr.supernode.cli.flwr_clientapp, client.app, client.site_round"


def run(rounds: int) -> list[dict[str, Any]]:
    """Rows, see `table`."""
    multiprocessing.forkserver.set_forkserver_preload(list(PRELOADED))
    forking = multiprocessing.get_context("forkserver")

    def fork() -> None:
        process = forking.Process(target=_ready)
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"expected the forked process to end with 0, got {process.exitcode}")

    def start() -> None:
        subprocess.run([sys.executable, "-c", _PROGRAM], check=True)  # noqa: S603  # our own

    timings = take_turns({"forked": fork, "started": start}, rounds, warm_up=1)
    ratio = timings["forked"].ratio_to(timings["started"])
    return [
        {"part": "start", "contender": name, "seconds": timing.seconds, "ratio": ratio}
        for name, timing in timings.items()
    ]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines: seconds, and the forked one's over the started one's with quartiles."""
    lines = [f"{'a ClientApp':20}{'seconds':>9}{'least':>9}{'most':>9}"]
    for row in rows:
        seconds = row["seconds"]
        lines.append(f"{row['contender']:20}{median(seconds):9.2f}{min(seconds):9.2f}{max(seconds):9.2f}")
    middle, lower, upper = rows[0]["ratio"]
    return [*lines, f"forked over started: {middle:.3f} ({lower:.3f}–{upper:.3f})"]


def _ready() -> None:
    """Nothing is left to import."""
    missing = [module for module in PRELOADED if module not in sys.modules]
    sys.exit(1 if missing else 0)
