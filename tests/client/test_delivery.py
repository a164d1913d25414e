"""The model that a site has in the end: formed by the rule, left on a clear margin alone, usable by commands."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from crashes import dies_at_change
from deployments import deployed
from hospitals import FINDINGS, federation, hospital, site
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import whole

from acm_core.arrays import Arrays
from acm_core.config.sections import Delivered, FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import FilmSet, load_site
from acm_core.deployment import load_model, read_deployment
from acm_core.federated.messages import Task, TaskKind
from acm_core.nn import build_classifier, normalised
from acm_core.training.weights import get_arrays
from client.export import main as export
from client.predict import main as predict
from client.round.delivery import choose, delivered_folder
from client.round.kept_models import KeptModels, SiteRun
from client.round.site_round import SiteRound

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    hospital(folder, "A", patients=60)
    return folder


def run_of(rule: str, **evaluation: bool) -> FederationConfig:
    return federation(
        model={"context": "se"},
        deliver={"rule": rule, "epochs": 1, "learning_rate": 0.001},
        evaluation={"bootstrap": 100, "specificities": [0.5], **evaluation},
    )


def sent(config: FederationConfig) -> Arrays:
    return get_arrays(build_classifier(config.model, len(FINDINGS), seed=5))


def evaluated(config: FederationConfig, settings: SiteConfig, *, alone: bool = True) -> dict[str, object]:
    """The report of a site that has trained one round, and alone."""
    runner = SiteRound(settings)
    task = Task(TaskKind.TRAIN, 1, config.model_dump_json(), arrays=whole(sent(config)))
    kinds = [TaskKind.TRAIN, *([TaskKind.LOCAL_ONLY] if alone else []), TaskKind.EVALUATE]
    replies = [runner.answer(replace(task, kind=kind)) for kind in kinds]
    assert [reply.refusal for reply in replies] == [""] * len(kinds)
    report: dict[str, object] = json.loads(replies[-1].report)
    return report


@pytest.mark.parametrize(
    ("rule", "delivered"), [("shared", "federated"), ("fine_tuned",) * 2, ("mixture",) * 2]
)
def test_a_site_has_the_model_of_the_rule(films: Path, tmp_path: Path, rule: str, delivered: str) -> None:
    config, settings = run_of(rule), site(films, "A", state=tmp_path, about="phantoms")
    report = evaluated(config, settings)
    formed = {"federated", "local_only", "mixture"} | ({"fine_tuned"} if rule == "fine_tuned" else set())
    assert set(report["models"]) == formed  # type: ignore[call-overload]
    assert report["delivered"] == delivered
    deployment, members = read_deployment(delivered_folder(settings, config.name))
    assert (deployment.site, deployment.delivered, len(members)) == (
        "A",
        delivered,
        2 if rule == "mixture" else 1,
    )
    (own,) = deployment.cohorts
    fingerprint = load_site(settings, FINDINGS, 32).fingerprint
    assert (own.site, own.invented, own.about, own.fingerprint) == ("A", True, "phantoms", fingerprint)
    assert (report["invented"], report["about"]) == (True, "phantoms")
    kept = KeptModels(settings.state, SiteRun.of(config))
    shared = sent(config)
    changed = {name for name, array in shared.items() if not np.array_equal(members[0][name], array)}
    statistics = {name for name in shared if "running_" in name or "num_batches" in name}
    assert changed == statistics if rule != "fine_tuned" else changed > statistics
    if rule == "mixture":
        alone = kept.load_local_only(load_site(settings, FINDINGS, 32).fingerprint)
        assert alone is not None
        assert all(np.array_equal(members[1][name], array) for name, array in alone.items())


def test_a_mixture_answers_with_the_mean_of_both_models(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, settings = run_of("mixture"), site(films, "A", state=tmp_path / "state")
    evaluated(config, settings)
    loaded = load_site(settings, FINDINGS, config.model.image_size)
    scores = KeptModels(settings.state, SiteRun.of(config)).load_scores(loaded.fingerprint)
    assert scores is not None
    mean = (scores.models["federated"] + scores.models["local_only"]) / 2
    np.testing.assert_allclose(scores.models["mixture"], mean, atol=1e-6)
    folder = delivered_folder(settings, config.name)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "A.yaml").write_text(settings.model_dump_json(exclude_none=True), encoding="utf-8")
    arguments = ["--site=A", "--sites", str(tmp_path / "sites"), "--model", str(folder)]
    table = tmp_path / "answers.csv"
    assert predict([*arguments, "--specificity", "0.5", str(films / "A" / "films"), str(table)]) == 0
    assert "the mean of the scores of the shared model and of the model that the site trained alone" in (
        capsys.readouterr().out
    )
    with table.open(encoding="utf-8", newline="") as file:
        answers = sorted(
            tuple(f"{float(row[name]):.4f}" for name in FINDINGS) for row in csv.DictReader(file)
        )
    assert {tuple(f"{value:.4f}" for value in row) for row in mean.tolist()} & set(answers)


@pytest.mark.slow
def test_a_mixture_is_exported_as_the_mean_of_both(films: Path, tmp_path: Path) -> None:
    config, settings = run_of("mixture"), site(films, "A", state=tmp_path / "state")
    evaluated(config, settings)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "A.yaml").write_text(settings.model_dump_json(exclude_none=True), encoding="utf-8")
    folder = delivered_folder(settings, config.name)
    arguments = ["--site=A", "--sites", str(tmp_path / "sites"), "--model"]
    assert export([*arguments, str(folder)]) == 0
    _, members = load_model(folder)
    some = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        mean = torch.stack([torch.sigmoid(one(normalised(some)).logits) for one in members]).mean(0)
    for program in ("model.pt2", "monai_bundle/models/model.pt2"):
        assert torch.allclose(torch.export.load(folder / program).module()(some), mean, atol=1e-4)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"films": some.numpy()})[0], mean.numpy(), atol=1e-4)
    evaluated(run_of("shared"), settings)
    assert not any((folder / name).exists() for name in ("model.pt2", "model.onnx", "monai_bundle"))


def test_only_a_sites_own_model_is_exported_there(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sites").mkdir()
    settings = site(films, "A", state=tmp_path / "state")
    (tmp_path / "sites" / "A.yaml").write_text(settings.model_dump_json(exclude_none=True), encoding="utf-8")
    network = build_classifier(run_of("shared").model, len(FINDINGS))
    deployed(tmp_path / "export", run_of("shared").model, network, {})
    arguments = ["--site=A", "--sites", str(tmp_path / "sites"), "--model"]
    assert export([*arguments, str(tmp_path / "export")]) == 2
    assert "expected the model of site A, got the shared one" in capsys.readouterr().err


def test_the_card_beside_a_sites_model_says_which_it_is_and_how_well_it_does(
    films: Path, tmp_path: Path
) -> None:
    config, settings = run_of("mixture"), site(films, "A", state=tmp_path)
    report = evaluated(config, settings)
    card = (delivered_folder(settings, config.name) / "model_card.md").read_text(encoding="utf-8")
    assert "the mean of the scores of the shared model and of the model that the site trained alone" in card
    assert "**Trained on invented films." in card
    assert "- learnt from: site A: invented films, drawn by a computer\n" in card
    assert "| finding | alone | federated | **mixture** |" in card
    value = report["models"]["mixture"]["mean_auroc"]["value"]  # type: ignore[index]
    assert f"{value:.3f}" in card


def test_a_run_that_leaves_no_mixture_leaves_no_file_of_one(films: Path, tmp_path: Path) -> None:
    settings = site(films, "A", state=tmp_path)
    evaluated(run_of("mixture"), settings)
    evaluated(run_of("shared"), settings)
    _, members = load_model(delivered_folder(settings, "test"))
    assert len(members) == 1
    assert not list(tmp_path.rglob("own.safetensors"))


def test_a_site_that_did_not_train_alone_has_the_shared_model(films: Path, tmp_path: Path) -> None:
    report = evaluated(run_of("mixture"), site(films, "A", state=tmp_path), alone=False)
    assert report["delivered"] == "federated"


def test_fine_tuning_is_done_once_and_anew_where_what_is_kept_is_damaged(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.round import delivery

    config, settings = run_of("fine_tuned"), site(films, "A", state=tmp_path)
    first = evaluated(config, settings)
    (kept,) = tmp_path.rglob("fine_tuned-*")
    trained: list[int] = []
    real = delivery.train

    def counted(*args: object, **kwargs: object) -> float:
        trained.append(1)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(delivery, "train", counted)
    task = Task(TaskKind.EVALUATE, 1, config.model_dump_json(), arrays=whole(sent(config)))
    again = json.loads(SiteRound(settings).answer(task).report)
    assert (again, trained) == (first, [])
    content = bytearray(kept.read_bytes())
    content[100] ^= 1
    kept.write_bytes(content)
    assert json.loads(SiteRound(settings).answer(task).report) == first
    assert trained == [1]


def test_killed_while_it_hands_over_a_model_the_site_has_a_whole_one_when_asked_again(
    films: Path, tmp_path: Path
) -> None:
    config = run_of("mixture")
    runner = SiteRound(site(films, "A", state=tmp_path))
    evaluated(config, site(films, "A", state=tmp_path))
    task = Task(TaskKind.EVALUATE, 1, config.model_dump_json(), arrays=whole(sent(config)))
    folder = delivered_folder(site(films, "A", state=tmp_path), config.name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for change in count():
        shutil.rmtree(folder)
        died = dies_at_change(change, partial(runner.answer, task))
        assert runner.answer(task).refusal == ""
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        if not died:
            break
    assert change > len(before)


def films_of(labels: np.ndarray) -> FilmSet:
    count = len(labels)
    return FilmSet(np.zeros((count, 2, 2), np.float16), labels.astype(np.float32), np.arange(count))


NAMES: tuple[Delivered, ...] = ("federated", "fine_tuned", "mixture", "local_only")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(NAMES), st.integers(0, 60))
def test_without_a_clear_margin_the_rule_holds(seed: int, rule: Delivered, count: int) -> None:
    """Scores that are the same but for their names, or those of too few films, never move a site."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 1))
    same = random.random((count, 1)).astype(np.float32)
    scores = dict.fromkeys(NAMES, same)
    assert choose(rule, scores, films_of(labels), ["Mass"], resamples=100, seed=1) == rule


def test_a_clear_margin_moves_the_site_to_the_best() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (200, 1))
    noise = random.random((200, 1)).astype(np.float32)
    scores: dict[Delivered, np.ndarray] = {
        "federated": noise,
        "local_only": noise + 0.5 * labels.astype(np.float32),
        "mixture": noise + 0.9 * labels.astype(np.float32),
    }
    assert choose("federated", scores, films_of(labels), ["Mass"], resamples=200, seed=1) == "mixture"
    few = {name: values[:49] for name, values in scores.items()}  # as far apart, on films of too few patients
    assert choose("federated", few, films_of(labels[:49]), ["Mass"], resamples=200, seed=1) == "federated"
