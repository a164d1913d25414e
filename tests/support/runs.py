"""Folders of finished runs, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hospitals import federation
from reports import metrics

from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from server.run_folder import RunFolder


def finished_run(
    folder: Path, sites: dict[str, dict[str, Any]], config: FederationConfig | None = None, **extra: Any
) -> RunFolder:
    """A finished run of hand-made reports: three rounds, of which B missed two.

    Args:
        extra: of metrics.json.
    """
    config = config or federation()
    run = RunFolder(folder / config.name)
    run.folder.mkdir(parents=True)
    run.config.write_text(dump_config(config), encoding="utf-8")
    records = [
        {
            "round": number,
            "attempt": 1,
            "started": 1.7e9,
            "seconds": 12.5,
            "asked": ["A", "B"],
            "answered": list(answered),
            "refused": refused,
            "missing": missing,
            "films": dict.fromkeys(answered, 30),
            "metrics": {site: {"train_loss": 0.7 / number, "validation_loss": 0.69} for site in answered},
            "bytes_sent": 2_000_000,
            "bytes_received": 1_000_000,
        }
        for number, answered, refused, missing in (
            (1, "AB", {}, []),
            (2, "A", {"B": "policy.hours"}, []),
            (3, "A", {}, ["B"]),
        )
    ]
    run.rounds.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    run.write_metrics({**metrics(sites, config), **extra})
    return run
