"""The parts of `benchmark federation` at their smallest; no time is asserted."""

from __future__ import annotations

from pathlib import Path

import pytest

from acm_core.processes import usable_cores
from simulations.benchmark import next_task, over_tls, server_round, simulated_run


def test_every_round_takes_all_sites() -> None:
    row = server_round.measure(3, 10_000, 2)
    assert len(row["seconds"]) == 2
    assert row["model_bytes"] == 40_000
    assert row["peak_bytes"] >= row["idle_bytes"] > 0
    lines = server_round.table([{"part": "server", **row}])
    assert lines[1].split()[0] == "server"


def test_a_task_begins_with_open_films_and_with_films_read_anew(tmp_path: Path) -> None:
    row = next_task.measure(tmp_path, 40, 2)
    assert [len(row[name]) for name in ("open", "anew")] == [2, 2]
    assert next_task.table([row])[1].split()[0] == "40"


@pytest.mark.slow
def test_a_real_server_has_its_answers_over_tls(tmp_path: Path) -> None:
    row = over_tls.measure(tmp_path, "resnet18", 2, 1)
    assert len(row["seconds"]) == 1
    assert 2 * 1.5 * row["model_bytes"] < row["bytes"][0] < 2 * 2 * row["model_bytes"]
    assert all(peak > row["model_bytes"] for peak in row["peak_bytes"].values())
    assert over_tls.table([row])[1].split()[:2] == ["resnet18", "2"]


@pytest.mark.soak
def test_both_contenders_do_the_whole_job() -> None:
    rows = simulated_run.run(1, sites=[2])
    works = (f"demo, {usable_cores()} at once", "demo", "2 sites")
    assert [(row["work"], row["contender"]) for row in rows] == [
        (work, contender) for work in works for contender in ("ours", "plain Flower")
    ]
    for row in rows:
        for one in row["runs"]:
            assert one["run"] > one["rounds"] > 0 < one["training"]
            assert "at once" in row["work"] or one["rounds"] > one["training"]
    assert len(simulated_run.table(rows)) == 7
