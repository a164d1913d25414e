"""`python -m server.approve request-A.json`: lets a site in, and writes the answer that it needs.

Exit codes: 0 approved; 1 not confirmed, or the disk did not take it; 2 wrong input, or a key that cannot be let in.
"""

from __future__ import annotations

import argparse
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import fail, run_command, say
from server.console.command import add_state_option

if TYPE_CHECKING:
    from acm_core.config.sections import FederationConfig
    from acm_core.trust.enrolment import Request
    from server.consortium.authority import ServerState

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Show, compare, register and answer; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server.approve",
        description="Let a site in: shows the fingerprint of the key in its request, has you compare it with the "
        "hospital by telephone, registers the key and writes the answer beside the request. A running server takes the "
        "site in within seconds. Run it again to write the answer again.",
        epilog="exit codes: 0 approved; 1 not confirmed, or the disk did not take it; 2 wrong input, or a key that "
        "cannot be let in",
    )
    parser.add_argument("request", type=Path, help="the file that client.enrol wrote at the site")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/federation.yaml"),
        help="federation file; its name, address and port go into the answer (default: configs/federation.yaml)",
    )
    add_state_option(parser)
    parser.add_argument(
        "--fingerprint",
        metavar="SHA256:…",
        help="the fingerprint that the hospital read to you, instead of being asked",
    )
    options = parser.parse_args(arguments)

    from acm_core.audit_log import AuditError
    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from acm_core.trust import TrustError
    from acm_core.trust.enrolment import Request
    from server.consortium.authority import ServerState, server_names

    state = ServerState(options.state)
    try:
        config = load_config(options.config, FederationConfig)
        state.expect_ready(server_names(config.server))
        request = Request.read(options.request)
        return _approve(state, config, request, options.request.parent, options.fingerprint)
    except (ConfigError, TrustError) as error:
        return fail(str(error), WRONG)
    except (OSError, AuditError) as error:
        return fail(f"{error}; run it again when that is mended", FAILED)


def _approve(
    state: ServerState, config: FederationConfig, request: Request, folder: Path, compared: str | None
) -> int:
    from acm_core.audit_events import SiteApproved
    from acm_core.audit_log import AuditLog
    from acm_core.trust.address import join_address
    from acm_core.trust.certificates import spoken
    from acm_core.trust.enrolment import Answer
    from server.consortium.authority import server_names
    from server.consortium.registry import Registry

    registry = Registry.load(state.registry)
    known = registry.expect_approvable(request.site, request.public_key)
    _show(config, request)
    if known is not None:
        say(f"This key was approved on {known.approved:%Y-%m-%d}: the answer is written again.")
    else:
        if not _compared(request.fingerprint, compared):
            return FAILED
        AuditLog(state.audit).append(SiteApproved(site=request.site, key=request.fingerprint))
        registry.approve(request.site, request.public_key)
    answer = Answer.to(
        request,
        federation=config.name,
        server=join_address(server_names(config.server)[0], config.server.port),
        authority=state.authority.read_bytes(),
    )
    path = folder / f"answer-{request.site}.json"
    answer.write(path)
    say(
        f"site {request.site} is approved; a running server takes it in within seconds",
        "",
        f"answer     {path}, for the server at {answer.server}",
        "authority  SHA-256 fingerprint, which the hospital compares with you when it has the answer:",
        f"           {spoken(answer.authority_fingerprint)}",
        "",
        f"Next: send {path.name} to the hospital, by any channel: there is no secret in it.",
    )
    return OK


def _show(config: FederationConfig, request: Request) -> None:
    from importlib.metadata import version

    say(
        f"site       {request.site}, asking to join {config.name}",
        f"made       {request.time.astimezone(UTC):%Y-%m-%d %H:%M} UTC, with acm-fed {request.acm_fed} and Flower "
        f"{request.flwr}",
        f"key        {request.fingerprint}",
        "",
    )
    here = {"acm-fed": version("acm-fed"), "Flower": version("flwr")}
    there = {"acm-fed": request.acm_fed, "Flower": request.flwr}
    for name in (name for name in here if here[name] != there[name]):
        say(
            f"note: this server has {name} {here[name]} and the site {there[name]}: it will refuse to train until both "
            "have the same"
        )
    if request.site not in config.federation.sites:
        say(
            f"note: {request.site} is not among federation.sites of {config.name} "
            f"({', '.join(config.federation.sites)}): add it there, or is the name mistyped?"
        )


def _compared(fingerprint: str, given: str | None) -> bool:
    from acm_core.trust.comparison import confirmed

    if given is not None:
        if given != fingerprint:
            fail(
                f"expected the fingerprint {given}, got a request of another key: nothing was registered",
                FAILED,
            )
        return given == fingerprint
    if confirmed(
        "Telephone the hospital, at a number that you did not get with this file, and have the fingerprint read to "
        "you.\nIs it the one above?"
    ):
        return True
    fail(
        "not confirmed: nothing was registered. Run it again when you have compared, or give what was read to you "
        "with --fingerprint",
        FAILED,
    )
    return False


if __name__ == "__main__":
    run_command(main)
