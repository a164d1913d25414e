"""How every command of the client is told which site it is for; light, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_site_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--site` and `--sites`, the arguments of `client.site.site_file.load_site_file`."""
    parser.add_argument("--site", required=True, help="the site's name; its file is SITES/NAME.yaml")
    parser.add_argument(
        "--sites",
        type=Path,
        default=Path("configs/sites"),
        help="folder of site files (default: configs/sites)",
    )


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, the argument of `acm_core.deployment.load_model`."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="the site's own model of a run, STATE/models/RUN, or the folder that server.export wrote",
    )
