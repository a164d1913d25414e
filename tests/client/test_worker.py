"""The worker of a site: what is ordered is done once, whoever asks how often, and its ClientApp may die over it."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospitals import federation, hospital, site

from acm_core.audit_events import Left, TaskReceived, TaskRefused
from acm_core.audit_log import audit_folder, verify
from acm_core.config import dump_config
from acm_core.config.site import SiteConfig
from acm_core.federated.encoding import encode
from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.payload import Payload, read_reply, write_payload
from acm_core.nn import build_classifier
from acm_core.training.weights import get_arrays
from client import worker as worker_module
from client.link.worker_call import (
    WorkerLostError,
    ask_worker,
    link_folder,
    reply_payload,
    serve_orders,
)
from client.site.site_log import LOG_NAME, open_site_log
from client.worker import Worker

HEAD = "a" * 64


@pytest.fixture
def member(tmp_path: Path) -> tuple[Path, SiteConfig]:
    """A site's file, and what stands in it."""
    hospital(tmp_path, "A", patients=12)
    settings = site(tmp_path, "A")
    path = tmp_path / "A.yaml"
    path.write_text(dump_config(settings), encoding="utf-8")
    return path, settings


def given(settings: SiteConfig, task: Task) -> TaskEnvelope:
    """An order of a task whose payload has been fetched."""
    payload = write_payload(task, link_folder(settings.state) / "tasks")
    return TaskEnvelope(payload=payload.sha256, bytes=payload.size, audit=HEAD)


def first_round() -> Task:
    config = federation(federation={"rounds": 1})
    arrays = encode(get_arrays(build_classifier(config.model, 2, seed=1)), {}, "float32").payload
    return Task(TaskKind.TRAIN, 1, config.for_sites(), arrays=arrays)


def reply_of(settings: SiteConfig, done: ReplyEnvelope) -> Reply:
    payload = reply_payload(settings.state, done)
    assert payload.size == payload.path.stat().st_size
    return read_reply(payload.path, done.audit)


def events(settings: SiteConfig) -> list[object]:
    return [row.event for row in verify(audit_folder(settings.state)).rows]


