"""The federation on Flower's Ray simulation: the server's round loop and the sites' rounds as they are."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from acm_core.config.sections import FederationConfig, SiteConfig
from acm_core.processes import OFFLINE

os.environ.update(OFFLINE)  # read by Flower and Ray when they are imported
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a late call must not start Ray again after its end
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # the sites may share a GPU that Ray does not deal out

import ray
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from client.app import make_app
from server.federation import FederatedRun
from server.flower_transport import FlowerTransport
from server.run_folder import RunFolder
from server.transport import Connection


class SimulationStoppedError(RuntimeError):
    """The simulation was interrupted."""


class _SimulatedTransport(FlowerTransport):
    """Simulated sites have no names: Flower makes their nodes in the order of the sites.

    The round loop runs in a thread of its own: here it learns of Ctrl-C.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], stop: threading.Event) -> None:
        super().__init__(grid, sites)
        self._order, self._stop = sites, stop

    def connected(self) -> dict[str, Connection]:
        if self._stop.is_set():
            raise SimulationStoppedError("interrupted; continue with --resume")
        nodes = sorted(self._grid.get_nodes(), key=lambda node: node.registered_at)
        if len(nodes) < len(self._order):
            return {}
        return {site: Connection(node.node_id) for site, node in zip(self._order, nodes, strict=True)}


def simulate(
    config: FederationConfig,
    sites: dict[str, SiteConfig],
    folder: RunFolder,
    *,
    processes: int,
    resume: bool,
) -> dict[str, Any]:
    """Run the federation with `processes` sites at a time and return what stands in metrics.json.

    Raises:
        RunFailedError, ResumeError: as FederatedRun.execute.
        KeyboardInterrupt: after the round loop has stopped.
    """
    stop = threading.Event()
    ended = threading.Event()
    results: dict[str, Any] = {}
    failures: list[Exception] = []
    server_app = ServerApp()
    order = [sites[name] for name in config.federation.sites]

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower calls it with both
        try:
            run = FederatedRun(_SimulatedTransport(grid, config.federation.sites, stop), config, folder)
            results.update(run.execute(resume=resume))
        except Exception as error:
            failures.append(error)
        finally:
            ended.set()

    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _told(stop):
            run_simulation(
                server_app=server_app,
                client_app=make_app(_SitesByPartition(order)),
                num_supernodes=len(order),
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                    "init_args": {
                        "num_cpus": processes,
                        "logging_level": "error",
                        "log_to_driver": False,
                        "include_dashboard": False,
                    },
                },
            )
    except KeyboardInterrupt:
        stop.set()
        ended.wait(timeout=60)
        raise
    finally:
        ray.shutdown()
    if failures:
        raise failures[0]
    return results


@contextmanager
def _told(stop: threading.Event) -> Iterator[None]:
    """Set `stop` with the signal itself: Flower ends Ray first, and its sites would be lost to a round that goes on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def tell(number: int, frame: FrameType | None) -> None:
        stop.set()
        if callable(handler := former[signal.Signals(number)]):
            handler(number, frame)

    for number in former:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _SitesByPartition:
    """Flower numbers the simulated nodes; the number picks the site."""

    def __init__(self, sites: list[SiteConfig]) -> None:
        self._sites = sites

    def __call__(self, context: Context) -> SiteConfig:
        from client.site_log import open_site_log

        site = self._sites[int(str(context.node_config["partition-id"]))]
        open_site_log(site.state)
        return site
