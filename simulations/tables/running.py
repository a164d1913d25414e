"""Runs the cells that are not done, some at a time, each in a process that keeps to its share of the cores."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from acm_core.processes import Child
from simulations.tables.cells import Standing
from simulations.tables.experiment import Cell, Experiment

_POLL_SECONDS = 0.5


class Work(NamedTuple):
    """A cell and where it stands."""

    experiment: Experiment
    cell: Cell
    standing: Standing

    @property
    def name(self) -> str:
        """For people, and of the run."""
        return self.cell.config.name


def estimate(work: Sequence[Work]) -> float | None:
    """Seconds that what is not done may take, one cell after the other, by what finished ones took; None: nobody knows.

    A cell is taken to last as those of its variant did on average, or else as those of its experiment, or else as all.
    """
    done = [one for one in work if one.standing.state == "done"]
    if not done:
        return None

    def seconds(one: Work) -> float:
        like = (
            [other for other in done if _variant(other) == _variant(one)]
            or [other for other in done if other.experiment is one.experiment]
            or done
        )
        return sum(other.standing.file.seconds for other in like if other.standing.file) / len(like)

    return sum(seconds(one) for one in work if one.standing.state != "done")


def run_side_by_side(
    work: Sequence[Work], runs: Path, results: Path, jobs: int, say: Callable[[str], None]
) -> list[str]:
    """Run all of `work`, `jobs` at a time; the names of those that failed, whose logs lie in `runs`.

    However it is left, nothing of it goes on running.
    """
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[job::jobs] or cores for job in range(jobs)]
    waiting, failed = list(work), []
    running: dict[int, tuple[Child, Work]] = {}
    try:
        while waiting or running:
            for job, share in enumerate(shares):
                if job in running and (code := running[job][0].exit_code) is not None:
                    child, one = running.pop(job)
                    child.stop()
                    say(f"{one.name}: {'done' if code == 0 else f'failed with {code}'}, {len(waiting)} to go")
                    failed += [one.name] if code != 0 else []
                if job not in running and waiting:
                    one = waiting.pop(0)
                    log = runs / f"{one.name}.log"
                    say(f"{one.name}: started, see {log}")
                    running[job] = Child(_command(one, runs, results), log, {}, cores=share), one
            time.sleep(_POLL_SECONDS)
    finally:
        for child, _ in running.values():
            child.stop()
    return failed


def _variant(one: Work) -> tuple[str, str]:
    return one.experiment.name, one.cell.variant


def _command(one: Work, runs: Path, results: Path) -> list[str]:
    of_cell = [str(one.experiment.path), one.cell.variant, str(one.cell.seed)]
    places = ["--runs", str(runs), "--results", str(results)]
    return [sys.executable, "-m", "simulations.tables.run_cell", *of_cell, *places]
