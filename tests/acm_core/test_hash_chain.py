"""Where processes take turns, the end of a chain tells all that the whole would; the ledger's tests are on the rest."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chains import chained, in_child, mutate, write_head
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from acm_core.hash_chain import LONGEST_ROW, Chain, ChainKind, ChainRow, Faults, head_of, read

# Children are forked while pytest's libraries may have threads: Python 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Number(ChainRow):
    value: int
    padding: str = ""


class ChainError(Exception):
    pass


TURNS: ChainKind[Number] = ChainKind(
    name="list",
    file="list.jsonl",
    rows=TypeAdapter(Number),
    faults=Faults(*[ChainError] * 5),
    lost="it is lost",
    halted="mend it",
    busy=None,
)
ALONE = replace(TURNS, busy="wait")


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def append(folder: Path, *values: int, kind: ChainKind[Number] = TURNS, padding: str = "") -> None:
    for value in values:
        with closing(Chain(folder, kind)) as chain:
            chain.append({"value": value, "padding": padding})


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "list.jsonl").read_bytes().splitlines(keepends=True)


def numbers(folder: Path) -> list[int]:
    return [row.value for row in read(folder, TURNS).rows]


def test_it_reads_as_one_that_was_written_by_one_process(tmp_path: Path) -> None:
    append(tmp_path / "turns", 1, 2, 3)
    with closing(Chain(tmp_path / "alone", ALONE)) as chain:
        for value in (1, 2, 3):
            chain.append({"value": value, "padding": ""})
    for folder in (tmp_path / "turns", tmp_path / "alone"):
        lines = lines_of(folder)
        assert chained([json.loads(line) for line in lines]) == lines
        assert json.loads((folder / "head.json").read_text()) == {
            "rows": 3,
            "hash": json.loads(lines[-1])["hash"],
        }
        assert numbers(folder) == [1, 2, 3]
    assert [row.value for row in read(tmp_path / "turns", ALONE).rows] == [1, 2, 3]


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(0, 4),
    torn=st.sampled_from([b"", b"{", b'{"half', b"{\n", b'{"half\n', b"\n", b"\0" * LONGEST_ROW]),
    behind=st.booleans(),
    padding=st.sampled_from([0, 500, LONGEST_ROW // 2, LONGEST_ROW - 300]),
)
def test_what_a_crash_leaves_is_seen_at_the_end_as_in_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: int, torn: bytes, behind: bool, padding: int
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    append(folder, *range(rows), padding="x" * padding)
    lines = lines_of(folder) if rows else []
    if behind and rows:
        write_head(folder / "head.json", lines[:-1]) if rows > 1 else (folder / "head.json").unlink()
        torn = b""
    (folder / "list.jsonl").write_bytes(b"".join(lines) + torn)
    whole = read(folder, TURNS)
    assert (len(whole.rows), whole.unfinished) == (rows, len(torn))
    with closing(Chain(folder, TURNS)) as chain:
        assert chain.head == head_of(whole.rows)
        assert chain.cut == len(torn)
        assert chain.rows == whole.rows[-len(chain.rows) :]
        chain.append({"value": rows, "padding": ""})
    assert numbers(folder) == list(range(rows + 1))
    assert read(folder, TURNS).marks == [head_of(read(folder, TURNS).rows)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_at_the_end_is_noticed_there(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    append(folder, *range(4))
    lines = lines_of(folder)
    written = read(folder, TURNS).rows
    if data.draw(st.booleans()):
        mutate(folder / "head.json", data)
    else:
        (folder / "end").write_bytes(b"".join(lines[2:]))
        mutate(folder / "end", data)
        end = (folder / "end").read_bytes() if (folder / "end").exists() else b""
        (folder / "list.jsonl").write_bytes(b"".join(lines[:2]) + end)
    before = (folder / "list.jsonl").read_bytes()
    try:
        whole = read(folder, TURNS)
    except ChainError:
        with pytest.raises(ChainError):
            Chain(folder, TURNS)
        assert (folder / "list.jsonl").read_bytes() == before
    else:
        with closing(Chain(folder, TURNS)) as chain:
            assert chain.head == head_of(whole.rows)
        assert whole.rows == written[: len(whole.rows)]


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize(
    "junk", [b"x" * 100_000, b"x" * 100_000 + b"\n", b"\n" * 100_000, b'{"index":' + b"9" * 400 + b"}\n"]
)
def test_junk_at_the_end_is_no_row_that_a_crash_cut_short(tmp_path: Path, rows: int, junk: bytes) -> None:
    append(tmp_path, *range(rows))
    if rows == 1:
        (tmp_path / "head.json").unlink()
    with (tmp_path / "list.jsonl").open("ab") as file:
        file.write(junk)
    before = (tmp_path / "list.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(ChainError, match="another row"):
            Chain(tmp_path, TURNS)
        with pytest.raises(ChainError, match="another row"):
            read(tmp_path, TURNS)
    assert (tmp_path / "list.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"index": 7}, {"index": 10**30}, {"index": None}, {"value": None}, {}])
def test_a_row_alone_cannot_say_where_it_stands(tmp_path: Path, change: dict[str, Any]) -> None:
    append(tmp_path, 1)
    line = chained([{**json.loads(lines_of(tmp_path)[0]), **change}])[0]
    (tmp_path / "list.jsonl").write_bytes(line if change else b"{}\n")
    write_head(tmp_path / "head.json", [line])
    with pytest.raises(ChainError, match=r"another row|row 0 of the list|to end with the list"):
        Chain(tmp_path, TURNS)


def bytes_read() -> int:
    """By this process so far, from files and all else; asking reads something too, the same each time."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process reads")
