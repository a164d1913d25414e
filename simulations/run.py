"""`python -m simulations.run`: several hospitals on one machine, the same client and server code, no network."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from acm_core.command import run_command
from server.console.command import add_run_options, load_run, open_run

if TYPE_CHECKING:
    from rich.console import Console

    from acm_core.config.site import SiteConfig
    from server.round.run_folder import RunFolder
    from simulations.settings import SimulationConfig

_POLL_SECONDS = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Simulate; returns the exit code (0 finished, 1 failed, 2 wrong configuration, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.run",
        description="Simulate a federation: makes the synthetic hospitals (or takes folders of real films), trains "
        "federated, local-only and pooled models, prints them side by side and writes runs/NAME/.",
    )
    add_run_options(parser, "configs/demo.yaml")
    options = parser.parse_args(arguments)

    from simulations.settings import SimulationConfig

    config = load_run(options, SimulationConfig)
    folder = None if config is None else open_run(options, config)
    if config is None or folder is None:
        return 2
    from acm_core.processes import interruptible

    with interruptible():
        try:
            return run(config, folder, resume=options.resume)
        except KeyboardInterrupt:
            message = f"interrupted; continue with --resume. Run folder: {folder.folder}"
            print(message, file=sys.stderr, flush=True)  # noqa: T201  # the command's own output
            return 130


def run(config: SimulationConfig, folder: RunFolder, *, resume: bool) -> int:
    """Simulate in an opened run folder, showing progress; returns the exit code."""
    from simulations.engine import start_imports

    start_imports()  # before this process is at its own
    from rich.console import Console

    from acm_core.processes import keep_freed_memory, usable_cores
    from server.console.terminal import print_results
    from server.report.writing import write_report
    from server.round.event_log import EventLog
    from server.round.events import SimulationFinished
    from server.round.loop import RunFailedError
    from server.round.run_folder import ResumeError
    from simulations.sites import MissingFilmsError, prepare_sites

    keep_freed_memory()  # the pooled model is trained here
    console = Console()
    processes = config.simulation.processes or usable_cores()
    try:
        sites = prepare_sites(config, processes, _films_progress(console), resume=resume)
        with _Following(folder, console):
            metrics = _train(config, sites, folder, processes, resume=resume)
            EventLog(folder.events).tell(SimulationFinished())
    except (MissingFilmsError, RunFailedError, ResumeError) as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    try:
        write_report(folder, None)
    except OSError as error:
        console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return 1
    print_results(console, metrics, folder.folder)
    return 0


def _train(
    config: SimulationConfig, sites: dict[str, SiteConfig], folder: RunFolder, processes: int, *, resume: bool
) -> dict[str, Any]:
    from server.round.event_log import EventLog
    from server.round.events import Note
    from server.round.model_card import write_model_card
    from server.round.results import add_pooled
    from simulations.engine import simulate

    federation = config.federation_config()
    metrics = simulate(federation, sites, folder, processes=processes, resume=resume)
    # What follows trains here, and imports what the sites' processes have: not while they wait for a core.
    if config.simulation.pooled:
        from simulations.pooled import evaluate_pooled

        EventLog(folder.events).tell(Note(text="one model on all films together, for comparison"))
        metrics = add_pooled(metrics, evaluate_pooled(federation, sites))
    if config.evaluation.local_only:
        from simulations.crosswise import evaluate_crosswise

        metrics = {**metrics, "crosswise": evaluate_crosswise(federation, sites)}
    from simulations.unlabelled import evaluate_unlabelled

    metrics = {**metrics, "unlabelled": evaluate_unlabelled(config, sites)}
    folder.write_metrics(metrics)
    write_model_card(folder.model_card, federation, metrics)
    return metrics


class _Following:
    """Shows the run's events while the simulation occupies the main thread."""

    def __init__(self, folder: RunFolder, console: Console) -> None:
        from server.round.event_log import EventReader

        self._reader = EventReader(folder.events, from_end=True)
        self._console = console
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        from server.console.terminal import Terminal

        with Terminal(self._console) as terminal:
            ending = False
            while not ending:
                ending = self._stop.wait(_POLL_SECONDS)
                for event in self._reader.read():
                    terminal.take(event)


def _films_progress(console: Console) -> Any:
    said: dict[str, float] = {}

    def show(site: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - said.get(site, 0.0) > 1.0:
            said[site] = now
            console.print(
                f"hospital {site}: {done} of {total} films",
                end="\r" if console.is_terminal and done < total else "\n",
                highlight=False,
            )

    return show


if __name__ == "__main__":
    run_command(main, private=False)
