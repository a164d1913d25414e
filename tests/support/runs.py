"""Folders of finished runs, made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hospitals import federation
from reports import metrics

from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from server.round.run_folder import RunFolder


def record(number: int, answered: str, **changes: Any) -> dict[str, Any]:
    """What stands in rounds.jsonl of a round for which A and B were asked."""
    return {
        "round": number,
        "attempt": 1,
        "started": 1.7e9,
        "seconds": 12.5,
        "asked": ["A", "B"],
        "answered": list(answered),
        "refused": {},
        "missing": [],
        "films": dict.fromkeys(answered, 30),
        "metrics": {site: {"train_loss": 0.7 / number, "validation_loss": 0.69} for site in answered},
        "bytes_sent": 2_000_000,
        "bytes_received": 1_000_000,
        **changes,
    }


def finished_run(
    folder: Path,
    sites: dict[str, dict[str, Any]],
    config: FederationConfig | None = None,
    *,
    records: list[dict[str, Any]] | None = None,
    **extra: Any,
) -> RunFolder:
    """A finished run of hand-made reports: three rounds, of which B missed two.

    Args:
        records: of other rounds.
        extra: of metrics.json.
    """
    config = config or federation()
    run = RunFolder(folder / config.name)
    run.folder.mkdir(parents=True)
    run.config.write_text(dump_config(config), encoding="utf-8")
    if records is None:
        records = [
            record(1, "AB"),
            record(2, "A", refused={"B": "policy.hours"}),
            record(3, "A", missing=["B"]),
        ]
    run.rounds.write_text("".join(f"{json.dumps(one)}\n" for one in records), encoding="utf-8")
    run.write_metrics({**metrics(sites, config), **extra})
    return run
