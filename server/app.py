"""Flower's ServerApp: what the SuperLink starts. The run's folder comes from the process that started the SuperLink."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from acm_core.config.loading import load_config
from acm_core.config.sections import FederationConfig
from acm_core.processes import end_with_parent
from server.link.superlink import AUDIT_VARIABLE, DEPOT_VARIABLE, REGISTRY_VARIABLE, RUN_FOLDER_VARIABLE

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower calls it with both
    """Execute or continue the run whose folder the environment names."""
    end_with_parent()
    from acm_core.audit_log import AuditLog
    from server.link.depot import Depot
    from server.link.flower_transport import FlowerTransport
    from server.round.federation import FederatedRun
    from server.round.run_folder import RunFolder

    folder = RunFolder(Path(os.environ[RUN_FOLDER_VARIABLE]))
    config = load_config(folder.config, FederationConfig)
    audit = AuditLog(Path(os.environ[AUDIT_VARIABLE]))
    transport = FlowerTransport(
        grid,
        config.federation.sites,
        Depot(Path(os.environ[DEPOT_VARIABLE])),
        Path(os.environ[REGISTRY_VARIABLE]),
    )
    run = FederatedRun(transport, config, folder, audit)
    run.execute(resume=folder.state.exists())
