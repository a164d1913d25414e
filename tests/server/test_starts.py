"""A run's start: tried before anything begins, told by its content, and named in what the run leaves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hospitals import FINDINGS, federation
from in_process import InProcessTransport, Site
from reports import estimate, model, report

from acm_core.arrays import Arrays
from acm_core.config import ConfigError, dump_config
from acm_core.config.sections import FederationConfig, ModelConfig
from acm_core.federated.encoding import decode, encode
from acm_core.federated.messages import Reply, Task, TaskKind
from acm_core.files import file_sha256
from acm_core.nn import Origin, build_classifier, unfilled_classifier
from acm_core.nn.weight_file import read_weight_file
from acm_core.training.weights import blank_arrays, get_arrays, save_arrays
from client.round.kept_models import SiteRun
from server.console.command import load_run_file
from server.report.content import report_content
from server.round.federation import FederatedRun
from server.round.run_folder import ResumeError, RunFolder

THEIRS = ("Mass", "effusion")
"""The start's findings, of which the run has the second, by another name."""


def saved_start(path: Path, seed: int = 5, **changes: object) -> Arrays:
    config = ModelConfig.model_validate({"image_size": 32, **changes})
    arrays = get_arrays(build_classifier(config, len(THEIRS), seed=seed))
    origin = Origin(findings=THEIRS, model=config, made_from="20 films of 9 patients in PUBLIC")
    save_arrays(path, arrays, origin.metadata())
    return arrays


def run_file(folder: Path, **settings: object) -> Path:
    path = folder / "run.yaml"
    config = federation(federation={"rounds": 1}, evaluation={"local_only": False}, model=settings)
    path.write_text(dump_config(config), encoding="utf-8")
    return path


def pinned(path: Path) -> FederationConfig:
    return load_run_file(path, FederationConfig)


def site(name: str, tasks: list[Task]) -> Site:
    """A site that sends back the model as it came, and notes what it was asked."""

    def answer(task: Task) -> Reply:
        tasks.append(task)
        if task.kind is TaskKind.EVALUATE:
            return Reply(name, task.round, report=json.dumps(report(federated=model(estimate(0.8)))))
        blank = unfilled_classifier(federation().model, len(FINDINGS))
        arrays = decode(task.arrays, blank_arrays(blank))
        payload = encode(arrays, arrays, "float32").payload
        return Reply(name, task.round, films=10, labelled=(10, 10), arrays=payload)

    return answer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Task], Arrays]:
    """A run from a start, what the sites were asked, and the start's arrays."""
    folder = tmp_path_factory.mktemp("run")
    arrays = saved_start(folder / "secret_place.safetensors")
    config = pinned(run_file(folder, weights=folder / "secret_place.safetensors"))
    run = RunFolder(folder / "run")
    run.open(config, resume=False)
    tasks: list[Task] = []
    transport = InProcessTransport({name: site(name, tasks) for name in "AB"})
    FederatedRun(transport, config, run).execute(resume=False)
    return folder, tasks, arrays


def test_sites_get_the_starts_weights_and_hash_and_not_the_operators_path(
    finished: tuple[Path, list[Task], Arrays],
) -> None:
    folder, tasks, arrays = finished
    assert {task.kind for task in tasks} == {TaskKind.TRAIN, TaskKind.EVALUATE}
    for task in tasks:
        assert str(folder) not in task.config
        assert "secret_place" not in task.config
        assert "server" not in json.loads(task.config)
        assert not [
            key for key in json.loads(task.config)["federation"] if "deadline" in key or "attempts" in key
        ]
        sent = FederationConfig.model_validate_json(task.config).model
        assert sent.weights is None
        assert sent.weights_sha256 == file_sha256(folder / "secret_place.safetensors")
    first = decode(tasks[0].arrays, blank_arrays(unfilled_classifier(federation().model, len(FINDINGS))))
    assert np.array_equal(first["conv1.weight"], arrays["conv1.weight"])
    effusion = FINDINGS.index("Pleural Effusion")
    assert np.array_equal(first["head.weight"][effusion], arrays["head.weight"][1])
    assert not np.array_equal(first["head.weight"][1 - effusion], arrays["head.weight"][0])


