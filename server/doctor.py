"""`python -m server.doctor`: whether a federation can be served from here, a row for each thing, with the fix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command
from server.console.command import add_state_option, load_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_core.checks import Check
    from acm_core.config.sections import FederationConfig
    from server.consortium.authority import ServerState

_SECONDS = 5.0
_LEAST_GIGABYTES = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Examine and print; returns the exit code (0 all is right, 1 something is not, 2 the federation file is wrong)."""
    parser = argparse.ArgumentParser(
        prog="python -m server.doctor",
        description="Examine whether a federation can be served from here: certificate, sites, port, disk, limits. "
        "Nothing is changed, and nothing leaves this machine.",
        epilog="exit codes: 0 all is right; 1 something is not, and its row says what to do; 2 the federation file is "
        "wrong",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/federation.yaml"),
        help="the run's file (default: configs/federation.yaml)",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    add_state_option(parser)
    options = parser.parse_args(arguments)

    from acm_core.checks import show_checks
    from acm_core.config.sections import FederationConfig
    from server.consortium.authority import ServerState

    config = load_run(options, FederationConfig)
    if config is None:
        return 2
    checks = list(_checks(config, ServerState(options.state), options.runs))
    return show_checks(checks, f"{config.name} can be served", f"to mend before {config.name} can be served")


def _checks(config: FederationConfig, state: ServerState, runs: Path) -> Iterator[Check]:
    from acm_core import checks

    yield checks.versions()
    yield from _consortium(config, state)
    yield _port(config, state)
    if (proxies := checks.proxies()) is not None:
        yield proxies
    yield from checks.machine(runs, _LEAST_GIGABYTES, "run folders and the models on their way")


def _consortium(config: FederationConfig, state: ServerState) -> Iterator[Check]:
    from acm_core.checks import Check
    from acm_core.trust import TrustError
    from server.consortium.authority import server_names
    from server.consortium.registry import Registry

    try:
        names = server_names(config.server)
        state.expect_ready(names)
    except TrustError as error:
        yield Check("certificate", "sites would not connect", str(error))
        return
    found = f"for {', '.join(names)}, {state.certificate_days_left} days; authority {state.authority_days_left} days"
    yield Check("certificate", found, "; ".join(state.warnings()))
    members = {site.name for site in Registry.load(state.registry).active()}
    missing = [name for name in config.federation.sites if name not in members]
    count = f"{len(config.federation.sites) - len(missing)} of {len(config.federation.sites)} are members"
    fix = f"still to join: {', '.join(missing)}: server.approve, with the request of each" if missing else ""
    yield Check("sites", count, fix)


def _port(config: FederationConfig, state: ServerState) -> Check:
    import socket

    from acm_core.checks import Check
    from server.link.program import door

    host, port = config.server.host, config.server.port
    try:
        door(host, port).close()
    except socket.gaierror:
        return Check("port", f"{host} is no address of this machine", "server.host: in the federation file")
    except PermissionError:
        return Check("port", f"{port} is for the system's own programs", "server.port: 1024 or more")
    except OSError as error:
        if _is_served(port, state):
            return Check("port", f"{port}: a server of this federation answers")
        fix = "end what listens there, or set server.port in the federation file"
        return Check("port", f"{host}:{port}: {error.strerror}", fix)
    return Check("port", f"{host}:{port} is free")


def _is_served(port: int, state: ServerState) -> bool:
    """Whether what listens there shows this server's certificate."""
    import ssl

    from acm_core.trust import TrustError, certificates

    try:
        shown = ssl.get_server_certificate(("127.0.0.1", port), timeout=_SECONDS).encode()
        return certificates.parse(shown)[0] == certificates.parse(state.certificate.read_bytes())[0]
    except (OSError, TrustError):
        return False


if __name__ == "__main__":
    run_command(main)
