"""`python -m client.run --site=A`: this hospital joins the federation and stays until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.files import keep_files_private
from client.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig
    from acm_core.processes import KeptChild
    from client.membership import Membership

_POLL_SECONDS = 0.5
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
    from client.membership import Membership, NotEnrolledError
    from client.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        membership = Membership.load(site)
    except (ConfigError, SiteFileError, NotEnrolledError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    return _serve(site, membership, (options.sites / f"{options.site}.yaml").resolve())


def _serve(site: SiteConfig, membership: Membership, path: Path) -> int:
    from acm_core.audit_log import AuditError
    from acm_core.processes import interruptible
    from client.site_log import LOG_NAME, LogTail, open_site_log

    open_site_log(site.state)
    tail = LogTail(site.state / LOG_NAME)
    _say(
        f"site {site.site} of {membership.federation}: films in {site.films}, log in {site.state / LOG_NAME}"
    )
    try:
        link = _Link(site, membership, path)
    except BlockingIOError:
        _say(f"site {site.site} runs already on this machine: one client.run a site")
        return 2
    except OSError as error:
        _say(f"{error}: mend that, then start again")
        return 1
    with interruptible():
        try:
            link.note_start()
            while True:
                for line in tail.read():
                    _say(line)
                link.tend()
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            _say("leaving")
            return 0
        except AuditError as error:
            _say(str(error))
            return 1
        finally:
            link.stop()


class _Link:
    """The two processes that hold the connection, and what a person should know of it.

    Raises:
        BlockingIOError: another process holds this site's connection.
    """

    def __init__(self, site: SiteConfig, membership: Membership, path: Path) -> None:
        from acm_core.audit_log import AuditLog, audit_folder
        from acm_core.files import write_private
        from acm_core.processes import PIECES, KeptChild, free_port
        from client.membership import read_joining

        self._site, self._membership, self._path = site, membership, path
        self._joining = read_joining(membership.folder)
        self._audit = AuditLog(audit_folder(site.state))
        self._lock = os.open(membership.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        secret = membership.folder / "superexec.secret"
        write_private(secret, secrets.token_bytes(32))
        self._runtime = f"127.0.0.1:{free_port()}"
        self._environment = {
            **PIECES,
            "FLWR_HOME": str(site.state / "flower"),
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        }
        self._isolation = ["--superexec-auth-secret-file", str(secret)]
        execute = [sys.executable, "-m", "client.superexec", str(site.state), "--insecure"]
        execute += ["--runtime-api-address", self._runtime, *self._isolation]
        self._node = self._supernode()
        self._execute = KeptChild("SuperExec", execute, site.state / "superexec.log", self._environment)
        self._said = ""
        self._looking = ThreadPoolExecutor(1)
        self._state = self._looking.submit(self._look)

    def note_start(self) -> None:
        """Write down what this site lets the server have run, and what its file permits."""
        from acm_core.audit_events import ClientStarted
        from acm_core.processes import OFFLINE

        os.environ.update(OFFLINE)
        from acm_core.bundle import build_bundle
        from client.policy import permits_digest

        self._audit.append(
            ClientStarted(
                site=self._site.site,
                version=version("acm-fed"),
                bundle=hashlib.sha256(build_bundle()).hexdigest(),
                policy=permits_digest(self._site),
            )
        )

    def tend(self) -> None:
        """Start again what has ended; now and then look whether the server is there, and say it when that changes.

        What client.enrol has changed meanwhile is taken up.
        """
        for child in (self._node, self._execute):
            if child.tend():
                _say(f"Flower's {child.name} ended; started again")
        if self._state.done():
            state, renewed = self._state.result(), self._renewed()
            if state != self._said and not renewed:
                self._said = state
                _say(state)
            self._state = self._looking.submit(self._look)

    def stop(self) -> None:
        """End both."""
        from acm_core.audit_events import ClientStopped
        from acm_core.audit_log import AuditError

        self._looking.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(AuditError):
            self._audit.append(ClientStopped())
        for child in (self._node, self._execute):
            child.stop()

    def _supernode(self) -> KeptChild:
        from acm_core.processes import KeptChild
        from client.app import SITE_FILE

        membership = self._membership
        node = [sys.executable, "-m", "client.site_node", str(membership.folder)]
        node += ["--superlink", membership.address, "--root-certificates", str(membership.authority)]
        node += ["--auth-supernode-private-key", str(membership.key), "--isolation", "process"]
        node += ["--host", "127.0.0.1", "--port", self._runtime.rpartition(":")[2], *self._isolation]
        node += ["--node-config", f'{SITE_FILE}="{self._path}"']
        return KeptChild("SuperNode", node, self._site.state / "supernode.log", self._environment)

    def _renewed(self) -> bool:
        """Whether client.enrol has installed another key, address or authority, to which this connects anew then."""
        from client.membership import Membership, NotEnrolledError, read_joining

        try:
            joining = read_joining(self._membership.folder)
            if joining == self._joining:
                return False
            membership = Membership.load(self._site)
        except NotEnrolledError:
            return False  # it is not through with it: what was there goes on
        self._joining, self._membership = joining, membership
        _say(f"enrolled anew in {membership.federation}, whose server is {membership.address}: connecting")
        self._node.stop()
        self._node = self._supernode()
        return True

    def _look(self) -> str:
        if self._said:
            time.sleep(_LOOK_SECONDS)
        if shutil.disk_usage(self._site.state).free >= _LEAST_FREE * 2**20:
            return self._reached()
        return (
            f"{self._reached()}\nless than {_LEAST_FREE} MiB free for {self._site.state}: make room on its disk; "
            "a task that finds none is refused, and the round goes on without this site"
        )

    def _reached(self) -> str:
        from client.connection import examine

        address = self._membership.address
        for check in examine(self._membership):
            if not check.passed:
                return f"server {address} cannot be reached yet: {check.name}: {check.found}; {check.fix}"
        return f"server {address} answers; waiting for tasks. Ctrl-C leaves."


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201  # the command's own output


if __name__ == "__main__":
    keep_files_private()
    logging.captureWarnings(True)
    sys.exit(main())
