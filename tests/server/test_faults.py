"""Faults between a real server and a real site: each is said where somebody can mend it, and then all goes on."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
from loopback import Federation
from processes import REPOSITORY, wait_for

pytestmark = pytest.mark.timeout(120)

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


def test_every_test_that_the_fault_matrix_names_exists() -> None:
    page = (REPOSITORY / "docs" / "FAULTS.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert named
    for path, name in named:
        tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{path}::{name}"
        )
