"""Whole simulated runs: seconds beside those of their training, ours and the same job on plain Flower."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from acm_core.config import dump_config
from acm_core.config.loading import load_config
from acm_core.config.sections import DeliverConfig
from acm_core.data.site_films import load_site
from acm_core.processes import usable_cores
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites

Contender = Literal["ours", "plain Flower"]
SITES = (2, 8, 32)
_DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
_LINE = re.compile(r"(\S+ \S+) INFO round \d+: (training on|trained)")


def run(rounds: int, sites: Sequence[int] = SITES) -> list[dict[str, Any]]:
    """Rows, see `table`: the demo's federation as it is run, a site a core at a time, and one site at a time, in which
    nothing can hide behind another site's training; then `sites` small hospitals with three rounds, one at a time.

    Args:
        rounds: how often each run is made, in turns.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for work, config in _jobs(Path(name), sites):
            films = _prepare(config)
            measured: dict[Contender, list[dict[str, float]]] = {"ours": [], "plain Flower": []}
            for turn in range(rounds):
                for contender, runs in measured.items():
                    said = f"simulation: {work}, {contender}, {turn + 1} of {rounds}"
                    print(said, file=sys.stderr, flush=True)  # noqa: T201  # progress
                    folder = Path(name) / f"{work} {contender} {turn}"
                    folder.mkdir()
                    runs.append(_ours(config, folder) if contender == "ours" else _flower(config, folder))
            rows += [
                {
                    "part": "simulation",
                    "work": work,
                    "contender": contender,
                    "films": films,
                    "rounds": config.federation.rounds,
                    "runs": runs,
                }
                for contender, runs in measured.items()
            ]
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines. Run: the whole command; rounds: first training to last; both over the sum of the trainings."""
    lines = [
        f"{'work':16}{'':14}{'films':>6}{'rounds':>7}{'training s':>12}{'run s':>8}"
        f"{'run/training':>20}{'rounds/training':>20}"
    ]
    for row in rows:
        runs = row["runs"]
        whole = [one["run"] / one["training"] for one in runs]
        within = [one["rounds"] / one["training"] for one in runs]
        lines.append(
            f"{row['work']:16}{row['contender']:14}{row['films']:6}{row['rounds']:7}"
            f"{median(one['training'] for one in runs):12.1f}{median(one['run'] for one in runs):8.1f}"
            f"{_spread(whole):>20}{_spread(within):>20}"
        )
    return lines


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _jobs(folder: Path, sites: Sequence[int]) -> list[tuple[str, SimulationConfig]]:
    demo = load_config(_DEMO, SimulationConfig)
    federated = {
        "evaluation": demo.evaluation.model_copy(update={"local_only": False}),
        "deliver": DeliverConfig(),  # without a model of their own there is nothing to mix
        "simulation": demo.simulation.model_copy(
            update={"data": folder / "data", "processes": 1, "pooled": False}
        ),
    }
    one = demo.model_copy(update=federated)
    cores = usable_cores()
    simulation = one.simulation.model_copy(update={"processes": cores})
    jobs = [(f"demo, {cores} at once", one.model_copy(update={"simulation": simulation})), ("demo", one)]
    for count in sites:
        names = tuple(f"H{number:02}" for number in range(count))
        hospital = demo.simulation.hospitals[0]
        hospitals = tuple(hospital.model_copy(update={"name": name, "patients": 60}) for name in names)
        jobs.append(
            (
                f"{count} sites",
                demo.model_copy(
                    update={
                        **federated,
                        "name": f"sites{count}",
                        "federation": demo.federation.model_copy(
                            update={"sites": names, "rounds": 3, "quorum": count}
                        ),
                        "simulation": federated["simulation"].model_copy(update={"hospitals": hospitals}),
                    }
                ),
            )
        )
    return jobs


def _prepare(config: SimulationConfig) -> int:
    """Make the films and their copies for training, which neither contender is to be measured by; how many train."""
    sites = prepare_sites(config, 1, lambda *_: None, resume=False)
    return sum(
        len(load_site(site, config.findings, config.model.image_size).train) for site in sites.values()
    )


def _ours(config: SimulationConfig, folder: Path) -> dict[str, float]:
    state = config.simulation.data / "state" / config.name
    logs = [state / site / "client.log" for site in config.federation.sites]
    for log in logs:
        log.unlink(missing_ok=True)
    path = _write(config, folder)
    begun, ended = _time("simulations.run", "--config", path, "--runs", str(folder))
    return _summary(config, begun, ended, [times for log in logs for times in _trainings(log)])


def _trainings(log: Path) -> list[tuple[float, float]]:
    """When each round's training began and ended, by a site's log."""
    times: dict[str, list[float]] = {"training on": [], "trained": []}
    for at, what in _LINE.findall(log.read_text(encoding="utf-8")):
        times[what].append(datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp())  # local
    return list(zip(*times.values(), strict=True))


def _flower(config: SimulationConfig, folder: Path) -> dict[str, float]:
    times = folder / "times"
    begun, ended = _time("simulations.benchmark.quickstart", _write(config, folder), str(times))
    numbers = [float(text) for text in times.read_text(encoding="utf-8").split()]
    return _summary(config, begun, ended, list(zip(numbers[::2], numbers[1::2], strict=True)))


def _write(config: SimulationConfig, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    return str(path)


def _time(module: str, *arguments: str) -> tuple[float, float]:
    begun = time.time()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True)  # noqa: S603  # our own
    return begun, time.time()


def _summary(
    config: SimulationConfig, begun: float, ended: float, trainings: list[tuple[float, float]]
) -> dict[str, float]:
    expected = len(config.federation.sites) * config.federation.rounds
    if len(trainings) != expected:
        raise RuntimeError(f"expected {expected} trainings of {config.name}, got {len(trainings)}")
    return {
        "run": ended - begun,
        "rounds": max(end for _, end in trainings) - min(start for start, _ in trainings),
        "training": sum(end - start for start, end in trainings),
    }
