"""The round loop: quorum, deadline, refusals, reconnects."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import dies_at_change
from in_process import InProcessTransport, Site

from acm_core.config.sections import FederationConfig
from acm_core.federated import encoding
from acm_core.federated.encoding import BaseMismatchError, decode, encode
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from server.round.event_log import EventLog, EventReader
from server.round.events import Event, RoundFinished, SiteRefused, Waiting
from server.round.loop import RoundLoop, RunFailedError
from server.round.run_folder import RunFolder
from server.round.sites import Sites
from server.round.state import RoundState, StateStore

GLOBAL = {
    "weight": np.zeros(3, np.float32),
    "count": np.array(5, np.int64),
    "head.weight": np.zeros((2, 4), np.float32),
}


def config(**federation: Any) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "name": "test",
            "findings": ["Nodule", "Effusion"],
            "privacy": "off",
            "federation": {
                "sites": ["A", "B", "C"],
                "rounds": 1,
                "round_deadline": 5,
                "join_deadline": 2,
                **federation,
            },
        }
    )


def trained(name: str, value: float, films: int = 10, labelled: tuple[int, int] = (10, 10)) -> Site:
    last = GLOBAL

    def answer(task: Task) -> Reply:
        nonlocal last
        last = decode(task.arrays, last)
        arrays = {
            key: np.asarray(array + (1 if array.dtype == np.int64 else value), array.dtype)
            for key, array in last.items()
        }
        payload = encode(arrays, last, "float32").payload
        return Reply(name, task.round, films=films, labelled=labelled, arrays=payload)

    return answer


def loop(
    transport: InProcessTransport, folder: Path, settings: FederationConfig
) -> tuple[RoundLoop, EventReader]:
    path = folder / "events.jsonl"
    events = EventLog(path)
    sites = Sites(transport, settings.federation.sites, events)
    return RoundLoop(sites, settings, frozenset({"head.weight"}), events), EventReader(path)


def run(
    transport: InProcessTransport, folder: Path, settings: FederationConfig
) -> tuple[RoundState, list[Event]]:
    rounds, events = loop(transport, folder, settings)
    state = rounds.run(RoundState(0, GLOBAL, ()), lambda _: None)
    return state, list(events.read())


def test_a_round_averages_by_films_and_keeps_dtypes(tmp_path: Path) -> None:
    transport = InProcessTransport(
        {"A": trained("A", 1.0, films=30), "B": trained("B", 4.0, films=10), "C": trained("C", 4.0, films=20)}
    )
    state, _ = run(transport, tmp_path, config())
    assert state.arrays["weight"] == pytest.approx([2.5, 2.5, 2.5])
    assert state.arrays["count"] == 6
    assert state.arrays["count"].dtype == np.int64
    assert state.records[0]["answered"] == ["A", "B", "C"]
    whole = encode(GLOBAL, {}, "float32").payload
    assert state.records[0]["bytes_sent"] == 3 * sum(a.nbytes for a in whole.values())


def test_a_site_that_does_not_label_a_finding_leaves_its_row_alone(tmp_path: Path) -> None:
    transport = InProcessTransport(
        {
            "A": trained("A", 1.0, labelled=(10, 0)),
            "B": trained("B", 3.0, labelled=(10, 0)),
            "C": trained("C", 9.0, labelled=(0, 10)),
        }
    )
    state, _ = run(transport, tmp_path, config())
    assert state.arrays["head.weight"][0] == pytest.approx(np.full(4, 2.0))
    assert state.arrays["head.weight"][1] == pytest.approx(np.full(4, 9.0))


def sending(**changes: Any) -> Site:
    """A site whose weights are not those of the model."""

    def answer(task: Task) -> Reply:
        arrays = {name: array for name, array in {**GLOBAL, **changes}.items() if array is not None}
        return Reply(
            "B", task.round, films=10, labelled=(10, 10), arrays=encode(arrays, {}, "float32").payload
        )

    return answer


def unencoded(task: Task) -> Reply:
    return Reply("B", task.round, films=10, labelled=(10, 10), arrays=GLOBAL)


def cut_off(task: Task) -> Reply:
    reply = trained("B", 1.0)(task)
    return replace(reply, arrays={name: array[:-3] for name, array in reply.arrays.items()})


def difference_to_another(task: Task) -> Reply:
    other = {**GLOBAL, "weight": np.ones(3, np.float32)}
    result = {**GLOBAL, "weight": np.full(3, 2, np.float32)}
    return replace(trained("B", 1.0)(task), arrays=encode(result, other, "float32").payload)


def not_finite(task: Task) -> Reply:
    """As a site sends that does not look at its own values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_check_finite", lambda *_: None)
        return sending(weight=np.full(3, np.nan, np.float32))(task)


