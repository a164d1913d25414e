"""A site's round: what it computes, what it refuses, what leaves it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hospitals import FINDINGS, federation, hospital, site
from wire import trained, whole

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.data.site_films import load_site
from acm_core.federated.encoding import encode
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.report import read_report
from acm_core.histograms import ScoreHistogram
from acm_core.nn import build_classifier
from acm_core.randomness import stream_seed
from acm_core.training.metrics import paired_difference
from acm_core.training.weights import get_arrays
from client.round.kept_models import KeptModels, SiteRun
from client.round.site_round import SiteRound

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    hospital(folder, "A", patients=60, films_per_patient=(1, 2))
    return folder


def initial(config: FederationConfig) -> Arrays:
    return get_arrays(build_classifier(config.model, len(FINDINGS), seed=stream_seed(config.seed, "model")))


def train_task(config: FederationConfig, number: int = 1) -> Task:
    return Task(TaskKind.TRAIN, number, config.model_dump_json(), arrays=whole(initial(config)))


def same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_round_is_the_same_every_time_and_another_round_is_not(films: Path) -> None:
    config = federation()
    runner = SiteRound(site(films, "A"))
    first, again = runner.answer(train_task(config)), runner.answer(train_task(config))
    other = runner.answer(train_task(config, 2))
    assert first.refusal == ""
    assert same(first.arrays, again.arrays)
    assert first.metrics == again.metrics
    assert not same(first.arrays, other.arrays)
    assert not same(trained(first, initial(config)), initial(config))
    assert first.labelled == (first.films, first.films)


def test_a_task_does_not_change_the_arrays_it_came_with(films: Path) -> None:
    task = train_task(federation())
    before = {name: array.copy() for name, array in task.arrays.items()}
    SiteRound(site(films, "A")).answer(task)
    assert same(task.arrays, before)


def test_a_strong_proximal_term_keeps_the_weights_near_the_global_model(films: Path) -> None:
    def distance(mu: float) -> float:
        config = federation(federation={"proximal_mu": mu})
        reply = SiteRound(site(films, "A")).answer(train_task(config))
        start = initial(config)
        end = trained(reply, start)
        return float(sum(np.square(end[n] - start[n]).sum() for n in start if n.endswith("weight")))

    assert distance(100.0) < 0.5 * distance(0.0)


def test_a_site_is_measured_with_normalisation_of_its_own_films(films: Path, tmp_path: Path) -> None:
    """Which no round depends on: the shared model travels whole, and is the same whatever is chosen."""
    own, shared = (federation(federation={"normalisation": choice}) for choice in ("site", "shared"))
    runners = {
        config: SiteRound(site(films, "A", state=tmp_path / str(n))) for n, config in enumerate((own, shared))
    }
    first, second = (runner.answer(train_task(config)) for config, runner in runners.items())
    assert same(first.arrays, second.arrays)
    reports = [
        json.loads(runner.answer(replace(train_task(config), kind=TaskKind.EVALUATE)).report)
        for config, runner in runners.items()
    ]
    histograms = [one["models"]["federated"]["findings"][FINDINGS[0]]["histogram"] for one in reports]
    assert histograms[0] != histograms[1]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_site_goes_on_with_the_optimisers_state_of_the_round_before(
    films: Path, tmp_path: Path, optimizer: str
) -> None:
    """Two rounds of one epoch without anybody else are one round of two epochs, bit for bit."""
    settings = {"training": {"optimizer": optimizer, "schedule": "constant", "learning_rate": 0.01}}
    config = federation(**settings)
    twice = federation(**{"training": {**settings["training"], "epochs": 2}}, federation={"rounds": 1})
    runner = SiteRound(site(films, "A", state=tmp_path / "two rounds"))
    first = trained(runner.answer(train_task(config, 1)), initial(config))
    for _ in range(2):  # asked for round 2 once more, it starts from the state after round 1
        second = trained(runner.answer(replace(train_task(config, 2), arrays=whole(first))), first)
        whole_run = SiteRound(site(films, "A", state=tmp_path / "one round")).answer(train_task(twice))
        assert same(second, trained(whole_run, initial(config)))
    forgetful = SiteRound(site(films, "A", state=tmp_path / "fresh"))
    assert not same(
        trained(forgetful.answer(replace(train_task(config, 2), arrays=whole(first))), first), second
    )


def test_evaluation_reports_models_side_by_side(films: Path) -> None:
    config = federation()
    runner = SiteRound(site(films, "A"))
    assert (
        runner.answer(
            Task(TaskKind.LOCAL_ONLY, 2, config.model_dump_json(), arrays=whole(initial(config)))
        ).refusal
        == ""
    )
    reply = runner.answer(Task(TaskKind.EVALUATE, 2, config.model_dump_json(), arrays=whole(initial(config))))
    report = json.loads(reply.report)
    assert set(report["models"]) == {"federated", "local_only", "mixture"}
    for model in report["models"].values():
        assert set(model["findings"]) == set(FINDINGS)
    assert report["models"]["federated"]["gain"] is not None
    assert report["patients"] <= report["films"]
    assert set(report["shortcuts"]) == {"grey", "size", "border", "view"}
    brightness = report["shortcuts"]["grey"]
    assert set(brightness) == set(FINDINGS)
    for finding, figures in brightness.items():
        assert set(figures["margins"]) == (set() if figures["auroc"] is None else {"federated", "mixture"})
        if figures["auroc"] is not None:
            above = (
                report["models"]["federated"]["findings"][finding]["auroc"]["value"]
                - figures["auroc"]["value"]
            )
            assert figures["margins"]["federated"]["value"] == pytest.approx(above, abs=1.1e-3)
    assert any(figures["auroc"] for figures in brightness.values())
    assert reply.arrays == {}


def test_scores_stay_at_the_site_and_give_the_reported_gain(films: Path) -> None:
    config, settings = federation(), site(films, "A")
    for kind in (TaskKind.LOCAL_ONLY, TaskKind.EVALUATE):
        task = Task(kind, 2, config.model_dump_json(), arrays=whole(initial(config)))
        reply = SiteRound(settings).answer(task)
        assert reply.refusal == ""
    report = json.loads(reply.report)
    kept = KeptModels(settings.state, SiteRun.of(config)).load_scores(report["fingerprint"])
    assert kept is not None
    assert set(kept.models) == set(report["models"])
    gain = paired_difference(
        kept.models["federated"],
        kept.models["local_only"],
        kept.labels,
        kept.patients,
        FINDINGS,
        resamples=config.evaluation.bootstrap,
        seed=stream_seed(config.seed, "A", "bootstrap"),
    )
    assert gain is not None
    assert asdict(gain) == report["models"]["federated"]["gain"]
    assert "scores" not in reply.report


def test_evaluation_reports_curves_calibration_and_groups(films: Path) -> None:
    config = federation(evaluation={"specificities": [0.5, 0.75]})
    settings = site(films, "A", policy={"smallest_group": 2})
    task = Task(TaskKind.EVALUATE, 2, config.model_dump_json(), arrays=whole(initial(config)))
    report = read_report(SiteRound(settings).answer(task).report, FINDINGS)
    assert report.smallest_group == 2
    assert report.fingerprint == load_site(settings, FINDINGS, config.model.image_size).fingerprint
    model = report.models["federated"]
    assert any(finding.defined for finding in model.findings.values())
    for finding in model.findings.values():
        assert finding.histogram is not None
        assert finding.calibration is not None
        histogram = ScoreHistogram.from_pairs(finding.histogram.positives, finding.histogram.negatives)
        assert (histogram.positives.sum(), histogram.negatives.sum()) == (
            finding.positives,
            finding.negatives,
        )
        assert [point.specificity for point in finding.operating_points] == (
            [0.5, 0.75] if finding.defined else []
        )
        assert sum(one.films for one in finding.calibration.bins if one) == (
            histogram.positives.sum() + histogram.negatives.sum()
        )
    assert set(model.subgroups) == {"sex", "age", "view"}
    for groups in model.subgroups.values():
        counts = [group.films for group in groups.values()]
        assert None in counts or sum(count or 0 for count in counts) == report.films


def test_a_run_begun_anew_with_another_encoding_has_nothing_of_what_int8_left(
    films: Path, tmp_path: Path
) -> None:
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(train_task(federation(federation={"encoding": "int8"}))).refusal == ""
    anew = federation(federation={"encoding": "float16"})
    assert [runner.answer(train_task(anew, number)).refusal for number in (1, 2)] == ["", ""]


def test_a_run_begun_anew_has_nothing_of_the_rounds_of_the_former(films: Path, tmp_path: Path) -> None:
    config = federation(model={"context": "se"}, federation={"encoding": "int8"})
    rerun, fresh = (SiteRound(site(films, "A", state=tmp_path / name)) for name in ("rerun", "fresh"))
    assert rerun.answer(train_task(config)).refusal == ""
    # Of the run begun anew, the site is asked for round 1 and does not get through it.
    assert rerun.answer(replace(train_task(config), arrays={})).refusal == Refusal.MODEL
    replies = [runner.answer(train_task(config, 2)) for runner in (rerun, fresh)]
    assert same(replies[0].arrays, replies[1].arrays)
    assert replies[0].metrics == replies[1].metrics


def interrupted_after_one_epoch(runner: SiteRound, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let local-only training die after it has saved its first epoch, as a kill would."""
    from client.round import local_only

    real, epochs = local_only.train_epoch, []

    def dies(*args: object, **kwargs: object) -> float:
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local_only, "train_epoch", dies)
        patch.setattr(local_only, "_CHECKPOINT_SECONDS", 0.0)
        runner.answer(task)


