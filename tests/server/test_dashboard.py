"""The dashboard: where a run stands, on this machine only, to look at only, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import SIZES, chromium, expect_readable, opened
from hospitals import federation
from hypothesis import given
from hypothesis import strategies as st

from server.dashboard.live import LiveRun, curves
from server.dashboard.serving import Dashboard
from server.round.events import EventLog

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
FINISHED: dict[str, Any] = {
    "seconds": 30.0,
    "answered": ["A"],
    "missing": ["B"],
    "bytes_sent": 4_000_000,
    "bytes_received": 1_500_000,
}


def answered(number: int, loss: float, **metrics: float) -> dict[str, Any]:
    return {
        "task": "train",
        "round": number,
        "site": "A",
        "seconds": 12.0,
        "films": 30,
        "metrics": {"train_loss": loss, "validation_loss": 0.6, **metrics},
    }


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A run of four rounds of which the first is over."""
    events = EventLog(tmp_path / "events.jsonl")
    events.write("run_started", rounds=4, sites=["A", "B"])
    events.write("round_started", round=1, rounds=4, attempt=1)
    events.write("site_answered", **answered(1, 0.7))
    events.write("site_refused", task="train", round=1, site="B", reason="policy.hours", detail="")
    events.write("round_finished", round=1, **{**FINISHED, "missing": []})
    events.write("round_started", round=2, rounds=4, attempt=1)
    return events


@pytest.fixture
def dashboard(log: EventLog, tmp_path: Path) -> Iterator[Dashboard]:
    with Dashboard(federation(), tmp_path / "events.jsonl", 0) as serving:
        yield serving


def live(*events: tuple[str, dict[str, Any]]) -> LiveRun:
    run = LiveRun("test", {}, 4)
    run.take({"event": kind, "time": 0.0, **fields} for kind, fields in events)
    return run


def test_where_a_run_stands() -> None:
    start = ("run_started", {"rounds": 4, "sites": ["A", "B"]})
    run = live(
        start,
        ("waiting", {"task": "join", "round": 0, "sites": ["B"], "seconds": 60.0}),
        ("round_started", {"round": 1, "rounds": 4, "attempt": 1}),
        ("site_answered", answered(1, 0.7, epsilon=0.4)),
        ("waiting", {"task": "train", "round": 1, "sites": ["B"], "seconds": 90.0}),
    )
    assert (run.stage, run.round, run.left) == ("round 1 of 4", 0, "")
    assert (run.sites["A"].state, run.sites["A"].epsilon) == ("answered after 12 s", 0.4)
    assert run.sites["A"].losses == {"train_loss": {1: 0.7}, "validation_loss": {1: 0.6}}
    assert (run.sites["B"].state, run.sites["B"].trouble) == ("at work, 90 s left", False)
    run.take([{"event": "round_finished", "time": 0.0, "round": 1, **FINISHED}])
    assert (run.round, run.left, run.bytes) == (1, "90 s", 5_500_000)
    assert run.sites["B"].state == "did not answer in round 1"
    assert [text for _, text in run.said] == ["round 1 went without B"]
    run.take([{"event": "run_failed", "time": 0.0, "message": "no quorum"}])
    assert (run.stage, run.said[0][1]) == ("failed", "run failed: no quorum")
    run.take([{"event": start[0], "time": 0.0, **start[1]}])
    assert (run.round, list(run.said), run.bytes) == (0, [], 0)


def test_a_round_counts_once_however_often_it_is_tried() -> None:
    run = live(
        ("run_started", {"rounds": 4, "sites": ["A", "B"]}),
        ("site_answered", answered(1, 0.9)),
        ("round_finished", {"round": 1, **FINISHED}),
        ("site_answered", answered(2, 0.7)),
        ("round_below_quorum", {"round": 2, **FINISHED, "quorum": 2}),
        ("site_answered", answered(2, 0.8)),
        ("round_finished", {"round": 2, **FINISHED}),
    )
    assert run.sites["A"].answered == {1, 2}
    assert curves(run, "train_loss") == {"A": [(1, 0.9), (2, 0.8)]}
    run.take(
        {"event": kind, "time": 0.0, **fields}
        for kind, fields in (
            ("run_resumed", {"round": 1, "rounds": 4}),
            ("site_answered", answered(2, 0.6)),
        )
    )
    assert run.sites["A"].answered == {1}
    assert curves(run, "train_loss") == {"A": [(1, 0.9), (2, 0.6)]}


@given(
    st.lists(
        st.sampled_from(
            [
                ("run_resumed", {"round": 2, "rounds": 4}),
                ("round_started", {"round": 3, "rounds": 4, "attempt": 2}),
                ("site_answered", answered(3, 0.5)),
                ("site_refused", {"task": "train", "round": 3, "site": "Z", "reason": "lost", "detail": ""}),
                ("waiting", {"task": "train", "round": 3, "sites": [], "seconds": 5.0}),
                ("round_finished", {"round": 3, **FINISHED}),
                ("round_below_quorum", {"round": 3, **FINISHED, "quorum": 2}),
                ("evaluation_started", {"sites": ["A"]}),
                ("an_event_of_a_later_version", {}),
            ]
        ),
        max_size=40,
    )
)
def test_any_order_of_events_can_be_shown(events: list[tuple[str, dict[str, Any]]]) -> None:
    run = live(*events)
    assert run.bytes == 5_500_000 * sum(
        kind in ("round_finished", "round_below_quorum") for kind, _ in events
    )
    assert len(run.said) <= 12
    assert "-" not in run.left


def test_only_this_machine_and_only_to_look_at(dashboard: Dashboard) -> None:
    page = httpx.get(dashboard.address)
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(dashboard.address, headers={"Host": "evil.example:80"}).status_code == 403
    assert httpx.get(f"{dashboard.address}events.jsonl").status_code == 404
    assert httpx.get(f"{dashboard.address}../../etc/passwd").status_code == 404
    for method in ("POST", "PUT", "DELETE"):
        assert httpx.request(method, dashboard.address).status_code == 501
    assert dashboard.address.startswith("http://127.0.0.1:")


def test_what_sites_say_cannot_write_the_page(dashboard: Dashboard, log: EventLog) -> None:
    log.write("site_refused", task="train", round=2, site="A", reason="<script>", detail="<b>")
    text = httpx.get(f"{dashboard.address}now").text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text


def test_a_port_that_is_taken(dashboard: Dashboard, tmp_path: Path) -> None:
    port = int(dashboard.address.rpartition(":")[2].strip("/"))
    with pytest.raises(OSError, match="in use"):
        Dashboard(federation(), tmp_path / "events.jsonl", port)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_the_page_follows_the_run(dashboard: Dashboard, log: EventLog, size: str, tmp_path: Path) -> None:
    with chromium() as browser, opened(browser, dashboard.address, size) as (page, complaints):
        assert "1 of 4 rounds done" in page.inner_text("main")
        assert page.locator("figure circle").count() == 2  # one round is a point, not a line
        log.write("site_answered", **answered(2, 0.5, epsilon=1.25))
        log.write("round_finished", round=2, **FINISHED)
        page.get_by_text("2 of 4 rounds done").wait_for(timeout=10_000)
        assert "1.250" in page.inner_text("table")
        assert page.locator("figure polyline").count() == 2
        expect_readable(page, size)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"dashboard-{size}.png", full_page=True)
        assert {one for one in complaints if not one.endswith("/now")} <= {"data:,"}
        dashboard.__exit__(None, None, None)
        page.get_by_text("does not answer any more").wait_for(timeout=10_000)
