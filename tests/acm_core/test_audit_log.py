"""What a side wrote down stays written down, by whichever of its processes, and any change to it is noticed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from chains import Killed, chained, fails, in_child, mutate, write_head
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from acm_core.audit_events import (
    KINDS,
    AnyEvent,
    BundleRefused,
    CertificateWritten,
    ClientStarted,
    ClientStopped,
    Enrolled,
    Left,
    PeerRefused,
    PolicyChanged,
    ReplyFault,
    ReplyRefused,
    ReplyTaken,
    RosterPinned,
    RowCut,
    RunFailed,
    RunFailure,
    RunFinished,
    RunResumed,
    RunStarted,
    ServerStarted,
    ServerStopped,
    SiteApproved,
    SiteConnected,
    SiteDisconnected,
    SiteMissing,
    SiteRefused,
    SiteRemoved,
    TaskReceived,
    TaskRefused,
    TaskSent,
)
from acm_core.audit_log import AuditBrokenError, AuditError, AuditLog, AuditRow, compare, verify
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import RefusalReason
from acm_core.hash_chain import LONGEST_ROW, head_of

# Children are forked while pytest's libraries may have threads: Python 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

HASH, OTHER, HEAD = "a" * 64, "b" * 64, "c" * 64
SSH_KEY = "SHA256:" + "Ab+/" * 10 + "xyz"
SITE, RUN = "S" * 32, "r" * 64  # as long as they may be
MANY = 2**53 - 1
ABOUT: dict[str, Any] = {"run": RUN, "round": MANY, "task": TaskKind.LOCAL_ONLY}
EVENTS: tuple[AnyEvent, ...] = (
    RowCut(bytes=MANY),
    CertificateWritten(certificate=SSH_KEY, authority=HASH),
    ServerStarted(version="0.1.0+local", bundle=HASH, certificate=None),
    ServerStopped(),
    SiteApproved(site=SITE, key=SSH_KEY),
    SiteRemoved(site=SITE, key=HASH),
    SiteConnected(site=SITE, address="2001:db8::ff00:42:8329"),
    SiteDisconnected(site=SITE),
    RunStarted(run=RUN, config=HASH, sites=MANY, rounds=MANY),
    RunResumed(run=RUN, config=HASH, round=MANY),
    RunFinished(run=RUN, round=MANY, model=HASH),
    RunFailed(run=RUN, round=MANY, reason=RunFailure.QUORUM),
    TaskSent(**ABOUT, site=SITE, model=HASH, bytes=MANY),
    ReplyTaken(**ABOUT, site=SITE, sha256=HASH, bytes=MANY, films=MANY, site_head=HEAD),
    ReplyRefused(**ABOUT, site=SITE, reason=RefusalReason.NOT_FINITE),
    ReplyRefused(**ABOUT, site=SITE, reason=ReplyFault.WRONG_ROUND),
    SiteRefused(**ABOUT, site=SITE, reason=Refusal.BUDGET),
    SiteMissing(**ABOUT, site=SITE),
    PeerRefused(address="192.0.2.7", path="/v1/fleet/push-messages", status=403, reason="of_another_site"),
    PeerRefused(address=None, path="other", status=404, reason="not_for_sites"),
    Enrolled(site=SITE, key=SSH_KEY, authority=HASH),
    RosterPinned(federation=RUN, roster=HASH, sites=MANY),
    ClientStarted(site=SITE, version="0.1.0", bundle=HASH, policy=OTHER),
    ClientStopped(),
    PolicyChanged(policy=HASH),
    TaskReceived(**ABOUT, config=HASH, model=OTHER, bytes=MANY, server_head=HEAD),
    TaskReceived(**ABOUT | {"run": None}, config=HASH, model=None, bytes=0, server_head=None),
    TaskRefused(**ABOUT, reason=Refusal.POLICY, policy="privacy.required"),
    TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None),
    BundleRefused(offered=HASH, own=OTHER),
    Left(**ABOUT, sha256=HASH, bytes=MANY, fields=tuple(f"f{'_' * 63}" for _ in range(64)), epsilon=1 / 3),
    Left(**ABOUT, sha256=HASH, bytes=0, fields=("site",), epsilon=None),
)


def rows_of(folder: Path) -> list[AuditRow]:
    return verify(folder).rows


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "audit.jsonl").write_bytes(b"".join(lines))


def begun(folder: Path, rows: int) -> list[bytes]:
    log = AuditLog(folder)
    for number in range(rows):
        log.append(number_of(number))
    return lines_of(folder)


def number_of(number: int) -> SiteMissing:
    return SiteMissing(run="run", round=number, task=TaskKind.TRAIN, site="A")


def rounds_of(folder: Path) -> list[int]:
    return [row.event.round for row in rows_of(folder) if isinstance(row.event, SiteMissing)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit"


@pytest.fixture
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about power cuts and write much."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("without_fsync")
def test_every_kind_is_read_as_it_was_written(folder: Path) -> None:
    assert {event.kind for event in EVENTS} == set(KINDS)
    log = AuditLog(folder)
    heads = [log.append(event) for event in EVENTS]
    rows = rows_of(folder)
    assert tuple(row.event for row in rows) == EVENTS
    assert [(head.rows, head.hash) for head in heads] == [(row.index + 1, row.hash) for row in rows]
    assert all(abs(row.time - time.time()) < 60 for row in rows)
    lines = lines_of(folder)
    assert chained([json.loads(line) for line in lines]) == lines
    assert max(map(len, lines)) < LONGEST_ROW / 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {"audit.jsonl", "head.json", "lock"}


def values_of(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas of single values, whatever they are part of."""
    parts = [part for name in ("anyOf", "prefixItems") for part in schema.get(name, ())]
    parts += [part for name in ("properties", "$defs") for part in schema.get(name, {}).values()]
    if "items" in schema:
        assert schema["maxItems"] <= 64
        parts.append(schema["items"])
    for part in parts:
        yield from values_of(part)
    if not parts and schema.get("type") != "object":
        yield schema


