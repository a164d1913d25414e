"""`python -m server.audit verify` and `show`: the server's audit log, checked and read.

Exit codes: 0 the log is sound; 1 it is not, and the row is named; 2 wrong input, or no log there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from acm_core.audit_commands import EXIT_CODES, add_commands, answer
from acm_core.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Verify or show the log; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.audit",
        description="The server's own record of who joined, what sites were asked, what came back, what was refused.",
        epilog=EXIT_CODES,
    )
    verify, show = add_commands(parser)
    for command in (verify, show):
        command.add_argument(
            "--state",
            type=Path,
            default=Path("server_state"),
            help="the server's state folder (default: server_state)",
        )
    show.add_argument("--site", help="only rows about this site (default: all rows)")
    options = parser.parse_args(arguments)

    from acm_core.audit_log import audit_folder

    about = options.site if options.command == "show" else None
    return answer(options, audit_folder(options.state), site=None, about=about)


if __name__ == "__main__":
    run_command(main)
