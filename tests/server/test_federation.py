"""A whole run over a transport: what it leaves, with sites that answer without training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hospitals import federation
from in_process import InProcessTransport, Site
from reports import estimate, model, report
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from acm_core import audit_events as rows
from acm_core.audit_log import AuditLog, verify
from acm_core.federated.encoding import decode, encode
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.nn import unfilled_classifier
from acm_core.training.weights import blank_arrays
from server.report.content import report_content
from server.round import events
from server.round.event_log import EventReader
from server.round.federation import FederatedRun
from server.round.run_folder import RunFolder

CONFIG = federation(federation={"rounds": 1})


def unmoved(name: str) -> Site:
    """A site that sends back the model as it came."""
    last = blank_arrays(unfilled_classifier(CONFIG.model, len(CONFIG.findings)))

    def answer(task: Task) -> Reply:
        nonlocal last
        if task.kind is TaskKind.EVALUATE:
            return Reply(name, task.round, report=json.dumps(report(federated=model(estimate(0.8)))))
        if task.kind is TaskKind.LOCAL_ONLY:
            return Reply(name, task.round)
        last = decode(task.arrays, last)
        payload = encode(last, last, "float32").payload
        return Reply(name, task.round, films=10, labelled=(10, 10), arrays=payload)

    return answer


def test_the_bytes_of_every_task_are_counted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG, resume=False)
    transport = InProcessTransport({name: unmoved(name) for name in "AB"})
    metrics = FederatedRun(transport, CONFIG, folder).execute(resume=False)
    moved = metrics["bytes"]
    assert list(moved) == ["train", "local_only", "evaluate"]
    assert moved["train"]["sent"] == moved["local_only"]["sent"] == moved["evaluate"]["sent"] > 0
    assert moved["train"]["received"] > 0
    assert moved["local_only"]["received"] == 0
    assert report_content(folder, None)["bytes"] == moved


def test_a_fact_is_the_same_in_every_file(tmp_path: Path) -> None:
    config = federation(federation={"rounds": 2, "quorum": 1})
    refusals = iter([Refusal.MEMORY, Refusal.LOST])
    a, b = unmoved("A"), unmoved("B")

    def refuses_twice(task: Task) -> Reply:
        refusal = next(refusals, None)
        return b(task) if refusal is None else Reply("B", task.round, refusal=refusal)

    def trains(task: Task) -> Reply:
        metrics = {"train_loss": 0.5 / task.round} if task.kind is TaskKind.TRAIN else {}
        return replace(a(task), metrics=metrics, audit="e" * 64)

    folder = RunFolder(tmp_path / "run")
    folder.open(config, resume=False)
    transport = InProcessTransport({"A": trains, "B": refuses_twice})
    log = AuditLog(tmp_path / "audit")
    FederatedRun(transport, config, folder, log).execute(resume=False)
    told = list(EventReader(folder.events).read())
    audited = [row.event for row in verify(tmp_path / "audit").rows]
    records = [json.loads(line) for line in folder.rounds.read_text(encoding="utf-8").splitlines()]

    answered = [event for event in told if isinstance(event, events.SiteAnswered)]
    assert [event.site for event in answered].count("B") == 3  # in the second round when it was asked again
    assert [row for row in audited if isinstance(row, rows.ReplyTaken)] == [
        rows.ReplyTaken(run="test", **event.model_dump(exclude={"event", "time", "seconds", "metrics"}))
        for event in answered
    ]
    assert {event.site: event.site_head for event in answered} == {"A": "e" * 64, "B": None}
    refused = [event for event in told if isinstance(event, events.SiteRefused)]
    assert [(event.round, event.site, event.reason) for event in refused] == [
        (1, "B", Refusal.MEMORY),
        (2, "B", Refusal.LOST),
    ]
    assert [(row.round, row.site, row.reason) for row in audited if isinstance(row, rows.SiteRefused)] == [
        (event.round, event.site, event.reason) for event in refused
    ]
    sent = [event for event in told if isinstance(event, events.TaskSent)]
    assert [(row.site, row.model, row.bytes) for row in audited if isinstance(row, rows.TaskSent)] == [
        (site, event.model, event.bytes) for event in sent for site in sorted(event.sites)
    ]
    finished = [event for event in told if isinstance(event, events.RoundFinished)]
    assert [json.loads(event.model_dump_json(exclude={"event", "time"})) for event in finished] == records
    assert [record["refused"] for record in records] == [{"B": "memory"}, {}]
    curves = EventAccumulator(str(folder.tensorboard)).Reload()
    assert [(point.step, point.value) for point in curves.Scalars("train_loss/A")] == [(1, 0.5), (2, 0.25)]
    assert [(point.step, point.value) for point in curves.Scalars("round/sites")] == [(1, 1.0), (2, 2.0)]
    last = told[-1]
    assert isinstance(last, events.RunFinished)
    assert audited[-1] == rows.RunFinished(run="test", round=2, model=last.model)
    assert isinstance(audited[0], rows.RunStarted)