def bad_count(task: Task) -> Reply:
    return replace(trained("B", 1.0)(task), films=-4)


def bad_labels(task: Task) -> Reply:
    return replace(trained("B", 1.0)(task), labelled=(10,))


def bad_round(task: Task) -> Reply:
    return replace(trained("B", 1.0)(task), round=7)


def dies(times: int) -> Site:
    left = [times]

    def answer(task: Task) -> Reply:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("the site's process died")
        return trained("B", 2.0)(task)

    return answer


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (sending(weight=np.zeros(1, np.float32)), "layout"),
        (sending(weight=np.zeros(3, np.float64)), "layout"),
        (sending(extra=np.zeros(1, np.float32)), "layout"),
        (sending(weight=None), "layout"),
        (not_finite, "not_finite"),
        (sending(weight=np.full(3, -1001, np.float32)), "norm"),
        (unencoded, "unreadable"),
        (cut_off, "unreadable"),
        (difference_to_another, "wrong_base"),
        (bad_count, "films"),
        (bad_labels, "labelled"),
        (bad_round, "wrong_round"),
        (lambda task: Reply("B", task.round, refusal=Refusal.DIVERGED), "diverged"),
    ],
)
def test_a_bad_update_is_refused_by_name_and_the_round_goes_on(
    tmp_path: Path, site: Site, reason: str
) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0), "B": site, "C": trained("C", 3.0)})
    state, events = run(transport, tmp_path, config(quorum=2))
    assert state.arrays["weight"] == pytest.approx([2.0, 2.0, 2.0])
    assert state.records[0]["refused"] == {"B": reason}
    refused = [event for event in events if isinstance(event, SiteRefused)]
    assert [(event.site, event.reason) for event in refused] == [("B", reason)]


def test_sites_that_have_the_last_model_get_the_difference_and_others_the_whole(tmp_path: Path) -> None:
    got: dict[str, list[int]] = {"A": [], "B": []}

    def watched(name: str) -> Site:
        inner = trained(name, 1.0)

        def answer(task: Task) -> Reply:
            got[name].append(task.round)
            return inner(task)

        return answer

    def forgets(name: str) -> Site:
        """As a site whose disk is lost: it has what everybody began with, and nothing later."""

        def answer(task: Task) -> Reply:
            got[name].append(task.round)
            try:
                return trained(name, 1.0)(task)
            except BaseMismatchError:
                return Reply(name, task.round, refusal=Refusal.BASE)

        return answer

    transport = InProcessTransport({"A": watched("A"), "B": forgets("B")})
    settings = config(sites=["A", "B"], rounds=3, quorum=2, round_deadline=20)
    state, events = run(transport, tmp_path, settings)
    assert state.arrays["weight"] == pytest.approx([3.0, 3.0, 3.0])
    assert got == {"A": [1, 2, 3], "B": [1, 2, 3, 3]}
    assert [event.reason for event in events if isinstance(event, SiteRefused)] == ["base"]


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_a_resumed_run_gives_the_same_model_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    settings = config(sites=["A", "B"], rounds=4, quorum=2, encoding=encoding)
    rng = np.random.default_rng(0)
    start = {**GLOBAL, "weight": rng.standard_normal((3, 50)).astype(np.float32)}

    def train(folder: Path, stops: list[int]) -> RoundState:
        """Sites that add a thousandth and keep what rounding leaves, as real ones do."""
        state = RoundState(0, start, ())
        lasts = {"A": start, "B": start}
        residuals: dict[str, dict[int, Any]] = {"A": {}, "B": {}}

        def site(name: str, value: float) -> Site:
            def answer(task: Task) -> Reply:
                lasts[name] = last = decode(task.arrays, lasts[name])
                moved = {
                    key: np.asarray(
                        array + (1 if array.dtype == np.int64 else value * np.sin(array)), array.dtype
                    )
                    for key, array in last.items()
                }
                before = residuals[name].get(task.round - 1, {})
                encoded = encode(moved, last, encoding, before)  # type: ignore[arg-type]
                residuals[name][task.round] = encoded.residual
                return Reply(name, task.round, films=10, labelled=(10, 10), arrays=encoded.payload)

            return answer

        for stop in stops:
            transport = InProcessTransport({"A": site("A", 1e-3), "B": site("B", -3e-3)})
            changed = settings.model_copy(
                update={"federation": settings.federation.model_copy(update={"rounds": stop})}
            )
            rounds, _ = loop(transport, folder, changed)
            state = rounds.run(state, StateStore(folder / "state", settings).save)
            loaded = StateStore(folder / "state", settings).load(lambda _: None)
            assert loaded is not None
            state = loaded
        return state

    once, twice = train(tmp_path / "once", [4]), train(tmp_path / "twice", [1, 3, 4])
    assert all(np.array_equal(once.arrays[name], array) for name, array in twice.arrays.items())
    assert not np.array_equal(once.arrays["weight"], start["weight"])


