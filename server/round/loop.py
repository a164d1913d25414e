"""The round loop: who is asked, how long it waits, what is taken in. It knows no network, only a Transport."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from acm_core.arrays import Arrays, fingerprint
from acm_core.audit_events import (
    AnyEvent,
    ReplyFault,
    ReplyRefused,
    ReplyTaken,
    SiteConnected,
    SiteDisconnected,
    SiteMissing,
    SiteRefused,
    TaskSent,
)
from acm_core.audit_log import AuditLog
from acm_core.config.sections import FederationConfig
from acm_core.federated.encoding import (
    BaseMismatchError,
    EncodingError,
    LayoutMismatchError,
    decode,
    encode,
)
from acm_core.federated.messages import MessageError, Refusal, Reply, Task, TaskKind
from acm_core.federated.robust import make_aggregation
from acm_core.federated.rule import AggregationRule
from acm_core.federated.server_step import make_server_step, moving_average
from acm_core.federated.update import MAX_GROWTH, RefusalReason, SiteUpdate, UpdateRefused
from server.round.events import EventLog
from server.round.state import RoundState
from server.round.transport import Answer, Connection, Ticket, Transport

_POLL_SECONDS = 0.2
# A look for replies is followed by a pause so many times as long.
_SHORTEST_POLL_SECONDS, _POLL_PAUSE = 0.02, 4.0
_REMIND_SECONDS = 30.0
_TRIES_OF_LOST = 3


class RunFailedError(RuntimeError):
    """The run cannot go on; the message names the sites and what to do."""


@dataclass
class Outcome:
    """What came of asking the sites to do one task."""

    asked: set[str] = field(default_factory=set)
    answered: dict[str, Reply] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def moved(self) -> dict[str, int]:
        """Bytes."""
        return {"sent": self.bytes_sent, "received": self.bytes_received}

    def missing(self, sites: Collection[str]) -> list[str]:
        """Sites that neither answered nor refused."""
        return [site for site in sites if site not in self.answered and site not in self.refused]


class RoundLoop:
    """Runs rounds of federated averaging over a transport.

    Args:
        transport: the connection to the sites.
        config: the run.
        finding_rows: names of the arrays whose first axis is the finding.
        events: where to say what happens.
        audit: where to write down what is asked and taken; a simulation has none.
    """

    def __init__(
        self,
        transport: Transport,
        config: FederationConfig,
        finding_rows: frozenset[str],
        events: EventLog,
        audit: AuditLog | None = None,
    ) -> None:
        self._transport = transport
        self._config = config
        self._sites = config.federation.sites
        self._quorum = config.federation.quorum
        self._finding_rows = finding_rows
        self._step = make_server_step(config.federation.server_step, finding_rows)
        self._events, self._audit = events, audit
        self._here: set[str] = set()
        self._difference: Arrays | None = None
        self._have: set[str] = set()
        self._config_json = config.for_sites()

    def wait_for_sites(self) -> None:
        """Wait until every site is connected, or go on with a quorum when the join deadline has passed.

        Raises:
            RunFailedError: fewer than a quorum of sites connected in time; the absent ones are named.
        """
        self._wait(lambda absent: not absent)

    def run(self, state: RoundState, save: Callable[[RoundState], None]) -> RoundState:
        """Train from `state` to the last round.

        Args:
            save: called with every new state before the next round starts.

        Raises:
            RunFailedError: a round stayed below quorum in every attempt.
        """
        while state.round < self._config.federation.rounds:
            state = self._round(state)
            save(state)
            # Said only now: whoever reads "done" may stop the server and count on --resume.
            self._events.write("round_finished", **state.records[-1])
        return state

    def ask(
        self,
        task: Task,
        seconds: float,
        accept: Callable[[Reply], None],
        *,
        quorum: int,
        whole: Callable[[], Arrays] = dict,
        short: Arrays | None = None,
    ) -> Outcome:
        """Send `task` to every connected site and take replies until all have come or the time is up.

        A site that reconnects, or whose process ended before it answered, is asked again; one that was away may still
        join. The wait ends early when nobody who was asked is still at work and at least `quorum` sites have answered.

        Args:
            accept: takes an answer in, or raises UpdateRefused, EncodingError or MessageError.
            whole: makes the model to send, encoded for a receiver that has none; called where a site needs it.
            short: what to send instead to the sites that have the last round's model, until they refuse a task.
        """
        outcome = Outcome()
        whole = cache(whole)
        tickets: dict[str, Ticket] = {}
        working: set[str] = set()
        lost: Counter[str] = Counter()
        started = reminded = time.monotonic()
        while (now := time.monotonic()) - started < seconds:
            connected = self._connected()
            fresh = {
                site: connected[site]
                for site in self._sites
                if site in connected
                and (site not in tickets or tickets[site].connection != connected[site])
                and site not in outcome.answered
            }
            for ticket in self._send(task, whole, short, fresh, seconds) if fresh else ():
                tickets[ticket.site] = ticket
                working.add(ticket.site)
                outcome.asked.add(ticket.site)
                outcome.refused.pop(ticket.site, None)
                outcome.bytes_sent += ticket.sent_bytes
            for answer in self._transport.receive([tickets[site] for site in sorted(working)]):
                site = answer.ticket.site
                working.discard(site)
                if answer.reply.refusal:
                    self._have.discard(site)
                again = answer.reply.refusal in (Refusal.LOST, Refusal.BASE)
                if again and lost[site] < _TRIES_OF_LOST:
                    lost[site] += 1
                    del tickets[site]
                outcome.bytes_received += answer.received_bytes
                self._take(task, answer, accept, outcome, time.monotonic() - started)
                del answer  # it holds a model, and the next one is unpacked before this name is bound to it
            missing = outcome.missing(self._sites)
            waiting = [site for site in outcome.refused if site not in tickets]
            if len(outcome.answered) >= quorum:
                if not working and not any(site in connected for site in waiting):
                    break
            elif not missing and not waiting:
                break
            if now - reminded >= _REMIND_SECONDS:
                reminded = now
                self._events.write(
                    "waiting",
                    task=task.kind,
                    round=task.round,
                    sites=missing,
                    seconds=seconds - (now - started),
                )
            pause = _POLL_PAUSE * (time.monotonic() - now)
            time.sleep(min(max(pause, _SHORTEST_POLL_SECONDS), _POLL_SECONDS))
        for site in outcome.asked.intersection(outcome.missing(self._sites)):
            self._note(SiteMissing(run=self._config.name, round=task.round, task=task.kind, site=site))
        return outcome

    def _connected(self) -> dict[str, Connection]:
        connected = self._transport.connected()
        for site in connected.keys() - self._here:
            self._note(SiteConnected(site=site, address=None))
        for site in self._here - connected.keys():
            self._note(SiteDisconnected(site=site))
        self._here = set(connected)
        return connected

    def _send(
        self,
        task: Task,
        whole: Callable[[], Arrays],
        short: Arrays | None,
        sites: dict[str, Connection],
        seconds: float,
    ) -> list[Ticket]:
        having = {} if short is None else {site: sites[site] for site in sites.keys() & self._have}
        others = {site: connection for site, connection in sites.items() if site not in having}
        tickets = self._send_noted(replace(task, arrays=whole()), others, seconds) if others else []
        if short is not None and having:
            tickets += self._send_noted(replace(task, arrays=short), having, seconds)
        return tickets

    def _send_noted(self, task: Task, sites: dict[str, Connection], seconds: float) -> list[Ticket]:
        """Write down, then send: the sites write the log's head down in turn."""
        if self._audit is not None:
            model = fingerprint(task.arrays) if task.arrays else None
            size = sum(array.nbytes for array in task.arrays.values())
            for site in sorted(sites):
                sent = TaskSent(
                    run=self._config.name,
                    round=task.round,
                    task=task.kind,
                    site=site,
                    model=model,
                    bytes=size,
                )
                task = replace(task, audit=self._audit.append(sent).hash)
        return self._transport.send(task, sites, seconds)

    def _note(self, event: AnyEvent) -> None:
        if self._audit is not None:
            self._audit.append(event)

    def _round(self, state: RoundState) -> RoundState:
        number = state.round + 1
        federation = self._config.federation
        earlier: list[dict[str, Any]] = []
        for attempt in range(1, federation.round_attempts + 1):
            self._wait(lambda absent: len(self._sites) - len(absent) >= self._quorum)
            self._events.write("round_started", round=number, rounds=federation.rounds, attempt=attempt)
            begun, started = time.time(), time.monotonic()
            average = make_aggregation(
                federation.aggregation, state.arrays, self._config.findings, self._finding_rows
            )
            outcome = self.ask(
                Task(TaskKind.TRAIN, number, self._config_json),
                federation.round_deadline,
                partial(self._add, average, state.arrays),
                quorum=self._quorum,
                whole=lambda: encode({**state.arrays, **state.frozen}, {}, federation.encoding).payload,
                short=self._difference,
            )
            record = self._record(number, attempt, outcome, begun, time.monotonic() - started)
            if len(outcome.answered) >= self._quorum:
                record["earlier_attempts"] = earlier
                return self._next(state, average, record, set(outcome.answered))
            earlier.append(record)
            self._events.write(
                "round_below_quorum", quorum=self._quorum, attempts=federation.round_attempts, **record
            )
        raise RunFailedError(
            f"round {number}: expected updates of at least {self._quorum} sites, got {len(outcome.answered)} in "
            f"each of {federation.round_attempts} attempts. {_reasons(outcome, self._sites)} The rounds before it are "
            "saved: mend the cause and continue with --resume."
        )

    def _next(
        self, state: RoundState, rule: AggregationRule, record: dict[str, Any], have: set[str]
    ) -> RoundState:
        """The state after a round: its model is what the sites will have, once they have added the difference."""
        federation = self._config.federation
        memory = state.step or self._step.init(state.arrays)
        stepped, memory = self._step.apply(state.arrays, rule.result(), rule.learnt, memory)
        encoded = encode(stepped, state.arrays, federation.encoding, state.residual)
        self._difference, self._have = encoded.payload, have
        return replace(
            state,
            round=state.round + 1,
            arrays=encoded.decoded,
            records=(*state.records, record),
            average=moving_average(state.average, encoded.decoded, federation.average_decay),
            residual=encoded.residual,
            step=memory,
        )

    def _add(self, average: AggregationRule, base: Arrays, reply: Reply) -> None:
        try:
            arrays = decode(reply.arrays, base)
        except LayoutMismatchError as error:
            raise UpdateRefused(reply.site, RefusalReason.LAYOUT, str(error)) from error
        except BaseMismatchError as error:
            raise UpdateRefused(reply.site, RefusalReason.WRONG_BASE, str(error)) from error
        update = SiteUpdate(reply.site, arrays, reply.films, reply.labelled, reply.metrics)
        average.add(update, max_growth=MAX_GROWTH)

    def _take(
        self, task: Task, answer: Answer, accept: Callable[[Reply], None], outcome: Outcome, seconds: float
    ) -> None:
        site, reply = answer.ticket.site, answer.reply
        reason, detail = reply.refusal, ""
        if not reason and reply.round != task.round:
            reason, detail = "wrong_round", f"expected round {task.round}, got {reply.round}"
        if not reason:
            try:
                accept(reply)
            except UpdateRefused as refused:
                reason, detail = str(refused.reason), refused.detail
            except (MessageError, EncodingError) as error:
                reason, detail = "unreadable", str(error)
        run, number, kind = self._config.name, task.round, task.kind
        if reason:
            outcome.refused[site] = reason
            if reply.refusal in set(Refusal):
                code = Refusal(reply.refusal)
                self._note(SiteRefused(run=run, round=number, task=kind, site=site, reason=code))
            else:
                fault = _fault(reason)
                self._note(ReplyRefused(run=run, round=number, task=kind, site=site, reason=fault))
            self._events.write(
                "site_refused", task=task.kind, round=task.round, site=site, reason=reason, detail=detail
            )
            return
        if self._audit is not None:
            digest, size = reply.content
            taken = ReplyTaken(
                run=run,
                round=number,
                task=kind,
                site=site,
                sha256=digest,
                bytes=size,
                films=reply.films,
                site_head=reply.audit or None,
            )
            self._audit.append(taken)
        # The arrays are in the running sum by now: holding them would make memory grow with the number of sites.
        outcome.answered[site] = Reply(
            site, reply.round, "", reply.films, reply.labelled, reply.metrics, reply.report
        )
        self._events.write(
            "site_answered",
            task=task.kind,
            round=task.round,
            site=site,
            seconds=round(seconds, 1),
            films=reply.films,
            metrics=dict(reply.metrics),
        )

    def _wait(self, enough: Callable[[list[str]], bool]) -> None:
        limit = self._config.federation.join_deadline
        started, reminded = time.monotonic(), 0.0
        said: list[str] | None = None
        while True:
            connected = self._connected()
            absent = [site for site in self._sites if site not in connected]
            if enough(absent):
                return
            now = time.monotonic()
            if now - started >= limit:
                break
            if absent != said or now - reminded >= _REMIND_SECONDS:
                said, reminded = absent, now
                self._events.write(
                    "waiting", task="join", round=0, sites=absent, seconds=limit - (now - started)
                )
            time.sleep(_POLL_SECONDS)
        if len(self._sites) - len(absent) < self._quorum:
            raise RunFailedError(
                f"expected at least {self._quorum} sites within {limit:.0f} s, got {len(self._sites) - len(absent)}. "
                f"Not connected: {', '.join(absent)}. Start `python -m client.run --site=NAME` there, then --resume."
            )

    def _record(
        self, number: int, attempt: int, outcome: Outcome, begun: float, seconds: float
    ) -> dict[str, Any]:
        return {
            "round": number,
            "attempt": attempt,
            "started": round(begun, 3),
            "seconds": round(seconds, 3),
            "asked": sorted(outcome.asked),
            "answered": sorted(outcome.answered),
            "refused": dict(sorted(outcome.refused.items())),
            "missing": outcome.missing(self._sites),
            "films": {site: reply.films for site, reply in sorted(outcome.answered.items())},
            "metrics": {site: dict(reply.metrics) for site, reply in sorted(outcome.answered.items())},
            "bytes_sent": outcome.bytes_sent,
            "bytes_received": outcome.bytes_received,
        }


def _fault(reason: str) -> RefusalReason | ReplyFault:
    return ReplyFault(reason) if reason in set(ReplyFault) else RefusalReason(reason)


def _reasons(outcome: Outcome, sites: Collection[str]) -> str:
    refused = "; ".join(f"{site} refused: {reason}" for site, reason in sorted(outcome.refused.items()))
    missing = ", ".join(outcome.missing(sites))
    parts = [refused, f"no answer from {missing}" if missing else ""]
    return ". ".join(part for part in parts if part) + "."
