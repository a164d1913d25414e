"""Flower's SuperLink as a child process, and the run that is started on it."""

from __future__ import annotations

import hashlib
import http.client
import sys
import time
from importlib.metadata import version
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from acm_core.processes import Child

RUN_FOLDER_VARIABLE = "ACM_FED_RUN_FOLDER"
_HEALTHY_SECONDS = 60.0

# The bundle names the applications and holds no code: the server and every site run what they installed themselves.
_BUNDLE = """
[project]
name = "acm-fed"
version = "{version}"
description = "Names the installed applications; holds no code."
license = {{ file = "LICENSE" }}
dependencies = ["flwr>={flower}"]

[tool.flwr.app]
publisher = "acm-fed"
fab-format-version = 1
flwr-version-target = "{flower}"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""


class SuperLinkError(RuntimeError):
    """The SuperLink did not start, or does not answer."""


def build_bundle() -> bytes:
    """The Flower app bundle: the same bytes wherever the same versions are installed."""
    text = _BUNDLE.format(version=version("acm-fed"), flower=version("flwr"))
    bundle, _ = build_fab_from_files(
        {
            "pyproject.toml": text.encode(),
            "LICENSE": b"Apache-2.0\n",
            "README.md": b"See the installed package.\n",
        }
    )
    return bundle


class SuperLink:
    """A SuperLink on a loopback address, from `__init__` to `stop`."""

    def __init__(self, host: str, port: int, folder: Path, logs: Path) -> None:
        self._host, self._port = host, port
        self._log = logs / "superlink.log"
        self._child = Child(
            [
                str(Path(sys.executable).parent / "flower-superlink"),
                "--insecure",
                "--host",
                host,
                "--port",
                str(port),
                "--disable-runtime-dependency-installation",
            ],
            self._log,
            {"FLWR_HOME": str(folder / "flower"), RUN_FOLDER_VARIABLE: str(folder)},
        )
        self._control: ControlHttpClient | None = None

    def wait_until_healthy(self) -> None:
        """Wait until the SuperLink answers.

        Raises:
            SuperLinkError: it ended or did not answer within a minute.
        """
        started = time.monotonic()
        while time.monotonic() - started < _HEALTHY_SECONDS:
            if self._child.exit_code is not None:
                raise SuperLinkError(
                    f"Flower's SuperLink ended with code {self._child.exit_code}: is port {self._port} taken? "
                    f"Its log: {self._log}"
                )
            if self._answers():
                return
            time.sleep(0.1)
        raise SuperLinkError(
            f"Flower's SuperLink did not answer within {_HEALTHY_SECONDS:.0f} s: see {self._log}"
        )

    def start_run(self) -> int:
        """Submit the run and return its Flower id."""
        bundle = build_bundle()
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        response = self._client().StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        return int(response.run_id)

    def ended(self, run: int) -> str | None:
        """Flower's word for how the run ended, or None while it goes on.

        Raises:
            SuperLinkError: the SuperLink itself ended.
        """
        if self._child.exit_code is not None:
            raise SuperLinkError(
                f"Flower's SuperLink ended with code {self._child.exit_code}: see {self._log}"
            )
        status = self._client().ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
        return str(status.sub_status) if status.status == "finished" else None

    def stop(self, run: int | None) -> None:
        """End the run, the SuperLink and all they started."""
        if self._control is not None:
            if run is not None and self._child.exit_code is None:
                self._control.StopRun(StopRunRequest(run_id=run))
            self._control.close()
        self._child.stop()

    def _client(self) -> ControlHttpClient:
        if self._control is None:
            self._control = ControlHttpClient.from_server_address(
                f"{self._host}:{self._port}",
                True,
                None,
                interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
            )
        return self._control

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()
