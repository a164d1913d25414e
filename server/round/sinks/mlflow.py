"""A run's figures in MLflow as well, where the environment names a store for them: `MLFLOW_TRACKING_URI`.

What goes there is what the server has anyway: settings, each round's figures, and the AUROCs of `metrics.json`.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from acm_core.files import write_text_atomically
from acm_core.processes import OFFLINE
from server.round import events
from server.round.event_log import EventLog
from server.round.run_folder import site_reports
from server.round.sinks import Run

STORE, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""MLflow's own names. The URI may hold a password and stands in no message."""

_PATIENCE_SECONDS = 30.0


def open_sink(run: Run) -> MlflowRun | None:
    """None where no store is named, or MLflow is not installed, which is said."""
    if not os.environ.get(STORE):
        return None
    if find_spec("mlflow") is None:
        text = f"{STORE} is set, and MLflow is not installed: pip install 'acm-fed[mlflow]'. The run goes on without"
        EventLog(run.folder.events).tell(events.Note(text=text))
        return None
    return MlflowRun(run)


class MlflowRun:
    """Writes in a thread of its own: a store that is slow or away costs the run nothing, and is said once.

    A run that is resumed goes on where it was.
    """

    def __init__(self, run: Run) -> None:
        self._config, self._folder = run.config, run.folder
        self._run_id = run.folder.folder / "mlflow_run_id"
        self._notes = EventLog(run.folder.events)
        self._work: queue.SimpleQueue[Callable[[Any, str], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def take(self, event: events.Event) -> None:
        """Take the figures of a round, or of the whole run when it is finished."""
        match event:
            case events.RunStarted() | events.RunResumed():
                self._thread.start()
            case events.RoundFinished():
                self._log(event.figures, event.round)
            case events.RunFinished():
                metrics = json.loads(self._folder.metrics.read_text(encoding="utf-8"))
                self._log(dict(_aurocs(metrics)), event.round)
                self._work.put(lambda client, run: client.set_terminated(run, "FINISHED"))
                self._end()

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._work.put(lambda client, run: _log(client, run, values, step))

    def _end(self) -> None:
        self._work.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._note("MLflow did not take all figures in time: they are in the run's folder")

    def _note(self, text: str) -> None:
        self._notes.tell(events.Note(text=text))

    def _write(self) -> None:
        try:
            os.environ.update(OFFLINE)  # before MLflow is imported
            from mlflow.tracking import MlflowClient

            client = MlflowClient()
            run = self._known(client) or self._new(client)
            while (task := self._work.get()) is not None:
                task(client, run)
        except Exception as error:  # whatever it is, the run matters more
            self._note(
                f"MLflow does not take the figures ({type(error).__name__}): they are in the run's folder"
            )

    def _known(self, client: Any) -> str | None:
        if not self._run_id.exists():
            return None
        run = self._run_id.read_text(encoding="utf-8")
        client.update_run(run, "RUNNING")
        return run

    def _new(self, client: Any) -> str:
        name = os.environ.get(EXPERIMENT) or "acm-fed"
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if known is None else known.experiment_id
        run: str = client.create_run(experiment, run_name=self._config.name).info.run_id
        for key, value in _flat(json.loads(self._config.for_sites()), ""):
            client.log_param(run, key, value)
        write_text_atomically(self._run_id, run)
        return run


def _log(client: Any, run: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    client.log_batch(run, [Metric(name, value, now, step) for name, value in values.items()])


def _aurocs(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """auroc/MODEL/SITE/FINDING and auroc/MODEL, where they are defined."""
    for model, mean in metrics["mean_over_sites"].items():
        if mean is not None:
            yield f"auroc/{model}", mean["value"]
    for site, report in site_reports(metrics).items():
        for name, measured in report.models.items():
            for finding, one in measured.findings.items():
                if one.auroc is not None:
                    yield f"auroc/{name}/{site}/{finding}", one.auroc.value


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
