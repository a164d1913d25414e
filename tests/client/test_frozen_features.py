"""A frozen trunk reads each film once a run, and private steps on what it said are counted as ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hospitals import FINDINGS, federation, hospital, site
from wire import trained, whole

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import FeatureSet, load_site
from acm_core.federated.messages import Refusal, Task, TaskKind
from acm_core.nn import Classifier, MeanHead, build_classifier, trained_names
from acm_core.privacy.accounting import NoisedSteps, epsilon
from acm_core.privacy.ledger import ledger_folder
from acm_core.training.features import pooled_features
from acm_core.training.weights import get_arrays
from client.round import frozen_features, private_round
from client.round.frozen_features import what_trains
from client.round.kept_models import KeptModels, SiteRun
from client.round.site_round import SiteRound

CPU = torch.device("cpu")
POLICY = {"epsilon": 8.0, "delta": 1e-3, "population": 40}
ON_FEATURES = {"augment": False, "optimizer": "sgd", "momentum": 0.0, "epochs": 3, "learning_rate": 1.0}

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    hospital(folder, "A", patients=40, films_per_patient=(1, 2))
    return folder


def run(*, private: bool = False, model: dict[str, Any] | None = None, **training: Any) -> FederationConfig:
    """The head alone trains; a private step takes everybody, 40 of 40."""
    return federation(
        privacy={"epsilon": 8.0, "delta": 1e-3, "expected_batch": 40} if private else "off",
        model={
            "norm": "group",
            "context": "se",
            "head": "projected",
            "dimensions": 8,
            "trainable": "head",
            "weights": "start.safetensors",
            **(model or {}),
        },
        training={**ON_FEATURES, **training},
    )


def start(config: FederationConfig, seed: int = 1) -> Classifier:
    return build_classifier(config.model, len(FINDINGS), seed=seed)


def task(config: FederationConfig, number: int = 1, kind: TaskKind = TaskKind.TRAIN) -> Task:
    return Task(kind, number, config.model_dump_json(), arrays=whole(get_arrays(start(config))))


def steps(settings: SiteConfig) -> list[dict[str, Any]]:
    text = (ledger_folder(settings) / "ledger.jsonl").read_text(encoding="utf-8")
    return [row for row in map(json.loads, text.splitlines()) if row["kind"] == "step"]


def what_travels(config: FederationConfig) -> Arrays:
    model = start(config)
    return {name: array for name, array in get_arrays(model).items() if name in trained_names(model)}


class Reads:
    """Counts how often films are read by the trunk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.films = 0

        def counted(model: Classifier, split: Any, *rest: Any) -> Any:
            self.films += len(split)
            return pooled_features(model, split, *rest)

        monkeypatch.setattr(frozen_features, "pooled_features", counted)


