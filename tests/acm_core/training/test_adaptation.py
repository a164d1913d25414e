"""Normalisation measured on a hospital's own films."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from acm_core.config.sections import ModelConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier, build_classifier, normalised
from acm_core.training.adaptation import FEWEST_FILMS, estimate_statistics

CPU = torch.device("cpu")


def films(count: int, seed: int = 0, brightness: float = 0.0) -> FilmSet:
    random = np.random.default_rng(seed)
    images = (random.random((count, 32, 32)) * 0.5 + brightness).astype(np.float16)
    return FilmSet(images, np.full((count, 2), np.nan, np.float32), np.arange(count))


def model(**changes: object) -> Classifier:
    settings = {"context": "se", "image_size": 32, **changes}
    return build_classifier(ModelConfig.model_validate(settings), 2, seed=1)


def state(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.clone().numpy() for name, tensor in network.state_dict().items()}


def test_the_first_layers_statistics_are_those_of_the_films() -> None:
    network, some = model(), films(64)
    assert estimate_statistics(network, some, CPU)
    with torch.no_grad():
        maps = network.conv1(normalised(torch.from_numpy(np.asarray(some.images)).float()[:, None]))
    assert torch.allclose(network.bn1.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(network.bn1.running_var, maps.var((0, 2, 3)), rtol=1e-4)
    assert not network.training


def test_only_statistics_change_and_again_gives_the_same() -> None:
    network, some = model(), films(100)
    before = state(network)
    assert estimate_statistics(network, some, CPU)
    after = state(network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if "running" in name or "num_batches" in name}
    assert estimate_statistics(network, some, CPU)
    assert all(np.array_equal(after[name], array) for name, array in state(network).items())


def test_labels_are_not_looked_at_and_momentum_stays() -> None:
    first, second, some = model(), model(), films(40)
    labelled = FilmSet(some.images, np.ones((40, 2), np.float32), some.patients)
    estimate_statistics(first, some, CPU)
    estimate_statistics(second, labelled, CPU)
    assert all(np.array_equal(state(first)[name], array) for name, array in state(second).items())
    assert first.bn1.momentum == nn.BatchNorm2d(1).momentum


def test_other_films_give_other_statistics() -> None:
    dark, bright = model(), model()
    estimate_statistics(dark, films(40), CPU)
    estimate_statistics(bright, films(40, brightness=0.4), CPU)
    assert not np.allclose(dark.bn1.running_mean, bright.bn1.running_mean, atol=0.05)


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, FEWEST_FILMS - 1), ({"norm": "group"}, 40), ({"trainable": "head"}, 40)],
)
def test_where_nothing_can_be_measured_nothing_changes(changes: dict[str, str], count: int) -> None:
    network = model(**changes)
    before = state(network)
    assert not estimate_statistics(network, films(count), CPU)
    assert all(np.array_equal(before[name], array) for name, array in state(network).items())
    assert not network.training


def test_a_frozen_trunk_keeps_its_statistics_beneath_a_stage_that_trains() -> None:
    network = model(trainable="last_stage")
    before = state(network)
    assert estimate_statistics(network, films(40), CPU)
    after = state(network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("layer4") for name in changed)
