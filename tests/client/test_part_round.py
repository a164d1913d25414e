"""A site's round where a part of the model trains: the reply holds that part, and the rest stays as it came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hospitals import FINDINGS, federation, hospital, site
from wire import trained, whole

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.federated.encoding import Encoding, EncodingError, encode
from acm_core.federated.messages import Refusal, Task, TaskKind
from acm_core.nn import build_classifier, trained_names
from acm_core.training.weights import get_arrays
from client.round.site_round import SiteRound

pytestmark = pytest.mark.usefixtures("narrow")

PARTS = ("head", "norm", "last_stage")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    hospital(folder, "A", patients=40)
    return folder


def training(trainable: str, **federated: object) -> FederationConfig:
    return federation(model={"trainable": trainable, "context": "se"}, federation=federated)


def start(config: FederationConfig) -> tuple[Arrays, Arrays]:
    """All arrays of a model, and those that train."""
    model = build_classifier(config.model, len(FINDINGS), seed=1)
    arrays = get_arrays(model)
    return arrays, {name: arrays[name] for name in trained_names(model)}


def task(config: FederationConfig, arrays: Arrays, number: int = 1, kind: TaskKind = TaskKind.TRAIN) -> Task:
    """`arrays`: encoded."""
    return Task(kind, number, config.model_dump_json(), arrays=arrays)


def size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("mu", [0.0, 0.1])
@pytest.mark.parametrize("trainable", PARTS)
def test_a_reply_holds_what_trains_and_nothing_else(
    films: Path, tmp_path: Path, trainable: str, mu: float
) -> None:
    config = training(trainable, proximal_mu=mu)
    everything, part = start(config)
    reply = SiteRound(site(films, "A", state=tmp_path)).answer(task(config, whole(everything)))
    assert reply.refusal == ""
    moved = trained(reply, part)
    assert all(not np.array_equal(moved[name], part[name]) for name in part)
    assert size(reply.arrays) < size(part) + 200
    with pytest.raises(EncodingError):
        trained(reply, everything)


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8"])
def test_after_the_first_round_what_trains_is_enough(films: Path, tmp_path: Path, encoding: Encoding) -> None:
    """As the difference, as values, and beside the rest: the site goes on from the same model."""
    config = training("last_stage", encoding=encoding)
    everything, part = start(config)
    moved = encode({name: array + array.dtype.type(1) for name, array in part.items()}, part, encoding)
    replies = []
    for number, second in enumerate(
        (moved.payload, whole(moved.decoded), whole({**everything, **moved.decoded}))
    ):
        runner = SiteRound(site(films, "A", state=tmp_path / str(number)))
        assert runner.answer(task(config, whole(everything))).refusal == ""
        replies.append(runner.answer(task(config, second, 2)))
        assert replies[-1].refusal == ""
        evaluated = runner.answer(task(config, whole(moved.decoded), 2, TaskKind.EVALUATE))
        assert evaluated.refusal == ""
    payloads = [reply.arrays["encoded"].tobytes() for reply in replies]
    assert payloads[0] == payloads[1] == payloads[2]


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_site_without_the_rest_asks_for_it(films: Path, tmp_path: Path, kind: TaskKind) -> None:
    config = training("head")
    everything, part = start(config)
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(task(config, whole(part), 2, kind)).refusal == Refusal.BASE
    assert runner.answer(task(config, whole(everything), 2, kind)).refusal == ""


@pytest.mark.parametrize(
    ("name", "trainable"), [("conv1.weight", "norm"), ("bn1.running_var", "head"), ("bn1.bias", "last_stage")]
)
def test_a_frozen_array_is_not_changed_later_in_the_run(
    films: Path, tmp_path: Path, name: str, trainable: str
) -> None:
    config = training(trainable)
    everything, part = start(config)
    changed = {**everything, name: everything[name] + np.float32(1)}
    runner = SiteRound(site(films, "A", state=tmp_path))
    first = runner.answer(task(config, whole(everything)))
    for kind in TaskKind:
        assert runner.answer(task(config, whole(changed), 2, kind)).refusal == Refusal.MODEL
    in_steps = encode(changed, everything, "float32").payload
    assert runner.answer(task(config, in_steps, 2)).refusal == Refusal.MODEL
    assert runner.answer(task(config, whole(part), 2)).refusal == ""
    # Round 1 begins a run: its start is whatever comes.
    anew = runner.answer(task(config, whole(changed)))
    assert anew.refusal == ""
    assert anew.arrays["encoded"].tobytes() != first.arrays["encoded"].tobytes()
    assert runner.answer(task(config, whole(everything), 2)).refusal == Refusal.MODEL


def test_what_trains_may_come_changed(films: Path, tmp_path: Path) -> None:
    config = training("head")
    everything, _ = start(config)
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(task(config, whole(everything))).refusal == ""
    other = {**everything, "head.bias": np.ones(len(FINDINGS), np.float32)}
    assert runner.answer(task(config, whole(other), 2)).refusal == ""


def test_a_site_that_trains_alone_changes_the_same_part(films: Path, tmp_path: Path) -> None:
    from acm_core.training.weights import load_sealed_arrays

    config = training("norm")
    everything, part = start(config)
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(task(config, whole(everything), 2, TaskKind.LOCAL_ONLY)).refusal == ""
    (kept,) = tmp_path.glob("runs/*/local_only*.safetensors")
    alone = load_sealed_arrays(kept)
    differing = {name for name, array in everything.items() if not np.array_equal(alone[name], array)}
    assert differing == set(part)


def test_a_part_for_a_model_of_which_all_trains_is_refused(films: Path, tmp_path: Path) -> None:
    config = training("all")
    everything, _ = start(config)
    _, head = start(training("head"))
    runner = SiteRound(site(films, "A", state=tmp_path))
    assert runner.answer(task(config, whole(everything))).refusal == ""
    assert runner.answer(task(config, whole(head), 2)).refusal == Refusal.MODEL
    cut_off = {"encoded": whole(everything)["encoded"][:20]}
    assert runner.answer(replace(task(training("head"), cut_off), round=2)).refusal == Refusal.MODEL


def test_a_head_on_frozen_batch_normalisation_trains_privately(films: Path, tmp_path: Path) -> None:
    config = federation(
        privacy={"epsilon": 8.0, "delta": 1e-3, "expected_batch": 10},
        model={"trainable": "head", "norm": "batch", "context": "acm"},
    )
    everything, head = start(config)
    policy = {"epsilon": 8.0, "delta": 1e-3, "population": 40}
    runner = SiteRound(site(films, "A", state=tmp_path, privacy=policy))
    reply = runner.answer(task(config, whole(everything)))
    assert reply.refusal == ""
    assert 0 < reply.metrics["epsilon"] < 8
    moved = trained(reply, head)  # nothing else can be decoded
    assert all(not np.array_equal(moved[name], head[name]) for name in head)
    again = runner.answer(task(config, whole(everything)))
    assert again.arrays["encoded"].tobytes() == reply.arrays["encoded"].tobytes()
