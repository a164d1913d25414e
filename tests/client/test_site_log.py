"""The site's log: the person at the site sees new lines without traces; one site's log is no other's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.site.site_log import LOG_NAME, LogTail, open_site_log

log = logging.getLogger("acm_fed.client")


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()


def test_new_lines_come_once_without_date_and_level(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / LOG_NAME)
    assert list(tail.read()) == []  # the log is not there yet
    open_site_log(tmp_path)
    log.info("round %d: training on %d films", 1, 40)
    log.error("round 2: train refused (memory): größer")
    assert list(tail.read()) == ["round 1: training on 40 films", "round 2: train refused (memory): größer"]
    assert list(tail.read()) == []
    log.warning("third")
    assert list(tail.read()) == ["third"]


def test_lines_from_before_are_not_shown_again(tmp_path: Path) -> None:
    open_site_log(tmp_path)
    log.info("yesterday")
    tail = LogTail(tmp_path / LOG_NAME)
    log.info("today")
    assert list(tail.read()) == ["today"]
    assert "yesterday" in (tmp_path / LOG_NAME).read_text(encoding="utf-8")


def test_traces_stay_in_the_file(tmp_path: Path) -> None:
    open_site_log(tmp_path)
    tail = LogTail(tmp_path / LOG_NAME)
    secret = "Müller"  # noqa: S105  # a patient's name
    try:
        int(f"{secret}\n2026 no row of the log")
    except ValueError:
        log.exception("unexpected error")
    log.info("going on")
    assert list(tail.read()) == ["unexpected error", "going on"]
    content = (tmp_path / LOG_NAME).read_text(encoding="utf-8")
    assert f"ValueError: invalid literal for int() with base 10: '{secret}" in content
    assert "Traceback" in content


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    tail = LogTail(path)
    line = "2026-01-31 09:00:00,123 INFO größer\n".encode()
    for end in range(1, len(line)):
        path.write_bytes(line[:end])
        assert list(tail.read()) == []
    path.write_bytes(line)
    assert list(tail.read()) == ["größer"]


def test_what_is_not_utf_8_does_not_end_the_tail(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    tail = LogTail(path)
    path.write_bytes(b"2026-01-31 09:00:00,123 INFO caf\xe9\n\xff\n2026-01-31 09:00:00,124 DEBUG no\n")
    assert list(tail.read()) == ["caf�"]


def test_opening_again_neither_doubles_lines_nor_mixes_sites(tmp_path: Path) -> None:
    # A process of the simulation does a task of A, then one of B, then one of A.
    for name in ("A", "B", "A"):
        open_site_log(tmp_path / name)
        log.info("task of %s", name)
    texts = {name: (tmp_path / name / LOG_NAME).read_text(encoding="utf-8") for name in "AB"}
    assert [text.count("task of A") for text in texts.values()] == [2, 0]
    assert [text.count("task of B") for text in texts.values()] == [0, 1]
    assert len(log.handlers) == 1


def test_nothing_of_the_log_reaches_other_handlers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_site_log(tmp_path)
    log.error("stays here")
    assert caplog.text == ""