def test_a_task_that_comes_again_has_the_reply_that_was_found(
    member: tuple[Path, SiteConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = member
    worker, order = Worker(path), given(settings, first_round())
    first = worker.do(order)
    reply = reply_of(settings, first)
    assert (reply.site, reply.round, reply.refusal, reply.films > 1) == ("A", 1, "", True)

    def trains(*_: object) -> Reply:
        raise AssertionError("a task was done twice")

    with monkeypatch.context() as changed:
        changed.setattr(worker_module, "do_task", trains)
        again = worker.do(order)
    assert again.payload == first.payload
    rows = [event for event in events(settings) if isinstance(event, TaskReceived | Left)]
    assert [row.kind for row in rows] == ["task_received", "left"] * 2
    assert all(row.server_head == HEAD for row in rows if isinstance(row, TaskReceived))
    assert reply_of(settings, again).content == reply.content


def test_it_is_done_anew_where_the_sites_file_permits_something_else(
    member: tuple[Path, SiteConfig],
) -> None:
    path, settings = member
    worker, order = Worker(path), given(settings, first_round())
    assert reply_of(settings, worker.do(order)).refusal == ""
    forbidding = settings.model_copy(
        update={"policy": settings.policy.model_copy(update={"findings": ("Mass",)})}
    )
    path.write_text(dump_config(forbidding), encoding="utf-8")
    assert worker.do(order).refusal == Refusal.POLICY_FINDINGS


def test_a_refusal_is_not_kept(member: tuple[Path, SiteConfig]) -> None:
    path, settings = member
    worker, order = Worker(path), given(settings, first_round())
    settings.labels.rename(settings.labels.with_suffix(".away"))
    assert worker.do(order).refusal in (Refusal.LABELS, Refusal.STORAGE)
    settings.labels.with_suffix(".away").rename(settings.labels)
    assert reply_of(settings, worker.do(order)).refusal == ""


@pytest.mark.parametrize("content", [b"", b"x" * 1000])
def test_a_payload_that_is_no_task_is_refused_and_written_down(
    member: tuple[Path, SiteConfig], content: bytes
) -> None:
    path, settings = member
    folder = link_folder(settings.state) / "tasks"
    folder.mkdir(parents=True)
    (folder / HEAD).write_bytes(content)
    done = Worker(path).do(TaskEnvelope(payload=HEAD, bytes=1, audit=""))
    assert (done.payload, done.refusal) == ("", Refusal.POLICY)
    assert [type(event) for event in events(settings)] == [TaskRefused]


def test_a_reply_that_cannot_be_written_is_a_refusal(
    member: tuple[Path, SiteConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, settings = member

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    order = given(settings, first_round())
    monkeypatch.setattr(worker_module, "write_payload", full)
    assert Worker(path).do(order) == ReplyEnvelope(refusal=Refusal.STORAGE)


def test_a_mistake_in_the_sites_file_is_said_with_its_line_and_the_next_task_goes_by_the_mended_one(
    member: tuple[Path, SiteConfig],
) -> None:
    path, settings = member
    open_site_log(settings.state)
    worker, order, right = Worker(path), given(settings, first_round()), path.read_text(encoding="utf-8")
    path.write_text(f"{right}polcy: {{}}\n", encoding="utf-8")
    assert worker.do(order) == ReplyEnvelope(refusal=Refusal.INTERNAL)
    line = len(right.splitlines()) + 1
    assert f"A.yaml:{line}: polcy: unknown key" in (settings.state / LOG_NAME).read_text(encoding="utf-8")
    path.write_text(right, encoding="utf-8")
    assert reply_of(settings, worker.do(order)).refusal == ""


# The socket.


def an_order(digest: str) -> TaskEnvelope:
    return TaskEnvelope(payload=digest, bytes=1, audit="")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[TaskEnvelope]]]:
    """The state folder of a worker that answers each order with its own digest, and the orders that it had."""
    monkeypatch.chdir(tmp_path)
    state, orders = tmp_path / ("deep" * 20) / ("state" * 20), list[TaskEnvelope]()
    assert len(str(link_folder(state))) > 108  # what a socket's path may have

    def do(order: TaskEnvelope) -> ReplyEnvelope:
        orders.append(order)
        return ReplyEnvelope(payload=order.payload, bytes=1)

    threading.Thread(target=serve_orders, args=[state, do], daemon=True).start()
    yield state, orders


def test_an_order_is_carried_over_a_socket_wherever_the_state_lies(
    served: tuple[Path, list[TaskEnvelope]],
) -> None:
    state, orders = served
    for digest in ("1" * 64, "2" * 64):
        assert ask_worker(state, an_order(digest)) == ReplyEnvelope(payload=digest, bytes=1)
    assert [order.payload[0] for order in orders] == ["1", "2"]
    file = reply_payload(state, ask_worker(state, an_order("3" * 64)))
    assert file == Payload(link_folder(state) / "replies" / ("3" * 64), 1)


def test_who_hangs_up_keeps_nobody_waiting(served: tuple[Path, list[TaskEnvelope]]) -> None:
    state, orders = served
    ask_worker(state, an_order("1" * 64))  # it is there, and so is this process
    for said in (b"", an_order("2" * 64).model_dump_json().encode() + b"\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect("worker.sock")
            connection.sendall(said)
    assert ask_worker(state, an_order("3" * 64)).payload == "3" * 64
    assert [order.payload[0] for order in orders] == ["1", "2", "3"]


def test_a_worker_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.link.worker_call._START_SECONDS", 0.2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkerLostError, match="not there"):
        ask_worker(tmp_path, an_order("1" * 64))


def test_a_worker_that_dies_over_a_task_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    link_folder(tmp_path).mkdir()
    monkeypatch.chdir(link_folder(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("worker.sock")
        listener.listen()

        def die() -> None:
            listener.accept()[0].close()

        threading.Thread(target=die, daemon=True).start()
        with pytest.raises(WorkerLostError, match="before it answered"):
            ask_worker(tmp_path, an_order("1" * 64))
