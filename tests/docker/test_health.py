"""A server's health as its container asks for it: among its own processes alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from consortium import found_federation
from hospitals import federation

from acm_core.config import dump_config
from acm_core.processes import free_port
from server.consortium.authority import ServerState

REPOSITORY = Path(__file__).resolve().parents[2]
HEALTH = f"{sys.executable} {REPOSITORY / 'docker' / 'health.py'}"
CONTAINED = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*CONTAINED, "true"], check=False).returncode != 0,
    reason="this machine permits no namespaces",
)


def contained(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CONTAINED, "sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_container_whose_command_does_not_run_is_not_healthy(side: str, tmp_path: Path) -> None:
    done = contained(f"{HEALTH} {side}", tmp_path)
    assert (done.returncode, done.stderr) == (1, f"RuntimeError: {side}.run does not run\n")


def test_a_server_is_healthy_when_sites_can_reach_it(tmp_path: Path) -> None:
    config = federation(server={"port": free_port()})
    (tmp_path / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
    found_federation(tmp_path, ())
    ServerState(tmp_path / "other").create("other", ["127.0.0.1"])
    done = contained(
        f"{sys.executable} -m server.run --config federation.yaml --state server_state --runs runs > out 2>&1 &\n"
        f"for i in $(seq 60); do {HEALTH} server 2> early && break; sleep 0.5; done; echo $?\n"
        f"cp other/ca.crt server_state/ca.crt; {HEALTH} server; echo $?",
        tmp_path,
    )
    assert done.stdout == "0\n1\n", (tmp_path / "out").read_text(encoding="utf-8")
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
