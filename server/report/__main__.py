"""`python -m server.report runs/NAME`: the report of a finished run, as HTML and JSON beside the model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acm_core.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Write the report; returns the exit code (0 written, 1 it cannot be, see what it says)."""
    parser = argparse.ArgumentParser(
        prog="python -m server.report",
        description="Write the report of a finished run: RUN/report.html, one file that needs no network, and "
        "RUN/report.json with the same numbers. server.run and simulations.run do so at the end of every run.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/demo")
    parser.add_argument(
        "--state",
        type=Path,
        help="the server's state folder: the report then says which sites are enrolled, which answers were refused and "
        "whether the audit log is sound",
    )
    options = parser.parse_args(arguments)

    from acm_core.trust import TrustError
    from server.consortium.authority import ServerState
    from server.report.writing import write_report
    from server.round.run_folder import NoResultsError, RunFolder

    folder = RunFolder(options.run)
    try:
        write_report(folder, None if options.state is None else ServerState(options.state))
    except (NoResultsError, TrustError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 1
    print(folder.report)  # noqa: T201  # the command's own output
    return 0


if __name__ == "__main__":
    run_command(main)
