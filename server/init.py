"""`python -m server.init`: makes the consortium's keys and certificates, or takes the hospital's own.

Exit codes: 0 made or renewed; 1 the disk did not take it; 2 wrong input, or it is there already.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import fail, run_command, say
from server.console.command import add_state_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.consortium.authority import ServerState

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Make or renew; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.init",
        description="Make what a server needs before sites can join: an authority that every site will trust, the "
        "server's certificate from it, secrets, and an empty registry of sites. With --certificate, --key and "
        "--authority the hospital's own certificate is used instead.",
        epilog="exit codes: 0 made or renewed; 1 the disk did not take it; 2 wrong input, or it is there already",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/federation.yaml"),
        help="federation file; its server.names, or else server.host, stand in the certificate "
        "(default: configs/federation.yaml)",
    )
    add_state_option(parser)
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="the hospital's certificate, then those between, PEM"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key, PEM, no passphrase")
    parser.add_argument(
        "--authority", type=Path, metavar="FILE", help="the authorities that the sites are to trust, PEM"
    )
    parser.add_argument(
        "--renew",
        action="store_true",
        help="a new certificate from the same authority; sites need not enrol again, and a running server takes it up",
    )
    options = parser.parse_args(arguments)
    own = options.certificate is not None
    if own != (options.key is not None) or (options.authority is not None and not own):
        parser.error("expected --certificate, --key and --authority together")
    if own and options.authority is None and not options.renew:
        parser.error("expected --authority beside --certificate: what are the sites to trust?")

    from acm_core.audit_log import AuditError
    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from acm_core.trust import TrustError
    from server.consortium.authority import ServerState, server_names

    state = ServerState(options.state)
    try:
        config = load_config(options.config, FederationConfig)
        names = server_names(config.server)
        if options.renew:
            before = state.authority.read_bytes() if state.authority.exists() else b""
            if own:
                state.renew_with(options.certificate, options.key, options.authority, names)
            else:
                state.renew(names)
            _show(state, names, renewed=True, same_authority=state.authority.read_bytes() == before)
            return OK
        if own:
            state.create_with(options.certificate, options.key, options.authority, names)
        else:
            state.create(config.name, names)
    except (ConfigError, TrustError) as error:
        return fail(str(error), WRONG)
    except (OSError, AuditError) as error:
        return fail(str(error), FAILED)
    _show(state, names, renewed=False, same_authority=False)
    return OK


def _show(state: ServerState, names: Sequence[str], *, renewed: bool, same_authority: bool) -> None:
    from acm_core.trust.certificates import ends, fingerprint, spoken

    authority, certificate = state.authority.read_bytes(), state.certificate.read_bytes()
    say(
        f"{'certificate renewed' if renewed else 'authority, certificate and registry made'} in {state.folder}",
        "",
        f"certificate  for {', '.join(names)}",
        f"             ends {ends(certificate):%Y-%m-%d}, in {state.certificate_days_left} days",
        f"authority    ends {ends(authority):%Y-%m-%d}, in {state.authority_days_left:,} days; SHA-256 fingerprint:",
        f"             {spoken(fingerprint(authority))}",
        "",
    )
    if same_authority:
        say(
            "The authority is the same: the sites need do nothing, and a running server takes it up by itself."
        )
    elif renewed:
        say("The authority is new: send every site a new answer with server.approve, of the request it made.")
    else:
        say(
            f"Keep {state.folder} to yourself and in your backups: whoever has its keys can pass as this server.",
            "Next: start the server with `python -m server.run`; when a site's request file arrives, approve it with",
            "`python -m server.approve request-NAME.json`, also while the server runs.",
        )


if __name__ == "__main__":
    run_command(main)