def test_interrupted_local_only_training_goes_on_to_the_same_model(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = federation()
    task = Task(TaskKind.LOCAL_ONLY, 2, config.model_dump_json(), arrays=whole(initial(config)))
    at_once, broken = tmp_path / "whole", tmp_path / "broken"
    SiteRound(site(films, "A", state=at_once)).answer(task)
    interrupted_after_one_epoch(SiteRound(site(films, "A", state=broken)), task, monkeypatch)
    assert finished_alone(broken) == []
    SiteRound(site(films, "A", state=broken)).answer(task)
    assert len(finished_alone(at_once)) == 1
    assert finished_alone(broken) == finished_alone(at_once)


def finished_alone(state: Path) -> list[bytes]:
    return [path.read_bytes() for path in state.glob("runs/*/local_only*.safetensors")]


@pytest.mark.parametrize("finished", [True, False])
def test_changed_films_train_the_local_only_model_anew(
    tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital(tmp_path, "A", patients=24)
    config = federation()
    task = Task(TaskKind.LOCAL_ONLY, 2, config.model_dump_json(), arrays=whole(initial(config)))
    runner = SiteRound(site(tmp_path, "A", state=tmp_path / "state"))
    if finished:
        assert runner.answer(task).refusal == ""
    else:
        interrupted_after_one_epoch(runner, task, monkeypatch)
    labels = tmp_path / "A" / "labels.csv"
    labels.write_text("".join(labels.read_text(encoding="utf-8").splitlines(keepends=True)[:-6]), "utf-8")
    assert runner.answer(task).refusal == ""
    SiteRound(site(tmp_path, "A", state=tmp_path / "fresh")).answer(task)
    assert len(finished_alone(tmp_path / "fresh")) == 1
    assert finished_alone(tmp_path / "state") == finished_alone(tmp_path / "fresh")
    assert list((tmp_path / "state").glob("runs/*/*.checkpoint.pt")) == []


def damage(state: Path, pattern: str) -> None:
    """Turn a bit in the middle of the one file of that name among what a run keeps."""
    (path,) = state.glob(f"runs/*/{pattern}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_round_goes_on_where_what_the_site_kept_is_damaged(films: Path, tmp_path: Path) -> None:
    config = federation(model={"context": "se"}, federation={"encoding": "int8"})
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(train_task(config)).refusal == ""
    for pattern in ("optimizer-*", "residual-*", "received.*"):
        damage(tmp_path, pattern)
    reply = runner.answer(train_task(config, 2))
    fresh = SiteRound(site(films, "A", state=tmp_path / "fresh")).answer(train_task(config, 2))
    assert (reply.refusal, reply.metrics) == ("", fresh.metrics)
    assert same(reply.arrays, fresh.arrays)


def test_a_damaged_local_only_model_is_left_out_and_trained_anew(films: Path, tmp_path: Path) -> None:
    config = federation(model={"context": "se"})
    runner = SiteRound(site(films, "A", state=tmp_path))
    task = Task(TaskKind.LOCAL_ONLY, 2, config.model_dump_json(), arrays=whole(initial(config)))
    assert runner.answer(task).refusal == ""
    before = finished_alone(tmp_path)
    damage(tmp_path, "local_only*.safetensors")
    reply = runner.answer(replace(task, kind=TaskKind.EVALUATE))
    assert set(json.loads(reply.report)["models"]) == {"federated"}
    assert runner.answer(task).refusal == ""
    assert finished_alone(tmp_path) == before


def test_a_damaged_checkpoint_is_not_gone_on_from(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = federation(model={"context": "se"})
    task = Task(TaskKind.LOCAL_ONLY, 2, config.model_dump_json(), arrays=whole(initial(config)))
    at_once, broken = tmp_path / "whole", tmp_path / "broken"
    SiteRound(site(films, "A", state=at_once)).answer(task)
    runner = SiteRound(site(films, "A", state=broken))
    interrupted_after_one_epoch(runner, task, monkeypatch)
    (checkpoint,) = broken.glob("runs/*/local_only*.checkpoint.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    assert runner.answer(task).refusal == ""
    assert finished_alone(broken) == finished_alone(at_once)


def refused(films: Path, task: Task, **changes: object) -> Reply:
    reply = SiteRound(site(films, "A", **changes)).answer(task)
    assert reply.arrays == {}
    assert reply.films == 0
    return reply


def test_every_error_leaves_as_a_reason_code(films: Path, tmp_path: Path) -> None:
    config = federation()
    task = train_task(config)
    secret = "Müller"  # noqa: S105  # a patient's name
    bad_labels = tmp_path / f"{secret}.csv"
    bad_labels.write_text(
        f"patient_id,image,Lung Opacity\n{secret},films/{secret}.dcm,maybe\n", encoding="utf-8"
    )
    no_labels = tmp_path / "unlabelled.csv"
    no_labels.write_text("patient_id,image,Nodule\np1,films/x.dcm,1\n", encoding="utf-8")
    start = initial(federation())
    difference = encode(start, {**start, "head.bias": np.ones(2, np.float32)}, "float32").payload
    huge = {**start, "head.bias": np.full(2, 3e38, np.float32)}
    wildly = {"optimizer": "sgd", "learning_rate": 1000, "momentum": 0.99, "epochs": 6}
    wild = replace(task, config=federation(training=wildly).model_dump_json())
    for reply, refusal in [
        (refused(films, replace(task, config="{}")), Refusal.POLICY),
        (
            refused(
                films, replace(task, config=federation(federation={"sites": ["B", "C"]}).model_dump_json())
            ),
            "policy",
        ),
        (refused(films, replace(task, arrays={"weight": np.zeros(3, np.float32)})), Refusal.MODEL),
        (refused(films, replace(task, arrays=whole({"weight": np.zeros(3, np.float32)}))), Refusal.MODEL),
        (refused(films, replace(task, arrays=whole(huge))), Refusal.MODEL),
        (refused(films, replace(task, arrays=difference), state=tmp_path / "s0"), Refusal.BASE),
        (refused(films, task, labels=bad_labels, state=tmp_path / "s1"), Refusal.LABELS),
        (refused(films, task, labels=no_labels, state=tmp_path / "s2"), Refusal.NO_FILMS),
        (refused(films, wild), Refusal.DIVERGED),
    ]:
        assert reply.refusal == refusal
        assert secret not in json.dumps(reply.to_wire(), ensure_ascii=False)


@pytest.mark.parametrize(("encoding", "share"), [("float32", 1.0), ("float16", 0.5), ("int8", 0.27)])
def test_an_update_weighs_what_the_encoding_says_and_is_near_the_exact_one(
    films: Path, tmp_path: Path, encoding: str, share: float
) -> None:
    exact = federation()
    start = initial(exact)
    wanted = trained(SiteRound(site(films, "A")).answer(train_task(exact)), start)
    config = federation(federation={"encoding": encoding})
    reply = SiteRound(site(films, "A", state=tmp_path)).answer(train_task(config))
    got = trained(reply, start)
    weight = sum(array.nbytes for array in start.values())
    assert sum(array.nbytes for array in reply.arrays.values()) <= share * weight
    for name, array in wanted.items():
        if array.dtype == np.float32:
            moved = np.abs(array - start[name]).max()
            assert np.abs(got[name] - array).max() <= (0 if encoding == "float32" else moved / 64)


def test_a_difference_is_to_the_model_that_came_last(films: Path, tmp_path: Path) -> None:
    config = federation(federation={"encoding": "float16"})
    runner = SiteRound(site(films, "A", state=tmp_path))
    start = initial(config)
    first = runner.answer(train_task(config))
    moved = encode(trained(first, start), start, "float16")
    second = runner.answer(Task(TaskKind.TRAIN, 2, config.model_dump_json(), arrays=moved.payload))
    assert second.refusal == ""
    assert not same(trained(second, moved.decoded), moved.decoded)
    # As after a crash: the difference is asked about again, and the site is where it leads to already.
    again = runner.answer(Task(TaskKind.TRAIN, 2, config.model_dump_json(), arrays=moved.payload))
    assert same(again.arrays, second.arrays)
