"""One run from start to finish: rounds, the sites' local-only models, evaluation, and the files that are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acm_core.arrays import Arrays, fingerprint
from acm_core.audit_events import RunFailure
from acm_core.audit_log import AuditLog
from acm_core.config.sections import FederationConfig
from acm_core.federated.cohort import cohorts_of, run_in_short
from acm_core.federated.encoding import encode
from acm_core.federated.messages import Reply, Task, TaskKind
from acm_core.federated.report import SiteReport, read_report
from acm_core.nn import Origin, build_classifier, finding_rows, trained_names
from acm_core.randomness import stream_seed
from acm_core.training.weights import get_arrays, save_arrays
from server.round import events
from server.round.event_log import EventLog
from server.round.loop import RoundLoop, RunFailedError
from server.round.model_card import write_model_card
from server.round.results import summarise
from server.round.run_folder import ResumeError, RunFolder
from server.round.sinks import Run, open_sinks
from server.round.sites import Outcome, Sites
from server.round.starts import described, load_start
from server.round.state import RoundState, StateStore
from server.round.transport import Transport


class FederatedRun:
    """A run over a transport, writing into a run folder.

    Args:
        transport: the connection to the sites.
        config: the run.
        folder: an opened run folder.
        audit: where to write down what is asked and taken; a simulation has none.
    """

    def __init__(
        self,
        transport: Transport,
        config: FederationConfig,
        folder: RunFolder,
        audit: AuditLog | None = None,
    ) -> None:
        self._config, self._folder = config, folder
        self._events = EventLog(folder.events, open_sinks(Run(config, folder, audit)))
        model = build_classifier(config.model, len(config.findings), seed=stream_seed(config.seed, "model"))
        self._start_report = None if config.model.weights is None else load_start(model, config)
        if self._start_report is not None:
            self._events.tell(events.WeightsLoaded(report=self._start_report.summary))
        self._rounds_done = 0
        self._initial = get_arrays(model)
        self._trained = trained_names(model)
        self._sites = Sites(transport, config.federation.sites, self._events)
        self._loop = RoundLoop(self._sites, config, finding_rows(model), self._events)

    def execute(self, *, resume: bool) -> dict[str, Any]:
        """Run or continue, and return what stands in `metrics.json`; how it ended is the last event.

        Raises:
            RunFailedError: too few sites took part.
            ResumeError: the saved state is of a run with other settings.
        """
        try:
            return self._execute(resume)
        except Exception as error:
            message = str(error)
            if not isinstance(error, RunFailedError | ResumeError):
                message += ". The rounds so far are saved: mend the cause and continue with --resume."
            reason = RunFailure.QUORUM if isinstance(error, RunFailedError) else RunFailure.INTERNAL
            self._events.tell(events.RunFailed(round=self._rounds_done, reason=reason, message=message))
            raise

    def _execute(self, resume: bool) -> dict[str, Any]:
        store = StateStore(self._folder.state, self._config)
        state = self._start(store, resume)

        def save(state: RoundState) -> None:
            store.save(state)
            self._rounds_done = state.round
            self._folder.write_rounds(state.records)

        self._loop.wait_for_sites()
        final = self._loop.run(state, save)
        start = None if self._start_report is None else described(self._start_report)
        reports, moved = self._evaluate(final)
        metrics = summarise(self._config, final, reports, moved, start)
        origin = Origin(
            findings=self._config.findings,
            model=self._config.model.shared(),
            made_from=run_in_short(self._config.name, cohorts_of(reports)),
        )
        save_arrays(self._folder.model, final.final, origin.metadata())
        self._folder.write_metrics(metrics)
        write_model_card(self._folder.model_card, self._config, metrics)
        self._events.tell(events.RunFinished(round=final.round, model=fingerprint(final.final)))
        return metrics

    def _start(self, store: StateStore, resume: bool) -> RoundState:
        federation = self._config.federation
        if resume:
            saved = store.load(lambda number: self._events.tell(events.StateDamaged(round=number)))
            if saved is not None:
                self._folder.write_rounds(saved.records)
                self._rounds_done = saved.round
                self._events.tell(events.RunResumed(round=saved.round, rounds=federation.rounds))
                return saved
        store.clear()
        self._events.tell(events.RunStarted(rounds=federation.rounds, sites=federation.sites))
        trained = self._what_trains(self._initial)
        frozen = {name: array for name, array in self._initial.items() if name not in trained}
        return RoundState(0, trained, (), frozen=frozen)

    def _what_trains(self, arrays: Arrays) -> Arrays:
        return {name: array for name, array in arrays.items() if name in self._trained}

    def _evaluate(self, final: RoundState) -> tuple[dict[str, SiteReport], dict[str, dict[str, int]]]:
        """Site → its report on the final model, and task → the bytes that it moved.

        A site that does not answer is left out and named in the events.
        """
        moved: dict[str, dict[str, int]] = {}
        federation, config = self._config.federation, self._config.for_sites()

        def ask(kind: TaskKind, seconds: float, accept: Callable[[Reply], None], model: Arrays) -> Outcome:
            """Whoever took part in the last round has the frozen part."""
            return self._sites.ask(
                Task(kind, federation.rounds, config),
                seconds,
                accept,
                quorum=federation.quorum,
                whole=lambda: _values(model),
                short=_values(self._what_trains(model)) if final.frozen else None,
            )

        if self._config.evaluation.local_only:
            self._events.tell(events.LocalOnlyStarted(sites=federation.sites))
            outcome = ask(
                TaskKind.LOCAL_ONLY,
                federation.round_deadline * federation.rounds,
                lambda _: None,
                {**self._initial, **final.frozen},
            )
            moved["local_only"] = outcome.moved
        self._events.tell(events.EvaluationStarted(sites=federation.sites))
        reports: dict[str, SiteReport] = {}

        def accept(reply: Reply) -> None:
            reports[reply.site] = read_report(reply.report, self._config.findings)

        outcome = ask(TaskKind.EVALUATE, federation.round_deadline, accept, final.final)
        moved["evaluate"] = outcome.moved
        if not reports:
            raise RunFailedError(
                "expected an evaluation of at least one site, got none. The final model is saved: continue with "
                "--resume when the sites are back."
            )
        return {site: reports[site] for site in federation.sites if site in reports}, moved


def _values(arrays: Arrays) -> Arrays:
    return encode(arrays, {}, "float32").payload
