"""What `client.privacy --plan` says comes from the finished runs of a table, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.site.expected_accuracy import ExpectedAccuracy
from simulations.expected_accuracy import __main__ as expected_accuracy


def cell(
    variant: str, seed: int, *figures: float | None, epsilon: float | None, patients: int | None
) -> dict[str, Any]:
    """A finished run as far as it is read."""
    return {
        "variant": variant,
        "seed": seed,
        "findings": ["Mass", "Effusion"],
        "settings": {
            "privacy": "off" if epsilon is None else {"epsilon": epsilon},
            "simulation": {"training_patients": patients},
            "model": {
                "image_size": 64,
                "weights": "../starts/others.safetensors",
                "trainable": "all" if variant.startswith("whole") else "head",
            },
        },
        "sites": {
            f"S{number}": {"models": {"federated": {"mean": figure}}} for number, figure in enumerate(figures)
        },
    }


CELLS = [
    cell("start", 1, 0.5, 0.52, epsilon=None, patients=None),
    cell("none_130", 1, 0.7, 0.8, epsilon=None, patients=130),
    cell("none_130", 2, 0.9, None, epsilon=None, patients=130),
    cell("eps8_130", 1, 0.6, 0.7, epsilon=8.0, patients=130),
    cell("eps1_130", 1, 0.5, 0.6, epsilon=1.0, patients=130),
]
WHOLE = [
    cell("whole_start", 1, 0.5, 0.5, epsilon=None, patients=250),
    cell("whole_none_250", 1, 0.6, 0.62, epsilon=None, patients=250),
    cell("whole_eps8_250", 1, 0.5, 0.51, epsilon=8.0, patients=250),
]


def results(folder: Path, cells: list[dict[str, Any]]) -> Path:
    for number, one in enumerate(cells):
        (folder / f"{number}.json").write_text(json.dumps(one), encoding="utf-8")
    return folder


def test_means_over_sites_and_seeds_are_written(tmp_path: Path) -> None:
    output = tmp_path / "expected.json"
    arguments = ["--results", str(results(tmp_path, CELLS + WHOLE)), "--output", str(output)]
    assert expected_accuracy.main(arguments) == 0
    written = ExpectedAccuracy.load(output)
    assert written.whole.start_alone == 0.5
    assert [(r.patients, r.epsilon, r.auroc) for r in written.whole.rows] == [
        (250, None, 0.61),
        (250, 8.0, 0.505),
    ]
    assert written.head.start_alone == 0.51
    assert [(r.patients, r.epsilon, r.auroc, r.lowest, r.highest) for r in written.head.rows] == [
        (130, None, 0.825, 0.75, 0.9),
        (130, 8.0, 0.65, 0.65, 0.65),
        (130, 1.0, 0.55, 0.55, 0.55),
    ]
    assert written.head.measured_on == "S0, S1: 2 findings, films of 64², start others, seeds 1, 2"


@pytest.mark.parametrize(
    ("cells", "lacking"),
    [
        (CELLS[1:], "the start's"),
        ([CELLS[0], *CELLS[3:]], "those without privacy for 130 patients"),
        (CELLS, "the start's"),
        ([], "the start's"),
    ],
)
def test_an_unfinished_table_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: list[dict[str, Any]], lacking: str
) -> None:
    output = tmp_path / "expected.out"
    assert expected_accuracy.main(["--results", str(results(tmp_path, cells)), "--output", str(output)]) == 1
    assert lacking in capsys.readouterr().err
    assert not output.exists()


def test_the_installed_figures_have_what_a_plan_asks_for() -> None:
    expected = ExpectedAccuracy.load()
    sizes = {row.patients for row in expected.head.rows}
    budgets = {row.epsilon for row in expected.head.rows}
    assert {None, 8.0, 4.0, 2.0, 1.0} <= budgets
    assert {(row.patients, row.epsilon) for row in expected.head.rows} == {
        (s, b) for s in sizes for b in budgets
    }
    assert all(row.lowest <= row.auroc <= row.highest for row in (*expected.head.rows, *expected.whole.rows))
