"""The sites of a run: who is there, who is asked, how long it takes, what is taken in.

It knows no network, only a Transport.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

from acm_core.arrays import Arrays, fingerprint
from acm_core.audit_events import ReplyFault
from acm_core.federated.encoding import EncodingError
from acm_core.federated.messages import MessageError, Refusal, Reply, Task
from acm_core.federated.update import UpdateRefused
from server.round import events
from server.round.event_log import EventLog
from server.round.site import Asked, Site
from server.round.transport import Answer, Transport

_POLL_SECONDS = 0.2
# A look for replies is followed by a pause so many times as long.
_SHORTEST_POLL_SECONDS, _POLL_PAUSE = 0.02, 4.0
_REMIND_SECONDS = 30.0

Accept = Callable[[Reply], None]
"""Takes an answer in, or raises UpdateRefused, EncodingError or MessageError."""


@dataclass(frozen=True)
class Outcome:
    """What came of asking the sites to do one task."""

    sites: Sequence[Asked]

    @property
    def asked(self) -> list[str]:
        """Sites to which a message went out."""
        return [one.site.name for one in self.sites if one.was_asked]

    @property
    def answered(self) -> dict[str, Reply]:
        """Site → what was taken in, without arrays."""
        return {one.site.name: one.reply for one in self.sites if one.reply is not None}

    @property
    def refused(self) -> dict[str, str]:
        """Site → why nothing was taken in."""
        return {one.site.name: one.refusal.value for one in self.sites if one.refusal is not None}

    @property
    def missing(self) -> list[str]:
        """Sites that neither answered nor refused."""
        return [one.site.name for one in self.sites if one.silent]

    @property
    def moved(self) -> dict[str, int]:
        """Bytes."""
        return {
            "sent": sum(one.bytes_sent for one in self.sites),
            "received": sum(one.bytes_received for one in self.sites),
        }

    @property
    def reasons(self) -> str:
        """Why sites are not among those that answered, in a sentence."""
        refused = "; ".join(f"{site} refused: {reason}" for site, reason in sorted(self.refused.items()))
        missing = f"no answer from {', '.join(self.missing)}" if self.missing else ""
        return ". ".join(part for part in (refused, missing) if part) + "."


class Sites:
    """The sites of a run over a transport.

    Args:
        transport: the connection to them.
        names: of all that the run asks.
        events: where to tell what happens.
    """

    def __init__(self, transport: Transport, names: Sequence[str], events: EventLog) -> None:
        self._transport, self._events = transport, events
        self._sites = [Site(name) for name in names]

    def __len__(self) -> int:
        return len(self._sites)

    def wait(self, enough: Callable[[int], bool], seconds: float) -> list[str]:
        """Wait until `enough` sites are there, or the time is up; the names of those that are not."""
        started, reminded = time.monotonic(), 0.0
        said: list[str] | None = None
        while True:
            self._look()
            absent = [site.name for site in self._sites if site.connection is None]
            left = seconds - ((now := time.monotonic()) - started)
            if enough(len(self) - len(absent)) or left <= 0:
                return absent
            if absent != said or now - reminded >= _REMIND_SECONDS:
                said, reminded = absent, now
                self._events.tell(events.Waiting(task="join", round=0, sites=absent, seconds=left))
            time.sleep(_POLL_SECONDS)

    def have_last(self, names: Collection[str]) -> None:
        """These have the last round's model, and no others."""
        for site in self._sites:
            site.has_last = site.name in names

    def ask(
        self,
        task: Task,
        seconds: float,
        accept: Accept,
        *,
        quorum: int,
        whole: Callable[[], Arrays] = dict,
        short: Arrays | None = None,
    ) -> Outcome:
        """Send `task` to every connected site and take replies until all have come or the time is up.

        A site that reconnects, or whose process ended before it answered, is asked again; one that was away may still
        join. The wait ends early when nobody who was asked is still at work and at least `quorum` sites have answered.

        Args:
            whole: makes the model to send, encoded for a receiver that has none; called where a site needs it.
            short: what to send instead to the sites that have the last round's model, until they refuse a task.
        """
        whole = cache(whole)
        sites = {site.name: Asked(site) for site in self._sites}
        outcome = Outcome(list(sites.values()))
        started = reminded = time.monotonic()
        while (now := time.monotonic()) - started < seconds:
            self._look()
            due = [one for one in outcome.sites if one.due]
            having = [] if short is None else [one for one in due if one.site.has_last]
            if others := [one for one in due if one not in having]:
                self._send(replace(task, arrays=whole()), others, seconds)
            if having and short is not None:
                self._send(replace(task, arrays=short), having, seconds)
            tickets = [one.ticket for one in outcome.sites if one.at_work and one.ticket]
            for answer in self._transport.receive(tickets):
                self._take(task, answer, accept, sites[answer.ticket.site], time.monotonic() - started)
                del answer  # it holds a model, and the next one is unpacked before this name is bound to it
            if _is_over(outcome, quorum):
                break
            if now - reminded >= _REMIND_SECONDS:
                reminded = now
                left = seconds - (now - started)
                self._events.tell(
                    events.Waiting(task=task.kind, round=task.round, sites=outcome.missing, seconds=left)
                )
            pause = _POLL_PAUSE * (time.monotonic() - now)
            time.sleep(min(max(pause, _SHORTEST_POLL_SECONDS), _POLL_SECONDS))
        for one in outcome.sites:
            if one.was_asked and one.silent:
                self._events.tell(events.SiteMissing(task=task.kind, round=task.round, site=one.site.name))
        return outcome

    def _look(self) -> None:
        """Who is there now, and over which connection."""
        connected = self._transport.connected()
        for site in self._sites:
            before, site.connection = site.connection, connected.get(site.name)
            if before is None and site.connection is not None:
                self._events.tell(events.SiteConnected(site=site.name))
            elif before is not None and site.connection is None:
                self._events.tell(events.SiteDisconnected(site=site.name))

    def _send(self, task: Task, receivers: Sequence[Asked], seconds: float) -> None:
        """Tell, then send: the audit log has it before it goes out, and the sites write the log's head down."""
        sites = {one.site.name: one for one in receivers}
        model = fingerprint(task.arrays) if task.arrays else None
        size = sum(array.nbytes for array in task.arrays.values())
        head = self._events.tell(
            events.TaskSent(task=task.kind, round=task.round, sites=tuple(sites), model=model, bytes=size)
        )
        connections = {name: one.site.connection for name, one in sites.items() if one.site.connection}
        for ticket in self._transport.send(replace(task, audit=head or ""), connections, seconds):
            sites[ticket.site].sent(ticket)

    def _take(self, task: Task, answer: Answer, accept: Accept, asked: Asked, seconds: float) -> None:
        reply, site = answer.reply, asked.site.name
        asked.came(answer.received_bytes)
        if (refused := _refused(task, reply, accept)) is not None:
            reason, detail = refused
            asked.refuse(reason)
            self._events.tell(
                events.SiteRefused(task=task.kind, round=task.round, site=site, reason=reason, detail=detail)
            )
            return
        digest, size = reply.content
        self._events.tell(
            events.SiteAnswered(
                task=task.kind,
                round=task.round,
                site=site,
                seconds=round(seconds, 1),
                films=reply.films,
                metrics=dict(reply.metrics),
                sha256=digest,
                bytes=size,
                site_head=reply.audit or None,
            )
        )
        asked.take(reply)


def _is_over(outcome: Outcome, quorum: int) -> bool:
    """Nobody is at work and enough have answered; or everybody has answered or refused for good."""
    again = [one for one in outcome.sites if one.to_be_asked_again]
    if len(outcome.answered) >= quorum:
        return not any(one.at_work for one in outcome.sites) and not any(one.site.connection for one in again)
    return not outcome.missing and not again


def _refused(task: Task, reply: Reply, accept: Accept) -> tuple[events.Reason, str] | None:
    """Why a reply does not count, and the details; None where it was accepted."""
    if reply.refusal:
        code = reply.refusal
        return ReplyFault(code) if code in set(ReplyFault) else Refusal(code), ""
    if reply.round != task.round:
        return ReplyFault.WRONG_ROUND, f"expected round {task.round}, got {reply.round}"
    try:
        accept(reply)
    except UpdateRefused as refused:
        return refused.reason, refused.detail
    except (MessageError, EncodingError) as error:
        return ReplyFault.UNREADABLE, str(error)
    return None
