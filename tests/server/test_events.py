"""Events: each once, in order, whole, however the reader and the writer interleave."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.round.events import EventLog, EventReader


def kinds(reader: EventReader) -> list[str]:
    return [event["event"] for event in reader.read()]


def test_an_event_comes_back_with_its_fields_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    EventLog(path).write("waiting", sites=["Köln", "B"], seconds=1.5)
    (event,) = EventReader(path).read()
    assert abs(event.pop("time") - path.stat().st_mtime) < 2
    assert event == {"event": "waiting", "sites": ["Köln", "B"], "seconds": 1.5}
    assert "Köln" in path.read_text(encoding="utf-8")


def test_only_new_events_are_read(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    assert kinds(reader) == []  # the file is not there yet
    log.write("first")
    log.write("second")
    assert kinds(reader) == ["first", "second"]
    assert kinds(reader) == []
    log.write("third")
    assert kinds(reader) == ["third"]


def test_a_reader_that_stops_early_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log, reader = EventLog(tmp_path / "events.jsonl"), EventReader(tmp_path / "events.jsonl")
    log.write("first")
    log.write("second")
    assert next(reader.read())["event"] == "first"
    assert kinds(reader) == ["second"]


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = json.dumps({"event": "note", "text": "größer"}, ensure_ascii=False).encode() + b"\n"
    reader = EventReader(path)
    path.write_bytes(line)
    assert kinds(reader) == ["note"]
    for end in range(1, len(line)):
        path.write_bytes(line + line[:end])
        assert list(reader.read()) == []
    path.write_bytes(line + line)
    assert [event["text"] for event in reader.read()] == ["größer"]


def test_from_the_end_only_what_comes_later_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    early = EventReader(path, from_end=True)
    log = EventLog(path)
    log.write("before")
    late = EventReader(path, from_end=True)
    log.write("after")
    assert kinds(late) == ["after"]
    assert kinds(early) == ["before", "after"]  # there was no file yet when it began


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=15)
@given(st.lists(Json, min_size=1, max_size=6), st.integers(7, 60))
def test_any_text_comes_back_whatever_the_pace(values: list[Any], step: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, growing = Path(folder) / "source.jsonl", Path(folder) / "growing.jsonl"
        log = EventLog(source)
        for value in values:
            log.write("note", text=value)
        content = source.read_bytes()
        reader = EventReader(growing)
        read = []
        for end in [*range(0, len(content), step), len(content)]:
            growing.write_bytes(content[:end])
            read += [event["text"] for event in reader.read()]
    assert read == values