def test_features_are_computed_once_for_the_same_films_and_trunk(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings, reads = run(), site(films, "A", state=tmp_path), Reads(monkeypatch)
    read = load_site(settings, FINDINGS, 32)
    kept = KeptModels(tmp_path, SiteRun.of(config))
    model = start(config)
    head, seen = what_trains(model, read, config, kept, CPU)
    assert isinstance(head, MeanHead)
    assert head.head is model.head
    expected = pooled_features(model, read.train, 64, CPU)
    assert isinstance(seen.train, FeatureSet)
    assert np.array_equal(seen.train.images[:, :, 0, 0], expected)
    assert seen.test is read.test
    assert reads.films == len(read.train) + len(read.validation)
    with torch.no_grad():  # what trains changes, and nothing is read again
        model.head.weight.add_(1)
    again = what_trains(model, read, config, kept, CPU)[1]
    assert np.array_equal(again.train.images, seen.train.images)
    assert reads.films == len(read.train) + len(read.validation)


@pytest.mark.parametrize("change", ["trunk", "order", "damage"])
def test_other_films_another_order_or_another_trunk_are_read_anew(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    config, reads = run(), Reads(monkeypatch)
    read = load_site(site(films, "A", state=tmp_path), FINDINGS, 32)
    kept = KeptModels(tmp_path, SiteRun.of(config))
    what_trains(start(config), read, config, kept, CPU)
    model, once = start(config), reads.films
    if change == "trunk":
        with torch.no_grad():
            model.conv1.weight.add_(1e-3)
    elif change == "order":
        rows = np.arange(len(read.train))[::-1]
        images = np.asarray(read.train.images)[rows]
        turned = replace(read.train, images=images, labels=read.train.labels[rows])
        read = replace(read, train=turned)
    else:
        (path,) = tmp_path.glob("runs/*/features-*")
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    seen = what_trains(model, read, config, kept, CPU)[1]
    assert reads.films == 2 * once
    assert np.array_equal(seen.train.images[:, :, 0, 0], pooled_features(model, read.train, 64, CPU))
    assert len(list(tmp_path.glob("runs/*/features-*"))) == 1


@pytest.mark.parametrize(
    ("model", "training"),
    [({"trainable": "all"}, {}), ({"head": "max"}, {}), ({}, {"augment": True})],
)
def test_where_more_than_means_enters_the_model_trains_on_films(
    films: Path, tmp_path: Path, model: dict[str, Any], training: dict[str, Any]
) -> None:
    config = run(model=model, **training)
    read = load_site(site(films, "A", state=tmp_path), FINDINGS, 32)
    whole_model = start(config)
    kept = KeptModels(tmp_path, SiteRun.of(config))
    assert what_trains(whole_model, read, config, kept, CPU) == (whole_model, read)


@pytest.mark.parametrize("head", ["average", "projected"])
def test_an_open_round_on_features_is_the_round_on_films(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    config = run(model={"head": head}, learning_rate=0.1)
    on_features = SiteRound(site(films, "A", state=tmp_path / "one")).answer(task(config))
    monkeypatch.setattr("client.round.site_round.what_trains", lambda model, read, *_: (model, read))
    on_films = SiteRound(site(films, "A", state=tmp_path / "other")).answer(task(config))
    begun = what_travels(config)
    one, other = trained(on_features, begun), trained(on_films, begun)
    assert not np.array_equal(one["head.weight"], begun["head.weight"])
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_private_run_on_features_costs_exactly_what_the_ledger_says(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings, reads = (
        run(private=True),
        site(films, "A", state=tmp_path, privacy=POLICY),
        Reads(monkeypatch),
    )
    first = SiteRound(settings).answer(task(config))
    assert first.refusal == ""
    once = reads.films
    second = SiteRound(settings).answer(replace(task(config, 2), arrays=first.arrays))
    assert second.refusal == ""
    assert reads.films == once > 0
    written = steps(settings)
    assert [(row["round"], row["q"], row["sampler"]) for row in written] == [
        (number, 1.0, "poisson") for number in (1, 1, 1, 2, 2, 2)
    ]
    assert len({row["sigma"] for row in written}) == 1
    spent = epsilon([NoisedSteps(row["sigma"], 1.0, 1) for row in written], 1e-3)
    assert 8.0 * (1 - 1e-5) < spent <= 8.0
    assert second.metrics == {"epsilon": round(spent, 6), "noise_multiplier": written[0]["sigma"]}
    before = what_travels(config)
    after = trained(first, before)
    assert {name for name in after if not np.array_equal(after[name], before[name])} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_private_round_goes_on_and_counts_no_less_than_it_drew(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(private_round, "_CHECKPOINT_SHARE", 1e9)
    config, settings = run(private=True), site(films, "A", state=tmp_path, privacy=POLICY)
    original = KeptModels.save_private_checkpoint

    class Killed(BaseException):
        pass

    def kill(kept: KeptModels, checkpoint: dict[str, Any]) -> None:
        original(kept, checkpoint)
        if checkpoint["steps"] == after:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(KeptModels, "save_private_checkpoint", kill)
        SiteRound(settings).answer(task(config))
    assert len(steps(settings)) == after
    assert SiteRound(settings).answer(task(config)).refusal == ""
    assert [row["attempt"] for row in steps(settings)] == [1] * after + [2] * (3 - after)


def test_a_trunk_whose_head_mixes_films_is_refused_before_any_noise(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = MeanHead.forward

    def mixing(self: MeanHead, features: torch.Tensor) -> Any:
        output = right(self, features)
        return output._replace(logits=output.logits - output.logits.mean(0))

    monkeypatch.setattr(MeanHead, "forward", mixing)
    settings = site(films, "A", state=tmp_path, privacy=POLICY)
    reply = SiteRound(settings).answer(task(run(private=True)))
    assert (reply.refusal, reply.arrays) == (Refusal.MODEL, {})
    assert steps(settings) == []
