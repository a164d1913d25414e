"""A canary: the newest Flower that pip finds is tried, so that a change of its insides is known before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
from processes import REPOSITORY

TRIED = ("tests/server/link/test_flower_transport.py", "tests/client/link/test_gateway.py")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_newest_flower_serves_as_well(tmp_path: Path) -> None:
    """It does not fail where a newer Flower does not serve: it says so."""
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
        "flwr",
    ]
    try:
        subprocess.run(install, check=True, capture_output=True, timeout=100)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("pip finds no Flower here")
    (newest,) = distributions(name="flwr", path=[str(tmp_path)])
    if newest.version == version("flwr"):
        pytest.skip(f"the newest Flower, {newest.version}, is the one that is installed")
    tried = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *TRIED]
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        tried,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.xfail(f"Flower {newest.version} does not serve yet: {done.stdout[-2000:]}")
    assert " passed" in done.stdout
