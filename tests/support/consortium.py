"""A federation founded with the commands that people type, and a real SuperLink behind its gates."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

import client.enrol
import server.approve
import server.init
from acm_core.config.loading import load_config
from acm_core.config.sections import FederationConfig, ServerSection
from acm_core.processes import free_port
from acm_core.trust import keys
from acm_core.trust.enrolment import Answer, Request
from server.authority import ServerState
from server.registry import Registry
from server.superlink import SuperLink


def found_federation(folder: Path, sites: Iterable[str], ports: Mapping[str, int] | None = None) -> None:
    """From `federation.yaml` and `sites/` in a folder: server_state/ and every site a member.

    ports: where sites reach the server, if not at its own: what the operator's answer does not know.
    """
    config, state = ["--config", str(folder / "federation.yaml")], ["--state", str(folder / "server_state")]
    assert server.init.main([*config, *state]) == 0
    for site in sites:
        own = [f"--site={site}", "--sites", str(folder / "sites")]
        port = load_config(folder / "federation.yaml", FederationConfig).server.port
        with contextlib.chdir(folder):
            assert client.enrol.main([*own, "--server", f"127.0.0.1:{port}"]) == 0
            request = Request.read(folder / f"request-{site}.json")
            fingerprint = keys.fingerprint(keys.parse_public_key(request.public_key))
            asked = [f"request-{site}.json", *config, *state, "--fingerprint", fingerprint]
            assert server.approve.main(asked) == 0
            authority = Answer.read(folder / f"answer-{site}.json").authority_fingerprint
            answered = ["--answer", f"answer-{site}.json", "--authority-fingerprint", authority]
            assert client.enrol.main([*own, *answered]) == 0
            if ports is not None:
                assert client.enrol.main([*own, "--server", f"127.0.0.1:{ports[site]}"]) == 0


class Consortium:
    """A server's state, its running SuperLink and the keys of its sites."""

    def __init__(self, folder: Path, *sites: str) -> None:
        self.state = ServerState(folder / "server_state")
        self.state.create("test", ["127.0.0.1"])
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        for site in sites:
            self.keys[site] = keys.create_key(folder / f"{site}.key")
            text = keys.public_text(self.keys[site].public_key())
            Registry.load(self.state.registry).approve(site, text)
        self.port = free_port()
        self.link = SuperLink(
            ServerSection(port=self.port, message_limit=8), self.state, folder / "run", folder / "logs"
        )
        self.link.wait_until_healthy()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state.authority))

    def http(self) -> httpx.Client:
        """An anonymous peer that trusts the server."""
        return httpx.Client(base_url=f"https://{self.address}", verify=self.trust, timeout=30)

    def fleet(self, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
        """A peer that signs with a key."""
        return FleetHttpClient.from_server_address(
            self.address,
            False,
            self.state.authority.read_bytes(),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )

    def end(self) -> None:
        self.link.stop()


def begun(consortium: Consortium) -> tuple[SqlLinkState, int, str]:
    """A run that goes on, with this process for its server application: the SuperLink's state, the run, its token."""
    database = str(consortium.state.folder / "superlink" / "state.db")
    objects = SqlObjectStore(database)
    objects.initialize()
    state = SqlLinkState(database, NoOpFederationManager(), objects)
    state.initialize()
    with state.session():  # before the SuperExec sees it
        run = state.create_run(
            None, None, "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = state.get_run_info(run_ids=[run])[0].primary_task_id
        assert task is not None
        token = state.claim_task(task)
        assert token is not None
        assert state.activate_task(task)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, task
    return state, run, token


def asked(consortium: Consortium, nodes: dict[str, int]) -> dict[str, Message]:
    """A run that goes on, in which each site has been asked for a reply."""
    state, _, _ = begun(consortium)
    messages = {}
    for site, node in nodes.items():
        message = Message(RecordDict(), dst_node_id=node, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        assert state.store_message_ins(message) is not None
        messages[site] = message
    return messages
