"""`python -m client.run --site=A`: this hospital joins the federation and stays until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig
    from client.site.membership import Membership

_POLL_SECONDS = 0.1
_LOOK_SECONDS = 5.0
_LEAST_FREE = 500  # MiB: a round keeps the model that came and what is left of the site's own


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
    from acm_core.proxies import ProxyError, settle_proxies
    from client.site.membership import Membership, NotEnrolledError
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        membership = Membership.load(site)
        settle_proxies()
    except (ConfigError, SiteFileError, NotEnrolledError, ProxyError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    return _serve(site, membership, (options.sites / f"{options.site}.yaml").resolve())


def _serve(site: SiteConfig, membership: Membership, path: Path) -> int:
    from acm_core.audit_log import AuditError
    from acm_core.processes import OFFLINE, interruptible
    from client.site.site_log import LOG_NAME, LogTail, open_site_log

    open_site_log(site.state)
    tail = LogTail(site.state / LOG_NAME)
    _say(
        f"site {site.site} of {membership.federation}: films in {site.films}, log in {site.state / LOG_NAME}"
    )
    os.environ.update(OFFLINE)
    from client.link.site_link import SiteLink

    try:
        link = SiteLink(site, membership, path)
    except BlockingIOError:
        _say(f"site {site.site} runs already on this machine: one client.run a site")
        return 2
    except OSError as error:
        _say(f"{error}: mend that, then start again")
        return 1
    watch = _Watch(site, membership)
    with interruptible():
        try:
            link.note_start()
            said = ""
            while True:
                for line in (*tail.read(), *link.tend()):
                    _say(line)
                if (news := watch.news()) is not None:
                    if (renewed := link.renewed()) is not None:
                        watch.membership = renewed
                        _say(
                            f"enrolled anew in {renewed.federation}, whose server is {renewed.address}: connecting"
                        )
                    elif news != said:
                        said = news
                        _say(news)
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            _say("leaving")
            return 0
        except AuditError as error:
            _say(str(error))
            return 1
        finally:
            watch.stop()
            link.stop()


class _Watch:
    """Looks now and then whether the server is there."""

    def __init__(self, site: SiteConfig, membership: Membership) -> None:
        self.membership = membership
        self._site = site
        self._looking = ThreadPoolExecutor(1)
        self._state = self._looking.submit(self._look)

    def news(self) -> str | None:
        """How it is, where it has been looked at since the last call; else None."""
        if not self._state.done():
            return None
        state = self._state.result()
        self._state = self._looking.submit(self._look, pause=True)
        return state

    def stop(self) -> None:
        """Look no longer."""
        self._looking.shutdown(wait=False, cancel_futures=True)

    def _look(self, *, pause: bool = False) -> str:
        if pause:
            time.sleep(_LOOK_SECONDS)
        if shutil.disk_usage(self._site.state).free >= _LEAST_FREE * 2**20:
            return self._reached()
        return (
            f"{self._reached()}\nless than {_LEAST_FREE} MiB free for {self._site.state}: make room on its disk; "
            "a task that finds none is refused, and the round goes on without this site"
        )

    def _reached(self) -> str:
        from client.link.connection import examine

        address = self.membership.address
        for check in examine(self.membership, self._site.site):
            if not check.passed:
                return f"server {address} cannot be reached yet: {check.name}: {check.found}; {check.fix}"
        return f"server {address} answers; waiting for tasks. Ctrl-C leaves."


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # the command's own output


if __name__ == "__main__":
    logging.captureWarnings(True)
    run_command(main)
