"""`runs/<name>/`: everything a run leaves behind, and who writes what in it."""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from acm_core.config.loading import dump_config, load_config
from acm_core.config.sections import FederationConfig
from acm_core.federated.report import SiteReport
from acm_core.files import write_text_atomically

MAY_CHANGE: dict[str, bool | set[str]] = {
    "server": True,
    "federation": {"sites", "quorum", "round_deadline", "join_deadline", "round_attempts"},
    "model": {"weights"},  # where the start lies: `weights_sha256` says which it is
    "deliver": True,  # after the last round, as is evaluation
    "evaluation": True,
    "simulation": {"data", "folders", "processes", "pooled"},
}
"""Settings with another value of which a run may go on; every other one tells it from other runs."""
_SIMULATION = "simulation"  # the section that only a simulation's file has


class ResumeError(RuntimeError):
    """The run cannot be continued with this configuration."""


class RunExistsError(RuntimeError):
    """The run's folder already holds a run."""


class FinishedRun(NamedTuple):
    """A run's configuration, whether it was a simulation, and what stands in metrics.json and rounds.jsonl.

    Attributes:
        sites: what the sites said, which stands in `metrics` too.
    """

    config: FederationConfig
    simulated: bool
    metrics: dict[str, Any]
    sites: dict[str, SiteReport]
    records: list[dict[str, Any]]


def run_identity(config: FederationConfig) -> dict[str, Any]:
    """What has to stay the same for a run to go on: all settings but those in `MAY_CHANGE`, JSON-ready."""
    return config.model_dump(mode="json", exclude=MAY_CHANGE)


def expect_same_run(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Compare two run identities. One that an earlier version saved may lack keys, and have sections of its own.

    Raises:
        ResumeError: they differ; the settings are named.
    """
    if differing := sorted(_differing(saved, asked)):
        raise ResumeError(
            f"expected the settings the run was started with; {', '.join(differing)} changed. Put them back, or give "
            "the run another name and start it without --resume."
        )


def _differing(saved: Mapping[str, Any], asked: Mapping[str, Any], section: str = "") -> Iterator[str]:
    for key, value in saved.items():
        other = asked.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differing(value, other, f"{section}{key}.")
        elif value != other and (section or key in asked):
            yield section + key


def site_reports(metrics: Mapping[str, Any]) -> dict[str, SiteReport]:
    """Site → what it said of the models, as it stands in `metrics.json`."""
    return {
        site: SiteReport.model_validate_json(json.dumps(report)) for site, report in metrics["sites"].items()
    }


class NoResultsError(Exception):
    """The folder holds no finished run."""


class RunFolder:
    """Paths and writers of one run's folder.

    `config.yaml` the resolved configuration; `rounds.jsonl` a line a round; `metrics.json`; `model.safetensors`;
    `model_card.md`; `report.html` and `report.json`; `tensorboard/`; `events.jsonl` a line for all that happens;
    `state/` for --resume; `logs/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.rounds = folder / "rounds.jsonl"
        self.metrics = folder / "metrics.json"
        self.model = folder / "model.safetensors"
        self.model_card = folder / "model_card.md"
        self.report = folder / "report.html"
        self.report_numbers = folder / "report.json"
        self.tensorboard = folder / "tensorboard"
        self.events = folder / "events.jsonl"
        self.state = folder / "state"
        self.logs = folder / "logs"
        self._held = False

    def open(self, config: FederationConfig, *, resume: bool) -> None:
        """Make the folder ready.

        As long as this object lives no other process opens it.

        Raises:
            RunExistsError: it holds a run and `resume` is false, or holds none and `resume` is true; or another
                process is at work in it.
            ResumeError: the run it holds has other settings.
            ConfigError: its `config.yaml` cannot be read.
        """
        if self.config.exists() and not resume:
            raise RunExistsError(
                f"{self.folder} already holds a run: continue it with --resume, or choose another name in the "
                "configuration, or remove the folder."
            )
        if resume and not self.config.exists():
            raise RunExistsError(f"{self.folder} holds no run to resume: start it without --resume.")
        if resume:
            expect_same_run(run_identity(load_config(self.config, type(config))), run_identity(config))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._hold()
        write_text_atomically(self.config, dump_config(config))

    def _hold(self) -> None:
        if self._held:
            return
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise RunExistsError(
                f"another process is at work in {self.folder}: wait until it has ended, or give this run another name"
            ) from None
        weakref.finalize(self, os.close, lock)
        self._held = True

    def write_rounds(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write `rounds.jsonl`: a record a round."""
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_text_atomically(self.rounds, "".join(lines))

    def finished(self) -> FinishedRun:
        """What a finished run left.

        Raises:
            NoResultsError: the folder holds none, a damaged one, or that of an earlier version, whose sites reported
                less.
        """
        if not self.metrics.exists():
            raise NoResultsError(
                f"expected a finished run in {self.folder}, got no {self.metrics.name}, which is written when the last "
                "round is evaluated: continue the run with --resume"
            )
        try:
            return self._read()
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            names = ", ".join(path.name for path in (self.metrics, self.config, self.rounds))
            raise NoResultsError(
                f"expected {names} in {self.folder} as the run wrote them, got something else: continue the run with "
                "--resume, which writes them anew"
            ) from None

    def _read(self) -> FinishedRun:
        metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
        if "software" not in metrics:
            raise NoResultsError(
                f"expected the results of this version in {self.metrics}, got those of an earlier one"
            )
        settings = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        simulated = settings.pop(_SIMULATION, None) is not None
        return FinishedRun(
            FederationConfig.model_validate(settings),
            simulated,
            metrics,
            site_reports(metrics),
            [json.loads(line) for line in self.rounds.read_text(encoding="utf-8").splitlines()],
        )

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        write_text_atomically(self.metrics, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
