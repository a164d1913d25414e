"""`python -m server.run`: starts the SuperLink and the run, shows what happens, ends everything it started."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from server.command import add_run_options, open_run

if TYPE_CHECKING:
    from server.run_folder import RunFolder

_POLL_SECONDS = 0.3


def main(arguments: list[str] | None = None) -> int:
    """Run a federation; returns the exit code (0 finished, 1 failed, 2 wrong configuration, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m server.run",
        description="Start a federation: waits for the sites, trains with them round by round, writes runs/NAME/. "
        "Ctrl-C ends it; --resume goes on after the last finished round.",
    )
    add_run_options(parser, "configs/federation.yaml")
    options = parser.parse_args(arguments)

    from acm_core.config.sections import FederationConfig

    opened = open_run(options, FederationConfig)
    if opened is None:
        return 2
    config, folder = opened
    from acm_core.processes import interruptible

    with interruptible():
        try:
            return _supervise(config.server.host, config.server.port, folder)
        except KeyboardInterrupt:
            print(f"interrupted; continue with --resume. Run folder: {folder.folder}", file=sys.stderr)  # noqa: T201
            return 130


def _supervise(host: str, port: int, folder: RunFolder) -> int:
    from rich.console import Console

    from acm_core.processes import OFFLINE
    from server.events import EventReader
    from server.terminal import Terminal, print_results

    os.environ.update(OFFLINE)
    from server.superlink import SuperLink, SuperLinkError

    console = Console()
    events = EventReader(folder.events, from_end=True)
    link = SuperLink(host, port, folder.folder, folder.logs)
    run: int | None = None
    ended = None
    try:
        with Terminal(console) as terminal:
            link.wait_until_healthy()
            run = link.start_run()
            console.print(
                f"server on {host}:{port}; run folder {folder.folder}", highlight=False, soft_wrap=True
            )
            while ended is None:
                ended = terminal.show(events.read())
                if ended is None and (status := link.ended(run)) is not None:
                    ended = terminal.show(events.read()) or {"event": "run_failed"}
                    if ended["event"] == "run_failed":
                        console.print(f"Flower ended the run ({status}): see {folder.logs / 'superlink.log'}")
                time.sleep(_POLL_SECONDS)
    except SuperLinkError as error:
        console.print(
            f"{error}\nThe rounds so far are saved: continue with --resume.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return 1
    finally:
        link.stop(run)
    if ended["event"] == "run_failed":
        return 1
    print_results(console, json.loads(folder.metrics.read_text(encoding="utf-8")), folder.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
