"""The simulated sites' processes: what dies, what is late, what is asked twice, and what is left of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hospitals import federation, hospital, site
from processes import wait_for

from acm_core.federated.encoding import encode
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.nn import build_classifier
from acm_core.training.weights import get_arrays
from server.round.transport import Ticket
from simulations.engine import SiteProcesses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    for name in "AB":
        hospital(folder, name)
    return folder


@pytest.fixture(params=[2])
def sites(hospitals: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SiteProcesses]:
    settings = [site(hospitals, name, state=tmp_path / name) for name in "AB"]
    with SiteProcesses(settings, request.param) as running:
        yield running
    assert simulated() == []


def simulated() -> list[psutil.Process]:
    """The living processes that answer for simulated sites."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return [one for one in children if one.name() == "simulated-site"]


def task(number: int = 1) -> Task:
    """A round of training, of minutes: a test ends it."""
    config = federation(federation={"rounds": 1000}, training={"epochs": 500})
    model = get_arrays(build_classifier(config.model, len(config.findings)))
    return Task(TaskKind.TRAIN, number, config.model_dump_json(), arrays=encode(model, {}, "float32").payload)


def quick(number: int = 1) -> Task:
    return Task(TaskKind.TRAIN, number, "no configuration")


def send(sites: SiteProcesses, what: Task, *names: str, lifetime: float = 60) -> list[Ticket]:
    connected = sites.connected()
    return sites.send(what, {name: connected[name] for name in names}, lifetime)


def replies(sites: SiteProcesses, tickets: list[Ticket], seconds: float = 60) -> dict[str, Reply]:
    """The replies of all, which have to come in time."""
    found: dict[str, Reply] = {}

    def all_there() -> bool:
        found.update({answer.ticket.message: answer.reply for answer in sites.receive(tickets)})
        return len(found) == len(tickets)

    wait_for(all_there, seconds, lambda: f"{len(found)} of {len(tickets)} replies")
    return {ticket.site: found[ticket.message] for ticket in tickets}


def at_work(sites: SiteProcesses, state: Path, name: str) -> None:
    log = state / name / "client.log"
    wait_for(lambda: log.exists() and "training on" in log.read_text(encoding="utf-8"), 60, lambda: name)


def test_a_process_that_is_killed_costs_its_site_the_answer_and_nobody_else(
    sites: SiteProcesses, tmp_path: Path
) -> None:
    (of_a,) = send(sites, task(), "A")
    at_work(sites, tmp_path, "A")
    busy = max(simulated(), key=lambda process: sum(process.cpu_times()[:2]))
    busy.kill()
    assert replies(sites, [of_a])["A"].refusal == Refusal.LOST
    answered = replies(sites, send(sites, quick(), "A", "B"))
    assert {name: reply.refusal for name, reply in answered.items()} == {
        "A": Refusal.POLICY,
        "B": Refusal.POLICY,
    }


def test_leaving_ends_what_is_at_work(hospitals: Path, tmp_path: Path) -> None:
    with SiteProcesses([site(hospitals, "A", state=tmp_path / "A")], 1) as running:
        send(running, task(), "A")
        at_work(running, tmp_path, "A")
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert simulated() == []


@pytest.mark.parametrize("sites", [1], indirect=True)
def test_what_is_not_begun_within_its_lifetime_is_dropped(sites: SiteProcesses, tmp_path: Path) -> None:
    send(sites, task(), "A")
    at_work(sites, tmp_path, "A")
    (late,) = send(sites, quick(1), "B", lifetime=0.1)
    time.sleep(0.2)
    (timely,) = send(sites, quick(2), "B")
    for process in simulated():
        process.kill()  # A's training
    assert replies(sites, [timely])["B"].round == 2
    assert list(sites.receive([late])) == []


def test_a_site_does_one_task_after_another(sites: SiteProcesses, tmp_path: Path) -> None:
    (first,) = send(sites, task(), "A")
    at_work(sites, tmp_path, "A")
    (second,) = send(sites, quick(2), "A")
    assert replies(sites, send(sites, quick(), "B"))["B"].refusal == Refusal.POLICY
    assert list(sites.receive([first, second])) == []
    max(simulated(), key=lambda process: sum(process.cpu_times()[:2])).kill()
    assert replies(sites, [second])["A"].round == 2
    assert list(sites.receive([first])) == []
