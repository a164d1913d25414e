"""The round loop: the sites train from a model, their updates become the next one, until the last round."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.federated.encoding import BaseMismatchError, LayoutMismatchError, decode, encode
from acm_core.federated.messages import Reply, Task, TaskKind
from acm_core.federated.robust import make_aggregation
from acm_core.federated.rule import AggregationRule
from acm_core.federated.server_step import make_server_step, moving_average
from acm_core.federated.update import MAX_GROWTH, RefusalReason, SiteUpdate, UpdateRefused
from server.round.event_log import EventLog
from server.round.events import RoundBelowQuorum, RoundFinished, RoundStarted
from server.round.sites import Outcome, Sites
from server.round.state import RoundState


class RunFailedError(RuntimeError):
    """The run cannot go on; the message names the sites and what to do."""


class RoundLoop:
    """Runs rounds of federated averaging with the sites of a run.

    Args:
        config: the run.
        finding_rows: names of the arrays whose first axis is the finding.
        events: where to tell what happens.
    """

    def __init__(
        self, sites: Sites, config: FederationConfig, finding_rows: frozenset[str], events: EventLog
    ) -> None:
        self._sites, self._config, self._events = sites, config, events
        self._quorum = config.federation.quorum
        self._finding_rows = finding_rows
        self._step = make_server_step(config.federation.server_step, finding_rows)
        self._difference: Arrays | None = None
        self._config_json = config.for_sites()

    def wait_for_sites(self) -> None:
        """Wait until every site is connected, or go on with a quorum when the join deadline has passed.

        Raises:
            RunFailedError: fewer than a quorum of sites connected in time; the absent ones are named.
        """
        self._wait(len(self._sites))

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
            self._events.tell(RoundFinished(**state.records[-1]))
        return state

    def _wait(self, wanted: int) -> None:
        limit = self._config.federation.join_deadline
        absent = self._sites.wait(lambda there: there >= wanted, limit)
        if (there := len(self._sites) - len(absent)) < self._quorum:
            raise RunFailedError(
                f"expected at least {self._quorum} sites within {limit:.0f} s, got {there}. "
                f"Not connected: {', '.join(absent)}. Start `python -m client.run --site=NAME` there, then --resume."
            )

    def _round(self, state: RoundState) -> RoundState:
        number = state.round + 1
        federation = self._config.federation
        earlier: list[dict[str, Any]] = []
        for attempt in range(1, federation.round_attempts + 1):
            self._wait(self._quorum)
            self._events.tell(RoundStarted(round=number, rounds=federation.rounds, attempt=attempt))
            begun, started = time.time(), time.monotonic()
            average = make_aggregation(
                federation.aggregation, state.arrays, self._config.findings, self._finding_rows
            )
            outcome = self._sites.ask(
                Task(TaskKind.TRAIN, number, self._config_json),
                federation.round_deadline,
                partial(_add, average, state.arrays),
                quorum=self._quorum,
                whole=lambda: encode({**state.arrays, **state.frozen}, {}, federation.encoding).payload,
                short=self._difference,
            )
            record = _record(number, attempt, outcome, begun, time.monotonic() - started)
            if len(outcome.answered) >= self._quorum:
                record["earlier_attempts"] = earlier
                return self._next(state, average, record, outcome.answered)
            earlier.append(record)
            self._events.tell(
                RoundBelowQuorum(**record, quorum=self._quorum, attempts=federation.round_attempts)
            )
        raise RunFailedError(
            f"round {number}: expected updates of at least {self._quorum} sites, got {len(outcome.answered)} in "
            f"each of {federation.round_attempts} attempts. {outcome.reasons} The rounds before it are "
            "saved: mend the cause and continue with --resume."
        )

    def _next(
        self, state: RoundState, rule: AggregationRule, record: dict[str, Any], answered: Collection[str]
    ) -> RoundState:
        """The state after a round: its model is what the sites will have, once they have added the difference."""
        federation = self._config.federation
        memory = state.step or self._step.init(state.arrays)
        stepped, memory = self._step.apply(state.arrays, rule.result(), rule.learnt, memory)
        encoded = encode(stepped, state.arrays, federation.encoding, state.residual)
        self._difference = encoded.payload
        self._sites.have_last(answered)
        return replace(
            state,
            round=state.round + 1,
            arrays=encoded.decoded,
            records=(*state.records, record),
            average=moving_average(state.average, encoded.decoded, federation.average_decay),
            residual=encoded.residual,
            step=memory,
        )


def _add(average: AggregationRule, base: Arrays, reply: Reply) -> None:
    try:
        arrays = decode(reply.arrays, base)
    except LayoutMismatchError as error:
        raise UpdateRefused(reply.site, RefusalReason.LAYOUT, str(error)) from error
    except BaseMismatchError as error:
        raise UpdateRefused(reply.site, RefusalReason.WRONG_BASE, str(error)) from error
    update = SiteUpdate(reply.site, arrays, reply.films, reply.labelled, reply.metrics)
    average.add(update, max_growth=MAX_GROWTH)


def _record(number: int, attempt: int, outcome: Outcome, begun: float, seconds: float) -> dict[str, Any]:
    """What `rounds.jsonl` says of an attempt at a round."""
    answered = dict(sorted(outcome.answered.items()))
    return {
        "round": number,
        "attempt": attempt,
        "started": round(begun, 3),
        "seconds": round(seconds, 3),
        "asked": sorted(outcome.asked),
        "answered": list(answered),
        "refused": dict(sorted(outcome.refused.items())),
        "missing": outcome.missing,
        "films": {site: reply.films for site, reply in answered.items()},
        "metrics": {site: dict(reply.metrics) for site, reply in answered.items()},
        "bytes_sent": outcome.moved["sent"],
        "bytes_received": outcome.moved["received"],
    }
