"""What happens in a run. A fact is told once, as one of these events; sinks make of it what they are for."""

from __future__ import annotations

import json
import time as clock
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from acm_core.audit_events import ReplyFault, RunFailure
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import RefusalReason

Reason = Refusal | RefusalReason | ReplyFault
"""Why nothing was taken of a site: it says so, its update does not pass the gate, or its reply is none."""


class Event(BaseModel):
    """Something that happened, as it stands in `events.jsonl`: its kind, its time in seconds, its own fields."""

    model_config = ConfigDict(frozen=True)

    event: str
    time: float = Field(default_factory=lambda: round(clock.time(), 3))


class WeightsLoaded(Event):
    """The run begins from a start; `report` says in a line what was taken of it."""

    event: Literal["weights_loaded"] = "weights_loaded"
    report: str


class RunStarted(Event):
    """From the beginning."""

    event: Literal["run_started"] = "run_started"
    rounds: int
    sites: tuple[str, ...]


class RunResumed(Event):
    """After `round`, the last one that is saved."""

    event: Literal["run_resumed"] = "run_resumed"
    round: int
    rounds: int


class StateDamaged(Event):
    """What was saved of a round is not what was written; the one before stands in."""

    event: Literal["state_damaged"] = "state_damaged"
    round: int


class SiteConnected(Event):
    """A site is there."""

    event: Literal["site_connected"] = "site_connected"
    site: str


class SiteDisconnected(Event):
    """A site is no longer there."""

    event: Literal["site_disconnected"] = "site_disconnected"
    site: str


class Waiting(Event):
    """Sites that are waited for, told now and then; `seconds` are left."""

    event: Literal["waiting"] = "waiting"
    task: TaskKind | Literal["join"]
    round: int
    sites: tuple[str, ...]
    seconds: float


class RoundStarted(Event):
    """Or begun again, at another `attempt`."""

    event: Literal["round_started"] = "round_started"
    round: int
    rounds: int
    attempt: int


class OfTask(Event):
    """What concerns one task; `round` is that of the task."""

    task: TaskKind
    round: int


class TaskSent(OfTask):
    """These sites are about to be asked; `model` is the hash of the arrays that go to each, None where none do."""

    event: Literal["task_sent"] = "task_sent"
    sites: tuple[str, ...]
    model: str | None
    bytes: int


class SiteAnswered(OfTask):
    """A reply was taken in.

    Attributes:
        seconds: since the task began.
        metrics: name → number, see `Metric`.
        sha256: of what the site sent, as it stands in the site's audit log.
        site_head: of that log.
    """

    event: Literal["site_answered"] = "site_answered"
    site: str
    seconds: float
    films: int
    metrics: dict[str, float]
    sha256: str
    bytes: int
    site_head: str | None


class SiteRefused(OfTask):
    """Nothing was taken in; `detail` is for people."""

    event: Literal["site_refused"] = "site_refused"
    site: str
    reason: Reason
    detail: str = ""


class SiteMissing(OfTask):
    """A site that was asked has not replied, and the time is up."""

    event: Literal["site_missing"] = "site_missing"
    site: str


class RoundTried(Event):
    """One attempt at a round: its record, as in `rounds.jsonl`."""

    round: int
    attempt: int
    started: float
    seconds: float
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    refused: dict[str, str]
    missing: tuple[str, ...]
    films: dict[str, int]
    metrics: dict[str, dict[str, float]]
    bytes_sent: int
    bytes_received: int


class RoundFinished(RoundTried):
    """A round is over and saved; who reads this may stop the server."""

    event: Literal["round_finished"] = "round_finished"
    earlier_attempts: tuple[dict[str, Any], ...]

    @property
    def figures(self) -> dict[str, float]:
        """What a round is drawn by: losses by site, its seconds, and how many sites answered."""
        by_site = {
            f"{name}/{site}": value
            for site, metrics in self.metrics.items()
            for name, value in metrics.items()
        }
        return {**by_site, "round/seconds": self.seconds, "round/sites": float(len(self.answered))}


class RoundBelowQuorum(RoundTried):
    """Fewer sites answered than are needed."""

    event: Literal["round_below_quorum"] = "round_below_quorum"
    quorum: int
    attempts: int


class LocalOnlyStarted(Event):
    """Each site trains alone, for comparison."""

    event: Literal["local_only_started"] = "local_only_started"
    sites: tuple[str, ...]


class EvaluationStarted(Event):
    """The sites measure the final model."""

    event: Literal["evaluation_started"] = "evaluation_started"
    sites: tuple[str, ...]


class Note(Event):
    """A sentence for the operator."""

    event: Literal["note"] = "note"
    text: str


class RunFinished(Event):
    """All files are there but the report; `model` is the hash of the final model."""

    event: Literal["run_finished"] = "run_finished"
    round: int
    model: str


class RunFailed(Event):
    """The run ended after `round`; `message` says why, and what to do."""

    event: Literal["run_failed"] = "run_failed"
    round: int
    reason: RunFailure
    message: str


class SimulationFinished(Event):
    """A simulation has measured what only it can."""

    event: Literal["simulation_finished"] = "simulation_finished"


KINDS: dict[str, type[Event]] = {
    kind.model_fields["event"].default: kind
    for family in (Event, OfTask, RoundTried)
    for kind in family.__subclasses__()
    if not kind.__subclasses__()
}
"""What stands as `event` in a line → the event that it is."""


def read_event(line: str) -> Event:
    """The event of a line.

    Raises:
        ValueError: it is none that this version knows.
    """
    try:
        kind = KINDS[json.loads(line)["event"]]
    except (LookupError, TypeError) as error:
        raise ValueError("expected an event of a known kind, got another line") from error
    return kind.model_validate_json(line)


class Sink(Protocol):
    """Takes the events of a run, one after the other; those that are nothing to it are passed over."""

    def take(self, event: Event) -> str | None:
        """Take one in. What this raises ends the run.

        Returns:
            The audit log's new head, which sites are told; None from every other sink.
        """
        ...
