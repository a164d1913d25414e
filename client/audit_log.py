"""`python -m client.audit verify` and `show`: the site's audit log, checked and read.

Exit codes: 0 the log is sound; 1 it is not, and the row is named; 2 wrong input, or no log there.
"""

from __future__ import annotations

import argparse
import sys

from acm_core.audit_commands import EXIT_CODES, WRONG, add_commands, answer
from client.site.site_arguments import add_site_arguments


def read_log(arguments: list[str]) -> int:
    """Verify or show the log; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.audit",
        description="The site's own record of what it was asked, what it refused and what left. Without verify or "
        "show, python -m client.audit tests private training instead.",
        epilog=EXIT_CODES,
    )
    for command in add_commands(parser):
        add_site_arguments(command)
    options = parser.parse_args(arguments)

    from acm_core.audit_log import audit_folder
    from acm_core.config.loading import ConfigError
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
    except (ConfigError, SiteFileError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return WRONG
    return answer(options, audit_folder(site.state), site=site.site)