@pytest.mark.parametrize("event", get_args(AnyEvent), ids=lambda event: event.__name__)
def test_no_field_takes_free_text(event: type) -> None:
    """A name, a path or a patient's id gets in only where a form or a list of codes would let it."""
    schema = TypeAdapter(event).json_schema()
    assert schema["additionalProperties"] is False
    for value in values_of(schema):
        if pattern := value.get("pattern"):
            outside_classes = re.sub(r"\[(\\.|[^\]\\])*\]", "", pattern)
            assert re.fullmatch(r"\^[^*+]*\$", outside_classes), "expected an anchored form of bounded length"
            assert not re.search(
                r"(?<!\\)\.|\\[a-zA-Z]|[\s,;=]", re.sub(r"\{\d+,?\d*\}", "", outside_classes)
            )
        elif value.get("type") in ("integer", "number"):
            assert value["minimum"] >= 0
        else:
            assert {"const", "enum", "$ref"} & value.keys() or value["type"] == "null", value


LEFT: dict[str, Any] = {**ABOUT, "sha256": HASH, "bytes": 1, "fields": ("site",), "epsilon": None}
PEER: dict[str, Any] = {"address": "192.0.2.7", "path": "other", "status": 404, "reason": "not_for_sites"}


@pytest.mark.parametrize(
    ("event", "values"),
    [
        (Left, LEFT | {"run": "/data/films"}),
        (Left, LEFT | {"run": "Müller, Anna"}),
        (Left, LEFT | {"run": "run\n"}),
        (Left, LEFT | {"sha256": HASH[:-1]}),
        (Left, LEFT | {"sha256": HASH.upper()}),
        (Left, LEFT | {"bytes": -1}),
        (Left, LEFT | {"bytes": True}),
        (Left, LEFT | {"bytes": 10**400}),
        (Left, LEFT | {"bytes": 1.0}),
        (Left, LEFT | {"fields": ("Müller, Anna",)}),
        (Left, LEFT | {"fields": ("films/1.dcm",)}),
        (Left, LEFT | {"fields": ("x",) * 65}),
        (Left, LEFT | {"epsilon": float("nan")}),
        (Left, LEFT | {"epsilon": float("inf")}),
        (Left, LEFT | {"epsilon": -1.0}),
        (Left, LEFT | {"task": "train"}),
        (Left, LEFT | {"patient": "Anna"}),
        (TaskRefused, {**ABOUT, "reason": "anna", "policy": None}),
        (TaskRefused, {**ABOUT, "reason": Refusal.POLICY, "policy": "/state/A.yaml"}),
        (TaskRefused, {**ABOUT, "reason": Refusal.POLICY, "policy": "patient 4711"}),
        (SiteApproved, {"site": "A B", "key": HASH}),
        (SiteApproved, {"site": "A", "key": "-----BEGIN OPENSSH PRIVATE KEY-----"}),
        (PeerRefused, PEER | {"address": "anna"}),
        (PeerRefused, PEER | {"address": 3221225985}),
        (PeerRefused, PEER | {"path": "/v1/fleet/../../etc/passwd"}),
        (PeerRefused, PEER | {"path": "/patients/4711"}),
        (PeerRefused, PEER | {"status": 0}),
        (PeerRefused, PEER | {"reason": "Traceback: …"}),
        (ServerStarted, {"version": "/usr/lib", "bundle": HASH, "certificate": None}),
    ],
    ids=str,
)
def test_what_could_carry_a_patient_or_a_path_is_no_event(
    event: Callable[..., AnyEvent], values: Any
) -> None:
    with pytest.raises(ValidationError):
        event(**values)


