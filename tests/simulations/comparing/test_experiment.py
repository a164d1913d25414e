"""Cells are trained once and kept; what they say is added up as it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulations.comparing import experiment
from simulations.comparing.__main__ import main
from simulations.comparing.experiment import (
    CONTEXTS,
    EPOCHS,
    SEEDS,
    Cell,
    CellFile,
    Figure,
    every_cell,
    moved,
    read_cell,
    settings,
    write_cell,
)
from simulations.comparing.films import TASKS
from simulations.comparing.page import gains, page_text, write_page
from simulations.tables.replicates import RESAMPLES

POSITIVE = np.array([True, False] * 10)


def figure(value: float, spread: float = 0.01) -> Figure:
    resampled = value + spread * np.linspace(-1, 1, RESAMPLES)
    return Figure.of(np.concatenate([[value], resampled]))


def cell_file(cell: Cell, auroc: float) -> CellFile:
    return CellFile(
        settings=settings(cell),
        auroc=figure(auroc),
        pasted_auroc=figure(0.4),
        moved=figure(0.9),
        loss=0.3,
        seconds=30.0,
    )


def auroc_of(cell: Cell) -> float:
    """acm gains 0.2 between the lungs with 200 films and 0.1 with 800, and 0.05 within one; se gains 0.1 in both."""
    if cell.context == "acm":
        return 0.6 + (0.05 if cell.task == "step" else {200: 0.2, 800: 0.1}[cell.films])
    return 0.7 if cell.context == "se" else 0.6


def test_the_whole_experiment_has_every_cell_once() -> None:
    cells = every_cell()
    assert len(cells) == len(set(cells)) == len(CONTEXTS) * len(TASKS) * len(EPOCHS) * len(SEEDS) == 120
    assert Cell("acm", "sides", 200, 3).name == "acm-sides-200-3"


@hypothesis.settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float64, 20, elements=st.floats(-9, 9, width=32)),
    hnp.arrays(np.float64, 20, elements=st.floats(-9, 9, width=32)),
)
def test_moving_is_measured_by_the_way_between_labels(before: np.ndarray, after: np.ndarray) -> None:
    apart = np.mean([abs(one - two) for one in before[POSITIVE] for two in before[~POSITIVE]])
    shares = moved(before, after, POSITIVE, seed=1)
    assert shares.shape == (1 + RESAMPLES,)
    if apart > 1e-6:
        assert shares[0] == pytest.approx(min(np.abs(after - before).mean() / apart, 6))
        assert moved(before, before, POSITIVE, seed=1)[0] == 0


def test_a_film_that_becomes_one_of_the_other_label_moves_all_the_way() -> None:
    before = np.where(POSITIVE, 2.0, -1.0)
    np.testing.assert_allclose(moved(before, np.where(POSITIVE, -1.0, 2.0), POSITIVE, seed=1), 1)


def test_a_cell_is_kept_and_one_with_other_settings_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("acm", "step", 800, 2)
    assert read_cell(tmp_path, cell) is None
    file = cell_file(cell, 0.7)
    write_cell(tmp_path, cell, file)
    assert read_cell(tmp_path, cell) == file
    assert (tmp_path / "acm-step-800-2.json").stat().st_size < 6000
    assert file.auroc.measured.resampled.std() == pytest.approx(0.01 / 3**0.5, rel=0.02)
    monkeypatch.setattr(experiment, "TEST_FILMS", 500)
    assert read_cell(tmp_path, cell) is None


def test_what_comparing_adds_is_the_gain_between_the_lungs_less_that_within_one() -> None:
    cells = {cell: cell_file(cell, auroc_of(cell)) for cell in every_cell()}
    found = {one.title: one.combined for one in gains(cells)}
    assert list(found) == [f"{context} less none" for context in CONTEXTS if context != "none"]
    acm = found["acm less none"]
    assert acm.sites["200 films"].value == pytest.approx(0.15, abs=1e-4)
    assert acm.sites["800 films"].value == pytest.approx(0.05, abs=1e-4)
    assert acm.mean.value == pytest.approx(0.10, abs=1e-4)
    assert acm.mean.seeds == len(SEEDS)
    # Every resample gives the same difference here: only rounding is left.
    assert acm.mean.high - acm.mean.low < 0.002
    assert found["se less none"].mean.value == pytest.approx(0, abs=1e-4)


def test_the_page_shows_what_is_there_and_how_much_is_missing(tmp_path: Path) -> None:
    cells = {cell: cell_file(cell, auroc_of(cell)) for cell in every_cell()}
    write_page(cells, tmp_path / "comparing.md")
    text = (tmp_path / "comparing.md").read_text()
    levels, *_ = re.findall(r"\| acm \| (.*) \|", text)
    assert [float(cell.split()[0]) for cell in levels.split(" | ")] == [0.8, 0.7, 0.65, 0.65]
    assert "| acm less none | +0.150 (" in text
    assert "![The gains with their intervals](comparing.svg)" in text
    assert "120 of 120 cells are finished; their training took 60 minutes of one core." in text
    drawing = (tmp_path / "comparing.svg").read_text()
    assert "acm_mirrored less none" in drawing
    assert "mean of both" in drawing
    assert "mean over sites" not in drawing
    few = {cell: file for cell, file in cells.items() if cell.context == "acm" and cell.task == "sides"}
    text = page_text(few, gains(few), "comparing.svg")
    assert "| none | – | – | – | – |" in text
    assert "What comparing adds" not in text
    assert "10 of 120 cells" in text
    write_page(few, tmp_path / "comparing.md")
    assert not (tmp_path / "comparing.svg").exists()


@pytest.mark.slow
def test_the_command_trains_what_is_missing_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "EPOCHS", {200: 1, 800: 1})
    monkeypatch.setattr(experiment, "TEST_FILMS", 40)
    asked = ["--contexts", "none,acm_mirrored", "--films", "200", "--seeds", "1", "--results", str(tmp_path)]
    assert main([*asked, "--tasks", "sides"]) == 0
    first = (tmp_path / "comparing" / "none-sides-200-1.json").read_bytes()
    kept = json.loads(first)
    assert kept["settings"]["epochs"] == 1
    assert 0 < kept["auroc"]["value"] < 1
    assert kept["moved"]["value"] > 0
    assert "from 2 of 120 cells" in capsys.readouterr().out
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "none-step-200-1 (3 of 4)" in out
    assert "none-sides-200-1" not in out
    assert (tmp_path / "comparing" / "none-sides-200-1.json").read_bytes() == first
    (tmp_path / "comparing" / "none-sides-200-1.json").unlink()
    assert main([*asked, "--tasks", "sides", "--contexts", "none"]) == 0
    again = json.loads((tmp_path / "comparing" / "none-sides-200-1.json").read_bytes())
    assert {**again, "seconds": 0} == {**kept, "seconds": 0}


def test_a_wrong_choice_and_a_damaged_cell_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, word, said in (
        (
            "--contexts",
            "acn",
            "expected some of none, se, cbam, self_attention, acm, acm_mirrored, got 'acn'",
        ),
        ("--tasks", "side", "got 'side'; did you mean 'sides'?"),
        ("--films", "100", "expected some of 200, 800, got '100'"),
        ("--seeds", "0", "expected some of 1, 2, 3, 4, 5, got '0'"),
    ):
        assert main([option, word, "--results", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "comparing").mkdir()
    (tmp_path / "comparing" / "acm-step-800-2.json").write_text("{}")
    assert main(["--write", "--results", str(tmp_path)]) == 2
    assert "remove it, and the cell is trained again" in capsys.readouterr().err
