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
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_to_proto
from flwr.proto.message_pb2 import ObjectTree
from hospitals import FINDINGS, federation, site
from loopback import Federation
from processes import wait_for

import server.superlink
from acm_core.arrays import Arrays
from acm_core.audit_events import BundleRefused, Left, TaskRefused
from acm_core.audit_log import AuditLog, audit_folder, verify
from acm_core.bundle import build_bundle
from acm_core.config import dump_config
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated import encoding
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.nn import build_classifier
from acm_core.privacy.ledger import ledger_folder
from acm_core.privacy.ledger import verify as read_ledger
from acm_core.training.weights import get_arrays
from client.site_node import Guard
from server.run_folder import RunFolder

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

    federation = ModuleType("server.federation")
    federation.FederatedRun = lambda *about: malice().MaliciousRun({{marker!r}}, *about)
    sys.modules["server.federation"] = federation
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
        content: made where it is sent.
        expected: the refusal; None for an answer.
        heard: a ClientApp knows it for a task of round 1.
    """

    name: str
    content: Callable[[], RecordDict]
    expected: Refusal | None
    heard: bool = True
    message_type: str = "train"

    @property
    def stopped_before(self) -> bool:
        """The guard before the SuperNode answers, with an error of Flower's."""
        return self.message_type != "train" or self.name == "bundle"

    @property
    def row(self) -> TaskRefused:
        """The row of the site's log."""
        reason = Refusal(self.expected or "")
        if not self.heard:
            return TaskRefused(run=None, round=0, task=None, reason=reason, policy=None)
        line = reason.value if reason.startswith("policy.") else None
        return TaskRefused(run="test", round=1, task=TaskKind.TRAIN, reason=reason, policy=line)


def records(wire: dict[str, Any], arrays: dict[str, Array]) -> RecordDict:
    return RecordDict({"task": ConfigRecord(wire), "arrays": ArrayRecord(arrays)})


def task(arrays: Arrays | None = None, **changes: Any) -> RecordDict:
    """A well-formed one for a run with these changes."""
    asked = Task(TaskKind.TRAIN, 1, honest(**changes).model_dump_json())
    return records(dict(asked.to_wire()), {name: Array(array) for name, array in (arrays or {}).items()})


def odd(**changes: Any) -> RecordDict:
    """The fields of a task, some of them changed."""
    asked = Task(TaskKind.TRAIN, 1, honest().model_dump_json())
    return records({**asked.to_wire(), **changes}, {})


def undeclared_record() -> RecordDict:
    content = task()
    content["send"] = ConfigRecord({"fields": ["patient_id", "image"]})
    return content


def numpy_file(content: bytes) -> RecordDict:
    """A task whose array is this file."""
    asked = Task(TaskKind.TRAIN, 1, honest().model_dump_json())
    array = Array(dtype="uint8", shape=(1,), stype="numpy.ndarray", data=content)
    return records(dict(asked.to_wire()), {"encoded": array})


def huge_numpy_file() -> RecordDict:
    file = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (2**46,)}
    np.lib.format.write_array_header_1_0(file, about)
    return numpy_file(file.getvalue())


class Pickled:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


def pickled(marker: Path) -> RecordDict:
    file = io.BytesIO()
    np.save(file, np.array([Pickled(marker)], object), allow_pickle=True)
    return numpy_file(file.getvalue())


def model() -> Arrays:
    return get_arrays(build_classifier(honest().model, len(FINDINGS), seed=1))


def zeros() -> Arrays:
    return {name: np.zeros_like(array) for name, array in model().items()}


def sent(arrays: Arrays) -> RecordDict:
    """Arrays encoded as they are, under a header that says they are of the right names, shapes and dtypes."""
    encoding._check_finite = lambda *_: None
    payload = encoding.encode(arrays, {}, "float32").payload["encoded"].copy()
    payload[6:38] = np.frombuffer(encoding._layout_digest(model()), np.uint8)
    return task({"encoded": payload})


