"""`python -m server.roster`: writes which sites take part and by which keys, for all hospitals to compare.

Exit codes: 0 written; 1 the disk did not take it; 2 wrong input, or fewer than two sites.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from acm_core.command import fail, run_command, say
from server.console.command import add_state_option

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Write the file and show it; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.roster",
        description="Write roster-NAME.json into this folder: the sites that take part now and their public keys. Send "
        "it to every hospital, by any channel: there is no secret in it. The hospitals compare its one fingerprint in "
        "a call of theirs, and need not believe you. After server.approve or server.remove write it again.",
        epilog="exit codes: 0 written; 1 the disk did not take it; 2 wrong input, or fewer than two sites",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/federation.yaml"),
        help="federation file, for its name (default: configs/federation.yaml)",
    )
    add_state_option(parser)
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from acm_core.trust import TrustError
    from acm_core.trust.certificates import spoken
    from acm_core.trust.roster import Roster, RosterError
    from server.consortium.authority import ServerState
    from server.consortium.registry import Registry

    try:
        config = load_config(options.config, FederationConfig)
        active = Registry.load(ServerState(options.state).registry).active()
        if len(active) < 2:
            raise RosterError(
                f"expected two sites or more that take part, got {len(active)}: let them in with server.approve first"
            )
        roster = Roster.of(config.name, {site.name: site.public_key for site in active})
        path = Path(f"roster-{config.name}.json")
        roster.write(path)
    except (ConfigError, TrustError) as error:
        return fail(str(error), WRONG)
    except OSError as error:
        return fail(f"{error}; run it again when that is mended", FAILED)
    say(
        f"roster       {path}, of {config.name} with {len(roster.sites)} sites",
        *(f"             {row.site}  {row.fingerprint}" for row in roster.sites),
        "fingerprint  which all hospitals read aloud in one call:",
        f"             {spoken(roster.fingerprint)}",
        "",
        f"Next: send {path} to every hospital, by any channel: there is no secret in it. Each runs",
        f"`python -m client.roster --site=NAME {path}` during the call.",
    )
    return OK


if __name__ == "__main__":
    run_command(main)
