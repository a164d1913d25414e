"""A server whose processes are replaced: what it asks beyond a declared task is refused by a code and written down.

This file is both sides: the test, and what the server's processes import as they start (`MALICE`).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.numpy
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from hospitals import FINDINGS, federation, site
from loopback import Federation
from processes import wait_for

from acm_core.arrays import Arrays
from acm_core.audit_events import BundleRefused, Left, TaskRefused
from acm_core.audit_log import audit_folder, verify
from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated import encoding
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.payload import read_reply
from acm_core.nn import build_classifier
from acm_core.privacy.ledger import ledger_folder
from acm_core.privacy.ledger import verify as read_ledger
from acm_core.training.weights import get_arrays
from server.link import flower_internals
from server.link.flower_internals import bundle as own_bundle
from server.round.run_folder import RunFolder

# Python runs this at the start of each of the server's processes; server.run and ServerApp alone are changed.
FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
MALICE = f"""
import sys

def malice():
    sys.path += {FOLDERS!r}
    import {Path(__file__).stem}
    return {Path(__file__).stem}

if "server.run" in sys.orig_argv:
    malice().hand_out_foreign_code({{marker!r}})
elif any(argument.endswith("flwr-serverapp") for argument in sys.orig_argv):
    # Imported by the application, not here: Flower starts another where one does not report soon.
    from types import ModuleType

    federation = ModuleType("server.round.federation")
    federation.FederatedRun = lambda *about: malice().MaliciousRun({{marker!r}}, *about)
    sys.modules["server.round.federation"] = federation
"""
GIBIBYTE = 2**30
# Of the policy; no task and no declared field holds them.
OWN_VALUES = ("17919", "Pneumothorax", "resnet152", "8.4375")
POLICY: dict[str, Any] = {
    "rounds": 17919,
    "epochs": 3,
    "findings": [*FINDINGS, "Pneumothorax"],
    "architectures": ["resnet18", "resnet152"],
    "image_size": 64,
    "minimum_sites": 2,
}
PRIVACY = {"epsilon": 8.4375, "delta": 1e-3, "population": 40}


def honest(**changes: Any) -> FederationConfig:
    settings: dict[str, Any] = {
        "privacy": {"epsilon": 8.0, "delta": 1e-3, "expected_batch": 10},
        "model": {"norm": "group", "context": "se"},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
    return federation(**settings)


@dataclass(frozen=True)
class Attempt:
    """A message to the site.

    Attributes:
        content: the task's payload, made where it is sent.
        expected: the refusal; None for an answer.
        heard: the worker knows it for a task of round 1.
        records: the message about it.
    """

    name: str
    content: Callable[[], bytes]
    expected: Refusal | None
    heard: bool = True
    message_type: str = "train"
    records: Callable[[dict[str, Any]], RecordDict] = lambda said: RecordDict({"task": ConfigRecord(said)})

    @property
    def stopped_before(self) -> bool:
        """The gateway before the SuperNode keeps it, and nobody answers."""
        return self.message_type != "train" or self.name == "bundle"

    @property
    def row(self) -> TaskRefused:
        """The row of the site's log."""
        reason = Refusal(self.expected or "")
        if not self.heard:
            return TaskRefused(run=None, round=0, task=None, reason=reason, policy=None)
        line = reason.value if reason.startswith("policy.") else None
        return TaskRefused(run="test", round=1, task=TaskKind.TRAIN, reason=reason, policy=line)


def file(wire: dict[str, Any], arrays: Arrays) -> bytes:
    return safetensors.numpy.save(arrays, {"acm_fed": json.dumps(wire)})


def task(arrays: Arrays | None = None, **changes: Any) -> bytes:
    """A well-formed one for a run with these changes."""
    asked = Task(TaskKind.TRAIN, 1, honest(**changes).model_dump_json())
    return file(dict(asked.to_wire()), arrays or {})


def odd(**changes: Any) -> bytes:
    """The fields of a task, some of them changed."""
    asked = Task(TaskKind.TRAIN, 1, honest().model_dump_json())
    return file({**asked.to_wire(), **changes}, {})


def undeclared_record(said: dict[str, Any]) -> RecordDict:
    about = ConfigRecord({"fields": ["patient_id", "image"]})
    return RecordDict({"task": ConfigRecord(said), "send": about})


def undeclared_word(said: dict[str, Any]) -> RecordDict:
    return RecordDict({"task": ConfigRecord({**said, "fields": "patient_id"})})


