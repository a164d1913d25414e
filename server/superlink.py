"""Flower's SuperLink and SuperExec as child processes that are started again when they end, and the run on them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from acm_core.bundle import build_bundle
from acm_core.config.sections import ServerSection
from acm_core.files import write_private
from acm_core.processes import PIECES, KeptChild, free_port
from server.authority import ServerState
from server.gates import CONTROL_HEADER
from server.registry import Registry, RegistryError
from server.superlink_program import LOOPBACK, Settings

RUN_FOLDER_VARIABLE, AUDIT_VARIABLE = "ACM_FED_RUN_FOLDER", "ACM_FED_AUDIT"
_HEALTHY_SECONDS = 60.0
_SHORT_LIVES = 3
_ASK_SECONDS = 2.0


class SuperLinkError(RuntimeError):
    """The SuperLink did not start, ends again and again, or does not answer."""


class SuperLink:
    """Both processes, from `__init__` to `stop`: sites reach `server.host`, everything else stays on loopback.

    A run begins with an empty database: what an earlier one left unfinished is in its own folder, and sites that are
    connected are known by their keys.

    Args:
        server: where to listen.
        state: the consortium's keys and registry.
        run_folder: of the run that the ServerApp will execute.
        logs: folder of the processes' output.

    Attributes:
        loopback: address of the Control and Runtime APIs.
    """

    def __init__(self, server: ServerSection, state: ServerState, run_folder: Path, logs: Path) -> None:
        self._logs, self._registry = logs, Registry.load(state.registry)
        self._nodes: dict[bytes, NodeInfo] = {}
        self._settled = True  # whether these are the nodes that the SuperLink has
        self._asked = time.monotonic()
        self._run = 0
        self.loopback = f"{LOOPBACK}:{free_port()}"
        folder = state.folder / "superlink"
        self._lock = _locked(folder)
        for leftover in folder.glob("state.db*"):
            leftover.unlink()
        shutil.rmtree(folder / "flower", ignore_errors=True)
        secret = secrets.token_hex(32)
        settings = Settings(
            host=server.host,
            port=server.port,
            loopback_port=int(self.loopback.rpartition(":")[2]),
            certificate=state.certificate,
            key=state.key,
            database=folder / "state.db",
            secret=secret,
            superexec_secret=state.superexec_secret,
            audit=state.audit,
            most_bytes=server.message_limit * 2**20,
        )
        settings_file = folder / "settings.json"
        write_private(settings_file, settings.model_dump_json().encode())
        environment = {**PIECES, "FLWR_HOME": str(folder / "flower")}
        self._children = [
            KeptChild(
                "SuperLink",
                [sys.executable, "-m", "server.superlink_program", str(settings_file)],
                logs / "superlink.log",
                environment,
            ),
            KeptChild(
                "SuperExec",
                [
                    sys.executable,
                    "-m",
                    "server.superexec",
                    "--insecure",
                    "--runtime-api-address",
                    self.loopback,
                    "--superexec-auth-secret-file",
                    str(state.superexec_secret),
                ],
                logs / "superexec.log",
                {
                    **environment,
                    RUN_FOLDER_VARIABLE: str(run_folder),
                    AUDIT_VARIABLE: str(state.audit.resolve()),
                    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
                },
            ),
        ]
        self._control = ControlHttpClient.from_server_address(
            self.loopback,
            True,
            None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Secret(secret)],
        )

    def wait_until_healthy(self) -> None:
        """Wait until the SuperLink answers, and register the sites.

        Raises:
            SuperLinkError: it ends again and again, or did not answer within a minute.
        """
        started = time.monotonic()
        while time.monotonic() - started < _HEALTHY_SECONDS:
            self.tend()
            if self._answers():
                self.register()
                return
            time.sleep(0.1)
        raise SuperLinkError(
            f"Flower's SuperLink did not answer within {_HEALTHY_SECONDS:.0f} s: see {self._logs}"
        )

    def tend(self) -> list[str]:
        """Start again what has ended; returns the names.

        Raises:
            SuperLinkError: a process ends as soon as it is started.
        """
        again = [child.name for child in self._children if child.tend()]
        if "SuperExec" in again:
            self._end_run()
        for child in self._children:
            if child.short_lives >= _SHORT_LIVES:
                raise SuperLinkError(
                    f"Flower's {child.name} ends as soon as it is started: is the port taken? Its log: {child.log}"
                )
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
        wanted = {_flower_key(site.public_key): site.name for site in self._registry.active()}
        before = self._nodes
        if not self._settled or wanted.keys() != before.keys():
            self._settled = False
            with contextlib.suppress(httpx.HTTPError):
                self._nodes = self._listed()
                self._unregister_others(wanted)
                self._register_missing(wanted)
                self._settled = True
        new = sorted(self._nodes[key].name for key in self._nodes.keys() - before.keys())
        gone = sorted(before[key].name for key in before.keys() - self._nodes.keys())
        return new, gone

    def _unregister_others(self, wanted: Mapping[bytes, str]) -> None:
        nodes = [node.node_id for key, node in self._nodes.items() if key not in wanted]
        for node in nodes:
            with contextlib.suppress(httpx.HTTPError):
                self._control.UnregisterNode(UnregisterNodeRequest(node_id=node))
        if nodes:
            self._nodes = self._listed()

    def _register_missing(self, wanted: Mapping[bytes, str]) -> None:
        """A site whose former key is still there has to wait: a name is one node's."""
        names = {node.name for node in self._nodes.values()}
        missing = {key: site for key, site in wanted.items() if site not in names}
        for key, site in missing.items():
            with contextlib.suppress(httpx.HTTPError):
                self._control.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
        if missing:
            self._nodes = self._listed()

    def _listed(self) -> dict[bytes, NodeInfo]:
        """Key → node, as the SuperLink has them: an answer to a change may be lost after the change was made."""
        nodes = self._control.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node for node in nodes if node.status != NodeStatus.UNREGISTERED}

    def start_run(self) -> int:
        """Submit the run and return its Flower id.

        Raises:
            SuperLinkError: the SuperLink does not take it.
        """
        bundle = build_bundle()
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        try:
            self._run = int(self._control.StartRun(StartRunRequest(fab=fab_to_proto(fab))).run_id)
        except httpx.HTTPError as error:
            raise SuperLinkError(
                f"Flower's SuperLink does not take the run: {error}; see {self._logs}"
            ) from error
        return self._run

    def ended(self, run: int) -> str | None:
        """Flower's word for how the run ended, asked now and then; None while it goes on or the SuperLink is away."""
        if time.monotonic() - self._asked < _ASK_SECONDS:
            return None
        self._asked = time.monotonic()
        try:
            status = self._control.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        except httpx.HTTPError:
            return None
        return str(status.sub_status) if status.status == "finished" else None

    def stop(self) -> None:
        """End both processes and all they started, the run with them."""
        self._control.close()
        for child in reversed(self._children):
            child.stop()
        os.close(self._lock)

    def _end_run(self) -> None:
        """Tell Flower that the server application is gone, as all is that a SuperExec which ended had started.

        Flower learns of it by a minute's silence else, as it does where the SuperLink is away as well.
        """
        with contextlib.suppress(httpx.HTTPError):
            self._control.StopRun(StopRunRequest(run_id=self._run))

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.loopback, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()


class _Secret:
    """Shows the loopback gate that it is `server.run` that steers."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[CONTROL_HEADER] = self._secret
        return call_next(context)


def _flower_key(openssh: str) -> bytes:
    key = load_ssh_public_key(openssh.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(f"expected an elliptic-curve key in the registry, got {type(key).__name__}")
    return public_key_to_bytes(key)


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
