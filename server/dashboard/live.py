"""Where a run stands, from the events that it has written so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from acm_core.federated.messages import TaskKind
from server.console.time_left import in_words, seconds_left
from server.round import events

_SAID = 12
_ASKED = {
    TaskKind.TRAIN: "asked to train",
    TaskKind.LOCAL_ONLY: "asked to train alone",
    TaskKind.EVALUATE: "asked to evaluate",
}


@dataclass
class LiveSite:
    """One site.

    Attributes:
        state: what it does or did last, in words.
        losses: name → round → value.
        epsilon: that the run has cost there, as its ledger counts it.
        answered: finished rounds that the site's update is in.
    """

    state: str = "not asked yet"
    trouble: bool = False
    losses: dict[str, dict[int, float]] = field(default_factory=dict)
    epsilon: float | None = None
    answered: set[int] = field(default_factory=set)

    def go_back(self, number: int) -> None:
        """Forget the rounds after this one: they are run again."""
        self.answered = {one for one in self.answered if one <= number}
        for name, values in self.losses.items():
            self.losses[name] = {one: value for one, value in values.items() if one <= number}


@dataclass
class LiveRun:
    """A run as the dashboard shows it; `take` brings it up to date."""

    name: str
    sites: dict[str, LiveSite]
    rounds: int
    round: int = 0
    stage: str = "waiting for the sites"
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0
    said: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_SAID))

    def take(self, event: events.Event) -> None:
        """The next event; one of a kind that shows nothing is passed over."""
        if (take := getattr(self, f"_{event.event}", None)) is not None:
            take(event)

    @property
    def left(self) -> str:
        """How much longer the rounds take, in words; empty where nobody knows, or they are over."""
        seconds = seconds_left(self.rounds, self.round, self.seconds)
        return "" if seconds is None else in_words(seconds)

    def _say(self, event: events.Event, text: str) -> None:
        self.said.appendleft((event.time, text))

    def _run_started(self, event: events.RunStarted) -> None:
        self.rounds, self.round, self.seconds, self.bytes = event.rounds, 0, [], 0
        self.sites = {site: LiveSite() for site in event.sites}
        self.said.clear()

    def _run_resumed(self, event: events.RunResumed) -> None:
        self.round, self.rounds = event.round, event.rounds
        for site in self.sites.values():
            site.go_back(self.round)
        self._say(event, f"run resumed after round {event.round}")

    def _state_damaged(self, event: events.StateDamaged) -> None:
        self._say(event, f"the saved state of round {event.round} is damaged: going back to the one before")

    def _waiting(self, event: events.Waiting) -> None:
        for site in event.sites:
            if event.task == "join":
                self._site(site, "not connected", trouble=True)
            else:
                self._site(site, f"at work, {event.seconds:.0f} s left")

    def _round_started(self, event: events.RoundStarted) -> None:
        attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
        self.stage = f"round {event.round} of {event.rounds}{attempt}"

    def _site_connected(self, event: events.SiteConnected) -> None:
        self._site(event.site, "connected")

    def _site_disconnected(self, event: events.SiteDisconnected) -> None:
        self._site(event.site, "not connected", trouble=True)

    def _task_sent(self, event: events.TaskSent) -> None:
        for name in event.sites:
            self._site(name, _ASKED[event.task])

    def _site_answered(self, event: events.SiteAnswered) -> None:
        site = self._site(event.site, f"answered after {event.seconds:.0f} s")
        if event.task != "train":
            return
        for name, value in event.metrics.items():
            if name == "epsilon":
                site.epsilon = value
            elif name.endswith("_loss"):
                site.losses.setdefault(name, {})[event.round] = value

    def _site_refused(self, event: events.SiteRefused) -> None:
        reason = event.reason.replace("_", " ")
        self._site(event.site, f"refused: {reason}", trouble=True)
        self._say(event, f"{event.site} refused in round {event.round}: {reason} {event.detail}".strip())

    def _round_finished(self, event: events.RoundFinished) -> None:
        self.round = event.round
        self.seconds.append(event.seconds)
        self.bytes += event.bytes_sent + event.bytes_received
        for site in event.answered:
            self.sites.setdefault(site, LiveSite()).answered.add(self.round)
        for site in event.missing:
            self._site(site, f"did not answer in round {event.round}", trouble=True)
            self._say(event, f"round {event.round} went without {site}")

    def _round_below_quorum(self, event: events.RoundBelowQuorum) -> None:
        self.bytes += event.bytes_sent + event.bytes_received
        answered, quorum = len(event.answered), event.quorum
        self._say(event, f"round {event.round}: {answered} of {quorum} sites that are needed; tried again")

    def _local_only_started(self, _: events.LocalOnlyStarted) -> None:
        self.stage = "each site trains alone, for comparison"

    def _evaluation_started(self, _: events.EvaluationStarted) -> None:
        self.stage = "evaluation on the sites' test films"

    def _run_finished(self, event: events.RunFinished) -> None:
        self.stage = "finished"
        self._say(event, "run finished")

    def _run_failed(self, event: events.RunFailed) -> None:
        self.stage = "failed"
        self._say(event, f"run failed: {event.message}")

    def _site(self, name: str, state: str, *, trouble: bool = False) -> LiveSite:
        site = self.sites.setdefault(name, LiveSite())
        site.state, site.trouble = state, trouble
        return site


def curves(run: LiveRun, name: str) -> dict[str, list[tuple[int, float]]]:
    """Site → a loss by round, of the sites that have any."""
    found: dict[str, list[tuple[int, float]]] = {}
    for site, live in run.sites.items():
        if live.losses.get(name):
            found[site] = sorted(live.losses[name].items())
    return found


def settings(run: LiveRun) -> dict[str, Any]:
    """The run's fields by name, for a template."""
    return vars(run) | {"left": run.left}
