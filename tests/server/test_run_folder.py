"""A run's folder: nobody's run is overwritten, and what it holds can be read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hospitals import federation
from pydantic import BaseModel

from acm_core.config import FederationConfig, load_config
from server.round.run_folder import ResumeError, RunExistsError, RunFolder, expect_same_run, run_identity
from simulations.settings import SimulationConfig

MAY_CHANGE = {
    "deliver",
    "evaluation",
    "federation.join_deadline",
    "federation.quorum",
    "federation.round_attempts",
    "federation.round_deadline",
    "federation.sites",
    "model.weights",
    "server",
    "simulation.data",
    "simulation.folders",
    "simulation.pooled",
    "simulation.processes",
}


def every_setting() -> SimulationConfig:
    """A simulation's file in which no section is absent."""
    return SimulationConfig.model_validate(
        {
            **federation(
                privacy={"epsilon": 8, "expected_batch": 4},
                model={"norm": "group", "weights": "start.pt", "weights_sha256": "0" * 64},
            ).model_dump(),
            "simulation": {
                "hospitals": [{"name": "A", "patients": 30, "scanner": "cr_mono1_10bit"}],
                "folders": {"B": "films"},
                "populations": {"A": 20, "B": 20},
            },
        }
    )


def changed_one_by_one(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Key and section with another value of it, of every setting of the section and those below."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            for key, inner in changed_one_by_one(value, f"{prefix}{name}."):
                yield key, section.model_copy(update={name: inner})
        else:
            other = section.model_copy(update={name: another(value, field.annotation)})
            yield prefix + name, other


def another(value: Any, annotation: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        kinds = get_args(annotation) if get_origin(annotation) is Literal else ()
        return next((kind for kind in kinds if kind != value), f"{value}x")
    if isinstance(value, Path):
        return value / "x"
    if isinstance(value, tuple | dict) and value:
        return type(value)()
    if isinstance(value, tuple):
        return ("x",)
    assert value is None
    return 1.5 if float in get_args(annotation) else 3


def test_what_may_change_is_listed_and_every_other_setting_tells_a_run_from_others() -> None:
    config = every_setting()
    said = run_identity(config)
    changes = list(changed_one_by_one(config))
    assert len(changes) > 70
    assert len({key for key, _ in changes}) == len(changes)
    for key, changed in changes:
        assert isinstance(changed, SimulationConfig)
        assert changed != config
        if MAY_CHANGE & {key, key.partition(".")[0]}:
            expect_same_run(said, run_identity(changed))
        else:
            with pytest.raises(ResumeError, match=rf"; {key}\b"):
                expect_same_run(said, run_identity(changed))


def test_a_folder_of_before_there_was_a_key_goes_on_with_its_default_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    settings = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    del settings["federation"]["server_step"]
    folder.config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    step = {"rule": "fedavgm", "learning_rate": 1.0, "momentum": 0.9}
    with pytest.raises(ResumeError, match=r"federation\.server_step\.rule changed"):
        folder.open(federation(federation={"server_step": step}), resume=True)
    folder.open(federation(), resume=True)


def test_a_new_run_leaves_its_resolved_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "test")
    folder.open(federation(), resume=False)
    assert load_config(folder.config, FederationConfig) == federation()
    assert "learning_rate: 0.001" in folder.config.read_text(encoding="utf-8")  # a default, written out


def test_a_run_that_is_there_needs_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    before = folder.config.read_bytes()
    with pytest.raises(RunExistsError) as caught:
        folder.open(federation(seed=8), resume=False)
    assert str(caught.value).startswith(f"{tmp_path} already holds a run: continue it with --resume, or")
    assert folder.config.read_bytes() == before


def test_resume_needs_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "test")
    with pytest.raises(RunExistsError, match=r"holds no run to resume: start it without --resume\."):
        folder.open(federation(), resume=True)
    assert not folder.folder.exists()


def test_a_resumed_run_takes_the_new_waiting_times_and_keeps_its_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    folder.events.write_text("{}\n", encoding="utf-8")
    patient = federation(federation={"round_deadline": 999})
    folder.open(patient, resume=True)
    assert load_config(folder.config, FederationConfig) == patient
    assert folder.events.read_text(encoding="utf-8") == "{}\n"


def test_rounds_are_lines_and_those_of_an_older_state_replace_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = tuple({"round": number, "refused": {"Köln": "memory"}} for number in (1, 2, 3))
    folder.write_rounds(records)
    folder.write_rounds(records[:2])
    lines = folder.rounds.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(records[:2])
    assert "Köln" in lines[0]
    folder.write_rounds(())
    assert folder.rounds.read_bytes() == b""


def test_metrics_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = {"sites": {"Köln": {"auroc": 0.8125, "low": None}}}
    folder.write_metrics(metrics)
    assert json.loads(folder.metrics.read_text(encoding="utf-8")) == metrics


def test_all_paths_lie_in_the_folder_and_differ(tmp_path: Path) -> None:
    paths = [value for name, value in vars(RunFolder(tmp_path)).items() if name != "folder"]
    assert len(set(paths)) == len(paths)
    assert all(path.parent == tmp_path for path in paths)
