"""A federation as hospitals run it: one server process and one process a site, over loopback, with a crash."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hospitals import site
from in_process import run_in_process
from loopback import PROCESSES, Federation
from processes import processes_with, wait_for

from acm_core.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def two_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """On machines whose environment names proxies, as Docker sets them: nobody listens there."""
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://nurse:secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "[::1],10.0.0.0/8,fd00::/8,ü.hospital.example")
    running = Federation(tmp_path, rounds=2)
    yield running
    running.end()


def expect_no_secret_in_view(federation: Federation) -> None:
    """What stands in command lines and environments can be read by others on the machine, and is in crash reports."""
    state = federation.folder / "server_state"
    settings = json.loads((state / "superlink" / "settings.json").read_text(encoding="utf-8"))
    secrets = [settings["secret"]]
    for file in federation.folder.rglob("superexec.secret"):
        secret = file.read_bytes()
        secrets += [secret.hex(), base64.b64encode(secret).decode()]
    assert len(secrets) == 5
    keys = [path.read_text(encoding="utf-8") for path in federation.folder.rglob("*.key")]
    assert len(keys) >= 3
    hidden = [*secrets, *(line for key in keys for line in key.splitlines() if not line.startswith("-"))]
    seen = 0
    for process in federation.processes():
        try:
            view = [*process.cmdline(), *process.environ().values()]
        except psutil.NoSuchProcess:
            continue
        seen += 1
        assert "--token" not in view
        assert not [text for text in view if any(secret in text for secret in hidden)]
        # A token is a long text at random, and nothing else in a view is.
        assert not [text for text in view if re.fullmatch(r"[A-Za-z0-9_-]{40,}", text)]
    assert seen >= 8


def test_killed_sites_and_a_resumed_server_give_the_model_of_an_undisturbed_run(
    two_sites: Federation,
) -> None:
    # The clients are there before the server, as at a real start.
    clients = [two_sites.client("A"), two_sites.client("B")]
    wait_for(lambda: "cannot be reached yet: port" in clients[0].text(), 60, two_sites.everything)
    server = two_sites.server()

    # The process that carries site A's task dies; the site connects anew and is asked again.
    wait_for(lambda: two_sites.processes(*PROCESSES["ClientApp"]) != [], 120, two_sites.everything)
    expect_no_secret_in_view(two_sites)
    for process in two_sites.processes(*PROCESSES["ClientApp"]):
        process.kill()
    wait_for(
        lambda: "task ended without an answer: this site connects anew" in clients[0].text(),
        30,
        two_sites.everything,
    )

    # The one that does it dies; the site says so and is asked again.
    wait_for(lambda: "round 1: training" in two_sites.log("A"), 120, two_sites.everything)
    for process in two_sites.processes(*PROCESSES["worker"]):
        process.kill()
    wait_for(
        lambda: "does this site's tasks ended; started again" in clients[0].text(), 30, two_sites.everything
    )

    # The server application dies; the server says so and goes on.
    wait_for(lambda: two_sites.processes("flwr-serverapp") != [], 30, two_sites.everything)
    for process in two_sites.processes("flwr-serverapp"):
        process.kill()
    wait_for(lambda: "the server application ended (-9)" in server.text(), 30, two_sites.everything)

    # A site dies in a round and is started again: it is asked again in the same round.
    wait_for(lambda: "round 1: training" in two_sites.log("B"), 120, two_sites.everything)
    clients[1].kill()
    clients[1] = two_sites.client("B")

    # The server is stopped after a round and goes on with --resume.
    wait_for(lambda: "round 1 done" in server.text(), 200, two_sites.everything)
    server.interrupt()
    assert server.wait(60) == 130, two_sites.everything()
    again = two_sites.server()
    assert again.wait(30) == 2
    assert "already holds a run: continue it with --resume" in again.text()
    resumed = two_sites.server("--resume")
    assert resumed.wait(300) == 0, two_sites.everything()
    assert "resumed after round 1" in resumed.text()

    # Ctrl-C at a site ends all that it started.
    for client in clients:
        client.interrupt()
        assert client.wait(30) == 0
    assert processes_with(str(two_sites.folder)) == []

    records = [json.loads(line) for line in (two_sites.run / "rounds.jsonl").read_text().splitlines()]
    assert [(record["round"], record["attempt"]) for record in records] == [(1, 1), (2, 1)]
    assert all(record["answered"] == ["A", "B"] for record in records)
    assert set(json.loads((two_sites.run / "metrics.json").read_text())["sites"]) == {"A", "B"}
    assert {path.name for path in two_sites.run.iterdir()} >= {"config.yaml", "model_card.md", "tensorboard"}
    assert "AUROC" in resumed.text()
    fresh = {name: site(two_sites.folder, name, state=two_sites.folder / "fresh" / name) for name in "AB"}
    undisturbed = run_in_process(fresh, two_sites.config, two_sites.folder / "undisturbed")
    assert (two_sites.run / "model.safetensors").read_bytes() == undisturbed.model.read_bytes()
