"""The benchmark's arithmetic and its commands on shapes that take no time; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from acm_core.nn import AttendAndCompare
from simulations.benchmark import op, step
from simulations.benchmark.__main__ import main
from simulations.benchmark.authors_formula import AttendAndCompareAsWritten
from simulations.benchmark.measurement import Timing, copy_bandwidth, take_turns


def test_ratios_are_taken_round_by_round() -> None:
    slow = Timing((2.0, 4.0, 6.0, 8.0, 10.0))
    fast = Timing((1.0, 1.0, 1.0, 1.0, 10.0))  # the last round was slow for everyone
    assert slow.median == 6.0
    assert slow.ratio_to(fast) == (4.0, 2.0, 6.0)
    assert Timing((3.0,)).ratio_to(Timing((2.0,))) == (1.5, 1.5, 1.5)


def test_contenders_take_turns_and_warming_up_does_not_count() -> None:
    calls: list[str] = []
    timings = take_turns({name: lambda _name=name: calls.append(_name) for name in "ab"}, 3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_a_copy_moves_more_than_a_gigabyte_a_second_and_less_than_a_processor_can() -> None:
    assert 1e8 < copy_bandwidth(torch.device("cpu"), mebibytes=4) < 1e13


def test_the_rival_module_computes_the_same() -> None:
    torch.manual_seed(0)
    ours = AttendAndCompare(64, 8)
    rival = AttendAndCompareAsWritten(64, 8)
    rival.load_state_dict(ours.state_dict())
    x = torch.randn(2, 64, 5, 6)
    for got, expected in zip(rival(x), ours(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_every_contender_is_what_its_name_says() -> None:
    for name in step.CONTENDERS:
        found = [type(module).__name__ for module in step.model(name).modules()]
        assert found.count("Conv2d") >= 53, name
        assert found.count("AttendAndCompareAsWritten") == (16 if name == "acm (formula)" else 0)
        assert found.count("AttendAndCompare") == (16 if name == "acm" else 0)


def test_the_operations_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(op, "STAGES", ((64, 3, 3), (128, 2, 4)))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    output = tmp_path / "op.json"
    assert main(["op", "--rounds", "2", "--batch", "2", "--device", "cpu", "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [["contiguous", "64×3²"]] * 2 + [
        ["contiguous", "128×2²"]
    ] * 2
    assert sum("16 modules" in line for line in lines) == 4
    document = json.loads(output.read_text(encoding="utf-8"))
    assert document["rows"][0]["floor_bytes"] == 2 * 2 * 64 * 9 * 4
    assert {len(seconds) for row in document["rows"] for seconds in row["seconds"].values()} == {2}


@pytest.mark.slow
def test_a_step_and_its_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "LAYOUTS", {"channels_last": torch.channels_last})  # a process a layout
    small = ["--rounds", "1", "--batch", "2", "--side", "32", "--device", "cpu", "--only", "acm"]
    output = tmp_path / "step.json"
    assert main(["step", *small, "--output", str(output)]) == 0
    document = json.loads(output.read_text(encoding="utf-8"))
    assert [(row["layout"], row["allocator_tuned"]) for row in document["rows"]] == [
        ("channels_last", False),
        ("channels_last", True),
    ]
    assert set(document["peak_bytes"]) == {"plain (torchvision)", "acm"}
    assert main(["profile", *small]) == 0
    parts = {line[:30].strip() for line in capsys.readouterr().out.splitlines()}
    assert {
        "attend and compare",
        "attend and compare, backward",
        "convolutions, backward",
        "optimiser",
    } <= parts


def test_an_unknown_contender_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["step", "--only", "acn"])
    assert "--only: expected some of plain (torchvision), none, acm" in capsys.readouterr().err
