"""Many rounds in which processes are killed and links cut at random: no round lost, no sum wrong, nothing grows."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hospitals import site
from in_process import run_in_process
from loopback import AT_A_SITE, PROCESSES, Federation
from processes import Command, processes_with, wait_for

ROUNDS = int(os.environ.get("ACM_FED_SOAK_ROUNDS", "200"))
WARM_UP = 8  # rounds of a process's life that say nothing about growth
WATCHED = {
    "server.run": ("server.run",),
    "SuperLink": PROCESSES["SuperLink"],
    "ServerApp": PROCESSES["ServerApp"],
    "client.run of B": ("client.run", "--site=B"),
    "SuperNode of B": ("flower-supernode", "state/B"),
    "ClientApps of B": ("[acm-fed-apps]", "state/B"),
    "worker of B": ("[acm-fed-worker]", "sites/B.yaml"),
}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300 + 120 * ROUNDS)]


class Disturbed:
    """A running federation and what can be done to it."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.clients = {name: federation.client(name) for name in "AB"}
        self.server: Command = federation.server()

    def rounds(self) -> int:
        path = self.federation.run / "rounds.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def kill(self, process: str) -> None:
        for found in self.federation.processes(*PROCESSES[process]):
            found.kill()

    def restart_site(self) -> None:
        self.clients["A"].kill_alone()
        self.clients["A"] = self.federation.client("A")

    def restart_server(self) -> None:
        self.server.kill_alone()
        left = PROCESSES["SuperLink"]
        wait_for(lambda: self.federation.processes(*left) == [], 60, self.federation.everything)
        time.sleep(1)
        self.server = self.federation.server("--resume")

    def cut(self, name: str, seconds: float) -> None:
        self.federation.links[name].cut()
        time.sleep(seconds)
        self.federation.links[name].mend()

    def tear(self, name: str) -> None:
        self.federation.links[name].tear()

    def suspend(self, seconds: float, *commands: Command) -> None:
        with contextlib.ExitStack() as stack:
            for command in commands:
                stack.enter_context(command.suspended())
            time.sleep(seconds)

    def faults(self, chance: random.Random, *, of_the_server: bool) -> list[tuple[str, Callable[[], None]]]:
        """Everything that can happen to site A and the links and, where asked, to the server's processes."""
        kills = list(PROCESSES if of_the_server else AT_A_SITE)
        faults: list[tuple[str, Callable[[], None]]] = [
            (f"{name} killed", lambda name=name: self.kill(name))  # type: ignore[misc]
            for name in kills
        ]
        seconds = chance.uniform(1, 40)
        faults += [(f"A cut off for {seconds:.0f} s", lambda: self.cut("A", seconds))]
        faults += [
            (f"A suspended for {2 * seconds:.0f} s", lambda: self.suspend(2 * seconds, self.clients["A"]))
        ]
        faults += [(f"{name}'s connections torn", lambda name=name: self.tear(name)) for name in "AB"]  # type: ignore[misc]
        faults += [("client.run of A killed", self.restart_site)]
        if of_the_server:
            faults += [("server.run killed", self.restart_server)]
            everyone = [self.server, *self.clients.values()]
            faults += [
                (f"everyone suspended for {2 * seconds:.0f} s", lambda: self.suspend(2 * seconds, *everyone))
            ]
        return faults


@pytest.fixture
def disturbed(tmp_path: Path) -> Iterator[Disturbed]:
    federation = Federation(tmp_path, rounds=ROUNDS, linked=True)
    yield Disturbed(federation)
    federation.end()


def test_nothing_is_lost_wrong_leaked_or_growing(disturbed: Disturbed) -> None:
    federation = disturbed.federation
    chance = random.Random(ROUNDS)  # the same faults every time
    happened: dict[str, int] = defaultdict(int)
    memory: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    disk: dict[str, list[float]] = defaultdict(list)
    begun = time.monotonic()
    for number in range(1, ROUNDS + 1):
        text = f"round {number}: training"
        wait_for(
            lambda number=number, text=text: text in federation.log("A") or disturbed.rounds() >= number,  # type: ignore[misc]
            400,
            federation.everything,
        )
        # In the second half the server's processes and site B's live on, so that growth can be seen.
        first_half = number <= ROUNDS // 2
        if number < ROUNDS and chance.random() < (0.6 if first_half else 0.3):
            time.sleep(chance.uniform(0, 4))
            name, fault = chance.choice(disturbed.faults(chance, of_the_server=first_half))
            happened[name.partition(" for ")[0]] += 1
            fault()
        wait_for(
            lambda number=number: disturbed.rounds() >= number,  # type: ignore[misc]
            400,
            federation.everything,
        )
        if not first_half:
            for role, marks in WATCHED.items():
                for process in federation.processes(*marks):
                    memory[role].append((process.pid, process.memory_info().rss / 2**20, process.num_fds()))
            for part, used in sizes(federation.folder).items():
                disk[part].append(used / 2**20)
    assert disturbed.server.wait(400) == 0, federation.everything()
    seconds = time.monotonic() - begun
    for client in disturbed.clients.values():
        client.interrupt()
        assert client.wait(30) == 0
    wait_for(lambda: processes_with(str(federation.folder)) == [], 20, federation.everything)

    report = [f"{ROUNDS} rounds in {seconds:.0f} s; {dict(sorted(happened.items()))}"]
    growing = []
    disk["everything"] = [sum(taken) for taken in zip(*disk.values(), strict=True)]
    for part, taken in disk.items():
        if warm := taken[WARM_UP:]:
            early, late = quarters(warm)
            report.append(f"disk of {part}: {early:.0f} → {late:.0f} MiB")
            # The logs and the record of each round; three quarters of the rounds lie between the medians.
            if part == "everything" and late - early >= 16 + 0.75 * 0.25 * len(warm):
                growing.append(report[-1])
    for role, samples in memory.items():
        lived = [sample for sample in samples if sample[0] == samples[-1][0]][WARM_UP:]
        if len(lived) < WARM_UP:
            continue
        resident = quarters([sample[1] for sample in lived])
        files = quarters([sample[2] for sample in lived])
        line = f"{role}: {len(lived)} rounds, {resident[0]:.0f} → {resident[1]:.0f} MiB, "
        line += f"{files[0]:.0f} → {files[1]:.0f} files"
        report.append(line)
        if resident[1] > 1.1 * resident[0] + 8 or files[1] > files[0] + 8:
            growing.append(line)
    print("\n".join(report))  # noqa: T201  # the figures, with -rP

    records = [json.loads(line) for line in (federation.run / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == list(range(1, ROUNDS + 1))
    assert all(record["answered"] == ["A", "B"] for record in records)
    fresh = {name: site(federation.folder, name, state=federation.folder / "fresh" / name) for name in "AB"}
    undisturbed = run_in_process(fresh, federation.config, federation.folder / "undisturbed")
    assert (federation.run / "model.safetensors").read_bytes() == undisturbed.model.read_bytes()
    assert growing == []


def quarters(samples: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last quarter."""
    part = max(1, len(samples) // 4)
    return statistics.median(samples[:part]), statistics.median(samples[-part:])


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of all files there: the depot's, and the rest."""
    found = {"the depot": 0, "all else": 0}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            part = "the depot" if "depot" in path.parts else "all else"
            found[part] += path.stat().st_size if path.is_file() else 0
    return found