@pytest.mark.parametrize(
    ("peer", "kept"),
    [("192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::1"), ("2001:DB8::1", "2001:db8::1")],
)
def test_a_peers_address_is_written_in_one_way(peer: str, kept: str) -> None:
    assert PeerRefused(**PEER | {"address": peer}).address == kept


def test_the_same_event_never_has_the_same_hash(folder: Path) -> None:
    """Whoever is told a hash cannot find by trying what the row says."""
    for _ in range(2):
        AuditLog(folder).append(ClientStopped())
    nonces = [row.nonce for row in rows_of(folder)]
    assert nonces[0] != nonces[1]
    assert {len(bytes.fromhex(nonce)) for nonce in nonces} == {16}


def test_a_row_is_on_disk_before_append_returns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def spied(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            target = arguments[-1 if name == "replace" else 0]
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
            calls.append((name, path.name))
            return real(*arguments, **more)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, spied(name))
    one_row = [
        ("write", "audit.jsonl"),
        ("fsync", "audit.jsonl"),
        ("fsync", f".head.json.{os.getpid()}.tmp"),
        ("replace", "head.json"),
        ("fsync", "audit"),
    ]
    AuditLog(folder).append(ServerStopped())
    assert calls == [("fsync", "state"), ("fsync", "audit"), ("fsync", "audit.jsonl"), *one_row]
    calls.clear()
    AuditLog(folder).append(ServerStopped())
    assert calls == one_row


class Neighbour:
    """Another process of the side, which ends at its n-th call that changes the disk."""

    def __init__(self, folder: Path, kill_at: int) -> None:
        orders, self._orders = os.pipe()
        self._done, done = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._orders)
            write, log = os.write, AuditLog(folder)
            Killed(kill_at)
            while number := os.read(orders, 1):
                log.append(number_of(number[0]))
                write(done, number)
            os._exit(0)
        os.close(orders)
        os.close(done)

    def append(self, number: int) -> bool:
        """Whether it lived to say that the event is written down."""
        os.write(self._orders, bytes([number]))
        return os.read(self._done, 1) == bytes([number])

    def end(self) -> int:
        os.close(self._orders)
        os.close(self._done)
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])


def killed_in_turns(folder: Path, kill_at: int) -> tuple[list[int], int | None]:
    """What two processes in turn were told is written down, and the event at which one of them was killed."""
    neighbour, log, told = Neighbour(folder, kill_at), AuditLog(folder), []
    for number in range(1, 6, 2):
        if not neighbour.append(number):
            assert neighbour.end() == 9
            return told, number
        log.append(number_of(number + 1))
        told += [number, number + 1]
    assert neighbour.end() == 0
    return told, None


def expect_at_least(folder: Path, told: list[int], killed: int | None) -> None:
    rounds = rounds_of(folder)
    assert [number for number in rounds if number != killed] == told
    assert rounds.count(killed or -1) <= 1


