"""The depot's calls of a real server: what a site may fetch and bring, and what nobody may."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from consortium import Consortium
from cryptography.hazmat.primitives.asymmetric import ec

from acm_core.bundle import versions
from acm_core.federated.messages import Task, TaskKind
from acm_core.trust.signatures import SIGNATURE_HEADER, TIME_HEADER, sign_call
from server.link.depot import Depot

pytestmark = pytest.mark.timeout(120)

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Peer:
    """Somebody who calls the depot with a site's name and some key."""

    def __init__(self, consortium: Consortium, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._name, self._key, self._http = name, key, consortium.http()

    def call(
        self,
        method: str,
        path: str,
        *,
        offset: int = 0,
        content: bytes | Iterator[bytes] | None = None,
        **headers: str,
    ) -> httpx.Response:
        signed = sign_call(self._key, self._name, method, path, offset)
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._http.request(method, path, content=content, headers={**signed, **own})

    def bring(
        self, offset: int, content: bytes, *, length: int = len(CONTENT), of: str = DIGEST
    ) -> httpx.Response:
        path = f"/v1/depot/replies/{of}"
        return self.call("PATCH", path, offset=offset, content=content, upload_length=str(length))

    def have(self, of: str = DIGEST) -> int | None:
        response = self.call("HEAD", f"/v1/depot/replies/{of}")
        return None if response.status_code == 204 else int(response.headers["upload-offset"])

    def end(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    running = Consortium(tmp_path_factory.mktemp("consortium"), "A", "B")
    yield running
    running.end()


@pytest.fixture
def a(consortium: Consortium) -> Iterator[Peer]:
    peer = Peer(consortium, "A", consortium.keys["A"])
    yield peer
    peer.end()


@pytest.fixture
def depot(consortium: Consortium) -> Iterator[Depot]:
    depot = Depot(consortium.state.folder / "superlink" / "depot")
    yield depot
    depot.clear()


def test_a_site_is_greeted_with_the_servers_versions(a: Peer) -> None:
    assert a.call("GET", "/v1/depot/greeting").headers["x-acm-fed-versions"] == versions()


def test_a_task_is_fetched_whole_or_from_where_it_was_cut_off(a: Peer, depot: Depot) -> None:
    payload = depot.put_task(Task(TaskKind.TRAIN, 1, "x" * 5000))
    path = f"/v1/depot/tasks/{payload.sha256}"
    assert depot.fetched("A", payload.sha256) is None
    whole = a.call("GET", path)
    assert hashlib.sha256(whole.content).hexdigest() == payload.sha256
    rest = a.call("GET", path, range="bytes=1000-")
    assert (rest.status_code, rest.content) == (206, whole.content[1000:])
    noted = depot.fetched("A", payload.sha256)
    assert noted is not None
    assert abs(noted - time.time()) < 60
    assert depot.fetched("B", payload.sha256) is None
    assert a.call("HEAD", path).status_code == 200
    assert a.call("GET", f"/v1/depot/tasks/{'0' * 64}").status_code == 404


def test_a_reply_is_brought_in_pieces(a: Peer, depot: Depot) -> None:
    assert a.have() == 0
    assert a.bring(0, CONTENT[:1000]).headers["upload-offset"] == "1000"
    assert a.have() == 1000
    again = a.bring(0, CONTENT[:1000])
    assert (again.status_code, again.headers["upload-offset"]) == (409, "1000")
    assert depot.reply("A", DIGEST) is None
    assert a.bring(1000, CONTENT[1000:]).status_code == 204
    assert a.have() is None
    assert a.bring(0, CONTENT).status_code == 204
    reply = depot.reply("A", DIGEST)
    assert reply is not None
    assert reply.read_bytes() == CONTENT
    assert depot.reply("B", DIGEST) is None


def test_what_comes_before_a_connection_breaks_is_kept(consortium: Consortium, a: Peer, depot: Depot) -> None:
    path = f"/v1/depot/replies/{DIGEST}"
    signed = sign_call(consortium.keys["A"], "A", "PATCH", path)
    head = {"Host": "x", "Content-Length": str(len(CONTENT)), "upload-length": str(len(CONTENT)), **signed}
    lines = [f"PATCH {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    plain = socket.create_connection(("127.0.0.1", consortium.port))
    with consortium.trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall("\r\n".join(lines).encode() + CONTENT[:100_000])
        time.sleep(0.5)
    until = time.monotonic() + 10
    while a.have() == 0 and time.monotonic() < until:
        time.sleep(0.1)
    assert a.have() == 100_000


def test_bytes_of_another_digest_are_not_kept(a: Peer, depot: Depot) -> None:
    assert a.bring(0, CONTENT, of="1" * 64).status_code == 422
    assert a.have("1" * 64) == 0
    assert depot.reply("A", "1" * 64) is None


def test_a_site_has_room_for_one_reply(a: Peer, depot: Depot) -> None:
    assert a.bring(0, CONTENT[:10]).status_code == 200
    assert a.bring(0, CONTENT[:10], of="2" * 64).status_code == 200
    assert (a.have(), a.have("2" * 64)) == (0, 10)
    most = 8 * 2**20  # of this server
    assert a.bring(0, b"x", length=most + 1).status_code == 413
    assert a.bring(0, b"x" * 20, length=10).status_code == 400
    assert a.call("PATCH", f"/v1/depot/replies/{DIGEST}", content=b"x").status_code == 400
    folder = consortium_folder(depot)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 20


def consortium_folder(depot: Depot) -> Path:
    return depot._replies


@pytest.mark.parametrize(
    "path",
    [
        "/v1/depot/tasks/../../server.key",
        "/v1/depot/tasks/%2e%2e%2fserver.key",
        f"/v1/depot/tasks/{'A' * 64}",
        f"/v1/depot/replies/{DIGEST}/x",
        "/v1/depot/replies",
        "/v1/depot/",
        "/v1/depot/greeting/",
    ],
)
def test_nothing_else_has_a_path(a: Peer, path: str) -> None:
    for method in ("GET", "PATCH", "POST"):
        assert a.call(method, path).status_code == 404


def test_replies_are_nobodys_to_read(a: Peer, depot: Depot) -> None:
    a.bring(0, CONTENT)
    for method in ("GET", "DELETE", "POST", "PUT"):
        assert a.call(method, f"/v1/depot/replies/{DIGEST}").status_code == 404


def test_a_call_counts_with_a_sites_signature_of_just_this_call_and_now(
    consortium: Consortium, a: Peer, depot: Depot
) -> None:
    payload = depot.put_task(Task(TaskKind.TRAIN, 1))
    path, key = f"/v1/depot/tasks/{payload.sha256}", consortium.keys["A"]
    good = sign_call(key, "A", "GET", path)
    later = f"{float(good[TIME_HEADER]) + 1:.3f}"
    stranger = ec.generate_private_key(ec.SECP384R1())
    forged: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", path, {}),
        ("GET", path, sign_call(stranger, "A", "GET", path)),
        ("GET", path, sign_call(key, "B", "GET", path)),
        ("GET", path, sign_call(key, "nobody", "GET", path)),
        ("GET", path, {**good, "x-acm-site": "B"}),
        ("GET", path, {**good, TIME_HEADER: later}),
        ("GET", path, {**good, TIME_HEADER: "nan"}),
        ("GET", path, {**good, "upload-offset": "1"}),
        ("GET", path, {**good, SIGNATURE_HEADER: "no base64"}),
        ("HEAD", path, good),
        ("GET", "/v1/depot/greeting", good),
    ]
    with consortium.http() as http:
        for method, where, headers in forged:
            assert http.request(method, where, headers=headers).status_code == 401, headers
        assert http.request("GET", path, headers=good).status_code == 200


def test_an_old_signature_is_none(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for seconds, status in ((-310, 401), (-280, 200), (3, 200), (30, 401)):
        with monkeypatch.context() as changed:
            changed.setattr(time, "time", lambda seconds=seconds: now + seconds)
            headers = sign_call(consortium.keys["A"], "A", "GET", "/v1/depot/greeting")
        with consortium.http() as http:
            assert http.get("/v1/depot/greeting", headers=headers).status_code == status


def test_a_body_is_read_for_a_site_alone(consortium: Consortium) -> None:
    path = f"/v1/depot/replies/{DIGEST}"
    signed = sign_call(ec.generate_private_key(ec.SECP384R1()), "A", "PATCH", path)
    head = {"Host": "x", "Content-Length": str(10**9), "upload-length": str(10**9), **signed}
    lines = [f"PATCH {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    plain = socket.create_connection(("127.0.0.1", consortium.port))
    with consortium.trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall("\r\n".join(lines).encode())
        assert b" 401 " in connection.recv(100)
