"""What the operator sees: every event in plain words, a table that fits, and nobody's text taken for commands."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hospitals import federation
from reports import coarsened, estimate, metrics, model, report, shortcuts
from rich.console import Console

from acm_core.audit_events import ReplyFault, RunFailure
from acm_core.federated.messages import Refusal, TaskKind
from server.console.terminal import Terminal, print_results, results_table
from server.round import events
from server.round.events import Event
from server.round.results import Metrics

ROUND: dict[str, Any] = {
    "round": 2,
    "attempt": 1,
    "started": 1.7e9,
    "seconds": 12.34,
    "asked": ["A", "B"],
    "answered": ["A"],
    "refused": {},
    "missing": ["B"],
    "films": {"A": 40},
    "metrics": {"A": {"train_loss": 0.25}},
    "bytes_sent": 1_500_000,
    "bytes_received": 500_000,
}
ANSWERED: dict[str, Any] = {"sha256": "0" * 64, "bytes": 1000, "site_head": None}
FAILED = events.RunFailed(round=2, reason=RunFailure.QUORUM, message="too few sites")
RENDERED: list[tuple[Event, str]] = [
    (events.RunStarted(rounds=4, sites=("A", "B")), "run started: 4 rounds over A, B"),
    (events.RunResumed(round=3, rounds=4), "run resumed after round 3 of 4"),
    (events.StateDamaged(round=3), "the saved state of round 3 is damaged: going back to the one before"),
    (
        events.Waiting(task="join", round=0, sites=("B", "C"), seconds=29.6),
        "waiting for B, C (to join; 30 s left)",
    ),
    (
        events.SiteAnswered(
            task=TaskKind.TRAIN,
            round=1,
            site="A",
            seconds=3.25,
            films=40,
            metrics={"validation_loss": 0.5, "train_loss": 0.25},
            **ANSWERED,
        ),
        "  A            training: 3.2 s  40 films  train loss 0.250  validation loss 0.500",
    ),
    (
        events.SiteAnswered(
            task=TaskKind.EVALUATE, round=1, site="NIH_PA", seconds=0.1, films=0, metrics={}, **ANSWERED
        ),
        "  NIH_PA       evaluation: 0.1 s",
    ),
    (
        events.SiteRefused(task=TaskKind.TRAIN, round=1, site="B", reason=Refusal.MEMORY),
        "  B            training: refused, memory",
    ),
    (
        events.SiteRefused(
            task=TaskKind.LOCAL_ONLY,
            round=1,
            site="B",
            reason=ReplyFault.WRONG_ROUND,
            detail="expected round 2, got 1",
        ),
        "  B            local-only model: refused, wrong_round – expected round 2, got 1",
    ),
    (
        events.RoundFinished(**ROUND, earlier_attempts=()),
        "round 2 done in 12.3 s: 1 site, without B, 2.0 MB",
    ),
    (
        events.RoundFinished(**{**ROUND, "answered": ["A", "B"], "missing": []}, earlier_attempts=()),
        "round 2 done in 12.3 s: 2 sites, 2.0 MB",
    ),
    (
        events.RoundBelowQuorum(**ROUND, quorum=2, attempts=3),
        "round 2, attempt 1 of 3: 1 of 2 sites needed",
    ),
    (events.LocalOnlyStarted(sites=("A",)), "each site trains alone, for comparison"),
    (events.EvaluationStarted(sites=("A",)), "evaluation on the sites' test films"),
    (events.Note(text="one more thing"), "one more thing"),
    (events.WeightsLoaded(report="60 of 62 arrays"), "starting weights: 60 of 62 arrays"),
    (FAILED, "run failed: too few sites"),
]
SILENT: list[Event] = [
    events.RoundStarted(round=1, rounds=4, attempt=1),  # the progress bar says it
    events.SiteConnected(site="A"),
    events.SiteDisconnected(site="A"),
    events.TaskSent(task=TaskKind.TRAIN, round=1, sites=("A", "B"), model="0" * 64, bytes=1000),
    events.SiteMissing(task=TaskKind.TRAIN, round=1, site="B"),  # the round says without whom
    events.RunFinished(round=4, model="0" * 64),  # the table follows
    events.SimulationFinished(),
]


def shown(told: Iterable[Event], **options: Any) -> str:
    output = io.StringIO()
    with Terminal(Console(file=output, width=80, **options)) as terminal:
        for event in told:
            terminal.take(event)
    return output.getvalue()


def test_every_kind_of_event_is_shown_or_knowingly_silent() -> None:
    assert {type(event) for event, _ in RENDERED} | set(map(type, SILENT)) == set(events.KINDS.values())


@pytest.mark.parametrize("event", [*(event for event, _ in RENDERED), *SILENT], ids=lambda event: event.event)
def test_every_event_comes_back_from_its_line(event: Event) -> None:
    assert events.read_event(event.model_dump_json()) == event


@pytest.mark.parametrize(
    ("event", "line"), RENDERED, ids=lambda value: "" if isinstance(value, str) else value.event
)
def test_an_event_is_one_plain_line_where_there_is_no_terminal(event: Event, line: str) -> None:
    assert shown([event]).splitlines() == [line]


@pytest.mark.parametrize(
    ("seconds", "left"),
    [
        (30.0, "; about 90 s of rounds left"),
        (50.0, "; about 2 min of rounds left"),
        (3000.0, "; about 2.5 h of rounds left"),
    ],
)
def test_plain_lines_say_how_much_longer_the_rounds_take(seconds: float, left: str) -> None:
    begun = events.RunStarted(rounds=4, sites=("A",))

    def finished(number: int) -> Event:
        return events.RoundFinished(**{**ROUND, "round": number, "seconds": seconds}, earlier_attempts=())

    assert shown([begun, finished(1)]).rstrip().endswith(left)
    assert "left" not in shown([begun, finished(4)])


@pytest.mark.parametrize("event", SILENT, ids=lambda event: event.event)
def test_a_silent_event_prints_nothing(event: Event) -> None:
    assert shown([event]) == ""


@pytest.mark.parametrize("kind", list(TaskKind))
def test_every_task_has_a_name(kind: TaskKind) -> None:
    event = events.Waiting(task=kind, round=1, sites=("A",), seconds=5.0)
    assert re.fullmatch(r"waiting for A \(\w.*; 5 s left\)\n", shown([event]))


def test_all_events_go_on_a_terminal_too() -> None:
    text = shown([*(event for event, _ in RENDERED), *SILENT], force_terminal=True)
    assert "\x1b[" in text
    assert "waiting for B, C (to join; 30 s left)" in text


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "color_system": None}])
def test_markup_in_a_sites_text_is_not_interpreted(options: dict[str, Any]) -> None:
    refused = events.SiteRefused(
        task=TaskKind.TRAIN,
        round=1,
        site="[bold]B[/bold]",
        reason=Refusal.MEMORY,
        detail="[link=https://example.org]x[/link] [/]",
    )
    answered = RENDERED[4][0].model_copy(update={"site": "[/nothing]", "metrics": {"[blink]": 1.0}})
    text = shown([refused, answered], **options)
    assert "[bold]B[/bold] training: refused, memory – [link=https://example.org]x[/link] [/]" in text
    assert "[/nothing]" in text
    assert "[blink] 1.000" in text


def three_models(sites: list[str], findings: list[str]) -> Metrics:
    config = federation(findings=findings, federation={"sites": sites, "quorum": 1})
    figure = {"value": 1.0, "low": 0.996, "high": 1.0, "standard_error": 0.001, "dropped": 0}
    models = {
        "local_only": model(figure, None, findings),
        "federated": model(estimate(0.8123, 0.03), estimate(0.1, 0.01), findings),
        "pooled": model(estimate(0.9, 0.05), None, findings),
    }
    for counted in models.values():
        counted["findings"][findings[0]] |= {"positives": 123, "negatives": 4567}
    return metrics(dict.fromkeys(sites, report(**models)), config)


def rendered(found: Metrics, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(results_table(found))
    return output.getvalue()


def test_three_models_fit_on_80_columns() -> None:
    findings = ["Pleural Effusion", "Lung Consolidatn", "Nodule or Masses"]
    text = rendered(three_models(["HANNOVER", "NIH_PA_2"], findings))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert len([line for line in lines if line.startswith(("HANNOVER", "NIH_PA_2"))]) == 6
    row = next(line for line in lines if line.startswith("HANNOVER") and "Pleural Effusion" in line)
    cells = ["1.00 (1.0–1.0)", "0.81 (.75–.87)", "0.90 (.80–1.0)"]
    assert [row.index(cell) for cell in cells] == sorted(row.index(cell) for cell in cells)
    assert lines[-1].split()[:3] == ["mean", "of", "sites"]
    assert lines[0].startswith("test: AUROC on the sites' test films (95 % interval)")


def test_long_names_are_folded_and_figures_are_whole() -> None:
    names = ["Enlarged Cardiomediastinum", "Pleural Effusion"]
    text = rendered(three_models(["GUANGZHOU_CHILDREN"], names))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("0.81 (.75–.87)") == 3  # two findings, and the mean over this one site
    assert "123/4567" in text


def test_a_site_with_positives_only_is_not_defined_and_never_one_half() -> None:
    text = rendered(
        metrics({"A": report(federated=model(estimate(0.8))), "B": report(federated=model(None))})
    )
    rows = [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("B ")]
    assert len(rows) == 2
    assert all(row.endswith("5/0 not defined") for row in (" ".join(row.split()) for row in rows))
    assert "0.50" not in text


def test_a_site_that_rounds_its_counts_down_to_none_keeps_its_figures(tmp_path: Path) -> None:
    output = io.StringIO()
    print_results(Console(file=output, width=80), metrics({"A": coarsened()}), tmp_path)
    text = " ".join(output.getvalue().split())
    assert "A Lung Opacity 0/0 0.80 (.60–1.0)" in text
    assert "Numbers of films and patients at A are rounded down to steps of 50." in text
    assert "rounded down" not in rendered(metrics({"A": report(federated=model(estimate(0.8)))}))


def test_where_nothing_is_defined_the_table_says_so() -> None:
    text = rendered(metrics({"B": report(federated=model(None))}))
    assert text.count("not defined") == 3
    assert "together" in text


def test_a_model_that_a_site_does_not_have_is_a_dash() -> None:
    text = rendered(
        metrics(
            {
                "A": report(federated=model(estimate(0.8)), local_only=model(estimate(0.7))),
                "B": report(federated=model(estimate(0.6, 0.01))),
            }
        )
    )
    row = next(line for line in text.splitlines() if line.startswith("B "))
    assert " ".join(row.split()) == "B Lung Opacity 5/7 – 0.60 (.58–.62)"


def test_the_table_shows_what_each_site_has_in_the_end() -> None:
    models = {"federated": model(estimate(0.8)), "mixture": model(estimate(0.6)), "local_only": model(None)}
    found = metrics({"A": {**report(**models), "delivered": "mixture"}, "B": report(**models)})
    together = {
        line.split()[0]: line.split()[-2] for line in rendered(found).splitlines() if line[:2] in ("A ", "B ")
    }
    assert together == {"A": "0.60", "B": "0.80"}


def test_findings_that_a_hospital_never_labelled_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    def text(**unlabelled: Any) -> list[str]:
        models = {"federated": model(estimate(0.8)), "local_only": model(estimate(0.7))}
        output = io.StringIO()
        found = {**metrics({"B": report(**models)}), "unlabelled": unlabelled}
        print_results(Console(file=output, width=80), found, tmp_path)
        return [" ".join(line.split()) for line in output.getvalue().splitlines()]

    known = {"Mass": {"federated": estimate(0.97, 0.01), "local_only": estimate(0.5, 0.02)}}
    assert "B Mass 0.50 (.46–.54) 0.97 (.95–.99)" in text(B=known)
    assert not any("never labelled" in line for line in text(B={}))


def test_a_model_that_is_not_above_a_shortcut_is_said_in_a_line(tmp_path: Path) -> None:
    def said(margin: float) -> list[str]:
        whole = {
            **report(federated=model(estimate(0.8))),
            "shortcuts": shortcuts({"grey": 0.7}, estimate(margin)),
        }
        output = io.StringIO()
        print_results(Console(file=output, width=200), metrics({"A": whole}), tmp_path)
        return [line for line in output.getvalue().splitlines() if "alone:" in line]

    assert said(0.1) == [
        "Not clearly better than brightness, film size, border or view alone: 2 of 2 findings at A."
    ]
    assert said(0.5) == []


def test_the_run_ends_with_the_table_the_answer_and_the_paths(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]runs[/bold]" / ("long" * 20)
    found = three_models(["A"], ["[red]Nodule", "Mass[/]"])
    output = io.StringIO()
    print_results(Console(file=output, width=80), found, folder)
    text = output.getvalue()
    assert "\x1b" not in text
    assert "[red]Nodule" in text
    assert "Mass[/]" in text
    assert " ".join(found["answer"].split()) in " ".join(text.split())
    paths = [line.strip() for line in text.splitlines() if line.startswith(f"  {tmp_path}")]
    assert paths == [
        str(folder / name)
        for name in (
            "report.html",
            "metrics.json",
            "model.safetensors",
            "model_card.md",
            "rounds.jsonl",
            "tensorboard",
        )
    ]