@pytest.mark.usefixtures("without_fsync")
def test_killed_at_any_write_nothing_is_lost_and_the_other_process_goes_on(tmp_path: Path) -> None:
    points = cuts = kept = 0
    for kill_at in count(1):
        folder = tmp_path / str(kill_at)
        told, killed = killed_in_turns(folder, kill_at)
        expect_at_least(folder, told, killed)
        unfinished = verify(folder).unfinished
        AuditLog(folder).append(number_of(100))
        assert in_child(lambda folder=folder: AuditLog(folder).append(number_of(101))) == 0
        expect_at_least(folder, [*told, 100, 101], killed)
        rows = rows_of(folder)
        cut = [row for row in rows if isinstance(row.event, RowCut)]
        assert [row.event.bytes for row in cut] == [unfinished] * (unfinished > 0)
        assert not list(folder.glob(".*")), "temporary files are left"
        points, cuts, kept = points + 1, cuts + len(cut), kept + (killed in rounds_of(folder))
        if killed is None:
            break
    assert points > 25
    assert cuts == 3  # one a row
    assert kept > 6


@pytest.mark.slow
@pytest.mark.usefixtures("without_fsync")
def test_killed_again_while_what_a_crash_left_is_set_right(tmp_path: Path) -> None:
    states: dict[tuple[object, ...], tuple[Path, list[int], int]] = {}
    for kill_at in count(1):
        folder = tmp_path / str(kill_at) / "audit"
        told, killed = killed_in_turns(folder, kill_at)
        if killed is None:
            break
        found = verify(folder)
        behind = found.marks != [head_of(found.rows)]
        leftovers = [path.stat().st_size > 0 for path in folder.glob(".*")]
        state = (bool(told), found.unfinished > 0, behind, *leftovers)
        states.setdefault(state, (folder, told, killed))
    assert len(states) >= 6
    for folder, told, killed in states.values():
        for kill_at in count(1):
            copy = folder.with_name(f"copy-{kill_at}")
            if folder.exists():
                shutil.copytree(folder, copy)
            code = in_child(lambda copy=copy, at=kill_at: (Killed(at), AuditLog(copy).append(number_of(99))))
            again = [99] * (99 in rounds_of(copy))
            expect_at_least(copy, told + again, killed)
            AuditLog(copy).append(number_of(100))
            expect_at_least(copy, [*told, *again, 100], killed)
            if code == 0:
                assert again
                break


@pytest.mark.usefixtures("without_fsync")
def test_four_processes_at_once_lose_no_row(folder: Path) -> None:
    def writes(first: int) -> None:
        log = AuditLog(folder)
        for number in range(first, first + 100):
            log.append(number_of(number))

    children = []
    for first in range(0, 400, 100):
        if (child := os.fork()) == 0:
            writes(first)
            os._exit(0)
        children.append(child)
    lengths = []
    while len(lengths) < 20:  # read while they write
        lengths.append(len(rows_of(folder)))
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert lengths == sorted(lengths)
    rounds = rounds_of(folder)
    assert sorted(rounds) == list(range(400))
    for first in range(0, 400, 100):
        assert [number for number in rounds if first <= number < first + 100] == list(
            range(first, first + 100)
        )
    assert rounds != sorted(rounds)


