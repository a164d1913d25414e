"""A site's answers, each written down in its audit log before it leaves."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from pydantic import ValidationError

from acm_core.arrays import fingerprint
from acm_core.audit_events import ClientStarted, Left, PolicyChanged, TaskReceived, TaskRefused
from acm_core.audit_log import AuditError, AuditLog, audit_folder
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import Refusal, Reply, Task
from client.round.policy import permits_digest
from client.site.membership import SitePlace

log = logging.getLogger("acm_fed.client")


def answer_audited(task: Task, site: SiteConfig, answer: Callable[[Task], Reply]) -> Reply:
    """The reply to `task`, with the head of the log that holds its hash; where that cannot be written, a refusal."""
    audit, run = AuditLog(audit_folder(site.state)), _run_name(task)
    try:
        _note_policy(audit, site)
        audit.append(
            TaskReceived(
                run=run,
                round=task.round,
                task=task.kind,
                config=hashlib.sha256(task.config.encode()).hexdigest(),
                model=fingerprint(task.arrays) if task.arrays else None,
                bytes=sum(array.nbytes for array in task.arrays.values()),
                server_head=task.audit or None,
            )
        )
        reply = answer(task)
        if reply.refusal:
            line = reply.refusal if reply.refusal.startswith("policy.") else None
            reason = Refusal(reply.refusal)
            refused = TaskRefused(run=run, round=task.round, task=task.kind, reason=reason, policy=line)
            return replace(reply, audit=audit.append(refused).hash)
        digest, size = reply.content
        left = Left(
            run=run or "",
            round=task.round,
            task=task.kind,
            sha256=digest,
            bytes=size,
            fields=_fields(reply),
            epsilon=reply.metrics.get("epsilon"),
        )
        return replace(reply, audit=audit.append(left).hash)
    except AuditError as error:
        log.error("round %d: %s refused: %s", task.round, task.kind, error)  # noqa: TRY400  # the text says it all
        return Reply(site.site, task.round, refusal=Refusal.STORAGE)


def _note_policy(audit: AuditLog, site: SiteConfig) -> None:
    """Write down that the site's file, which is read for each task, permits something else than it last did."""
    policy, last = permits_digest(site), audit.newest(ClientStarted, PolicyChanged)
    if isinstance(last, ClientStarted | PolicyChanged) and last.policy != policy:
        audit.append(PolicyChanged(policy=policy))


def refuse_unread(site: SitePlace, error: Exception) -> Reply:
    """The reply to a message that is no task."""
    log.error("a message of the server is refused: %r", error)
    refused = TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None)
    try:
        head = AuditLog(audit_folder(site.state)).append(refused)
    except AuditError as broken:
        log.error("%s", broken)  # noqa: TRY400  # the text says it all
        return Reply(site.site, refusal=Refusal.STORAGE)
    return Reply(site.site, refusal=Refusal.POLICY, audit=head.hash)


def _run_name(task: Task) -> str | None:
    try:
        return FederationConfig.model_validate_json(task.config).name
    except ValidationError:
        return None


def _fields(reply: Reply) -> tuple[str, ...]:
    """Names of what is in a reply: its fields that say something, and its figures."""
    said = {name for name, value in reply.to_wire().items() if value not in ("", 0)} - {"metrics"}
    figures = {f"metrics.{name}" for name in reply.metrics}
    return tuple(sorted(said | figures | ({"arrays"} if reply.arrays else set())))
