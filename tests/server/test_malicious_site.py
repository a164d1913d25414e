"""A member whose client is replaced: every answer is refused by name, and the other site's rounds go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback import Federation
from processes import wait_for

from acm_core.audit_events import ReplyRefused
from acm_core.audit_log import verify
from acm_core.config import dump_config
from server.authority import ServerState

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

# Python runs this at the start of each of the site's processes; ClientApp alone is changed.
MALICE = """
import sys
if any("flwr-clientapp" in argument for argument in sys.orig_argv):
    from dataclasses import replace

    import numpy as np

    from client import app

    honest = app.to_records

    def spoilt(array):
        return np.full_like(array, np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max)

    def malicious(reply):
        arrays = reply.arrays
        changed = {
            1: {"arrays": {name: spoilt(array) for name, array in arrays.items()}},
            2: {"arrays": {name: array.ravel()[:-1] for name, array in arrays.items()}},
            3: {"films": 10**9},
            4: {"round": reply.round - 1},
        }
        return honest(replace(reply, **changed.get(reply.round, {})))

    app.to_records = malicious
"""
ROUNDS = 4


def test_every_answer_of_a_malicious_site_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Federation(tmp_path, rounds=ROUNDS)
    try:
        settings = running.config.federation.model_copy(update={"quorum": 1})
        config = running.config.model_copy(update={"federation": settings})
        (tmp_path / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
        running.client("A")
        (tmp_path / "malice").mkdir()
        (tmp_path / "malice" / "sitecustomize.py").write_text(MALICE, encoding="utf-8")
        with monkeypatch.context() as changed:
            changed.setenv("PYTHONPATH", str(tmp_path / "malice"))
            running.client("B")
        server = running.server()
        wait_for(lambda: f"round {ROUNDS} done" in server.text(), 400, running.everything)
    finally:
        running.end()
    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    assert [(record["round"], record["answered"]) for record in records] == [
        (number, ["A"]) for number in range(1, ROUNDS + 1)
    ]
    rows = verify(ServerState(tmp_path / "server_state").audit).rows
    refused = [row.event for row in rows if isinstance(row.event, ReplyRefused)]
    trained = [(event.round, event.site) for event in refused if event.task == "train"]
    assert trained == [(number, "B") for number in range(1, ROUNDS + 1)]
