"""How every command of the client is told which site it is for; light, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_site_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--site` and `--sites`, the arguments of `client.site_file.load_site_file`."""
    parser.add_argument("--site", required=True, help="the site's name; its file is SITES/NAME.yaml")
    parser.add_argument(
        "--sites",
        type=Path,
        default=Path("configs/sites"),
        help="folder of site files (default: configs/sites)",
    )
