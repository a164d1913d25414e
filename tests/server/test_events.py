"""Events: each once, in order, whole, however the reader and the writer interleave; and every sink has them first."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hospitals import federation
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.audit_events import ReplyFault, RunFailure
from acm_core.audit_log import AuditLog
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import RefusalReason
from server.round import sinks
from server.round.event_log import EventLog, EventReader
from server.round.events import Event, Note, RunFailed, Waiting
from server.round.run_folder import RunFolder
from server.round.sinks import Run, open_sinks
from server.round.sinks.audit import AuditRows


def texts(events: Iterable[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_an_event_comes_back_with_its_fields_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    told = Waiting(task=TaskKind.TRAIN, round=3, sites=("Köln", "B"), seconds=1.5)
    EventLog(path).tell(told)
    (event,) = EventReader(path).read()
    assert event == told
    assert abs(event.time - path.stat().st_mtime) < 2
    assert path.read_text(encoding="utf-8") == (
        f'{{"event": "waiting", "time": {told.time}, "task": "train", "round": 3, "sites": ["Köln", "B"], '
        '"seconds": 1.5}\n'
    )


def test_only_new_events_are_read(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    assert texts(reader.read()) == []  # the file is not there yet
    log.tell(Note(text="first"))
    log.tell(Note(text="second"))
    assert texts(reader.read()) == ["first", "second"]
    assert texts(reader.read()) == []
    log.tell(Note(text="third"))
    assert texts(reader.read()) == ["third"]


def test_a_reader_that_stops_early_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    log.tell(Note(text="first"))
    log.tell(Note(text="second"))
    assert texts([next(reader.read())]) == ["first"]
    assert texts(reader.read()) == ["second"]


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = json.dumps({"event": "note", "time": 1.5, "text": "größer"}, ensure_ascii=False).encode() + b"\n"
    reader = EventReader(path)
    path.write_bytes(line)
    assert texts(reader.read()) == ["größer"]
    for end in range(1, len(line)):
        path.write_bytes(line + line[:end])
        assert list(reader.read()) == []
    path.write_bytes(line + line)
    assert texts(reader.read()) == ["größer"]


def test_from_the_end_only_what_comes_later_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    early = EventReader(path, from_end=True)
    log = EventLog(path)
    log.tell(Note(text="before"))
    late = EventReader(path, from_end=True)
    log.tell(Note(text="after"))
    assert texts(late.read()) == ["after"]
    assert texts(early.read()) == ["before", "after"]  # there was no file yet when it began


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.integers(7, 60))
def test_any_text_comes_back_whatever_the_pace(values: list[str], step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, growing = Path(folder) / "source.jsonl", Path(folder) / "growing.jsonl"
        log = EventLog(source)
        for value in values:
            log.tell(Note(text=value))
        content = source.read_bytes()
        reader = EventReader(growing)
        read = []
        for end in [*range(0, len(content), step), len(content)]:
            growing.write_bytes(content[:end])
            read += texts(reader.read())
    assert read == values


def test_what_another_version_wrote_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).tell(Note(text="first"))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "of_a_later_version", "time": 1.0}\n{"event": "note", "time": 1.0}\n')
    EventLog(path).tell(Note(text="last"))
    assert texts(EventReader(path).read()) == ["first", "last"]


class Taking:
    """A sink that looks at what stands in the file while it takes an event, or does not take it."""

    def __init__(self, path: Path, *, head: str | None = None, full: bool = False) -> None:
        self._reader, self._head, self._full = EventReader(path), head, full
        self.stood: list[list[Event]] = []

    def take(self, event: Event) -> str | None:
        self.stood.append(list(self._reader.read()))
        if self._full:
            raise OSError("the disk is full")
        return self._head


def test_every_sink_has_an_event_before_it_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    silent, chained = Taking(path), Taking(path, head="f" * 64)
    told = Note(text="something")
    assert EventLog(path, [silent, chained]).tell(told) == "f" * 64
    assert silent.stood == chained.stood == [[]]
    assert list(EventReader(path).read()) == [told]
    assert EventLog(path, [silent]).tell(told) is None


def test_what_a_sink_cannot_take_goes_no_further_but_that_the_run_failed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    full, after = Taking(path, full=True), Taking(path)
    log = EventLog(path, [full, after])
    with pytest.raises(OSError, match="disk is full"):
        log.tell(Note(text="something"))
    assert after.stood == []
    assert not path.exists()
    failed = RunFailed(round=3, reason=RunFailure.QUORUM, message="too few sites")
    with pytest.raises(OSError, match="disk is full"):
        log.tell(failed)
    assert list(EventReader(path).read()) == [failed]


def test_a_sink_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "one_more.py").write_text(
        "class OneMore:\n"
        "    def __init__(self, run):\n"
        "        self.path = run.folder.folder / 'one_more.txt'\n"
        "    def take(self, event):\n"
        "        self.path.write_text(event.event)\n"
        "open_sink = OneMore\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sinks, "__path__", [*sinks.__path__, str(tmp_path)])
    folder = RunFolder(tmp_path / "run")
    opened = open_sinks(Run(federation(), folder, AuditLog(tmp_path / "audit")))
    assert [type(sink).__name__ for sink in opened] == ["AuditRows", "OneMore", "Curves"]
    assert isinstance(opened[0], AuditRows)  # what it cannot take is told to nobody
    EventLog(folder.events, opened).tell(Note(text="something"))
    assert (folder.folder / "one_more.txt").read_text(encoding="utf-8") == "note"
    assert [type(sink).__name__ for sink in open_sinks(Run(federation(), folder, None))] == [
        "OneMore",
        "Curves",
    ]


def test_a_reason_says_who_refused() -> None:
    codes = [code.value for kind in (Refusal, RefusalReason, ReplyFault) for code in kind]
    assert len(codes) == len(set(codes))
