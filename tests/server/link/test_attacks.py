"""What somebody who reaches the server's port can try: refused, written down, and the SuperLink is as it was."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from consortium import Consortium, ScriptedSite, begun
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from acm_core.audit_events import PeerRefused
from acm_core.audit_log import verify
from acm_core.bundle import versions
from server.consortium.registry import Registry

pytestmark = pytest.mark.timeout(120)

Call = Callable[[FleetHttpClient, int, int], object]
PROTOBUF = {"content-type": PROTOBUF_MEDIA_TYPE}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    running = Consortium(tmp_path_factory.mktemp("consortium"), "A", "B", "C")
    yield running
    running.end()


@pytest.fixture(scope="module")
def sites(consortium: Consortium) -> Iterator[dict[str, ScriptedSite]]:
    scripted = {site: ScriptedSite(consortium, site) for site in "AB"}
    yield scripted
    for site in scripted.values():
        site.end()


@pytest.fixture(scope="module")
def nodes(sites: dict[str, ScriptedSite]) -> dict[str, int]:
    return {name: site.node.node_id for name, site in sites.items()}


@pytest.fixture(scope="module")
def tasks(consortium: Consortium, sites: dict[str, ScriptedSite]) -> Iterator[dict[str, FlowerMessage]]:
    """What each site was asked."""
    grid = begun(consortium)
    record = RecordDict({"task": ConfigRecord({"payload": "0" * 64, "bytes": 1, "audit": ""})})
    for site in sites.values():
        message = FlowerMessage(record, dst_node_id=site.node.node_id, message_type="train")
        assert list(grid.push_messages([message]))
    yield {name: site.task() for name, site in sites.items()}
    grid.close()


def status(consortium: Consortium, site: str, call: Callable[[FleetHttpClient], object]) -> int:
    with consortium.fleet(consortium.keys[site]) as client:
        return status_of(lambda: call(client))


def status_of(call: Callable[[], object]) -> int:
    try:
        call()
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def refusals(consortium: Consortium) -> list[tuple[str, int, str]]:
    events = [row.event for row in verify(consortium.state.audit).rows]
    return [(e.path, e.status, e.reason) for e in events if isinstance(e, PeerRefused)]


# Nobody in particular.


OTHERS = sorted(path for _, path in PROTOBUF_REQUEST_TYPES if not path.startswith("/v1/fleet/"))
SELF_REGISTRATION = ["/v1/fleet/register-node", "/v1/fleet/unregister-node"]
PAGES = [
    "/docs",
    "/openapi.json",
    "/",
    "/v1/fleet",
    "/v1/fleet/",
    "//v1/control/list-nodes",
    "/v1/fleet/../control/x",
]


def test_an_anonymous_peer_has_no_call_but_those_of_sites(consortium: Consortium) -> None:
    assert len(OTHERS) > 40
    with consortium.http() as client:
        for path in OTHERS + SELF_REGISTRATION + PAGES:
            assert client.post(path, content=b"", headers=PROTOBUF).status_code == 404, path
            assert client.get(path).status_code == 404, path
        assert client.get("/health").status_code == 200
    assert ("other", 404, "not_for_sites") in refusals(consortium)


@pytest.mark.parametrize(
    "path",
    sorted(p for _, p in PROTOBUF_REQUEST_TYPES if p.startswith("/v1/fleet/") and p not in SELF_REGISTRATION),
)
def test_the_calls_of_sites_need_a_key(consortium: Consortium, path: str) -> None:
    with consortium.http() as client:
        assert client.post(path, content=b"", headers=PROTOBUF).status_code == 401


def test_no_word_is_heard_without_tls(consortium: Consortium) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{consortium.address}/health", timeout=10)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(consortium.state.authority)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", consortium.port)) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_control_api_on_loopback_needs_the_secret(consortium: Consortium) -> None:
    client = ControlHttpClient.from_server_address(
        consortium.link.loopback,
        True,
        None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    with client:
        assert status_of(lambda: client.ListNodes(ListNodesRequest())) == 403
        assert status_of(lambda: client.StartRun(StartRunRequest())) == 403
    plain = f"http://{consortium.link.loopback}"
    assert httpx.post(f"{plain}/v1/fleet/pull-messages", content=b"", headers=PROTOBUF).status_code == 403
    assert httpx.post(f"{plain}/v1/runtime/acquire-task", content=b"", headers=PROTOBUF).status_code == 403
    assert httpx.get(f"{plain}/v1/depot/greeting").status_code == 403


# Keys that are not a site's, not any more, or another's.


def test_an_unregistered_key_is_refused(consortium: Consortium, nodes: dict[str, int]) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    mine = public_key_to_bytes(stranger.public_key())
    with consortium.fleet(stranger) as client:
        for call in (
            lambda: client.ActivateNode(ActivateNodeRequest(public_key=mine, heartbeat_interval=30)),
            lambda: client.PullMessages(PullMessagesRequest(node=Node(node_id=nodes["A"]))),
            lambda: client.DeactivateNode(DeactivateNodeRequest(node_id=nodes["A"])),
        ):
            assert status_of(call) == 401
        assert status_of(lambda: client.RegisterNode(RegisterNodeFleetRequest(public_key=mine))) == 404


def test_a_key_is_good_for_its_own_site_only(consortium: Consortium, nodes: dict[str, int]) -> None:
    other = Node(node_id=nodes["A"])
    for call in (
        lambda client: client.PullMessages(PullMessagesRequest(node=other)),
        lambda client: client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=other, heartbeat_interval=30)),
        lambda client: client.DeactivateNode(DeactivateNodeRequest(node_id=other.node_id)),
    ):
        assert status(consortium, "B", call) == 401


def test_a_removed_key_is_refused_at_once_and_for_ever(consortium: Consortium) -> None:
    site = ScriptedSite(consortium, "C")
    site.ask_in_vain()
    assert site.depot.greet() == versions()
    Registry.load(consortium.state.registry).remove("C")

    def pull(client: FleetHttpClient) -> object:
        return client.PullMessages(PullMessagesRequest(node=site.node))

    assert status(consortium, "C", pull) == 401  # before the SuperLink has been told
    assert site.depot.greet() is None
    assert consortium.link.register() == ([], ["C"])
    assert status(consortium, "C", pull) == 401
    key = public_key_to_bytes(consortium.keys["C"].public_key())
    request = ActivateNodeRequest(public_key=key, heartbeat_interval=30)
    assert status(consortium, "C", lambda client: client.ActivateNode(request)) == 401
    assert (("/v1/fleet/pull-messages", 401, "not_registered")) in refusals(consortium)
    assert (("/v1/depot/greeting", 401, "not_registered")) in refusals(consortium)
    site.end()


def test_an_old_signature_is_refused(consortium: Consortium, nodes: dict[str, int]) -> None:
    seen: list[httpx.Request] = []

    class Recorder:
        def intercept(self, context: Any, call_next: Any) -> httpx.Response:
            seen.append(context.request)
            return call_next(context)

    key = consortium.keys["A"]
    with FleetHttpClient.from_server_address(
        consortium.address,
        False,
        consortium.state.authority.read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key()), Recorder()],
    ) as client:
        client.PullMessages(PullMessagesRequest(node=Node(node_id=nodes["A"])))
    request = seen[0]
    with consortium.http() as anonymous:
        stale = {**request.headers, "flwr-timestamp": "2026-01-01T00:00:00+00:00"}
        names = [name for name in request.headers if "timestamp" in name]
        stale.update(dict.fromkeys(names, "2026-01-01T00:00:00+00:00"))
        assert (
            anonymous.post("/v1/fleet/pull-messages", content=request.content, headers=stale).status_code
            == 401
        )


# A registered site that is malicious.


def message(source: int, destination: int, reply_to: str) -> PushMessagesRequest:
    metadata = Metadata(
        run_id=1,
        message_id="a" * 64,
        src_node_id=source,
        dst_node_id=destination,
        reply_to_message_id=reply_to,
        message_type="train",
        ttl=60,
        created_at=time.time(),
    )
    return PushMessagesRequest(
        messages_list=[Message(metadata=metadata)], message_object_trees=[ObjectTree(object_id="a" * 64)]
    )


@pytest.mark.parametrize(
    ("source", "destination", "reply_to"),
    [
        ("server", "A", ""),
        ("A", "server", "B"),
        ("B", "A", ""),
        ("server", "A", "B"),
        ("B", "server", "A"),
        ("B", "server", "nobody"),
    ],
    ids=[
        "task_to_another_site",
        "reply_of_another_site",
        "own_task_to_another_site",
        "reply_of_the_server",
        "reply_to_another_sites_task",
        "reply_to_no_task",
    ],
)
def test_a_site_speaks_for_itself_only(
    consortium: Consortium,
    nodes: dict[str, int],
    tasks: dict[str, FlowerMessage],
    source: str,
    destination: str,
    reply_to: str,
) -> None:
    ids = {**nodes, "server": 1}
    given = {"": "", "nobody": "b" * 64, **{site: task.metadata.message_id for site, task in tasks.items()}}
    request = message(ids[source], ids[destination], given[reply_to])
    request.node.node_id = nodes["B"]
    assert status(consortium, "B", lambda client: client.PushMessages(request)) == 403
    assert ("/v1/fleet/push-messages", 403, "of_another_site") in refusals(consortium)


def test_a_site_cannot_take_another_sites_message_away(
    consortium: Consortium, nodes: dict[str, int], tasks: dict[str, FlowerMessage]
) -> None:
    for message_id in ("c" * 64, tasks["A"].metadata.message_id):
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=nodes["B"]), run_id=1, message_object_id=message_id
        )
        assert status(consortium, "B", lambda client: client.ConfirmMessageReceived(request)) == 403  # noqa: B023


# Weight.


def test_what_a_site_calls_its_content_or_its_message_does_not_fill_the_log(
    consortium: Consortium, nodes: dict[str, int], tasks: dict[str, FlowerMessage]
) -> None:
    log = consortium.state.folder.parent / "logs" / "superlink.log"
    before = log.stat().st_size
    key = base64.b64encode(public_key_to_bytes(consortium.keys["B"].public_key())).decode()
    with consortium.http() as client:
        headers = {"content-type": "x" * 30_000, "flwr-public-key": key}
        assert client.post("/v1/fleet/pull-messages", content=b"", headers=headers).status_code == 415
    request_of_b = message(nodes["B"], 1, tasks["B"].metadata.message_id)
    request_of_b.node.node_id = nodes["B"]
    request_of_b.messages_list[0].metadata.message_type = "y" * 30_000
    assert status(consortium, "B", lambda client: client.PushMessages(request_of_b)) == 400
    assert log.stat().st_size - before < 5_000


def test_a_request_that_is_too_large_is_refused_before_it_is_read(
    consortium: Consortium, nodes: dict[str, int]
) -> None:
    own = {**PROTOBUF, **sealed(consortium.keys["A"])}
    path = "/v1/fleet/push-object"
    plain = socket.create_connection(("127.0.0.1", consortium.port))
    with consortium.trust.wrap_socket(plain, server_hostname="127.0.0.1") as declaring:
        head = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        declaring.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {10**12}\r\n\r\n".encode()
        )
        assert b" 413 " in declaring.recv(100)
    with consortium.http() as client:

        def pieces() -> Iterator[bytes]:
            for _ in range(64):
                yield bytes(2**20)

        with contextlib.suppress(httpx.WriteError):  # the server may have hung up in the middle, as it should
            assert client.post(path, content=pieces(), headers=own).status_code == 413
    assert ("/v1/fleet/push-object", 413, "request_too_large") in refusals(consortium)


def test_what_a_site_says_in_messages_has_a_limit_however_often_it_says_it(
    consortium: Consortium, sites: dict[str, ScriptedSite], tasks: dict[str, FlowerMessage]
) -> None:
    site, run = sites["B"], tasks["B"].metadata.run_id
    reply = site.answer(tasks["B"], RecordDict({"reply": ArrayRecord({"0": Array(np.zeros(8000))})}))
    announced = site.announce(reply)
    parts = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    name, content = max(parts.items(), key=lambda part: len(part[1]))
    assert 60_000 < len(content) < 2**16
    codes = [status_of(lambda: site.push(run, announced.session_id, name, content)) for _ in range(80)]
    assert set(codes[:60]) == {200}
    assert codes[-1] == 503
    assert ("/v1/fleet/push-object", 503, "too_many_bytes") in refusals(consortium)


def test_an_answer_has_so_many_parts_and_is_the_root_of_them(
    consortium: Consortium, sites: dict[str, ScriptedSite], tasks: dict[str, FlowerMessage]
) -> None:
    request = sites["A"].announcement(sites["A"].answer(tasks["A"], RecordDict()))
    request.messages_list[0].metadata.message_id = "e" * 64
    assert status(consortium, "A", lambda client: client.PushMessages(request)) == 400
    (tree,) = request.message_object_trees
    tree.object_id = "e" * 64
    tree.children.extend(ObjectTree(object_id=f"{number:064x}") for number in range(100))
    assert status(consortium, "A", lambda client: client.PushMessages(request)) == 400
    tree.children.extend(ObjectTree(object_id=f"{number:064x}") for number in range(1000))
    assert status(consortium, "A", lambda client: client.PushMessages(request)) == 413
    assert ("/v1/fleet/push-messages", 400, "unreadable") in refusals(consortium)


def test_what_is_no_message_is_refused(consortium: Consortium, nodes: dict[str, int]) -> None:
    with consortium.http() as client:
        for path in ("push-messages", "confirm-message-received"):
            headers = {**PROTOBUF, **sealed(consortium.keys["A"])}
            response = client.post(f"/v1/fleet/{path}", content=b"\xff" * 100, headers=headers)
            assert response.status_code == 400


def test_a_large_body_is_refused_at_its_head(consortium: Consortium, nodes: dict[str, int]) -> None:
    stranger, own = (sealed(key) for key in (ec.generate_private_key(ec.SECP384R1()), consortium.keys["A"]))
    for call in ("push-object", "pull-messages"):
        assert answer_to_the_head(consortium, call, 2**16, {}) == 401
        assert answer_to_the_head(consortium, call, 2**16, stranger) == 401
        assert answer_to_the_head(consortium, call, 2**16 + 1, own) == 413
        assert answer_to_the_head(consortium, call, 2**16, own) is None


def sealed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """What Flower's client signs a call with."""
    request = httpx.Request("POST", "https://server/")
    interceptor = NodeAuthHttpInterceptor(key, key.public_key())
    interceptor.intercept(SimpleNamespace(request=request), lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


def answer_to_the_head(consortium: Consortium, call: str, size: int, headers: dict[str, str]) -> int | None:
    """The status of a call of which the head has come and nothing else; None: its body is waited for."""
    head = {"Host": "x", "Content-Type": PROTOBUF_MEDIA_TYPE, "Content-Length": str(size), **headers}
    lines = [f"POST /v1/fleet/{call} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    with shaken(consortium) as connection:
        connection.settimeout(3)
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        try:
            return int(connection.recv(100).split()[1])
        except TimeoutError:
            return None


def shaken(consortium: Consortium) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", consortium.port), timeout=20)
    return consortium.trust.wrap_socket(plain, server_hostname="127.0.0.1")


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.slow
def test_a_peer_that_says_nothing_is_hung_up_on(consortium: Consortium) -> None:
    with (
        socket.create_connection(("127.0.0.1", consortium.port)) as silent,
        shaken(consortium) as shaking_hands_only,
        shaken(consortium) as beginning,
        shaken(consortium) as beginning_again,
    ):
        beginning.sendall(b"G")
        beginning_again.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        beginning_again.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while beginning_again.recv(1000):  # the whole answer
                pass
        beginning_again.sendall(b"G")
        connections = [silent, shaking_hands_only, beginning, beginning_again]
        time.sleep(10)
        assert all(map(is_open, connections))
        time.sleep(15)
        assert not any(map(is_open, connections))


def test_connections_that_never_shake_hands_are_bounded(consortium: Consortium) -> None:
    with contextlib.ExitStack() as held:
        address = ("127.0.0.1", consortium.port)
        silent = [held.enter_context(socket.create_connection(address, timeout=20)) for _ in range(80)]
        time.sleep(1)
        assert sum(map(is_open, silent)) <= 64
    time.sleep(1)
    with consortium.http() as client:
        assert client.get("/health").status_code == 200


def test_connections_of_one_peer_are_bounded(consortium: Consortium) -> None:
    with contextlib.ExitStack() as held:
        shaking = []
        for _ in range(80):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                shaking.append(held.enter_context(shaken(consortium)))
        time.sleep(1)
        assert sum(map(is_open, shaking)) <= 64
    time.sleep(1)
    with consortium.http() as client:
        assert client.get("/health").status_code == 200


def test_strangers_of_many_addresses_keep_no_site_out(consortium: Consortium, nodes: dict[str, int]) -> None:
    def beats(client: FleetHttpClient, site: str) -> bool:
        node = Node(node_id=nodes[site])
        beat = SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)
        return bool(client.SendNodeHeartbeat(beat).success)

    address = ("127.0.0.1", consortium.port)
    first, *_ = nodes
    with contextlib.ExitStack() as held, consortium.fleet(consortium.keys[first]) as there:
        assert beats(there, first)
        for peer in range(40):
            for _ in range(60):
                held.enter_context(
                    socket.create_connection(address, source_address=(f"127.0.1.{peer + 1}", 0))
                )
        for site in nodes:
            with consortium.fleet(consortium.keys[site]) as newcomer:
                assert beats(newcomer, site)
        assert beats(there, first)


def test_an_address_that_a_peer_names_itself_is_not_its_own(consortium: Consortium) -> None:
    with consortium.http() as client:
        assert client.get("/nowhere", headers={"x-forwarded-for": "192.0.2.99"}).status_code == 404
    rows = [row.event for row in verify(consortium.state.audit).rows]
    refused = [event for event in rows if isinstance(event, PeerRefused)]
    assert {event.address for event in refused} == {"127.0.0.1"}


def test_afterwards_the_sites_are_as_they_were_and_the_log_is_sound(
    consortium: Consortium, nodes: dict[str, int]
) -> None:
    for site, node in nodes.items():
        beat = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=30)
        with consortium.fleet(consortium.keys[site]) as client:
            assert client.SendNodeHeartbeat(beat).success
    assert not consortium.link.tend()
    assert refusals(consortium)
