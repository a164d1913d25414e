"""What the commands that run a federation share: their options, and the run folder that they open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from acm_core.config.sections import FederationConfig
    from server.round.run_folder import RunFolder

    Config = TypeVar("Config", bound=FederationConfig)


def add_run_options(parser: argparse.ArgumentParser, default_config: str) -> None:
    """--config, --runs and --resume."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default_config),
        help=f"the run's file (default: {default_config})",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run after its last saved round")


def add_state_option(parser: argparse.ArgumentParser) -> None:
    """--state."""
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("server_state"),
        help="folder of the consortium's keys, certificates and registry (default: server_state)",
    )


def load_run(options: argparse.Namespace, kind: type[Config]) -> Config | None:
    """The run's configuration; None where it is wrong, which stderr then explains."""
    from acm_core.config.loading import ConfigError

    try:
        return load_run_file(options.config, kind)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return None


def load_run_file(path: Path, kind: type[Config]) -> Config:
    """A run's configuration, its start pinned by content.

    Raises:
        ConfigError: the file cannot be used, or the start that it names.
    """
    from acm_core.config.loading import load_config

    config = load_config(path, kind)
    if config.model.weights is None and config.model.weights_sha256 is None:
        return config
    from server.round.starts import pinned  # with torch, which takes a second

    return pinned(config, path)


def open_run(options: argparse.Namespace, config: FederationConfig) -> RunFolder | None:
    """The run's folder, made ready; None where that is impossible, which stderr then explains."""
    from acm_core.config.loading import ConfigError
    from server.round.run_folder import ResumeError, RunExistsError, RunFolder

    folder = RunFolder((options.runs / config.name).resolve())
    try:
        folder.open(config, resume=options.resume)
    except (ResumeError, RunExistsError, ConfigError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return None
    except OSError as error:
        print(f"{error}: the run's folder has to take files; mend that, and start again", file=sys.stderr)  # noqa: T201
        return None
    return folder