def changed(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> RecordDict:
    """All zeros, but for one array."""
    arrays = zeros()
    name = next(name for name, array in arrays.items() if array.ndim == 4)
    return sent({**arrays, name: change(arrays[name])})


def renamed() -> RecordDict:
    arrays = {f"other.{name}": array for name, array in zeros().items()}
    return task(encoding.encode(arrays, {}, "float32").payload)


def bomb(*, claimed: int | None = None) -> RecordDict:
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
        Attempt("undeclared record", undeclared_record, Refusal.POLICY, heard=False),
        Attempt("undeclared task", lambda: odd(kind="export"), Refusal.POLICY, heard=False),
        Attempt("negative round", lambda: odd(round=-1), Refusal.POLICY, heard=False),
        Attempt("pickled code", lambda: pickled(marker), Refusal.POLICY, heard=False),
        Attempt("64 TiB", huge_numpy_file, Refusal.POLICY, heard=False),
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

    def write(self, name: str, message: Message | None) -> None:
        told: dict[str, Any] = {"name": name, "error": None, "reply": None}
        if message is not None and message.has_error():
            told["error"] = message.error.reason
        elif message is not None:
            content = recorddict_to_proto(message.content).SerializeToString()
            (self._folder / f"{name}.bin").write_bytes(content)
            arrays = {key: array.numpy() for key, array in message.content.array_records["arrays"].items()}
            told["reply"] = dict(message.content.config_records["reply"])
            told["arrays"] = len(arrays)
            told["sha256"], _ = Reply.from_wire(told["reply"], arrays).content
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
        message = Message(attempt.content(), dst_node_id=node, message_type=attempt.message_type, ttl=100)
        grid = self._transport._grid
        (identifier,) = grid.push_messages([message])
        until = time.monotonic() + 100
        answer: list[Message] = []
        while not answer and identifier and time.monotonic() < until:
            time.sleep(0.05)
            answer = list(grid.pull_messages([identifier]))
        self._replies.write(attempt.name, answer[0] if answer else None)


def hand_out_foreign_code(marker: str) -> None:
    """The first run of this server gets it; where a site runs it, it makes the folder `marker`."""
    bundles = iter([foreign_bundle(Path(marker))])
    server.superlink.build_bundle = lambda: next(bundles, build_bundle())  # type: ignore[attr-defined]


def foreign_bundle(marker: Path) -> bytes:
    """The project's own name and version, and code of the server's."""
    with zipfile.ZipFile(io.BytesIO(build_bundle())) as own:
        files: dict[str, bytes | Path] = {
            name: own.read(name) for name in ("pyproject.toml", "LICENSE", "README.md")
        }
        files["pyproject.toml"] = own.read("pyproject.toml").replace(b"client.app:app", b"foreign:app")
    files["foreign.py"] = f"import os\nos.mkdir({str(marker)!r})\nfrom client.app import app\n".encode()
    return build_fab_from_files(files)[0]


# The site's side, and what both sides wrote.


class Watch:
    """Waits, and meanwhile sees how much memory the site's ClientApps take at most.

    Attributes:
        peak: bytes of the largest.
    """

    def __init__(self, running: Federation) -> None:
        self._running, self.peak = running, 0

    def until(self, told: str, seconds: float) -> None:
        replies = Replies(self._running.run)
        wait_for(lambda: self._look() or told in replies.read(), seconds, self._running.everything)

    def _look(self) -> bool:
        for process in self._running.processes("[flwr-clientapp]"):
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
        changed.setenv("PYTHONPATH", str(folder / "malice"))
        running.server()
    watch.until("bundle", 300)
    nodes = running.processes("client.site_node")
    watch.until("honest", 1200)
    now = datetime.now()
    closed = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    settings = permit(folder, hours=closed)
    (running.run / "after hours").touch()
    watch.until("hours", 60)
    assert running.processes("client.site_node") == nodes
    assert "started again" not in client.text()
    client.interrupt()
    assert client.wait(30) == 0
    running.end()

    tried, told = [BUNDLE, *attempts(folder / "marker")], Replies(running.run).read()
    for attempt in tried:
        back = told[attempt.name]
        if attempt.stopped_before:
            assert (back["error"], back["reply"]) == ("refused", None), attempt.name
            continue
        assert back["error"] is None, back
        reply = replace(Reply.from_wire(back["reply"], {}), audit="")
        if attempt.expected is not None:
            assert reply == Reply("A", int(attempt.heard), attempt.expected.value), attempt.name
            assert back["arrays"] == 0
    answer = Reply.from_wire(told["honest"]["reply"], {})
    assert (answer.refusal, answer.films, told["honest"]["arrays"]) == ("", PRIVACY["population"], 1)

    events = [row.event for row in verify(audit_folder(settings.state)).rows]
    refused = [event for event in events if isinstance(event, TaskRefused | BundleRefused)]
    own = hashlib.sha256(build_bundle()).hexdigest()
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


def test_flowers_own_error_leaves_without_its_text(tmp_path: Path) -> None:
    text = f"No space left on device: {tmp_path}"
    metadata = Metadata(1, "a" * 64, 42, 1, "b" * 64, "1", time.time(), 60.0, "train")
    message = make_message(metadata, error=Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, text))
    left: list[Any] = []

    def send(*announced: Any) -> tuple[set[str], str]:
        left.append(announced)
        return {announced[0].metadata.message_id}, "session"

    calls: list[Any] = [None] * 3
    guard = Guard(
        build_bundle(),
        AuditLog(tmp_path),
        42,
        calls[0],
        send,
        *calls,
        lambda *part: left.append(part),
        calls[0],
    )
    assert guard.send(message, ObjectTree(object_id="a" * 64), 0.0) == (set(), "")
    (told, tree, _), (_run, _session, identifier, content) = left
    assert (told.error.reason, told.metadata.reply_to_message_id) == ("failed", "b" * 64)
    assert identifier == tree.object_id == told.metadata.message_id != "a" * 64
    assert b"failed" in content
    assert str(tmp_path).encode() not in content
