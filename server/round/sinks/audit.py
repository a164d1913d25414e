"""The server's audit log: what is asked, taken and refused, in rows whose head travels with the next task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from acm_core import audit_events as rows
from acm_core.audit_events import ReplyFault
from acm_core.audit_log import AuditLog
from acm_core.config.sections import FederationConfig
from acm_core.federated.messages import Refusal
from acm_core.federated.update import RefusalReason
from server.round import events
from server.round.events import Event
from server.round.sinks import Run


def open_sink(run: Run) -> AuditRows | None:
    """None where the run has no audit log."""
    return None if run.audit is None else AuditRows(run.audit, run.config)


class AuditRows:
    """Appends the rows that an event gives.

    Args:
        config: the run.
    """

    def __init__(self, log: AuditLog, config: FederationConfig) -> None:
        self._log, self._run = log, config.name
        self._config = hashlib.sha256(config.for_sites().encode()).hexdigest()

    def take(self, event: Event) -> str | None:
        """Write an event down.

        Raises:
            AuditError: the log does not take it.
        """
        head = None
        for row in self._rows(event):
            head = self._log.append(row).hash
        return head

    def _rows(self, event: Event) -> Iterator[rows.AnyEvent]:
        run = self._run
        match event:
            case events.RunStarted():
                yield rows.RunStarted(
                    run=run, config=self._config, sites=len(event.sites), rounds=event.rounds
                )
            case events.RunResumed():
                yield rows.RunResumed(run=run, config=self._config, round=event.round)
            case events.RunFinished():
                yield rows.RunFinished(run=run, round=event.round, model=event.model)
            case events.RunFailed():
                yield rows.RunFailed(run=run, round=event.round, reason=event.reason)
            case events.SiteConnected():
                yield rows.SiteConnected(site=event.site, address=None)
            case events.SiteDisconnected():
                yield rows.SiteDisconnected(site=event.site)
            case events.TaskSent():
                for site in sorted(event.sites):
                    yield rows.TaskSent(**self._about(event), site=site, model=event.model, bytes=event.bytes)
            case events.SiteAnswered():
                yield rows.ReplyTaken(
                    **self._about(event),
                    site=event.site,
                    sha256=event.sha256,
                    bytes=event.bytes,
                    films=event.films,
                    site_head=event.site_head,
                )
            case events.SiteRefused(reason=Refusal() as reason):
                yield rows.SiteRefused(**self._about(event), site=event.site, reason=reason)
            case events.SiteRefused(reason=RefusalReason() | ReplyFault() as reason):
                yield rows.ReplyRefused(**self._about(event), site=event.site, reason=reason)
            case events.SiteMissing():
                yield rows.SiteMissing(**self._about(event), site=event.site)

    def _about(self, event: events.OfTask) -> dict[str, Any]:
        return {"run": self._run, "round": event.round, "task": event.task}
