"""Who takes a run's events as they happen: a file each, with `open_sink`, found here by being here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from acm_core.audit_log import AuditLog
from acm_core.config.sections import FederationConfig
from server.round.events import Sink
from server.round.run_folder import RunFolder


class Run(NamedTuple):
    """The run whose events a sink takes.

    Attributes:
        audit: the server's audit log; None in a simulation, which has none.
    """

    config: FederationConfig
    folder: RunFolder
    audit: AuditLog | None


def open_sinks(run: Run) -> list[Sink]:
    """Those that this run has, by name: the audit log is first, and what it cannot take goes no further."""
    modules = sorted(found.name for found in iter_modules(__path__))
    sinks = (import_module(f"{__name__}.{module}").open_sink(run) for module in modules)
    return [sink for sink in sinks if sink is not None]
