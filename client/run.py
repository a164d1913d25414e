"""`python -m client.run --site=A`: this hospital joins the federation and stays until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from client.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.sections import SiteConfig
    from acm_core.processes import Child

_RETRY_SECONDS = 2.0
_REMIND_SECONDS = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Join and stay; returns the exit code (0 after Ctrl-C, 2 for a wrong configuration)."""
    parser = argparse.ArgumentParser(
        prog="python -m client.run",
        description="Join the federation as one site. Films stay here; the site trains when the server asks, and "
        "keeps trying when the server is away. Ctrl-C leaves.",
    )
    add_site_arguments(parser)
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from client.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
    except (ConfigError, SiteFileError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    return _serve(site, (options.sites / f"{options.site}.yaml").resolve())


def _serve(site: SiteConfig, path: Path) -> int:
    from acm_core.processes import interruptible
    from client.site_log import LOG_NAME, LogTail, open_site_log

    open_site_log(site.state)
    host, _, port = site.server.rpartition(":")
    tail = LogTail(site.state / LOG_NAME)
    _say(f"site {site.site}: films in {site.films}, log in {site.state / LOG_NAME}")
    node: Child | None = None
    reachable: bool | None = None
    reminded = 0.0
    with interruptible():
        try:
            while True:
                for line in tail.read():
                    _say(line)
                answers = _answers(host, int(port))
                if answers != reachable or (not answers and time.monotonic() - reminded > _REMIND_SECONDS):
                    reachable, reminded = answers, time.monotonic()
                    _say(
                        f"server {site.server} answers; waiting for tasks. Ctrl-C leaves."
                        if answers
                        else f"server {site.server} is not there yet; trying again every {_RETRY_SECONDS:.0f} s"
                    )
                if node is not None and node.exit_code is not None:
                    _say(f"Flower's SuperNode ended with code {node.exit_code}; starting it again")
                    node.stop()
                    node = None
                if node is None and answers:
                    node = _start_node(site, path)
                time.sleep(_RETRY_SECONDS if not answers else 0.5)
        except KeyboardInterrupt:
            _say("leaving")
            return 0
        finally:
            if node is not None:
                node.stop()


def _start_node(site: SiteConfig, path: Path) -> Child:
    from acm_core.processes import Child
    from client.app import SITE_FILE

    return Child(
        [
            str(Path(sys.executable).parent / "flower-supernode"),
            "--insecure",
            "--superlink",
            site.server,
            "--port",
            str(_free_port()),
            "--node-config",
            f'{SITE_FILE}="{path}"',
        ],
        site.state / "supernode.log",
        {"FLWR_HOME": str(site.state / "flower")},
    )


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # the command's own output


if __name__ == "__main__":
    logging.captureWarnings(True)
    sys.exit(main())
