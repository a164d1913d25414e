"""Faults between a real server and a real site: each is said where somebody can mend it, and then all goes on."""

from __future__ import annotations

import ast
import os
import re
import shutil
from pathlib import Path

import pytest
from loopback import Federation
from processes import REPOSITORY, wait_for

from acm_core.audit_events import PeerRefused
from acm_core.audit_log import verify

pytestmark = pytest.mark.timeout(400)

# Python runs this at the start of each of the site's processes.
CLOCK = """
import time
true = time.time
time.time = lambda: true() + {seconds}
"""


@pytest.mark.slow
def test_a_wrong_clock_is_said_and_a_right_one_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Federation(tmp_path, rounds=1)
    try:
        running.server()
        for seconds, said in ((60, "s ahead of the server's"), (-400, "s behind the server's")):
            folder = tmp_path / f"clock{seconds}"
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds), encoding="utf-8")
            with monkeypatch.context() as changed:
                changed.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
                wrong = running.client("A")
            wait_for(lambda text=said, site=wrong: text in site.text(), 60, running.everything)  # type: ignore[misc]
            assert "set this machine's clock by NTP" in wrong.text()
            wrong.end()
        right = running.client("A")
        wait_for(lambda: "answers; waiting for tasks" in right.text(), 60, running.everything)
        assert "NTP" not in right.text()
    finally:
        running.end()


@pytest.mark.slow
def test_a_copy_of_a_sites_state_folder_is_not_served_beside_it(tmp_path: Path) -> None:
    running = Federation(tmp_path, rounds=1)
    try:
        settings = running.folder / "federation.yaml"
        patient = settings.read_text(encoding="utf-8").replace("join_deadline: 60.0", "join_deadline: 300.0")
        settings.write_text(patient, encoding="utf-8")
        server = running.server()
        running.client("A")
        wait_for(lambda: "waiting for B (to join" in server.text(), 60, running.everything)

        shutil.copytree(tmp_path / "state" / "A", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        file = (tmp_path / "sites" / "A.yaml").read_text(encoding="utf-8")
        (tmp_path / "copies").mkdir()
        (tmp_path / "copies" / "A.yaml").write_text(
            file.replace(str(tmp_path / "state" / "A"), str(tmp_path / "copy")), encoding="utf-8"
        )
        copy = running._start(["client.run", "--site=A", "--sites", str(tmp_path / "copies")])
        wait_for(lambda: "another client.run with this site's key" in copy.text(), 100, running.everything)
        refused = [row.event for row in verify(tmp_path / "server_state" / "audit").rows]
        assert "another_instance" in {event.reason for event in refused if isinstance(event, PeerRefused)}

        running.client("B")
        assert server.wait(120) == 0, running.everything()
        assert "training on" in running.log("A")
        assert not (tmp_path / "copy" / "link" / "replies").exists()
    finally:
        running.end()


def test_every_test_that_the_fault_matrix_names_exists() -> None:
    page = (REPOSITORY / "docs" / "FAULTS.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert named
    for path, name in named:
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{path}::{name}"
        )
