"""The start of a run: tried and pinned by its content before anything begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from acm_core.config.loading import ConfigError
from acm_core.config.sections import FederationConfig
from acm_core.config.yaml_lines import LocatedData, Location, Problem
from acm_core.nn import Classifier, LoadReport, WeightsError, load_weights, unfilled_classifier

Config = TypeVar("Config", bound=FederationConfig)


def pinned(config: Config, file: Path) -> Config:
    """The configuration with the SHA-256 of its start, which was tried on the run's model.

    Args:
        file: that the configuration was read from, for the message.

    Raises:
        ConfigError: the start is absent, another than `model.weights_sha256` says, or does not fit.
    """
    model = config.model
    if model.weights is None:
        if model.weights_sha256 is not None:
            raise _problem(
                file, "weights_sha256", "expected model.weights beside it, got none: name the file"
            )
        return config
    try:
        blank = unfilled_classifier(model, len(config.findings))
        report = load_weights(blank, model.weights, config.findings, model.weights_sha256)
    except WeightsError as error:
        raise _problem(file, "weights", str(error)) from error
    return config.model_copy(update={"model": model.model_copy(update={"weights_sha256": report.sha256})})


def load_start(model: Classifier, config: FederationConfig) -> LoadReport:
    """Load the start of a run into its model.

    Raises:
        WeightsError: as `load_weights`.
        ValueError: the run has no start, or one that is not pinned.
    """
    weights, sha256 = config.model.weights, config.model.weights_sha256
    if weights is None or sha256 is None:
        raise ValueError("expected a run whose start is pinned: see server.console.command.load_run_file")
    return load_weights(model, weights, config.findings, sha256)


def described(report: LoadReport) -> dict[str, Any]:
    """What `metrics.json` says of the start."""
    return {
        "file": report.file,
        "sha256": report.sha256,
        "made_from": report.made_from,
        "findings": list(report.rows),
        "new_findings": list(report.new_rows),
    }


def _problem(file: Path, key: str, message: str) -> ConfigError:
    location: Location = ("model", key)
    line = LocatedData(file.read_text(encoding="utf-8-sig")).line(location)
    return ConfigError(file, [Problem(line, location, message)])
