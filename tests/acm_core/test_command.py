"""A command goes on and keeps its exit code, whatever its output meets."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import REPOSITORY

PROGRAM = """
import sys
from pathlib import Path
from acm_core.command import run_command

def main() -> int:
    for number in range(3000):
        print("ε = 1 → 2 … Müller 肺", number)
    print("said", file=sys.stderr)
    Path("done").touch()
    return 7

run_command(main)
"""
STARTED_BY_OTHERS = {
    "acm_core/data/intake/worker.py",
    "client/link/applications.py",
    "client/worker.py",
    "server/link/program.py",
    "simulations/benchmark/instant_worker.py",
    "simulations/benchmark/quickstart.py",
}


def run(folder: Path, redirected: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    line = f'set -o pipefail; "{sys.executable}" program.py {redirected}'
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_has_not_is_written_by_what_it_has(tmp_path: Path, encoding: str) -> None:
    ended = run(tmp_path, "", encoding)
    assert (ended.returncode, ended.stderr) == (7, b"said\n")
    line = ended.stdout.decode(encoding).splitlines()[-1]
    whole = {
        "ascii": "epsilon = 1 -> 2 ... M?ller ? 2999",
        "latin-1": "epsilon = 1 -> 2 ... Müller ? 2999",
        "cp1252": "epsilon = 1 -> 2 … Müller ? 2999",
        "utf-8": "ε = 1 → 2 … Müller 肺 2999",
    }
    assert line == whole[encoding]


@pytest.mark.parametrize("redirected", ["| head -1", "> /dev/full", ">&-", ">&- 2>&-", "2>&1 | true"])
def test_an_output_that_takes_nothing_ends_nothing(tmp_path: Path, redirected: str) -> None:
    ended = run(tmp_path, redirected)
    assert ended.returncode == 7
    assert (tmp_path / "done").exists()
    assert b"Traceback" not in ended.stderr + ended.stdout


def test_each_command_runs_so() -> None:
    found = set()
    for house in ("acm_core", "client", "server", "simulations"):
        for path in (REPOSITORY / house).rglob("*.py"):
            last = ast.parse(path.read_text(encoding="utf-8")).body[-1:]
            text = ast.unparse(last[0]) if last and isinstance(last[0], ast.If) else ""
            if "__main__" in text and "run_command(main" not in text:
                found.add(path.relative_to(REPOSITORY).as_posix())
    assert found == STARTED_BY_OTHERS
