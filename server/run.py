"""`python -m server.run`: starts the SuperLink and the run, shows what happens, ends everything it started."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from acm_core.command import run_command
from server.console.command import add_run_options, add_state_option, load_run, open_run

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from acm_core.config.sections import FederationConfig, ServerSection
    from server.console.terminal import Terminal
    from server.consortium.authority import ServerState
    from server.round.event_log import EventReader
    from server.round.events import RunFailed, RunFinished
    from server.round.run_folder import RunFolder

_POLL_SECONDS = 0.3
_LEAST_FREE = 32 * 2**20  # bytes: below it the next thing that has to be written down is lost
_DASHBOARD_PORT = 8088
_STARTS = 3  # of the server application without a round in between


def main(arguments: list[str] | None = None) -> int:
    """Run a federation; returns the exit code (0 finished, 1 failed, 2 wrong configuration, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m server.run",
        description="Start a federation: waits for the sites, trains with them round by round, writes runs/NAME/. "
        "Ctrl-C ends it; --resume goes on after the last finished round.",
    )
    add_run_options(parser, "configs/federation.yaml")
    add_state_option(parser)
    parser.add_argument(
        "--dashboard",
        type=int,
        nargs="?",
        const=_DASHBOARD_PORT,
        metavar="PORT",
        help="also show the run on a page of this machine alone, to look at only "
        f"(default port: {_DASHBOARD_PORT}; 0: any that is free)",
    )
    options = parser.parse_args(arguments)

    from acm_core.config.sections import FederationConfig
    from acm_core.proxies import ProxyError, settle_proxies
    from acm_core.trust import TrustError
    from server.consortium.authority import ServerState, server_names

    config = load_run(options, FederationConfig)
    if config is None:
        return 2
    state = ServerState(options.state)
    try:
        state.expect_ready(server_names(config.server))
        settle_proxies()
    except (TrustError, ProxyError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    folder = open_run(options, config)
    if folder is None:
        return 2
    from acm_core.processes import interruptible

    with interruptible():
        try:
            with _dashboard(options.dashboard, config, folder):
                return _supervise(config.server, state, folder)
        except KeyboardInterrupt:
            print(f"interrupted; continue with --resume. Run folder: {folder.folder}", file=sys.stderr)  # noqa: T201
            return 130


def _supervise(server: ServerSection, state: ServerState, folder: RunFolder) -> int:
    from rich.console import Console

    from acm_core.processes import OFFLINE
    from server.console.terminal import Terminal, print_results
    from server.round.event_log import EventReader
    from server.round.events import RunFailed

    os.environ.update(OFFLINE)
    from acm_core.audit_events import ServerStarted, ServerStopped
    from acm_core.audit_log import AuditError, AuditLog
    from acm_core.trust import TrustError
    from acm_core.trust.certificates import fingerprint
    from server.link.flower_internals import bundle
    from server.link.superlink import SuperLink, SuperLinkError
    from server.report.writing import write_report

    console, audit = Console(), AuditLog(state.audit)
    link: SuperLink | None = None
    try:
        link = SuperLink(server, state, folder.folder, folder.logs)
        certificate = fingerprint(state.certificate.read_bytes())
        digest = hashlib.sha256(bundle()).hexdigest()
        audit.append(ServerStarted(version=version("acm-fed"), bundle=digest, certificate=certificate))
        with Terminal(console) as terminal:
            follower = _Follower(EventReader(folder.events, from_end=True), terminal)
            link.wait_until_healthy()
            link.start_run()
            _say(console, f"server on {server.host}:{server.port}; run folder {folder.folder}")
            for warning in state.warnings():
                _say(console, warning)
            while follower.ended is None:
                _expect_room(folder.folder, state.folder)
                if link.tend():
                    _say(console, "Flower's SuperLink ended and was started again")
                _show_sites(console, *link.register())
                follower.follow()
                if follower.ended is None and (code := link.ended()) is not None:
                    follower.follow()
                    if follower.ended is None:
                        follower.expect_another_start(code, folder.logs)
                        link.wait_until_healthy()
                        _say(
                            console,
                            f"the server application ended ({code}): going on after the last saved round",
                        )
                        link.start_run()
                time.sleep(_POLL_SECONDS)
    except (SuperLinkError, AuditError, TrustError, OSError) as error:
        _say(console, f"{error}\nThe rounds so far are saved: continue with --resume.")
        return 1
    finally:
        if link is not None:
            link.stop()
            with contextlib.suppress(AuditError):
                audit.append(ServerStopped())
    if isinstance(follower.ended, RunFailed):
        return 1
    try:
        write_report(folder, state)
    except OSError as error:
        _say(console, str(error))
        return 1
    print_results(console, json.loads(folder.metrics.read_text(encoding="utf-8")), folder.folder)
    return 0


def _dashboard(
    port: int | None, config: FederationConfig, folder: RunFolder
) -> contextlib.AbstractContextManager[object]:
    """Serves the page where a port is given; a port that is taken is said, and the run goes on without the page."""
    if port is None:
        return contextlib.nullcontext()
    from server.dashboard.serving import Dashboard

    try:
        dashboard = Dashboard(config, folder.events, port)
    except OSError as error:
        print(f"no dashboard on port {port}: {error}; choose another with --dashboard PORT", file=sys.stderr)  # noqa: T201
        return contextlib.nullcontext()
    print(f"dashboard: {dashboard.address}", flush=True)  # noqa: T201  # the command's own output
    return dashboard


def _expect_room(*folders: Path) -> None:
    for folder in folders:
        if (free := shutil.disk_usage(folder).free) < _LEAST_FREE:
            raise OSError(f"{folder}: expected room on its disk, got {free / 2**20:.0f} MiB: make some")


class _Follower:
    """Follows the run's events: how it ended, and how often the server application may yet be started.

    Attributes:
        ended: the event that ended the run, None until then.
    """

    def __init__(self, events: EventReader, terminal: Terminal) -> None:
        self._events, self._terminal = events, terminal
        self._starts_left = _STARTS
        self.ended: RunFinished | RunFailed | None = None

    def follow(self) -> None:
        """Show the events since the last call; a finished round is progress."""
        from server.round.events import RoundFinished, RunFailed, RunFinished

        for event in self._events.read():
            self._terminal.take(event)
            if isinstance(event, RoundFinished):
                self._starts_left = _STARTS
            elif isinstance(event, RunFinished | RunFailed):
                self.ended = event

    def expect_another_start(self, code: int, logs: Path) -> None:
        """Count a start.

        Raises:
            SuperLinkError: there were too many.
        """
        from server.link.superlink import SuperLinkError

        self._starts_left -= 1
        if self._starts_left < 0:
            raise SuperLinkError(
                f"the server application ended {_STARTS + 1} times without a round in between (last: {code}): see "
                f"{logs}"
            )


def _show_sites(console: Console, came: list[str], gone: list[str]) -> None:
    if gone:
        _say(console, f"removed: {', '.join(gone)}")
    if came:
        _say(console, f"may join: {', '.join(came)}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
