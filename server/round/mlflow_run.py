"""A run's figures in MLflow as well, where the environment names a store for them: `MLFLOW_TRACKING_URI`.

What goes there is what the server has anyway: settings, the figures of `server.round.curves`, and the AUROCs of
`metrics.json`.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from acm_core.config.sections import FederationConfig
from acm_core.files import write_text_atomically
from acm_core.processes import OFFLINE
from server.round.curves import figures
from server.round.events import EventLog
from server.round.run_folder import RunFolder, site_reports
from server.round.state import RoundState

STORE, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""MLflow's own names. The URI may hold a password and stands in no message."""

_RUN_ID = "mlflow_run_id"
_PATIENCE_SECONDS = 30.0


class Tracked(ABC):
    """Where a run's figures go besides its folder."""

    @abstractmethod
    def add(self, state: RoundState) -> None:
        """The newest round of `state`."""

    @abstractmethod
    def end(self, metrics: Mapping[str, Any]) -> None:
        """What stands in `metrics.json`; the run is finished."""


class Nowhere(Tracked):
    """No store is named."""

    def add(self, state: RoundState) -> None:
        pass

    def end(self, metrics: Mapping[str, Any]) -> None:
        pass


def track(config: FederationConfig, folder: RunFolder, events: EventLog) -> Tracked:
    """The store that the environment names; a resumed run goes on where it was."""
    if not os.environ.get(STORE):
        return Nowhere()
    if find_spec("mlflow") is None:
        events.write(
            "note",
            text=f"{STORE} is set, and MLflow is not installed: pip install 'acm-fed[mlflow]'. The run goes on without",
        )
        return Nowhere()
    return MlflowRun(config, folder.folder / _RUN_ID, events)


class MlflowRun(Tracked):
    """Writes in a thread of its own: a store that is slow or away costs the run nothing, and is said once."""

    def __init__(self, config: FederationConfig, run_id: Path, events: EventLog) -> None:
        self._config, self._run_id, self._events = config, run_id, events
        self._work: queue.SimpleQueue[Callable[[Any, str], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def add(self, state: RoundState) -> None:
        values, step = figures(state), state.round
        self._work.put(lambda client, run: _log(client, run, values, step))

    def end(self, metrics: Mapping[str, Any]) -> None:
        values, step = dict(_aurocs(metrics)), self._config.federation.rounds
        self._work.put(lambda client, run: _log(client, run, values, step))
        self._work.put(lambda client, run: client.set_terminated(run, "FINISHED"))
        self._work.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._events.write(
                "note", text="MLflow did not take all figures in time: they are in the run's folder"
            )

    def _write(self) -> None:
        try:
            os.environ.update(OFFLINE)  # before MLflow is imported
            from mlflow.tracking import MlflowClient

            client = MlflowClient()
            run = self._known(client) or self._new(client)
            while (task := self._work.get()) is not None:
                task(client, run)
        except Exception as error:  # whatever it is, the run matters more
            text = f"MLflow does not take the figures ({type(error).__name__}): they are in the run's folder"
            self._events.write("note", text=text)

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