@pytest.mark.usefixtures("without_fsync")
def test_threads_take_turns_too(folder: Path) -> None:
    log = AuditLog(folder)
    threads = [
        threading.Thread(target=lambda first=first: [log.append(number_of(first + i)) for i in range(25)])
        for first in range(0, 100, 25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rounds_of(folder)) == list(range(100))


def expect_broken(folder: Path, match: str) -> None:
    with pytest.raises(AuditBrokenError, match=match):
        verify(folder)


@pytest.mark.usefixtures("without_fsync")
def test_any_byte_that_was_changed_is_noticed(folder: Path) -> None:
    begun(folder, 3)
    for name in ("audit.jsonl", "head.json"):
        original = (folder / name).read_bytes()
        for position in range(len(original)):
            changed = bytearray(original)
            changed[position] ^= 1
            (folder / name).write_bytes(changed)
            with pytest.raises(AuditBrokenError):
                verify(folder)
        (folder / name).write_bytes(original)
    assert len(rows_of(folder)) == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_that_were_moved_are_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = sound_log(tmp_path_factory)
    lines = lines_of(folder)
    first = data.draw(st.integers(0, len(lines) - 1))
    second = data.draw(st.integers(first, len(lines)))
    how = data.draw(st.sampled_from(["drop", "swap", "duplicate", "reverse"]))
    moved = {
        "drop": lines[:first] + lines[second:],
        "swap": [*lines[:first], *lines[first + 1 : first + 2], lines[first], *lines[first + 2 :]],
        "duplicate": lines[:second] + lines[first:],
        "reverse": lines[:first] + lines[first:second][::-1] + lines[second:],
    }[how]
    same = next((i for i, pair in enumerate(zip(lines, moved, strict=False)) if pair[0] != pair[1]), None)
    try:
        write_lines(folder, moved)
        if moved == lines:
            verify(folder)
        elif same is not None:
            expect_broken(folder, f"as it was written, got another row {same}: ")
        elif len(moved) > len(lines):
            expect_broken(folder, f"as it was written, got another row {len(lines)}: ")
        else:
            expect_rolled_back(folder, len(moved), len(lines))
    finally:
        write_lines(folder, lines)


def expect_rolled_back(folder: Path, rows: int, head: int) -> None:
    expect_broken(folder, f"head.json to end with the audit log, after {rows} rows, got {head}")


LOGS: list[Path] = []


def sound_log(folders: pytest.TempPathFactory) -> Path:
    """A log of eight rows that the examples of a test share."""
    if not LOGS:
        LOGS.append(folders.mktemp("sound") / "audit")
        begun(LOGS[0], 8)
    return LOGS[0]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_done_to_its_files_it_says_the_same_or_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = sound_log(tmp_path_factory)
    rows = rows_of(folder)
    paths = [folder / "audit.jsonl", folder / "head.json"]
    originals = [path.read_bytes() for path in paths]
    try:
        for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True)):
            mutate(path, data)
        if (
            paths[0].exists() or paths[1].exists()
        ):  # the folder as a whole: only the other side's log can tell
            found = rows_of(folder)
            assert found == rows[: len(found)]
            assert len(found) >= len(rows) - 1 or not paths[1].exists()
    except AuditError:
        pass
    finally:
        for path, original in zip(paths, originals, strict=True):
            path.write_bytes(original)


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_rows_cut_off_the_end_are_noticed_by_the_head(folder: Path, lost: int) -> None:
    lines = begun(folder, 5)
    write_lines(folder, lines[:-lost])
    expect_rolled_back(folder, 5 - lost, 5)
    with pytest.raises(AuditBrokenError, match="one is an older copy"):
        AuditLog(folder).append(ServerStopped())
    assert lines_of(folder) == lines[:-lost]


def test_an_older_head_is_noticed_by_the_rows(folder: Path) -> None:
    lines = begun(folder, 5)
    write_head(folder / "head.json", lines[:3])
    expect_rolled_back(folder, 5, 3)
    (folder / "head.json").unlink()
    expect_rolled_back(folder, 5, 0)
    with pytest.raises(AuditBrokenError, match="one is an older copy"):
        AuditLog(folder).append(ServerStopped())


def test_a_lost_log_is_not_begun_anew(folder: Path) -> None:
    begun(folder, 3)
    (folder / "audit.jsonl").unlink()
    expect_broken(folder, "audit log of 3 rows that .*head.json speaks of")
    with pytest.raises(AuditBrokenError, match="found none: what happened can no longer be shown"):
        AuditLog(folder).append(ServerStopped())
    assert not (folder / "audit.jsonl").exists()


def exchange(server: AuditLog, sites: dict[str, AuditLog], number: int) -> None:
    """A round as the two sides write it down."""
    about: dict[str, Any] = {"run": "run", "round": number, "task": TaskKind.TRAIN}
    for name, log in sites.items():
        sent = server.append(TaskSent(**about, site=name, model=HASH, bytes=4))
        log.append(TaskReceived(**about, config=OTHER, model=HASH, bytes=4, server_head=sent.hash))
        left = log.append(Left(**about, sha256=HASH, bytes=8, fields=("arrays",), epsilon=None))
        server.append(ReplyTaken(**about, site=name, sha256=HASH, bytes=8, films=3, site_head=left.hash))