STEPS: list[dict[str, Any]] = [
    {"rule": "plain"},
    {"rule": "fedavgm", "learning_rate": 0.7, "momentum": 0.9},
    {"rule": "fedadam", "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.001},
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step["rule"]))
def test_a_run_killed_at_any_change_to_the_disk_goes_on_to_the_same_model(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    settings = config(sites=["A", "B"], rounds=3, quorum=2, server_step=step)

    def go_on(folder: RunFolder) -> RoundState:
        store = StateStore(folder.state, settings)
        state = store.load(lambda number: pytest.fail(f"round {number} is damaged"))

        def save(state: RoundState) -> None:
            store.save(state)
            folder.write_rounds(state.records)

        sites = {"A": trained("A", 1.0), "B": trained("B", 3.0)}
        rounds, _ = loop(InProcessTransport(sites), folder.folder, settings)
        return rounds.run(state or RoundState(0, GLOBAL, ()), save)

    undisturbed = go_on(RunFolder(tmp_path / "undisturbed"))
    for change in count():
        folder = RunFolder(tmp_path / str(change))
        died = dies_at_change(change, lambda folder=folder: go_on(folder))  # type: ignore[misc]
        if folder.rounds.exists():
            lines = folder.rounds.read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["round"] for line in lines] == list(range(1, len(lines) + 1))
        state = go_on(folder)
        assert [record["round"] for record in state.records] == [1, 2, 3]
        assert all(np.array_equal(state.arrays[name], array) for name, array in undisturbed.arrays.items())
        if not died:
            break
    assert change > 3 * 3  # a round gives its model, its description and the list of rounds their names


def test_a_site_whose_process_died_is_asked_again_in_the_same_round(tmp_path: Path) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0), "B": dies(3), "C": trained("C", 3.0)})
    state, events = run(transport, tmp_path, config(quorum=3))
    assert state.records[0]["answered"] == ["A", "B", "C"]
    assert state.records[0]["refused"] == {}
    assert [event.reason for event in events if isinstance(event, SiteRefused)] == ["lost"] * 3


def test_a_site_whose_process_dies_again_and_again_is_left_out(tmp_path: Path) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0), "B": dies(99), "C": trained("C", 3.0)})
    with pytest.raises(RunFailedError, match="B refused: lost"):
        run(transport, tmp_path, config(quorum=3, round_attempts=1, round_deadline=3.0))
    state, _ = run(transport, tmp_path / "again", config(quorum=2))
    assert state.records[0]["refused"] == {"B": "lost"}


def test_a_slow_site_is_missing_after_the_deadline(tmp_path: Path) -> None:
    release = threading.Event()

    def slow(task: Task) -> Reply:
        release.wait(30)
        return trained("C", 9.0)(task)

    transport = InProcessTransport({"A": trained("A", 1.0), "B": trained("B", 3.0), "C": slow})
    started = time.monotonic()
    state, _ = run(transport, tmp_path, config(quorum=2, round_deadline=1.0))
    release.set()
    assert time.monotonic() - started < 5
    assert state.records[0]["missing"] == ["C"]
    assert state.arrays["weight"] == pytest.approx([2.0, 2.0, 2.0])


def test_below_quorum_the_round_is_tried_again_then_the_run_fails_and_names_the_sites(tmp_path: Path) -> None:
    asked: list[str] = []

    def refuses(task: Task) -> Reply:
        asked.append("B")
        return Reply("B", task.round, refusal=Refusal.MEMORY)

    transport = InProcessTransport({"A": trained("A", 1.0), "B": refuses, "C": refuses})
    with pytest.raises(
        RunFailedError, match=r"at least 2 sites, got 1 in each of 2 attempts.*B refused: memory"
    ):
        run(transport, tmp_path, config(quorum=2, round_attempts=2))
    assert len(asked) == 4


def test_attempts_that_did_not_count_stay_on_record(tmp_path: Path) -> None:
    refusals = iter([Refusal.MEMORY])

    def recovers(task: Task) -> Reply:
        refusal = next(refusals, "")
        return Reply("B", task.round, refusal=refusal) if refusal else trained("B", 3.0)(task)

    transport = InProcessTransport({"A": trained("A", 1.0), "B": recovers})
    state, _ = run(transport, tmp_path, config(sites=["A", "B"], quorum=2, round_attempts=2))
    (record,) = state.records
    (earlier,) = record["earlier_attempts"]
    assert (earlier["attempt"], earlier["answered"], earlier["refused"]) == (1, ["A"], {"B": "memory"})
    assert (record["attempt"], record["answered"]) == (2, ["A", "B"])
    assert earlier["bytes_sent"] == record["bytes_sent"] > 0