def elsewhere(said: dict[str, Any]) -> RecordDict:
    return RecordDict({"task": ConfigRecord({**said, "payload": "../../../../A/labels.csv"})})


def huge() -> bytes:
    head = json.dumps({"encoded": {"dtype": "U8", "shape": [2**46], "data_offsets": [0, 2**46]}}).encode()
    return len(head).to_bytes(8, "little") + head


class Pickled:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def pickled(marker: Path) -> bytes:
    return pickle.dumps(Pickled(marker))


def model() -> Arrays:
    return get_arrays(build_classifier(honest().model, len(FINDINGS), seed=1))


def zeros() -> Arrays:
    return {name: np.zeros_like(array) for name, array in model().items()}


def sent(arrays: Arrays) -> bytes:
    """Arrays encoded as they are, under a header that says they are of the right names, shapes and dtypes."""
    encoding._check_finite = lambda *_: None
    payload = encoding.encode(arrays, {}, "float32").payload["encoded"].copy()
    payload[6:38] = np.frombuffer(encoding._layout_digest(model()), np.uint8)
    return task({"encoded": payload})


def changed(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> bytes:
    """All zeros, but for one array."""
    arrays = zeros()
    name = next(name for name, array in arrays.items() if array.ndim == 4)
    return sent({**arrays, name: change(arrays[name])})


def renamed() -> bytes:
    arrays = {f"other.{name}": array for name, array in zeros().items()}
    return task(encoding.encode(arrays, {}, "float32").payload)


def bomb(*, claimed: int | None = None) -> bytes:
    """64 GiB of zeros in 2 MB (RFC 8878: blocks of one repeated byte), by default under the size that is expected."""
    arrays = zeros()
    header = encoding.encode(arrays, {}, "float32").payload["encoded"][: encoding._HEADER.size].tobytes()
    size = claimed or sum(array.nbytes for array in arrays.values())
    begin = struct.pack("<IBBQ", 0xFD2FB528, 3 << 6, 7 << 3, size)  # a window of 128 KiB, the size in 8 bytes
    block, last = (struct.pack("<I", 2**17 << 3 | 1 << 1 | end)[:3] + b"\0" for end in (0, 1))
    frame = begin + block * (64 * GIBIBYTE // 2**17 - 1) + last
    return task({"encoded": np.frombuffer(header + frame, np.uint8)})


def attempts(marker: Path) -> list[Attempt]:
    """After the other bundle, in this order; the last two are honest, but for the hour of the second."""
    return [
        *(
            Attempt(name, task, Refusal.POLICY, heard=False, message_type=name)
            for name in ("query", "train.anything", "evaluate.films", "system.shell")
        ),
        Attempt("undeclared field", lambda: odd(fields="patient_id,image"), Refusal.POLICY, heard=False),
        Attempt("undeclared record", task, Refusal.POLICY, heard=False, records=undeclared_record),
        Attempt("undeclared word", task, Refusal.POLICY, heard=False, records=undeclared_word),
        Attempt("another file", task, Refusal.POLICY, heard=False, records=elsewhere),
        Attempt("undeclared task", lambda: odd(kind="export"), Refusal.POLICY, heard=False),
        Attempt("negative round", lambda: odd(round=-1), Refusal.POLICY, heard=False),
        Attempt("pickled code", lambda: pickled(marker), Refusal.POLICY, heard=False),
        Attempt("64 TiB", huge, Refusal.POLICY, heard=False),
        Attempt("column", lambda: task(findings=[*FINDINGS, "patient_id"]), Refusal.POLICY_FINDINGS),
        Attempt("architecture", lambda: task(model={"architecture": "resnet34"}), Refusal.POLICY_MODEL),
        Attempt("film size", lambda: task(model={"image_size": 4096}), Refusal.POLICY_MODEL),
        Attempt("rounds", lambda: task(federation={"rounds": 20000}), Refusal.POLICY_ROUNDS),
        Attempt("epochs", lambda: task(training={"epochs": 10**4}), Refusal.POLICY_EPOCHS),
        Attempt("sites", lambda: task(federation={"quorum": 1}), Refusal.POLICY_SITES),
        Attempt("no privacy", lambda: task(privacy="off"), Refusal.PRIVACY),
        Attempt("films' privacy", lambda: task(privacy={"unit": "film"}), Refusal.PRIVACY),
        Attempt(
            "budget",
            lambda: task(encoding.encode(zeros(), {}, "float32").payload, privacy={"epsilon": 90.0}),
            Refusal.BUDGET,
        ),
        Attempt("NaN", lambda: changed(lambda array: np.full_like(array, np.nan)), Refusal.MODEL),
        Attempt("shape", lambda: changed(lambda array: array[:-1]), Refusal.MODEL),
        Attempt("dtype", lambda: changed(lambda array: array.astype(np.float64)), Refusal.MODEL),
        Attempt("names", renamed, Refusal.MODEL),
        Attempt("not encoded", lambda: task(zeros()), Refusal.MODEL),
        Attempt("zip bomb", lambda: bomb(claimed=64 * GIBIBYTE), Refusal.MODEL),
        Attempt("lying zip bomb", bomb, Refusal.MODEL),
        Attempt("honest", lambda: task(encoding.encode(model(), {}, "float32").payload), None),
        Attempt("hours", task, Refusal.POLICY_HOURS),
    ]


BUNDLE = Attempt("bundle", task, Refusal.POLICY, heard=False)


# The server's side.


class Replies:
    """What the site sent, in a folder."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "replies"
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, reply: Reply | None) -> None:
        told: dict[str, Any] = {"name": name, "reply": None}
        if reply is not None:
            told["reply"] = reply.to_wire()
            told["arrays"] = len(reply.arrays)
            told["sha256"], _ = reply.content
        with (self._folder / "told.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")

    def read(self) -> dict[str, dict[str, Any]]:
        path = self._folder / "told.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {told["name"]: told for told in map(json.loads, lines)}


class MaliciousRun:
    """Stands in for `FederatedRun`: the first application has another bundle, the second tries all the rest."""

    def __init__(
        self, marker: str, transport: Any, _config: object, folder: RunFolder, _audit: object
    ) -> None:
        self._marker, self._transport, self._run = Path(marker), transport, folder.folder
        self._replies = Replies(folder.folder)

    def execute(self, *, resume: bool) -> None:
        while "A" not in self._transport.connected():
            time.sleep(0.2)
        if "bundle" not in self._replies.read():
            self._try(BUNDLE)
            return
        for attempt in attempts(self._marker):
            while attempt.name == "hours" and not (self._run / "after hours").exists():
                time.sleep(0.2)
            self._try(attempt)
        threading.Event().wait()  # nothing more, until the server ends

    def _try(self, attempt: Attempt) -> None:
        node = self._transport.connected()["A"].node
        grid, depot, content = self._transport._grid, self._transport._depot, attempt.content()
        digest = hashlib.sha256(content).hexdigest()
        depot._tasks.mkdir(parents=True, exist_ok=True)
        (depot._tasks / digest).write_bytes(content)
        said = {"payload": digest, "bytes": len(content), "audit": ""}
        message = Message(attempt.records(said), dst_node_id=node, message_type=attempt.message_type, ttl=100)
        (identifier,) = grid.push_messages([message])
        depot.ring()
        until = time.monotonic() + (10 if attempt.stopped_before else 100)
        while not depot.answered(identifier) and time.monotonic() < until:
            time.sleep(0.05)
        reply = None
        if depot.answered(identifier):
            (answer,) = grid.pull_messages([identifier])
            record = dict(answer.content.config_records["reply"])
            reply = Reply("A", int(attempt.heard), record["refusal"], audit=record["audit"])
            if not record["refusal"]:
                path = depot.reply("A", record["payload"])
                self._keep(attempt.name, path)
                reply = read_reply(path, record["audit"])
        self._replies.write(attempt.name, reply)

    def _keep(self, name: str, payload: Path) -> None:
        folder = self._run / "replies"
        (folder / f"{name}.bin").write_bytes(payload.read_bytes())


def hand_out_foreign_code(marker: str) -> None:
    """The first run of this server gets it; where a site runs it, it makes the folder `marker`."""
    # Once for the log of server.run, and once for the run.
    bundles = iter([foreign_bundle(Path(marker))] * 2)
    flower_internals.bundle = lambda: next(bundles, own_bundle())


def foreign_bundle(marker: Path) -> bytes:
    """The project's own name and version, and code of the server's."""
    with zipfile.ZipFile(io.BytesIO(own_bundle())) as own:
        files: dict[str, bytes | Path] = {
            name: own.read(name) for name in ("pyproject.toml", "LICENSE", "README.md")
        }
        files["pyproject.toml"] = own.read("pyproject.toml").replace(b"client.app:app", b"foreign:app")
    files["foreign.py"] = f"import os\nos.mkdir({str(marker)!r})\nfrom client.app import app\n".encode()
    return build_fab_from_files(files)[0]


# The site's side, and what both sides wrote.


class Watch:
    """Waits, and meanwhile sees how much memory the site's worker takes at most.

    Attributes:
        peak: bytes of the largest.
    """

    def __init__(self, running: Federation) -> None:
        self._running, self.peak = running, 0

    def until(self, told: str, seconds: float) -> None:
        replies = Replies(self._running.run)
        wait_for(lambda: self._look() or told in replies.read(), seconds, self._running.everything)

    def _look(self) -> bool:
        for process in self._running.processes("[acm-fed-worker]"):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.peak = max(self.peak, process.memory_info().rss)
        return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path, rounds=1)
    config = honest(server=federation.config.server.model_dump())
    (tmp_path / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
    permit(tmp_path)
    (tmp_path / "malice").mkdir()
    start = MALICE.format(marker=str(tmp_path / "marker"))
    (tmp_path / "malice" / "sitecustomize.py").write_text(start, encoding="utf-8")
    yield federation
    federation.end()


def permit(folder: Path, **changes: Any) -> SiteConfig:
    settings = site(folder, "A", policy={**POLICY, **changes}, privacy=PRIVACY)
    (folder / "sites" / "A.yaml").write_text(dump_config(settings), encoding="utf-8")
    return settings


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_whatever_a_malicious_server_asks_is_refused_by_a_code_and_written_down(
    running: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = running.folder
    client, watch = running.client("A"), Watch(running)
    with monkeypatch.context() as changed:
        changed.setenv("PYTHONPATH", str(folder / "malice"), prepend=os.pathsep)
        running.server()
    watch.until("bundle", 300)
    nodes = running.processes("flower-supernode")
    watch.until("honest", 1200)
    now = datetime.now()
    closed = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    settings = permit(folder, hours=closed)
    (running.run / "after hours").touch()
    watch.until("hours", 60)
    assert running.processes("flower-supernode") == nodes
    assert "started again" not in client.text()
    client.interrupt()
    assert client.wait(30) == 0
    running.end()

    tried, told = [BUNDLE, *attempts(folder / "marker")], Replies(running.run).read()
    for attempt in tried:
        back = told[attempt.name]
        if attempt.stopped_before:
            assert back["reply"] is None, attempt.name
            continue
        reply = replace(Reply.from_wire(back["reply"], {}), audit="")
        if attempt.expected is not None:
            assert reply == Reply("A", int(attempt.heard), attempt.expected.value), attempt.name
            assert back["arrays"] == 0
    answer = Reply.from_wire(told["honest"]["reply"], {})
    assert (answer.refusal, answer.films, told["honest"]["arrays"]) == ("", PRIVACY["population"], 1)

    events = [row.event for row in verify(audit_folder(settings.state)).rows]
    refused = [event for event in events if isinstance(event, TaskRefused | BundleRefused)]
    own = hashlib.sha256(own_bundle()).hexdigest()
    other = hashlib.sha256(foreign_bundle(folder / "marker")).hexdigest()
    assert refused == [
        BundleRefused(offered=other, own=own),
        *(attempt.row for attempt in tried[1:] if attempt.expected is not None),
    ]
    assert [event.sha256 for event in events if isinstance(event, Left)] == [told["honest"]["sha256"]]

    assert not (folder / "marker").exists()
    assert watch.peak < 3 * GIBIBYTE
    steps = read_ledger(ledger_folder(settings)).steps()
    assert {step.round for step in steps} == {1}
    assert len(steps) == PRIVACY["population"] // 10  # what the honest task costs

    with settings.labels.open(newline="", encoding="utf-8") as file:
        films = list(csv.DictReader(file))
    secrets = {str(folder / "A"), str(settings.state), closed, *OWN_VALUES}
    secrets |= {Path(film["image"]).stem for film in films} | {film["patient_id"] for film in films}
    received = [path for root in (running.run, folder / "server_state") for path in root.rglob("*")]
    for path in received:
        if path.is_file():
            content = path.read_bytes()
            assert [secret for secret in secrets if secret.encode() in content] == [], path