def test_a_log_put_back_or_written_anew_is_noticed_by_the_other_side(tmp_path: Path) -> None:
    server, sites = tmp_path / "server", {name: tmp_path / name for name in "AB"}
    logs = {name: AuditLog(path) for name, path in sites.items()}
    AuditLog(server).append(ServerStopped())
    exchange(AuditLog(server), logs, 1)
    backups = {path: path.with_suffix(".old") for path in (server, sites["A"])}
    for path, backup in backups.items():
        shutil.copytree(path, backup)
    exchange(AuditLog(server), logs, 2)
    for name, path in sites.items():
        assert compare(rows_of(path), rows_of(server), name) == 2
        assert compare(rows_of(server), rows_of(path), None) == 2
    assert compare(rows_of(sites["A"]), rows_of(sites["B"]), "A") == 0
    # Put back as a whole: each is sound by itself, and older than what the other one knows.
    assert len(rows_of(backups[server])) == 5
    for name in "AB":
        with pytest.raises(AuditBrokenError, match="none for its row 2: one of the two is an older copy"):
            compare(rows_of(backups[server]), rows_of(sites[name]), None)
    with pytest.raises(AuditBrokenError, match="none for its row 6:"):
        compare(rows_of(backups[sites["A"]]), rows_of(server), "A")
    # Written anew with all its hashes: sound by itself.
    rows = [json.loads(line) for line in lines_of(sites["A"])]
    rows[1]["event"]["bytes"] = 0
    forged = chained(rows)
    write_lines(sites["A"], forged)
    write_head(sites["A"] / "head.json", forged)
    assert len(rows_of(sites["A"])) == 4
    with pytest.raises(AuditBrokenError, match="none for its row 2:"):
        compare(rows_of(sites["A"]), rows_of(server), "A")
    assert compare(rows_of(sites["B"]), rows_of(server), "B") == 2


@pytest.mark.parametrize(
    ("name", "instead", "text"),
    [
        ("write", fails(errno.ENOSPC), "No space left"),
        ("write", lambda file, line, real=os.write: real(file, line[:50]), "No space left"),
        ("fsync", fails(errno.EIO), "Input/output error"),
        ("replace", fails(errno.EROFS), "Read-only file system"),
        ("open", fails(errno.EMFILE), "Too many open files"),
    ],
)
def test_a_disk_that_does_not_take_the_row_is_told_and_nothing_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., Any], text: str
) -> None:
    begun(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, instead)
        with pytest.raises(AuditError, match=f"audit log in .*{text}.*cannot be written down") as raised:
            AuditLog(folder).append(number_of(2))
        assert not isinstance(raised.value, AuditBrokenError)
    assert rounds_of(folder)[:2] == [0, 1]
    AuditLog(folder).append(number_of(3))
    assert [number for number in rounds_of(folder) if number != 2] == [0, 1, 3]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(AuditError, match="expected to read and write the audit log"):
        AuditLog(tmp_path / "state" / "audit").append(ServerStopped())


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "audit") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "of_event"),
    [
        ({"kind": "note"}, True),
        ({"kind": None}, True),
        ({"note": "Anna"}, True),
        ({"round": "1"}, True),
        ({"task": "read"}, True),
        ({"site": "/a"}, True),
        ({"time": -1}, False),
        ({"time": 2**37}, False),
        ({"nonce": "Anna"}, False),
        ({"note": "Anna"}, False),
    ],
    ids=str,
)
def test_a_row_that_no_log_writes_is_refused_though_its_hash_fits(
    folder: Path, change: dict[str, Any], of_event: bool
) -> None:
    rows = [json.loads(line) for line in begun(folder, 3)]
    (rows[1]["event"] if of_event else rows[1]).update(change)
    lines = chained(rows)
    write_lines(folder, lines)
    write_head(folder / "head.json", lines)
    expect_broken(folder, "another row 1: ")


def test_it_needs_neither_torch_nor_flower() -> None:
    code = "import sys, acm_core.audit_log; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydantic" in done.stdout.split()
    assert not {"torch", "monai", "flwr", "ray", "rich"} & set(done.stdout.split())
