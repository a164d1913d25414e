"""kill -9 of every process of a federation, one after another: nothing is lost, and the model is the same."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hospitals import site
from in_process import run_in_process
from loopback import PROCESSES, Federation
from processes import processes_with, wait_for

from acm_core.audit_log import audit_folder, compare, verify
from server.consortium.authority import ServerState

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, rounds=len(PROCESSES) + 2)
    yield federation
    federation.end()


def test_every_process_is_killed_in_a_round_of_its_own(running: Federation) -> None:
    clients = [running.client("A"), running.client("B")]
    server = running.server()
    for number, (victim, marks) in enumerate(PROCESSES.items(), start=1):
        text = f"round {number}: training"
        wait_for(lambda text=text: text in running.log("A"), 200, running.everything)  # type: ignore[misc]
        killed = running.processes(*marks)
        assert killed, f"{victim}: {running.everything()}"
        for process in killed:
            process.kill()
        done = f"round {number} done"
        wait_for(lambda done=done: done in server.text(), 300, running.everything)  # type: ignore[misc]

    # The commands themselves, without their children, which have to notice.
    number = len(PROCESSES) + 1
    wait_for(lambda: f"round {number}: training" in running.log("A"), 200, running.everything)
    clients[0].kill_alone()
    server.kill_alone()
    wait_for(lambda: running.processes("server.link.program") == [], 60, running.everything)
    time.sleep(1)
    clients[0] = running.client("A")
    server = running.server("--resume")
    assert server.wait(400) == 0, running.everything()
    for client in clients:
        client.interrupt()
        assert client.wait(30) == 0
    wait_for(lambda: processes_with(str(running.folder)) == [], 20, running.everything)

    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == list(range(1, len(PROCESSES) + 3))
    assert all(record["answered"] == ["A", "B"] for record in records)
    fresh = {name: site(running.folder, name, state=running.folder / "fresh" / name) for name in "AB"}
    undisturbed = run_in_process(fresh, running.config, running.folder / "undisturbed")
    assert (running.run / "model.safetensors").read_bytes() == undisturbed.model.read_bytes()

    # Both sides' logs are sound, and what one says of the other is there.
    here = verify(ServerState(running.folder / "server_state").audit).rows
    for name in "AB":
        there = verify(audit_folder(running.folder / "state" / name)).rows
        assert compare(there, here, name) > 0
        assert compare(here, there, None) > 0
