"""A member whose client is replaced: every answer is refused by name, and the model is that of the honest site."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hospitals import site
from in_process import InProcessTransport
from loopback import Federation

from acm_core.audit_events import ReplyRefused
from acm_core.audit_log import verify
from acm_core.config import dump_config
from acm_core.federated.messages import Refusal, Reply
from client.round.site_round import SiteRound
from server.consortium.authority import ServerState
from server.round.federation import FederatedRun
from server.round.run_folder import RunFolder

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

# Python runs this at the start of each of the site's processes; its worker is changed.
MALICE = """
import sys

if "client.worker" in sys.orig_argv:
    import pickle
    from dataclasses import replace
    from pathlib import Path

    import numpy as np
    import zstandard

    from acm_core.federated import encoding, payload
    from client.round import exchange

    honest, encode, kept = payload.write_payload, encoding.encode, Path(__file__).with_name("reply")
    encoding._check_finite = lambda *_: None

    def well_formed(change, whole=False):
        # an answer as the honest client makes it, of weights that it would not send
        def forged(reply):
            base, trained, kind = exchange.made
            arrays = {name: change(name, array.copy()) for name, array in trained.items()}
            return replace(reply, arrays=encode(arrays, {} if whole else base, kind).payload)

        return forged

    def noted(arrays, base, kind, residual=None):
        exchange.made = base, arrays, kind
        return encode(arrays, base, kind, residual)

    exchange.encode = noted

    def one(value):
        def change(name, array):
            if array.dtype.kind == "f":
                array.flat[0] = value
            return array

        return change

    def bomb(reply):
        header = reply.arrays["encoded"][:102].tobytes()
        frame = zstandard.ZstdCompressor(level=1).compress(bytes(2**30))
        return replace(reply, arrays={"encoded": np.frombuffer(header + frame, np.uint8)})

    def cut(reply):
        return replace(reply, arrays={name: array.ravel()[:-1] for name, array in reply.arrays.items()})

    def replayed(reply, **changes):
        return replace(pickle.loads(kept.read_bytes()), **changes)

    ATTACKS = {
        1: well_formed(one(np.nan)),
        2: well_formed(one(np.float32(1e30))),
        3: well_formed(lambda _, array: -array if array.dtype.kind == "f" else array),
        4: well_formed(lambda _, array: array.reshape(-1)[:1], whole=True),
        5: cut,
        6: bomb,
        7: lambda reply: replace(reply, films=10**9),
        8: lambda reply: replace(reply, labelled=tuple(reply.films + 1 for _ in reply.labelled)),
        9: replayed,
        10: lambda reply: replayed(reply, round=reply.round),
    }

    def malicious(reply, folder):
        if reply.report:
            reply = replace(reply, report=reply.report.replace(":", ": 1e999,", 1))
        elif reply.arrays and not reply.refusal:
            if reply.round == 1:
                kept.write_bytes(pickle.dumps(reply))
            reply = ATTACKS[reply.round](reply)
        return honest(reply, folder)

    payload.write_payload = malicious
"""
EXPECTED = [
    "not_finite",
    "norm",  # 1e30
    "negative_variance",
    "layout",  # arrays of another shape
    "unreadable",  # a frame cut off
    "unreadable",  # a gigabyte of zeros in some kilobytes
    "unreadable",  # more films than there are in the world
    "labelled",  # more labelled films than films
    "wrong_round",  # the answer of round 1
    "wrong_base",  # the same with another number on it
]


def test_every_answer_of_a_malicious_site_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Federation(tmp_path, rounds=len(EXPECTED))
    settings = running.config.federation.model_copy(update={"quorum": 1})
    config = running.config.model_copy(update={"federation": settings})
    try:
        (tmp_path / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
        running.client("A")
        (tmp_path / "malice").mkdir()
        (tmp_path / "malice" / "sitecustomize.py").write_text(MALICE, encoding="utf-8")
        with monkeypatch.context() as changed:
            changed.setenv("PYTHONPATH", str(tmp_path / "malice"), prepend=os.pathsep)
            running.client("B")
        assert running.server().wait(700) == 0, running.everything()
    finally:
        running.end()
    records = [json.loads(line) for line in (running.run / "rounds.jsonl").read_text().splitlines()]
    numbers = range(1, len(EXPECTED) + 1)
    assert [(record["round"], record["answered"]) for record in records] == [(n, ["A"]) for n in numbers]
    assert [record["refused"].get("B") for record in records] == EXPECTED
    rows = verify(ServerState(tmp_path / "server_state").audit).rows
    refused = [row.event for row in rows if isinstance(row.event, ReplyRefused)]
    told = [(event.task, event.round, event.site, event.reason) for event in refused]
    assert told[:-1] == [("train", number, "B", EXPECTED[number - 1]) for number in numbers]
    assert told[-1][0::2] == ("evaluate", "B")

    alone = RunFolder(tmp_path / "alone")
    alone.open(config, resume=False)
    honest = SiteRound(site(tmp_path, "A", state=tmp_path / "fresh"))
    transport = InProcessTransport(
        {"A": honest.answer, "B": lambda task: Reply("B", task.round, refusal=Refusal.POLICY)}
    )
    FederatedRun(transport, config, alone).execute(resume=False)
    assert (running.run / "model.safetensors").read_bytes() == alone.model.read_bytes()
