"""Flower's SuperLink as a child process that is started again when it ends, and the server application on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from acm_core.config.sections import ServerSection
from acm_core.files import write_private
from acm_core.processes import Child, KeptChild, free_port
from acm_core.trust import keys
from server.consortium.authority import ServerState
from server.consortium.registry import Registry, RegistryError
from server.link.depot import Depot
from server.link.flower_internals import Node, Steering
from server.link.gates import CONTROL_HEADER
from server.link.known_keys import flower_key
from server.link.program import LOOPBACK, Settings

RUN_FOLDER_VARIABLE, AUDIT_VARIABLE, DEPOT_VARIABLE = "ACM_FED_RUN_FOLDER", "ACM_FED_AUDIT", "ACM_FED_DEPOT"
REGISTRY_VARIABLE = "ACM_FED_REGISTRY"
_HEALTHY_SECONDS = 60.0
_SHORT_LIVES = 3
_NAME = "SuperLink"


class SuperLinkError(RuntimeError):
    """The SuperLink did not start, ends again and again, or does not answer."""


class SuperLink:
    """The SuperLink and the server application, from `__init__` to `stop`: sites reach `server.host`, everything else
    stays on loopback.

    The SuperLink begins empty each time, and so does the depot: what an earlier one left unfinished is in the run's own
    folder, and sites that are connected are known by their keys.

    Args:
        server: where to listen.
        state: the consortium's keys and registry.
        run_folder: of the run that the server application will execute.
        logs: folder of the processes' output.

    Attributes:
        loopback: address of the Control and Runtime APIs.
    """

    def __init__(self, server: ServerSection, state: ServerState, run_folder: Path, logs: Path) -> None:
        self._logs, self._registry = logs, Registry.load(state.registry)
        self._nodes: dict[bytes, Node] = {}
        self._settled = True  # whether these are the nodes that the SuperLink has
        self._run: int | None = None
        self._application: Child | None = None
        self.loopback = f"{LOOPBACK}:{free_port()}"
        folder = state.folder / "superlink"
        self._lock = _locked(folder)
        depot = folder / "depot"
        Depot(depot).clear()
        secret = secrets.token_hex(32)
        settings = Settings(
            host=server.host,
            port=server.port,
            loopback_port=int(self.loopback.rpartition(":")[2]),
            certificate=state.certificate,
            key=state.key,
            secret=secret,
            depot=depot,
            registry=state.registry,
            audit=state.audit,
            most_bytes=server.message_limit * 2**20,
        )
        settings_file = folder / "settings.json"
        write_private(settings_file, settings.model_dump_json().encode())
        environment = {"FLWR_HOME": str(folder / "flower")}
        self._superlink = KeptChild(
            _NAME,
            [sys.executable, "-m", "server.link.program", str(settings_file)],
            logs / "superlink.log",
            environment,
        )
        self._environment = {
            **environment,
            RUN_FOLDER_VARIABLE: str(run_folder),
            AUDIT_VARIABLE: str(state.audit.resolve()),
            DEPOT_VARIABLE: str(depot.resolve()),
            REGISTRY_VARIABLE: str(state.registry.resolve()),
        }
        self._steering = Steering(self.loopback, {CONTROL_HEADER: secret})

    def wait_until_healthy(self) -> None:
        """Wait until the SuperLink answers, and register the sites.

        Raises:
            SuperLinkError: it ends again and again, or did not answer within a minute.
        """
        started = time.monotonic()
        while time.monotonic() - started < _HEALTHY_SECONDS:
            self.tend()
            if self._steering.answers():
                self.register()
                return
            time.sleep(0.1)
        raise SuperLinkError(
            f"Flower's SuperLink did not answer within {_HEALTHY_SECONDS:.0f} s: see {self._logs}"
        )

    def tend(self) -> bool:
        """Start the SuperLink again where it has ended, which is told, and the server application as it is asked for.

        Raises:
            SuperLinkError: the SuperLink ends as soon as it is started.
        """
        again = self._superlink.tend()
        if again:
            self._nodes, self._settled = {}, False
            if self._application is not None:
                self._application.stop()  # it knows a run that is gone
        if self._superlink.short_lives >= _SHORT_LIVES:
            raise SuperLinkError(
                f"Flower's SuperLink ends as soon as it is started: is the port taken? Its log: {self._superlink.log}"
            )
        if self._application is not None:
            self._application.bound_log()
        if self._run is not None and self._application is None:
            with contextlib.suppress(httpx.HTTPError):
                if (token := self._steering.acquire()) is not None:
                    self._application = self._start_application(token)
        return again

    def register(self) -> tuple[list[str], list[str]]:
        """Bring the SuperLink's keys to what the registry says; returns the sites that came and those that went.

        What the SuperLink, being away, does not take is tried again by the next call; a registry that cannot be read
        changes nothing.
        """
        with contextlib.suppress(
            RegistryError
        ):  # the commands that wrote it, and the next start, say what is wrong
            self._registry = self._registry.newest()
        wanted = {
            flower_key(keys.parse_public_key(site.public_key)): site.name for site in self._registry.active()
        }
        before = self._nodes
        if not self._settled or wanted.keys() != before.keys():
            self._settled = False
            with contextlib.suppress(httpx.HTTPError):
                self._nodes = self._steering.nodes()
                self._unregister_others(wanted)
                self._register_missing(wanted)
                self._settled = True
        new = sorted(self._nodes[key].name for key in self._nodes.keys() - before.keys())
        gone = sorted(before[key].name for key in before.keys() - self._nodes.keys())
        return new, gone

    def _unregister_others(self, wanted: Mapping[bytes, str]) -> None:
        nodes = [node.number for key, node in self._nodes.items() if key not in wanted]
        for node in nodes:
            with contextlib.suppress(httpx.HTTPError):
                self._steering.unregister(node)
        if nodes:
            self._nodes = self._steering.nodes()

    def _register_missing(self, wanted: Mapping[bytes, str]) -> None:
        """A site whose former key is still there has to wait: a name is one node's."""
        names = {node.name for node in self._nodes.values()}
        missing = {key: site for key, site in wanted.items() if site not in names}
        for key, site in missing.items():
            with contextlib.suppress(httpx.HTTPError):
                self._steering.register(site, key)
        if missing:
            self._nodes = self._steering.nodes()

    def start_run(self) -> None:
        """Begin a run, whose server application `tend` starts.

        Raises:
            SuperLinkError: the SuperLink does not take it.
        """
        if self._application is not None:
            self._application.stop()
            self._application = None
        if self._run is not None:
            with contextlib.suppress(httpx.HTTPError):
                self._steering.stop_run(self._run)
        try:
            self._run = self._steering.start_run()
        except httpx.HTTPError as error:
            raise SuperLinkError(
                f"Flower's SuperLink does not take the run: {error}; see {self._logs}"
            ) from error

    def ended(self) -> int | None:
        """The server application's exit code, or None while it runs or is still to be started."""
        return None if self._application is None else self._application.exit_code

    def stop(self) -> None:
        """End both processes and all they started, the run with them."""
        self._steering.close()
        if self._application is not None:
            self._application.stop()
        self._superlink.stop()
        os.close(self._lock)

    def _start_application(self, token: str) -> Child:
        where = ["--runtime-api-address", self.loopback, "--insecure", "--parent-pid", str(os.getpid())]
        return Child(
            ["flwr-serverapp", *where, "--token-file"],
            self._logs / "serverapp.log",
            self._environment,
            secret=token,
        )


def _locked(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SuperLinkError(
            f"expected nobody else at the server's state in {folder.parent}, got another server.run: end it first, or "
            "give this one a --state of its own"
        ) from None
    return lock
