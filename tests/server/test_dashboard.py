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

from acm_core.audit_events import RunFailure
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import RefusalReason
from server.dashboard.live import LiveRun, curves
from server.dashboard.serving import Dashboard
from server.round import events
from server.round.event_log import EventLog
from server.round.events import Event

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
RUN_STARTED = events.RunStarted(rounds=4, sites=("A", "B"))


def answered(number: int, loss: float, **metrics: float) -> Event:
    return events.SiteAnswered(
        task=TaskKind.TRAIN,
        round=number,
        site="A",
        seconds=12.0,
        films=30,
        metrics={"train_loss": loss, "validation_loss": 0.6, **metrics},
        sha256="0" * 64,
        bytes=1000,
        site_head=None,
    )


def refused(site: str, reason: events.Reason, number: int = 1, detail: str = "") -> Event:
    return events.SiteRefused(task=TaskKind.TRAIN, round=number, site=site, reason=reason, detail=detail)


def tried(number: int, missing: str = "B") -> dict[str, Any]:
    return {
        "round": number,
        "attempt": 1,
        "started": 1.7e9,
        "seconds": 30.0,
        "asked": ["A", "B"],
        "answered": ["A"],
        "refused": {},
        "missing": list(missing),
        "films": {"A": 30},
        "metrics": {"A": {}},
        "bytes_sent": 4_000_000,
        "bytes_received": 1_500_000,
    }


def finished(number: int, missing: str = "B") -> Event:
    return events.RoundFinished(**tried(number, missing), earlier_attempts=())


def below_quorum(number: int) -> Event:
    return events.RoundBelowQuorum(**tried(number), quorum=2, attempts=3)


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A run of four rounds of which the first is over."""
    log = EventLog(tmp_path / "events.jsonl")
    for event in (
        RUN_STARTED,
        events.RoundStarted(round=1, rounds=4, attempt=1),
        answered(1, 0.7),
        refused("B", Refusal.POLICY_HOURS),
        finished(1, missing=""),
        events.RoundStarted(round=2, rounds=4, attempt=1),
    ):
        log.tell(event)
    return log


@pytest.fixture
def dashboard(log: EventLog, tmp_path: Path) -> Iterator[Dashboard]:
    with Dashboard(federation(), tmp_path / "events.jsonl", 0) as serving:
        yield serving


def live(*told: Event) -> LiveRun:
    run = LiveRun("test", {}, 4)
    for event in told:
        run.take(event)
    return run


def test_where_a_run_stands() -> None:
    run = live(
        RUN_STARTED,
        events.Waiting(task="join", round=0, sites=("B",), seconds=60.0),
        events.RoundStarted(round=1, rounds=4, attempt=1),
        answered(1, 0.7, epsilon=0.4),
        events.Waiting(task=TaskKind.TRAIN, round=1, sites=("B",), seconds=90.0),
    )
    assert (run.stage, run.round, run.left) == ("round 1 of 4", 0, "")
    assert (run.sites["A"].state, run.sites["A"].epsilon) == ("answered after 12 s", 0.4)
    assert run.sites["A"].losses == {"train_loss": {1: 0.7}, "validation_loss": {1: 0.6}}
    assert (run.sites["B"].state, run.sites["B"].trouble) == ("at work, 90 s left", False)
    run.take(finished(1))
    assert (run.round, run.left, run.bytes) == (1, "90 s", 5_500_000)
    assert run.sites["B"].state == "did not answer in round 1"
    assert [text for _, text in run.said] == ["round 1 went without B"]
    run.take(events.RunFailed(round=1, reason=RunFailure.QUORUM, message="no quorum"))
    assert (run.stage, run.said[0][1]) == ("failed", "run failed: no quorum")
    run.take(RUN_STARTED)
    assert (run.round, list(run.said), run.bytes) == (0, [], 0)


def test_a_site_is_asked_when_its_task_is_sent_and_away_when_it_is_gone() -> None:
    run = live(
        RUN_STARTED,
        events.SiteConnected(site="A"),
        events.RoundStarted(round=1, rounds=4, attempt=1),
        events.TaskSent(task=TaskKind.TRAIN, round=1, sites=("A",), model="0" * 64, bytes=1000),
    )
    assert [run.sites[site].state for site in "AB"] == ["asked to train", "not asked yet"]
    run.take(events.SiteDisconnected(site="A"))
    assert (run.sites["A"].state, run.sites["A"].trouble) == ("not connected", True)


def test_a_round_counts_once_however_often_it_is_tried() -> None:
    run = live(
        RUN_STARTED,
        answered(1, 0.9),
        finished(1),
        answered(2, 0.7),
        below_quorum(2),
        answered(2, 0.8),
        finished(2),
    )
    assert run.sites["A"].answered == {1, 2}
    assert curves(run, "train_loss") == {"A": [(1, 0.9), (2, 0.8)]}
    run.take(events.RunResumed(round=1, rounds=4))
    run.take(answered(2, 0.6))
    assert run.sites["A"].answered == {1}
    assert curves(run, "train_loss") == {"A": [(1, 0.9), (2, 0.6)]}


@given(
    st.lists(
        st.sampled_from(
            [
                events.RunResumed(round=2, rounds=4),
                events.RoundStarted(round=3, rounds=4, attempt=2),
                events.SiteConnected(site="A"),
                events.SiteDisconnected(site="Z"),
                events.TaskSent(task=TaskKind.EVALUATE, round=3, sites=("A", "Z"), model=None, bytes=0),
                answered(3, 0.5),
                refused("Z", Refusal.LOST, 3),
                events.SiteMissing(task=TaskKind.TRAIN, round=3, site="Z"),
                events.Waiting(task=TaskKind.TRAIN, round=3, sites=(), seconds=5.0),
                finished(3),
                below_quorum(3),
                events.EvaluationStarted(sites=("A",)),
                events.Note(text="one more thing"),
            ]
        ),
        max_size=40,
    )
)
def test_any_order_of_events_can_be_shown(told: list[Event]) -> None:
    run = live(*told)
    assert run.bytes == 5_500_000 * sum(isinstance(event, events.RoundTried) for event in told)
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
    log.tell(refused("<script>", RefusalReason.LAYOUT, 2, detail="<b>"))
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
        log.tell(answered(2, 0.5, epsilon=1.25))
        log.tell(finished(2))
        page.get_by_text("2 of 4 rounds done").wait_for(timeout=10_000)
        assert "1.250" in page.inner_text("table")
        assert page.locator("figure polyline").count() == 2
        expect_readable(page, size)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"dashboard-{size}.png", full_page=True)
        assert {one for one in complaints if not one.endswith("/now")} <= {"data:,"}
        dashboard.__exit__(None, None, None)
        page.get_by_text("does not answer any more").wait_for(timeout=10_000)
