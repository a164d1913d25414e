"""A container's health: `python health.py server` or `client`; exit code 0, or 1 with what is wrong.

The server is healthy when its public listener answers over TLS with a certificate of the federation's authority. A site
listens to nobody: it is healthy when its films are there, its SuperNode and its worker live, and the server is as it
should be as seen from here.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
from pathlib import Path

_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """Examine the command that this container runs."""
    parser = argparse.ArgumentParser(prog="python health.py", description=__doc__)
    parser.add_argument("side", choices=["server", "client"])
    side = parser.parse_args(arguments).side
    try:
        fault = _server() if side == "server" else _client()
    except Exception as error:  # whatever it is: not healthy
        fault = f"{type(error).__name__}: {error}"
    if fault:
        print(fault, file=sys.stderr)  # noqa: T201  # the command's own output
    return 1 if fault else 0


def _server() -> str:
    from acm_core.config.loading import load_config
    from acm_core.config.sections import FederationConfig
    from server.console.command import add_run_options, add_state_option
    from server.consortium.authority import ServerState, server_names

    parser = argparse.ArgumentParser()
    add_run_options(parser, "configs/federation.yaml")
    add_state_option(parser)
    options = parser.parse_args(_arguments("server.run"))
    settings = load_config(options.config, FederationConfig).server
    trusted = ssl.create_default_context(cafile=str(ServerState(options.state).authority))
    name = server_names(settings)[0]
    with (
        socket.create_connection((settings.host, settings.port), _SECONDS) as plain,
        trusted.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        status = connection.recv(64).decode("latin-1").partition("\r\n")[0]
    return "" if status.split()[1:2] == ["200"] else f"expected 200 of /health, got {status!r}"


def _client() -> str:
    from client.link.connection import examine
    from client.site.membership import Membership
    from client.site.site_arguments import add_site_arguments
    from client.site.site_file import load_site_file

    parser = argparse.ArgumentParser()
    add_site_arguments(parser)
    options = parser.parse_args(_arguments("client.run"))
    membership = Membership.load(load_site_file(options.sites, options.site))
    for process in ("flower-supernode", "client.worker"):
        if not any(process in part for line in _command_lines() for part in line):
            return f"{process} does not run"
    faults = [
        f"{check.name}: {check.found}; {check.fix}"
        for check in examine(membership, options.site)
        if not check.passed
    ]
    return "\n".join(faults)


def _arguments(command: str) -> list[str]:
    """What `python -m command` was started with in this container."""
    for line in _command_lines():
        for place in range(len(line) - 1):
            if line[place : place + 2] == ["-m", command]:
                return line[place + 2 :]
    raise RuntimeError(f"{command} does not run")


def _command_lines() -> list[list[str]]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(encoding="utf-8").split("\0")[:-1])
        except OSError:  # it has ended
            continue
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
