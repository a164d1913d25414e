"""What a site's own file permits."""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path
from typing import Any

import pytest
from hospitals import federation, hospital, site
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from acm_core.audit_events import ClientStarted, PolicyChanged
from acm_core.audit_log import AuditLog, audit_folder, verify
from acm_core.config.site import SiteConfig, SitePolicy
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from client.round.audited import answer_audited
from client.round.policy import expect_permitted, permits_digest
from client.round.refusal import RefusedError
from client.round.site_round import SiteRound

NOON = datetime(2026, 11, 23, 12, 0)
SITE = SiteConfig(site="A", films=Path("films"), labels=Path("labels.csv"), state=Path("state"))


def refused(tmp_path: Path, policy: dict[str, Any], now: datetime = NOON, **run: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        expect_permitted(federation(**run), site(tmp_path, "A", policy=policy), now)
    return caught.value


@pytest.mark.parametrize(
    ("policy", "run", "refusal", "text"),
    [
        (
            {"findings": ["Lung Opacity"]},
            {"findings": ["Lung Opacity", "Pleural Effusion"]},
            Refusal.POLICY_FINDINGS,
            "policy.findings: expected a run on Lung Opacity alone, got Pleural Effusion as well",
        ),
        (
            {"architectures": ["resnet50"]},
            {"model": {"architecture": "resnet18"}},
            Refusal.POLICY_MODEL,
            "policy.architectures: expected resnet50, got resnet18",
        ),
        (
            {"image_size": 64},
            {"model": {"image_size": 65}},
            Refusal.POLICY_MODEL,
            "policy.image_size: expected at most 64 pixels a side, got 65",
        ),
        (
            {"rounds": 3},
            {"federation": {"rounds": 4}},
            Refusal.POLICY_ROUNDS,
            "policy.rounds: expected at most 3 rounds, got 4",
        ),
        (
            {"epochs": 2},
            {"training": {"epochs": 3}},
            Refusal.POLICY_EPOCHS,
            "policy.epochs: expected at most 2 local epochs a round, got 3",
        ),
        (
            {"batch_size": 64},
            {"training": {"batch_size": 65}},
            Refusal.POLICY_TRAINING,
            "policy.batch_size: expected at most 64 films at once, got 65",
        ),
        (
            {"learning_rate": 0.01},
            {"training": {"learning_rate": 0.02}},
            Refusal.POLICY_TRAINING,
            "policy.learning_rate: expected at most 0.01 as learning rate, got 0.02",
        ),
        (
            {"augmentations": 2},
            {
                "privacy": {"epsilon": 8, "expected_batch": 4, "augmentations": 3},
                "model": {"norm": "group"},
            },
            Refusal.POLICY_TRAINING,
            "policy.augmentations: expected at most 2 views of a film, got 3",
        ),
        (
            {"minimum_sites": 3},
            {"federation": {"quorum": 2}},
            Refusal.POLICY_SITES,
            "policy.minimum_sites: expected averages over at least 3 sites, got a run that takes 2",
        ),
        (
            {"minimum_sites": 3},
            {
                "federation": {
                    "sites": ["A", "B", "C"],
                    "quorum": 3,
                    "aggregation": {"rule": "median", "attackers": 1},
                }
            },
            Refusal.POLICY_SITES,
            "policy.minimum_sites: expected averages over at least 3 sites, got a run that takes 1",
        ),
        (
            {"hours": "19:00-07:00"},
            {},
            Refusal.POLICY_HOURS,
            "policy.hours: expected a time in 19:00-07:00, got 12:00",
        ),
    ],
)
def test_a_line_that_does_not_permit_the_run_is_named(
    tmp_path: Path, policy: dict[str, Any], run: dict[str, Any], refusal: Refusal, text: str
) -> None:
    error = refused(tmp_path, policy, **run)
    assert error.refusal is refusal
    assert text in str(error)


def test_what_is_permitted_to_the_letter_is_permitted(tmp_path: Path) -> None:
    policy = {
        "findings": ["Pleural Effusion", "Lung Opacity", "Mass"],
        "architectures": ["resnet18"],
        "image_size": 64,
        "rounds": 4,
        "epochs": 1,
        "minimum_sites": 2,
        "hours": "12:00-12:01",
    }
    run = federation(
        findings=["Lung Opacity", "Pleural Effusion"],
        model={"architecture": "resnet18", "image_size": 64},
        federation={"rounds": 4, "quorum": 2},
    )
    expect_permitted(run, site(tmp_path, "A", policy=policy), NOON)


MINUTES = st.integers(0, 24 * 60 - 1).map(lambda minute: time(minute // 60, minute % 60))


def permits(hours: tuple[time, time], now: time) -> bool:
    policy = SitePolicy(hours=f"{hours[0]:%H:%M}-{hours[1]:%H:%M}")
    config = SITE.model_copy(update={"policy": policy})
    try:
        expect_permitted(federation(), config, datetime.combine(NOON, now))
    except RefusedError:
        return False
    return True


@given(MINUTES, MINUTES, MINUTES)
def test_hours_are_a_way_round_the_clock(start: time, end: time, now: time) -> None:
    """Every moment is either from start to end or from end to start."""
    if start == end:
        assert permits((start, end), now)
    else:
        assert permits((start, end), now) != permits((end, start), now)
        assert permits((start, end), start)
        assert not permits((start, end), end)


@pytest.mark.parametrize("hours", ["7-19", "19:00", "24:00-07:00", "19:00 to 07:00", ""])
def test_other_hours_are_refused(hours: str) -> None:
    with pytest.raises(ValidationError, match="hours"):
        SitePolicy(hours=hours)


def test_the_site_answers_with_the_line_and_trains_nothing(tmp_path: Path) -> None:
    hospital(tmp_path, "A")
    settings = site(tmp_path, "A", policy={"rounds": 1})
    config = federation(federation={"rounds": 2})
    reply = SiteRound(settings).answer(Task(TaskKind.TRAIN, 1, config.model_dump_json()))
    assert reply.refusal == "policy.rounds"
    assert not reply.arrays
    assert not list(settings.state.glob("**/*.safetensors"))


def test_a_policy_that_changes_between_two_tasks_is_written_down(tmp_path: Path) -> None:
    audit = AuditLog(audit_folder(tmp_path / "state"))
    first, second = (
        site(tmp_path, "A", state=tmp_path / "state", policy={"rounds": rounds}) for rounds in (5, 9)
    )
    audit.append(ClientStarted(site="A", version="1", bundle="0" * 64, policy=permits_digest(first)))
    for settings in (first, second, second, first):
        task = Task(TaskKind.TRAIN, 1, federation().model_dump_json())
        answer_audited(task, settings, lambda task: Reply("A", task.round))
    written = [row.event for row in verify(audit_folder(first.state)).rows]
    told = [event.kind for event in written if event.kind != "left"]
    received = "task_received"
    assert told == [
        "client_started",
        received,
        "policy_changed",
        received,
        received,
        "policy_changed",
        received,
    ]
    assert [event.policy for event in written if isinstance(event, PolicyChanged)] == [
        permits_digest(second),
        permits_digest(first),
    ]
