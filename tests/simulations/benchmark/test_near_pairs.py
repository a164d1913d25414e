"""The search is measured on signatures as wide apart as those of films, some of them copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulations.benchmark import near_pairs
from simulations.benchmark.__main__ import main


def test_the_signatures_are_as_wide_apart_as_those_of_films() -> None:
    correlation = np.corrcoef(near_pairs._signatures(2000).astype(float))[np.triu_indices(2000, 1)]
    copies = np.sort(correlation)[-20:]
    others = np.sort(correlation)[:-20]
    assert 0.24 < others.mean() < 0.32
    assert 0.10 < others.std() < 0.16
    assert others.max() < 0.85
    assert 0.91 < copies.min() < 0.96
    assert copies.max() > 0.98


def test_the_table_says_what_was_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(near_pairs, "_COUNTS", (600, 1200))
    monkeypatch.setattr(near_pairs, "_COMPARED_UP_TO", 600)
    assert main(["near_pairs", "--output", str(tmp_path / "times.json")]) == 0
    compared, alone = json.loads((tmp_path / "times.json").read_text())["searches"]
    assert 4 <= compared["found"] == compared["pairs"] <= 6
    assert compared["missed"] == 0
    assert (alone["signatures"], alone["pairs"], alone["missed"]) == (1200, None, None)
    said = capsys.readouterr().out
    assert "| 600 |" in said
    assert said.rstrip().endswith("| – | – |")
