"""A run's folder: nobody's run is overwritten, and what it holds can be read again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hospitals import federation
from processes import REPOSITORY
from pydantic import BaseModel

from acm_core.config import FederationConfig, dump_config, load_config
from server.round.run_folder import (
    NoResultsError,
    ResumeError,
    RunExistsError,
    RunFolder,
    expect_same_run,
    run_identity,
)
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
    values = vars(RunFolder(tmp_path)).items()
    paths = [value for name, value in values if isinstance(value, Path) and name != "folder"]
    assert len(set(paths)) == len(paths)
    assert all(path.parent == tmp_path for path in paths)


OPENED = """
import sys, time
from pathlib import Path
from acm_core.config.loading import load_config
from acm_core.config.sections import FederationConfig
from server.round.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.open(load_config(sys.argv[2], FederationConfig), resume=False)
print("open", flush=True)
time.sleep(60)
"""


def test_two_processes_are_not_at_work_in_one_folder_and_one_that_was_killed_leaves_none_behind(
    tmp_path: Path,
) -> None:
    config = federation()
    (tmp_path / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-c", OPENED, str(tmp_path / "run"), str(tmp_path / "federation.yaml")]
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        before = folder.config.read_bytes()
        with pytest.raises(RunExistsError, match="another process is at work in"):
            folder.open(config, resume=True)
        assert folder.config.read_bytes() == before
        other.kill()
    folder.open(config, resume=True)
    folder.open(config, resume=True)  # its own


@pytest.mark.parametrize("name", ["metrics", "config", "rounds"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", "a: b: c"])
def test_a_damaged_run_is_no_finished_one(tmp_path: Path, name: str, content: str) -> None:
    folder = RunFolder(tmp_path)
    folder.open(federation(), resume=False)
    folder.write_metrics({"software": {}, "sites": {}})
    folder.write_rounds([{"round": 1}])
    assert folder.finished().sites == {}
    path = getattr(folder, name)
    path.write_text(content, encoding="utf-8")
    if name == "rounds" and content in {"", "[]", "null"}:
        content = "{"  # the others are no lines, or lines of JSON
        path.write_text(content, encoding="utf-8")
    with pytest.raises(NoResultsError, match="expected"):
        folder.finished()
