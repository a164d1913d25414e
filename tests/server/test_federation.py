"""A whole run over a transport: what it leaves, with sites that answer without training."""

from __future__ import annotations

import json
from pathlib import Path

from hospitals import federation
from in_process import InProcessTransport, Site
from reports import estimate, model, report

from acm_core.federated.encoding import decode, encode
from acm_core.federated.messages import Reply, Task, TaskKind
from acm_core.nn import unfilled_classifier
from acm_core.training.weights import blank_arrays
from server.report.content import report_content
from server.round.federation import FederatedRun
from server.round.run_folder import RunFolder

CONFIG = federation(federation={"rounds": 1})


def unmoved(name: str) -> Site:
    """A site that sends back the model as it came."""

    def answer(task: Task) -> Reply:
        if task.kind is TaskKind.EVALUATE:
            return Reply(name, task.round, report=json.dumps(report(federated=model(estimate(0.8)))))
        if task.kind is TaskKind.LOCAL_ONLY:
            return Reply(name, task.round)
        arrays = decode(task.arrays, blank_arrays(unfilled_classifier(CONFIG.model, len(CONFIG.findings))))
        payload = encode(arrays, arrays, "float32").payload
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
