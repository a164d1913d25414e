"""`python -m server.remove A`: a site takes no part any more, and its key never again.

Exit codes: 0 removed; 1 the disk did not take it; 2 wrong input.
"""

from __future__ import annotations

import argparse

from acm_core.command import fail, run_command
from server.console.command import add_state_option

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Remove the site; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.remove",
        description="End a site's part in the federation, also while the server runs. Its key is refused for ever; the "
        "site can come back with a new one. The other sites notice nothing.",
        epilog="exit codes: 0 removed; 1 the disk did not take it; 2 wrong input",
    )
    parser.add_argument("site", help="the site's name")
    add_state_option(parser)
    options = parser.parse_args(arguments)

    from acm_core.audit_events import SiteRemoved
    from acm_core.audit_log import AuditError, AuditLog
    from acm_core.trust import TrustError
    from server.consortium.authority import ServerState
    from server.consortium.registry import Registry

    state = ServerState(options.state)
    try:
        registry = Registry.load(state.registry)
        site = registry.expect_active(options.site)
        AuditLog(state.audit).append(SiteRemoved(site=site.name, key=site.fingerprint))
        registry.remove(site.name)
    except TrustError as error:
        return fail(str(error), WRONG)
    except (OSError, AuditError) as error:
        return fail(f"{error}; run it again when that is mended", FAILED)
    print(  # noqa: T201  # the command's own output
        f"site {site.name} is removed, and its key {site.fingerprint} stays out for ever",
        "A running server cuts it off within seconds; what it gave to finished rounds stays in the model.",
        "To come back the site makes a new key: it moves federation/site.key out of its state folder and enrols again.",
        sep="\n",
    )
    return OK


if __name__ == "__main__":
    run_command(main)