def test_appending_reads_the_end_alone_however_long_the_chain(tmp_path: Path) -> None:
    append(tmp_path, 0)
    row = json.loads(lines_of(tmp_path)[0])
    taken = []
    for length in (1000, 20_000):
        lines = chained([{**row, "index": index} for index in range(length)])
        (tmp_path / "list.jsonl").write_bytes(b"".join(lines))
        write_head(tmp_path / "head.json", lines)
        before = bytes_read()
        append(tmp_path, length)
        taken.append(bytes_read() - before)
        assert len(read(tmp_path, TURNS).rows) == length + 1
    assert len(b"".join(lines)) > 40 * taken[1]
    assert taken[1] <= taken[0] + 100
    assert taken[1] < 4 * LONGEST_ROW


def test_opening_a_sound_one_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(tmp_path, 1, 2)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("expected nothing to be written")

    for name in ("fsync", "write", "replace", "ftruncate", "unlink"):
        monkeypatch.setattr(os, name, unexpected)
    for kind in (TURNS, ALONE):
        Chain(tmp_path, kind).close()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()} == before


def test_what_no_row_can_be_is_not_written_and_does_no_harm(tmp_path: Path) -> None:
    with closing(Chain(tmp_path, TURNS)) as chain:
        for values in (
            {"value": "one", "padding": ""},
            {"value": 1.5, "padding": ""},
            {"value": float("nan")},
            {},
        ):
            with pytest.raises(ValueError, match=r"value|JSON"):
                chain.append(values)
        chain.append({"value": 1, "padding": ""})
    assert numbers(tmp_path) == [1]


def test_another_process_waits_for_its_turn(tmp_path: Path) -> None:
    append(tmp_path, 1)
    chain = Chain(tmp_path, TURNS)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b".")
        append(tmp_path, 3)
        os._exit(0)
    assert os.read(reader, 1) == b"."
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    chain.append({"value": 2, "padding": ""})
    chain.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert numbers(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("kind", [TURNS, ALONE])
def test_a_fork_neither_keeps_the_lock_nor_lets_go_of_it(tmp_path: Path, kind: ChainKind[Number]) -> None:
    chain = Chain(tmp_path, kind)
    assert in_child(chain.close) == 0
    with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        chain.close()
        append(tmp_path, 1, kind=kind)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_reading_waits_for_a_row_to_be_whole_and_hinders_nobody(tmp_path: Path) -> None:
    append(tmp_path, 1)
    with closing(Chain(tmp_path, TURNS)):
        reader, writer = os.pipe()

        def reads() -> None:
            os.write(writer, b".")
            assert numbers(tmp_path) == [1]
            os.write(writer, b".")

        child = os.fork()
        if child == 0:
            reads()
            os._exit(0)
        assert os.read(reader, 1) == b"."
        time.sleep(0.2)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"."
    # It needs no lock file: a copy may come without.
    (tmp_path / "lock").unlink()
    assert in_child(lambda: read(tmp_path, TURNS)) == 0
    assert not (tmp_path / "lock").exists()