def test_what_a_run_leaves_names_its_start(finished: tuple[Path, list[Task], Arrays]) -> None:
    folder, *_ = finished
    run = RunFolder(folder / "run")
    sha256 = file_sha256(folder / "secret_place.safetensors")
    said = json.loads(run.metrics.read_text(encoding="utf-8"))["start"]
    assert said == {
        "file": "secret_place.safetensors",
        "sha256": sha256,
        "made_from": "20 films of 9 patients in PUBLIC",
        "findings": ["Pleural Effusion"],
        "new_findings": ["Lung Opacity"],
    }
    sentence = (
        f"started from secret_place.safetensors (sha256 {sha256}), made from 20 films of 9 patients in PUBLIC, with "
        "its rows of the head for Pleural Effusion"
    )
    assert f"\n- {sentence}\n" in run.model_card.read_text(encoding="utf-8")
    assert report_content(run, None)["start"] == sentence
    assert "head: Pleural Effusion from the start, Lung Opacity new" in run.events.read_text(encoding="utf-8")


def test_a_runs_model_says_whose_rows_its_head_has_and_names_no_path(
    finished: tuple[Path, list[Task], Arrays],
) -> None:
    folder, *_ = finished
    content = (folder / "run" / "model.safetensors").read_bytes()
    assert str(folder).encode() not in content
    origin = read_weight_file(folder / "run" / "model.safetensors").origin
    assert origin is not None
    assert origin.findings == tuple(FINDINGS)
    assert origin.made_from == "run test"
    assert origin.model.weights_sha256 == file_sha256(folder / "secret_place.safetensors")


def test_a_run_goes_on_from_a_start_that_was_moved_and_not_from_another(
    finished: tuple[Path, list[Task], Arrays], tmp_path: Path
) -> None:
    folder, *_ = finished
    moved = tmp_path / "renamed.safetensors"
    moved.write_bytes((folder / "secret_place.safetensors").read_bytes())
    RunFolder(folder / "run").open(pinned(run_file(tmp_path, weights=moved)), resume=True)
    saved_start(moved, seed=6)
    with pytest.raises(ResumeError, match=r"; model\.weights_sha256 changed"):
        RunFolder(folder / "run").open(pinned(run_file(tmp_path, weights=moved)), resume=True)


def test_a_sites_run_is_told_by_the_starts_content(tmp_path: Path) -> None:
    saved_start(tmp_path / "one.safetensors")
    one = pinned(run_file(tmp_path, weights=tmp_path / "one.safetensors"))
    assert SiteRun.of(one) == SiteRun.of(FederationConfig.model_validate_json(one.for_sites()))
    saved_start(tmp_path / "one.safetensors", seed=6)
    other = pinned(run_file(tmp_path, weights=tmp_path / "one.safetensors"))
    assert replace(SiteRun.of(one), settings="") == replace(SiteRun.of(other), settings="")
    assert SiteRun.of(one) != SiteRun.of(other)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"weights": "absent.pth"}, "weights", "found none there"),
        ({"weights": "start.safetensors", "weights_sha256": "0" * 64}, "weights", "it is another file"),
        ({"weights": "start.safetensors", "architecture": "resnet34"}, "weights", "another architecture"),
        ({"weights_sha256": "0" * 64}, "weights_sha256", "expected model.weights beside it"),
    ],
)
def test_a_start_that_cannot_be_used_is_a_problem_of_the_file_with_its_line(
    settings: dict[str, object], key: str, message: str, tmp_path: Path
) -> None:
    saved_start(tmp_path / "start.safetensors")
    path = run_file(tmp_path, **settings)
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith(f"  {key}: "))
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}:{line}: model\.{key}: .*{message}"):
        pinned(path)


def test_the_hash_that_a_file_gives_is_the_one_that_counts(tmp_path: Path) -> None:
    saved_start(tmp_path / "start.safetensors")
    sha256 = file_sha256(tmp_path / "start.safetensors")
    given = pinned(run_file(tmp_path, weights="start.safetensors", weights_sha256=sha256))
    assert given == pinned(run_file(tmp_path, weights="start.safetensors"))
    assert given.model.weights_sha256 == sha256


def test_a_run_whose_start_is_not_pinned_does_not_begin(tmp_path: Path) -> None:
    saved_start(tmp_path / "start.safetensors")
    config = federation(model={"weights": tmp_path / "start.safetensors"})
    run = RunFolder(tmp_path / "run")
    run.open(config, resume=False)
    with pytest.raises(ValueError, match="pinned"):
        FederatedRun(InProcessTransport({}), config, run)
