"""What holds a site's connection: gateway, SuperNode, worker, and a ClientApp for each message."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import secrets
import sys
import time
from importlib.metadata import version
from pathlib import Path

from acm_core.audit_events import ClientStarted, ClientStopped
from acm_core.audit_log import AuditError, AuditLog, audit_folder
from acm_core.config.site import SiteConfig
from acm_core.files import bound_log, write_private
from acm_core.processes import KeptChild, free_port
from client.link.applications import Applications
from client.link.flower_internals import Tasks, own_bundle
from client.link.gateway import Gateway
from client.link.worker_call import ThisSite
from client.round.policy import permits_digest
from client.site.membership import Membership, NotEnrolledError, read_joining
from client.site.site_log import LOG_NAME

log = logging.getLogger("acm_fed.client")

_ASK_SECONDS = 2.0


class SiteLink:
    """A member's connection to its server, from `__init__` to `stop`; `tend` is to be called all the time.

    A ClientApp that ended without its answer, a message that was lost, a reply that was not taken: in each case the
    SuperNode begins anew, and the server, to which that is another connection, asks again.

    Args:
        path: of the site's file.
        worker: the module that does the tasks.

    Raises:
        BlockingIOError: another process holds this site's connection.
    """

    def __init__(
        self, site: SiteConfig, membership: Membership, path: Path, *, worker: str = "client.worker"
    ) -> None:
        self._site, self._membership, self._path = site, membership, path
        self._joining = read_joining(membership.folder)
        self._audit = AuditLog(audit_folder(site.state))
        self._lock = os.open(membership.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._bundle = own_bundle()
        self._secret, self._instance = secrets.token_bytes(32), secrets.token_hex(16)
        self._secret_file = membership.folder / "superexec.secret"
        write_private(self._secret_file, self._secret)
        self._troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._applications = Applications(site.state / "clientapp.log", self._environment)
        self._worker = KeptChild(
            "worker", [sys.executable, "-m", worker, str(path)], site.state / "worker.log", {}
        )
        self._connect()

    def note_start(self) -> None:
        """Write down what this site lets the server have run, and what its file permits."""
        self._audit.append(
            ClientStarted(
                site=self._site.site,
                version=version("acm-fed"),
                bundle=self._bundle.sha256,
                policy=permits_digest(self._site),
            )
        )

    def tend(self) -> list[str]:
        """Start what has ended again and the ClientApps that are wanted; returns what a person should know."""
        said = []
        bound_log(self._site.state / LOG_NAME)
        if self._worker.tend():
            said.append("the process that does this site's tasks ended; started again")
        if self._node.tend():
            said.append("Flower's SuperNode ended; started again")
        if not self._gateway.runs:
            self._disconnect()
            self._connect()
        if self._applications.tend():
            self._troubles.put("the process that carries the server's task ended without an answer")
        trouble = None
        with contextlib.suppress(queue.Empty):
            while True:
                trouble = self._troubles.get_nowait()
        if trouble is not None:
            log.error("%s: this site connects anew", trouble)
            self._applications.end_all()
            self._node.stop()
        else:
            self._start_what_is_wanted()
        return said

    def renewed(self) -> Membership | None:
        """The membership that client.enrol has installed meanwhile, to which this has connected anew; else None."""
        try:
            joining = read_joining(self._membership.folder)
            if joining == self._joining:
                return None
            membership = Membership.load(self._site)
        except NotEnrolledError:
            return None  # it is not through with it: what was there goes on
        self._joining, self._membership = joining, membership
        self._disconnect()
        self._connect()
        return membership

    def stop(self) -> None:
        """End everything."""
        with contextlib.suppress(AuditError):
            self._audit.append(ClientStopped())
        self._disconnect()
        self._applications.stop()
        self._worker.stop()
        os.close(self._lock)

    def _connect(self) -> None:
        membership, state = self._membership, self._site.state
        self._gateway = Gateway(
            membership.address,
            membership.authority,
            membership.folder,
            self._bundle,
            self._audit,
            self._instance,
            self._troubles.put,
        )
        runtime = f"127.0.0.1:{free_port()}"
        self._tasks, self._asked, self._served = Tasks(runtime, self._secret), 0.0, 0
        self._runtime = runtime
        node = ["flower-supernode", "--superlink", self._gateway.address, "--isolation", "process"]
        node += ["--root-certificates", str(self._gateway.own_authority)]
        node += ["--host", "127.0.0.1", "--port", runtime.rpartition(":")[2]]
        node += ["--auth-supernode-private-key", str(membership.key)]
        node += ["--superexec-auth-secret-file", str(self._secret_file)]
        self._node = KeptChild("SuperNode", node, state / "supernode.log", self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        here = ThisSite(self._site.site, self._site.state.absolute())
        return {"FLWR_HOME": str(here.state / "flower"), **here.environment()}

    def _disconnect(self) -> None:
        self._applications.end_all()
        self._node.stop()
        self._tasks.close()
        self._gateway.stop()

    def _start_what_is_wanted(self) -> None:
        """Ask the SuperNode as long as it has a message without a ClientApp, and else now and then."""
        now = time.monotonic()
        if self._gateway.given == self._served and now - self._asked < _ASK_SECONDS:
            return
        self._asked = now
        if (token := self._tasks.acquire()) is not None:
            self._served = self._gateway.given
            self._applications.start(self._runtime, token)