def test_waiting_names_the_absent_sites_and_ends(tmp_path: Path) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0)})
    rounds, events = loop(transport, tmp_path, config(quorum=2, join_deadline=0.5))
    with pytest.raises(RunFailedError, match="Not connected: B, C"):
        rounds.wait_for_sites()
    assert next(event.sites for event in events.read() if isinstance(event, Waiting)) == ("B", "C")


def test_the_run_starts_without_a_site_when_the_join_deadline_has_passed_with_a_quorum(
    tmp_path: Path,
) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0), "B": trained("B", 3.0)})
    rounds, _ = loop(transport, tmp_path, config(quorum=2, join_deadline=0.5))
    rounds.wait_for_sites()
    state = rounds.run(RoundState(0, GLOBAL, ()), lambda _: None)
    assert state.records[0]["missing"] == ["C"]
    assert state.records[0]["asked"] == ["A", "B"]


def test_a_site_that_was_killed_and_started_again_is_asked_again_in_the_same_round(tmp_path: Path) -> None:
    hung = threading.Event()
    transport = InProcessTransport({"A": trained("A", 1.0), "C": trained("C", 2.0)})

    def killed(task: Task) -> Reply:
        transport.connect("B", trained("B", 6.0))  # the new process connects; the old one never answers
        hung.wait(30)
        return trained("B", 99.0)(task)

    transport.connect("B", killed)
    state, _ = run(transport, tmp_path, config(quorum=3))
    hung.set()
    assert state.arrays["weight"] == pytest.approx([3.0, 3.0, 3.0])
    assert state.records[0]["attempt"] == 1


def test_every_round_is_saved_before_the_next_starts(tmp_path: Path) -> None:
    saved: list[int] = []
    said: list[int] = []

    def checks(task: Task) -> Reply:
        assert saved == list(range(1, task.round))
        return trained("A", 1.0)(task)

    transport = InProcessTransport({"A": checks})
    settings = config(rounds=3, sites=["A"])
    rounds, events = loop(transport, tmp_path, settings)

    def save(state: RoundState) -> None:
        said.extend(event.round for event in events.read() if isinstance(event, RoundFinished))
        assert said == saved  # a round is called done only when it is saved
        saved.append(state.round)

    state = rounds.run(RoundState(0, GLOBAL, ()), save)
    assert saved == [1, 2, 3]
    assert state.arrays["weight"] == pytest.approx([3.0, 3.0, 3.0])


def test_other_tasks_end_when_all_have_answered(tmp_path: Path) -> None:
    transport = InProcessTransport(
        {name: (lambda task, n=name: Reply(n, task.round, report="{}")) for name in "ABC"}
    )
    sites = Sites(transport, config().federation.sites, EventLog(tmp_path / "events.jsonl"))
    taken: list[str] = []
    outcome = sites.ask(Task(TaskKind.EVALUATE, 1), 5, lambda reply: taken.append(reply.site), quorum=3)
    assert sorted(taken) == sorted(outcome.answered) == ["A", "B", "C"]


def test_the_rule_of_aggregation_is_the_federation_files(tmp_path: Path) -> None:
    transport = InProcessTransport(
        {"A": trained("A", 1.0), "B": trained("B", 2.0), "C": trained("C", 900.0, films=1000)}
    )
    settings = config(quorum=3, aggregation={"rule": "median", "attackers": 1})
    state, _ = run(transport, tmp_path, settings)
    assert state.arrays["weight"] == pytest.approx([2.0, 2.0, 2.0])


def test_the_servers_step_is_the_federation_files_and_goes_on_over_rounds(tmp_path: Path) -> None:
    transport = InProcessTransport({"A": trained("A", 1.0, labelled=(10, 0))})
    step = {"rule": "fedavgm", "learning_rate": 1, "momentum": 0.5}
    state, _ = run(transport, tmp_path, config(sites=["A"], rounds=3, server_step=step))
    assert state.arrays["weight"] == pytest.approx([4.25, 4.25, 4.25])  # steps of 1, 1.5 and 1.75
    assert state.arrays["count"] == 8
    assert state.arrays["head.weight"][0] == pytest.approx(np.full(4, 4.25))
    assert not state.arrays["head.weight"][1].any()


def test_a_rule_that_needs_more_sites_than_a_round_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="expected quorum ≥ 3 for median with attackers: 1, got 2"):
        config(quorum=2, aggregation={"rule": "median", "attackers": 1})
